"""Refusals and errors of analyses: why there is no result, for the findings and for the radiologist."""

from __future__ import annotations

import enum
import traceback
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AnalysisRefused", "AnalysisSetupError", "Refusal", "RefusalReason", "raised_along"]


class RefusalReason(enum.StrEnum):
    """Kind of obstacle that keeps an analysis from giving a result."""

    NO_SHORT_AXIS_STACK = "no short-axis stack"
    SPLIT_STACK = "short-axis stack split"
    TOO_FEW_SLICES = "too few slices"
    TOO_FEW_PHASES = "too few phases"
    NO_VENTRICLE_FOUND = "no left ventricle found"
    QUALITY_TOO_LOW = "quality too low"
    NOT_SUITABLE = "study not suitable"
    """Any other obstacle that lies in the study; the sentence says which."""
    MODEL_UNAVAILABLE = "model unavailable"
    IDENTITY_CONFLICT = "images disagree in whose study it is"
    RESULTS_WITHHELD = "results withheld by the check before delivery"
    """A defect of this software: the same study fails in the same way."""
    ANALYSIS_FAILED = "analysis failed"
    """A defect of this software or its surroundings, not of the study; the log has the traceback."""

    @property
    def of_this_software(self) -> bool:
        """Whether this software or its surroundings are the obstacle, and not the study."""
        return self.retry_can_help or self is RefusalReason.RESULTS_WITHHELD

    @property
    def retry_can_help(self) -> bool:
        """Whether the same study could succeed later: not when the study itself is the obstacle."""
        return self in (RefusalReason.MODEL_UNAVAILABLE, RefusalReason.ANALYSIS_FAILED)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One result that was not given, and why."""

    analysis: str
    """Name of the analysis that would have given the result."""
    reason: RefusalReason
    sentence: str
    """What a radiologist reads; no patient data."""
    because_of: str | None = None
    """Name of the analysis that refused first, when this one only depended on it."""


class AnalysisRefused(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """Raised by an analysis that declines its input. Trying again on the same input cannot help."""

    def __init__(self, reason: RefusalReason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


class AnalysisSetupError(TypeError):
    """The analyses asked for cannot be ordered: a missing input, two sources of one type, a cycle, a bad annotation."""


def raised_along(error: BaseException) -> list[str]:
    """Places that an exception passed, and then its cause, outermost first; without texts, which may quote a data set.

    Where an exception was translated, the cause says where it really went wrong.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return places if error.__cause__ is None else [*places, *raised_along(error.__cause__)]
