"""Encoder of motion: keyframes as Key Object Selection, strain in the report and on a page."""

from dicom_node.results.motion.encoder import encode

__all__ = ["encode"]
