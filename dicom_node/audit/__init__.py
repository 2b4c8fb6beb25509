"""The DICOM audit trail (PS3.15 A.5): who started, sent, asked and was turned away."""
