"""Cine stacks: assembled across series from geometry and time."""

from pipelines.cine.stack import (
    CineStack,
    CineStudy,
    FrameSource,
    Omission,
    OmissionReason,
    StackGeometry,
    StudyContext,
    View,
)

__all__ = [
    "CineStack",
    "CineStudy",
    "FrameSource",
    "Omission",
    "OmissionReason",
    "StackGeometry",
    "StudyContext",
    "View",
]
