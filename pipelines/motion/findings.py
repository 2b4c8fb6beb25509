"""What the analysis of motion finds: keyframes and strain, with intervals and the way they were obtained."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, View
from pipelines.function.findings import Interval
from pipelines.models.identity import ModelIdentity
from pipelines.motion.keyframes import MotionDescriptor

__all__ = [
    "CardiacMotion",
    "Component",
    "Keyframe",
    "MotionKeyframes",
    "MyocardialStrain",
    "SegmentalStrain",
    "StrainCurve",
    "Torsion",
    "ViewKeyframes",
]


class Keyframe(enum.StrEnum):
    """The five keyframes of Koehler et al.; the value is their key in ``results.json``."""

    END_DIASTOLE = "end_diastole"
    MID_SYSTOLE = "mid_systole"
    END_SYSTOLE = "end_systole"
    PEAK_FLOW = "peak_flow"
    MID_DIASTOLE = "mid_diastole"


@dataclass(frozen=True, slots=True, eq=False)
class ViewKeyframes:
    """Keyframes of one view.

    Attributes
    ----------
    stack : CineStack
        The one of that view that was followed.
    phases : dict of Keyframe to int
        0-based phase index of the stack.
    times_ms : dict of Keyframe to float
        Delay of that phase from the R wave, ms.
    descriptor : MotionDescriptor
    """

    stack: CineStack
    phases: dict[Keyframe, int]
    times_ms: dict[Keyframe, float]
    descriptor: MotionDescriptor

    @property
    def view(self) -> View:
        """Of the stack."""
        return self.stack.view


@dataclass(frozen=True, slots=True, eq=False)
class MotionKeyframes:
    """Keyframes of the views that have them: short axis first, then 4CH."""

    views: tuple[ViewKeyframes, ...]
    method: str

    def of(self, view: View) -> ViewKeyframes | None:
        """Keyframes of a view, or ``None``."""
        return next((entry for entry in self.views if entry.view is view), None)


class Component(enum.StrEnum):
    """Direction of strain in the axes of the wall."""

    LONGITUDINAL = "longitudinal"
    CIRCUMFERENTIAL = "circumferential"
    RADIAL = "radial"


@dataclass(frozen=True, slots=True, eq=False)
class StrainCurve:
    """Global strain of one component over the cycle, engineering strain (L − L_ED) / L_ED, %.

    Attributes
    ----------
    percent : (T,) float64
        The curve that is reported.
    second_percent : (T,) float64
        The same found independently.
    times_ms : (T,) float64
        Delay from the R wave.
    peak_percent, peak_ms : float
        Largest shortening or thickening of the cycle, and when.
    end_systolic_percent : float
    systolic_rate_per_s, early_diastolic_rate_per_s : float or None
        Fastest change of strain before and after end systole, 1/s; ``None`` without an RR interval.
    interval : Interval
        Bounds of the peak, from the difference of the two ways and the error of the registration.
    method, second_method : str
    """

    component: Component
    percent: NDArray[np.float64]
    second_percent: NDArray[np.float64]
    times_ms: NDArray[np.float64]
    peak_percent: float
    peak_ms: float
    end_systolic_percent: float
    systolic_rate_per_s: float | None
    early_diastolic_rate_per_s: float | None
    interval: Interval
    method: str
    second_method: str


@dataclass(frozen=True, slots=True, eq=False)
class SegmentalStrain:
    """Strain of the AHA segments 1 … 16 of one component.

    Attributes
    ----------
    percent : (T, 16) float64
        NaN where a segment could not be measured.
    peak_percent : (16,) float64
    time_to_peak_ms : (16,) float64
    post_systolic_index_percent : (16,) float64
        (peak − end-systolic) ÷ peak, of segments whose peak comes after end systole; 0 of the others.
    dispersion_ms : float
        Standard deviation of the time to peak over the segments.
    """

    component: Component
    percent: NDArray[np.float64]
    peak_percent: NDArray[np.float64]
    time_to_peak_ms: NDArray[np.float64]
    post_systolic_index_percent: NDArray[np.float64]
    dispersion_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class Torsion:
    """Rotation of the ventricle, counter-clockwise as seen from the apex positive.

    Attributes
    ----------
    basal_deg, apical_deg : (T,) float64
        Rotation of the most basal and the most apical third.
    peak_deg_per_cm : float
        Largest difference of the two divided by their distance.
    """

    basal_deg: NDArray[np.float64]
    apical_deg: NDArray[np.float64]
    peak_deg_per_cm: float


@dataclass(frozen=True, slots=True, eq=False)
class MyocardialStrain:
    """Strain of the left ventricle.

    Attributes
    ----------
    longitudinal : StrainCurve or None
        ``None`` without a long-axis view.
    circumferential, radial : StrainCurve
    segments : tuple of SegmentalStrain
        Of the components that have them.
    torsion : Torsion or None
        ``None`` with fewer than two levels.
    through_plane : str
        Where the descent of the muscle through the short-axis slices is known from.
    notes : tuple of str
        What a reader must know of how the numbers came about.
    """

    longitudinal: StrainCurve | None
    circumferential: StrainCurve
    radial: StrainCurve
    segments: tuple[SegmentalStrain, ...]
    torsion: Torsion | None
    through_plane: str
    notes: tuple[str, ...]

    def curves(self) -> tuple[StrainCurve, ...]:
        """The global curves that there are."""
        return tuple(curve for curve in (self.longitudinal, self.circumferential, self.radial) if curve is not None)


@dataclass(frozen=True, slots=True, eq=False)
class CardiacMotion:
    """What the motion package reports.

    Attributes
    ----------
    keyframes : MotionKeyframes
    strain : MyocardialStrain
    disagreement_mm : float
        Root mean square distance between motion found directly and composed of consecutive steps, short axis.
    closure_mm : float
        Root mean square displacement after composing the whole cycle, short axis: 0 if the motion closed.
    folded_percent : float
        Points of the short-axis fields whose Jacobian is not positive.
    circumferential_map : (S, R, C) float32
        Circumferential strain of the short axis at end systole on the image of end diastole, by registration, %; 0
        outside the wall. Muscle that moves through the plane is not followed.
    models : tuple of ModelIdentity
    stacks : tuple of CineStack
        What keyframes and strain come from, the short axis first.
    """

    keyframes: MotionKeyframes
    strain: MyocardialStrain
    disagreement_mm: float
    closure_mm: float
    folded_percent: float
    circumferential_map: NDArray[np.float32]
    models: tuple[ModelIdentity, ...]
    stacks: tuple[CineStack, ...]
