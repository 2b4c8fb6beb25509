"""Encoder of acquired late enhancement: SEG on the acquired images, groups of the report, a page."""

from dicom_node.results.late_enhancement.encoder import encode

__all__ = ["encode"]
