"""What the analysis of acquired late enhancement finds: labels, extents, depth by segment, presence, and the cine."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import Reconstruction, StackGeometry
from pipelines.function.findings import Interval
from pipelines.models.identity import ModelIdentity

__all__ = [
    "AcquiredSegment",
    "CineAlignment",
    "Extent",
    "ExtentMethod",
    "LateEnhancement",
    "Presence",
    "Remote",
]


class ExtentMethod(enum.StrEnum):
    """How enhanced muscle is told from the rest."""

    NETWORK = "network"
    FWHM = "FWHM"
    """Full width at half maximum (Amado, JACC 2004): half-way from remote muscle to the brightest of a slice."""
    SD2 = "2 SD"
    SD5 = "5 SD"
    SD6 = "6 SD"

    @property
    def deviations(self) -> float | None:
        """Standard deviations above remote muscle; ``None`` for the other methods."""
        return {ExtentMethod.SD2: 2.0, ExtentMethod.SD5: 5.0, ExtentMethod.SD6: 6.0}.get(self)


@dataclass(frozen=True, slots=True)
class Extent:
    """Enhanced muscle, obstruction and enclosed dark cores included.

    Attributes
    ----------
    method : ExtentMethod
    percent : float
        Of the left ventricular muscle on the slices that show it, weighted by the tissue that each slice stands for.
    grams : float
    by_slice : tuple of S float
        % of the muscle of each slice; NaN where it shows none.
    interval : Interval or None
        Of ``percent``, where it can be justified.
    """

    method: ExtentMethod
    percent: float
    grams: float
    by_slice: tuple[float, ...]
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Remote:
    """Remote muscle of one slice: away from all that the network calls infarct.

    Attributes
    ----------
    mean, deviation : float
        Grey values.
    pixels : int
    borrowed : bool
        Whether the slice has too little of its own, and takes that of the nearest slice that has enough.
    """

    mean: float
    deviation: float
    pixels: int
    borrowed: bool


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether the heart holds an infarct, or an obstruction.

    Attributes
    ----------
    probability : float
        0 … 1, calibrated on patients that the networks of that calibration had not seen.
    present : bool
    """

    probability: float
    present: bool


@dataclass(frozen=True, slots=True)
class AcquiredSegment:
    """Enhancement of one AHA segment.

    Attributes
    ----------
    segment : int
        1 … 16.
    percent : float
        Part of the muscle of the segment that enhances (network).
    transmurality_percent : float
        Mean depth of enhancement, % of the wall, over the directions that enhance; 0 where less than 1 % of the segment
        does.
    enhanced : bool
        More than a tenth of the segment enhances.
    """

    segment: int
    percent: float
    transmurality_percent: float
    enhanced: bool


@dataclass(frozen=True, slots=True, eq=False)
class CineAlignment:
    """How the late-enhancement slices lie on the short-axis cine.

    Attributes
    ----------
    phase : int
        0-based phase of the cine (end diastole).
    cine_slice : tuple of S int or None
        Slice of the cine that each late-enhancement slice was held against; ``None`` where there is none within reach.
    shift_mm : (S, 2) float64
        To be added to (row direction, column direction) coordinates of the late enhancement to come to lie on the cine,
        mm; NaN without a slice.
    overlap : (S,) float64
        Dice of the left ventricle (cavity and wall) of both after the shift; NaN without a slice.
    """

    phase: int
    cine_slice: tuple[int | None, ...]
    shift_mm: NDArray[np.float64]
    overlap: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LateEnhancement:
    """Acquired late enhancement of a study; S slices of one of its late-enhancement stacks.

    Attributes
    ----------
    stack : int
        Index of the stack in ``CineStudy.late_enhancement``.
    reconstruction : Reconstruction
    geometry : StackGeometry
    labels : (S, R, C) uint8
        Values of :class:`~pipelines.late_enhancement.labels.Tissue`.
    enhanced : mapping by method
        (S, R, C) bool of each method: what its extent counts.
    extents : tuple of Extent
        One of each method.
    obstruction_percent : float
        Of the left ventricular muscle.
    mass_g : float
        Left ventricular muscle on the slices that show it.
    remote : tuple of S Remote or None
    infarct, obstruction : Presence
    segments : tuple of AcquiredSegment
        AHA segments 1 … 16; empty where they could not be told.
    without_segments : str or None
        Why there are no segments.
    transmurality_by_slice : tuple of S float
        Mean depth of enhancement, % of the wall, over the directions that enhance; 0 where none does, NaN where the
        slice shows no wall.
    alignment : CineAlignment or None
        ``None`` where the study holds no cine that was segmented.
    agreement : float
        0 … 1: mean Dice of the members of the ensemble with their consensus, over the slices that show a ventricle.
    cautions : tuple of str
        Sentences for a radiologist: why to read the numbers with care.
    notes : tuple of str
        How the numbers came about.
    models : tuple of ModelIdentity
    """

    stack: int
    reconstruction: Reconstruction
    geometry: StackGeometry
    labels: NDArray[np.uint8]
    enhanced: dict[ExtentMethod, NDArray[np.bool_]]
    extents: tuple[Extent, ...]
    obstruction_percent: float
    mass_g: float
    remote: tuple[Remote | None, ...]
    infarct: Presence
    obstruction: Presence
    segments: tuple[AcquiredSegment, ...]
    without_segments: str | None
    transmurality_by_slice: tuple[float, ...]
    alignment: CineAlignment | None
    agreement: float
    cautions: tuple[str, ...]
    notes: tuple[str, ...]
    models: tuple[ModelIdentity, ...]

    def extent(self, method: ExtentMethod) -> Extent:
        """The extent by one method."""
        return next(one for one in self.extents if one.method is method)
