"""The node's DICOM network."""
