"""Cine stacks: assembled across series from geometry and time."""

from pipelines.cine.stack import (
    CineStack,
    CineStudy,
    FrameSource,
    LateEnhancementStack,
    Omission,
    OmissionReason,
    RecognisedSeries,
    Reconstruction,
    StackGeometry,
    StudyContext,
    View,
)

__all__ = [
    "CineStack",
    "CineStudy",
    "FrameSource",
    "LateEnhancementStack",
    "Omission",
    "OmissionReason",
    "RecognisedSeries",
    "Reconstruction",
    "StackGeometry",
    "StudyContext",
    "View",
]
