"""Encoder of ventricular function: key-phase images, segmentations, measurement groups, pages."""

from dicom_node.results.ventricular_function.encoder import encode

__all__ = ["encode"]
