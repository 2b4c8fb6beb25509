"""Encoder of the long axis: views at both ends of the motion with their segmentation, numbers, a page."""

from dicom_node.results.long_axis.encoder import encode

__all__ = ["encode"]
