"""What quality control finds."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["CONFIDENCE_MEANS", "Grade", "QualityAssessment", "QualityCheck", "QualityFinding", "QualityStage"]


class Grade(enum.IntEnum):
    """Grade of one check, or confidence in the measurement as a whole; best first. It does not grade images."""

    EXCELLENT = 0
    """Of a check: within limits. The whole is never graded so, see :func:`pipelines.quality.assess.overall_grade`."""
    GOOD = 1
    """A small departure; the numbers stand."""
    POOR = 2
    """Read the numbers with this finding in mind."""
    UNUSABLE = 3
    """No number may be reported."""


CONFIDENCE_MEANS = {
    Grade.GOOD: "no check is of concern",
    Grade.POOR: "a check is of concern: read the numbers with its finding in mind",
    Grade.UNUSABLE: "no number may be reported",
}
"""What each grade of the whole stands for, as reports say it; ``docs/motion.md`` has the figures."""


class QualityStage(enum.StrEnum):
    """What a check looks at."""

    INPUT = "acquisition"
    OUTPUT = "measurement"


class QualityCheck(enum.StrEnum):
    """One question quality control asks; the value is its name in reports and in ``results.json``."""

    PHASES = "cardiac phases"
    SLICES = "slices with left ventricle"
    SLICE_GAP = "slice spacing"
    PLANE = "plane of the short axis"
    GATING = "cardiac gating"
    RR_VARIATION = "RR interval variation"
    BASE_COVERAGE = "coverage of the base"
    APEX_COVERAGE = "coverage of the apex"
    SLICE_SHIFT = "shift between slices"
    CONTRAST = "contrast of blood and wall"
    NOISE = "noise of the images"
    GHOSTING = "ghosts along the phase encoding"
    TRIGGERING = "slices in step with each other"
    CONTIGUITY = "contiguity of the left ventricle"
    CURVE_SMOOTHNESS = "smoothness of the volume curve"
    CURVE_SHAPE = "shape of the volume curve"
    CONTRACTION = "contraction"
    STROKE_VOLUMES = "agreement of LV and RV stroke volume"
    MASS_CONSTANCY = "constancy of myocardial mass"
    AGREEMENT = "agreement of the segmentations"
    CROP = "heart inside the analysed region"
    MYOCARDIAL_RING = "closed myocardium"
    RIGHT_VENTRICLE = "right ventricle"
    RV_FRAGMENTS = "right ventricle in one body"
    RV_OVER_SLICES = "right ventricle over the slices"
    RV_OVER_TIME = "right ventricle over time"
    RV_SIZE = "size of the right ventricle"
    BASAL_STABILITY = "weight of the basal slice"
    BASE_REACHED = "mitral valve within the stack"
    LONG_AXIS_TIMING = "long axis in step with the short axis"
    LONG_AXIS_SHIFT = "shift between short and long axis"
    LONG_AXIS_VOLUME = "agreement of short and long axis"
    PLAUSIBLE_VOLUMES = "plausibility of volumes"
    PLAUSIBLE_MASS = "plausibility of mass"

    @property
    def stage(self) -> QualityStage:
        """Whether the check judges the acquisition or the measurement."""
        return QualityStage.INPUT if self in _INPUT_CHECKS else QualityStage.OUTPUT


_INPUT_CHECKS = frozenset(
    {
        QualityCheck.PHASES,
        QualityCheck.SLICES,
        QualityCheck.SLICE_GAP,
        QualityCheck.PLANE,
        QualityCheck.GATING,
        QualityCheck.RR_VARIATION,
        QualityCheck.BASE_COVERAGE,
        QualityCheck.APEX_COVERAGE,
        QualityCheck.SLICE_SHIFT,
        QualityCheck.CONTRAST,
        QualityCheck.NOISE,
        QualityCheck.GHOSTING,
        QualityCheck.TRIGGERING,
        QualityCheck.BASE_REACHED,
        QualityCheck.LONG_AXIS_TIMING,
        QualityCheck.LONG_AXIS_SHIFT,
    }
)


@dataclass(frozen=True, slots=True)
class QualityFinding:
    """Answer to one check."""

    check: QualityCheck
    grade: Grade
    sentence: str
    """What a radiologist reads, with the value."""
    value: float | None = None
    unit: str = "1"
    """UCUM unit of ``value`` and ``limit``."""
    limit: float | None = None
    """The limit that ``value`` was held against."""
    slices: tuple[int, ...] = ()
    """0-based slices concerned, where the finding is about slices."""


@dataclass(frozen=True, slots=True)
class QualityAssessment:
    """All checks that could be made, and what follows."""

    findings: tuple[QualityFinding, ...]
    overall: Grade
    refusal: str | None = None
    """Why no number may be reported; ``None`` when the numbers may be."""

    @property
    def usable(self) -> bool:
        """Whether numbers may be reported at all."""
        return self.refusal is None

    @property
    def concerns(self) -> tuple[QualityFinding, ...]:
        """Findings graded poor or unusable, worst first."""
        return tuple(sorted((f for f in self.findings if f.grade >= Grade.POOR), key=lambda f: -f.grade))

    @property
    def departures(self) -> tuple[QualityFinding, ...]:
        """Every finding that is not within its limits, worst first."""
        return tuple(sorted((f for f in self.findings if f.grade > Grade.EXCELLENT), key=lambda f: -f.grade))
