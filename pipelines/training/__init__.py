"""Training of the networks: data readers, augmentation, schedules and checkpoints."""
