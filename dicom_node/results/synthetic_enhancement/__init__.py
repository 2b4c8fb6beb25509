"""Encoder of synthetic late enhancement: images that say of themselves that nobody acquired them, and probabilities."""

from dicom_node.results.synthetic_enhancement.encoder import encode

__all__ = ["encode"]
