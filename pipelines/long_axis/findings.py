"""What is found on long-axis cine."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, View
from pipelines.long_axis.in_step import resample_phases
from pipelines.models.identity import ModelIdentity

__all__ = ["LongAxisLabel", "LongAxisView", "LongAxisViews", "Valve"]


class LongAxisLabel(enum.IntEnum):
    """Pixel labels of long-axis views."""

    BACKGROUND = 0
    LV = 1
    MYO = 2
    RV = 3
    LA = 4
    RA = 5


class Valve(enum.StrEnum):
    """Atrioventricular valve whose annulus is followed."""

    MITRAL = "mitral"
    TRICUSPID = "tricuspid"


@dataclass(frozen=True, slots=True, eq=False)
class LongAxisView:
    """One long-axis view, segmented.

    Attributes
    ----------
    stack : CineStack
        One slice, T phases.
    labels : (T, R, C) uint8
        Values of :class:`LongAxisLabel`.
    agreement : (T,) float32
        Mean Dice between the members of the test-time ensemble and their consensus.
    annuli : mapping of Valve to (T, 2, 3) float64
        Patient coordinates (LPS, mm) of the two points where the annulus crosses the plane, the same wall first in
        every phase; only the valves that this view shows.
    apex : (T, 3) float64
        Endocardial apex of the left ventricle, patient coordinates, mm.
    delay : float
        Share of the cycle by which the phases come later than those of the short axis, −0.5 … 0.5.
    told_by : str
        What tells this acquisition from others of the same view; empty where it is the only one.
    """

    view: View
    stack: CineStack
    labels: NDArray[np.uint8]
    agreement: NDArray[np.float32]
    annuli: dict[Valve, NDArray[np.float64]]
    apex: NDArray[np.float64]
    delay: float = 0.0
    told_by: str = ""

    @property
    def name(self) -> str:
        """The view, as ``4CH``, and where the study has several of it, which one."""
        return f"{self.view} ({self.told_by})" if self.told_by else str(self.view)

    def in_step(self, values: NDArray[np.float64], phases: int) -> NDArray[np.float64]:
        """Values (T, …) of this view at the moments of ``phases`` phases of the short axis, (phases, …)."""
        return resample_phases(values, phases, self.delay)


@dataclass(frozen=True, slots=True, eq=False)
class LongAxisViews:
    """All long-axis views of a study that could be read.

    Attributes
    ----------
    views : tuple of LongAxisView
    models : tuple of ModelIdentity
    out_of_step : tuple of LongAxisView
        Those that were left out since their ventricle does not fill and empty as the short axis does.
    """

    views: tuple[LongAxisView, ...]
    models: tuple[ModelIdentity, ...]
    out_of_step: tuple[LongAxisView, ...] = ()

    def left_out(self, stack: CineStack) -> bool:
        """Whether a stack is one that is out of step; another acquisition of the same view need not be."""
        return any(view.stack is stack for view in self.out_of_step)

    def delay_of(self, stack: CineStack) -> float:
        """Delay of the view that was read from a stack; 0 where none was."""
        return next((view.delay for view in self.views if view.stack is stack), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class AtrialFunction:
    """Left atrium over the cycle.

    Attributes
    ----------
    volume_ml : (T,) float64
        Area–length volume of the left atrium.
    strain_percent : (T,) float64
        Change of the length of the atrial wall, annulus to annulus, relative to end diastole.
    maximum_ml, minimum_ml : float
    reservoir_percent, conduit_percent, booster_percent : float
        Strain in the three phases; conduit = reservoir − booster.
    views : tuple of View
        What it was measured on: 2CH and 4CH (biplane), or one of them.
    """

    volume_ml: NDArray[np.float64]
    strain_percent: NDArray[np.float64]
    maximum_ml: float
    minimum_ml: float
    reservoir_percent: float
    conduit_percent: float
    booster_percent: float
    views: tuple[View, ...]


@dataclass(frozen=True, slots=True, eq=False)
class LongAxisFunction:
    """Motion of the annuli and function of the left atrium, measured on long-axis cine.

    Attributes
    ----------
    excursion_mm : mapping of Valve to (T,) float64
        Descent of the middle of the annulus towards the apex since end diastole, mean over the views that show it.
    plane_excursion_mm : mapping of Valve to float
        Largest descent: MAPSE and TAPSE of the plane.
    atrium : AtrialFunction or None
        ``None`` where no view shows the whole left atrium, or its contours change beyond belief.
    views : tuple of View
    agreement : float
        Mean over views and phases of the agreement of the test-time ensemble.
    """

    excursion_mm: dict[Valve, NDArray[np.float64]]
    plane_excursion_mm: dict[Valve, float]
    atrium: AtrialFunction | None
    views: tuple[View, ...]
    agreement: float
