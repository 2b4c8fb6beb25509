"""The running node: configuration, DICOM network, scheduling, execution, encoding, delivery, commands."""
