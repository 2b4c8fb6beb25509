"""Why a stack was not segmented."""

from __future__ import annotations

__all__ = ["SegmentationRefused"]


class SegmentationRefused(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """The stack cannot be segmented; the message is a sentence for the report, without patient data."""
