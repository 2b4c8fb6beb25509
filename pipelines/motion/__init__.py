"""Motion of the heart on cine MR: registration, keyframes, strain."""
