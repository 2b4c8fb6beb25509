"""What is found of microvascular obstruction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.findings import Interval
from pipelines.models.identity import ModelIdentity
from pipelines.segmentation.grid import Square

__all__ = ["Obstruction", "SliceObstruction"]


@dataclass(frozen=True, slots=True, eq=False)
class SliceObstruction:
    """One slice.

    Attributes
    ----------
    index : int
        Slice of the stack.
    phase : int
        Phase of the stack at which the attribution is strongest.
    probability : float
        That this slice shows obstruction, 0 … 1, calibrated on slices.
    attribution : (64, 64) float32
        Grad-CAM within the muscle of that phase, 0 … 1 over all slices of the heart; 0 outside the muscle.
    """

    index: int
    phase: int
    probability: float
    attribution: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Obstruction:
    """Microvascular obstruction of an acute infarct, estimated from short-axis cine without contrast.

    Attributes
    ----------
    probability : float
        That the heart has an obstruction anywhere, 0 … 1, calibrated on simulated hearts.
    interval : Interval
        90 % of what calibration on few hearts and mirrored views leave open.
    slices : tuple of SliceObstruction
        Those that show muscle at end diastole, apex to base.
    square : Square
        Where the attributions lie on the stack.
    stack : CineStack
    population : str
        Whom the estimate is for.
    models : tuple of ModelIdentity
    """

    probability: float
    interval: Interval
    slices: tuple[SliceObstruction, ...]
    square: Square
    stack: CineStack
    population: str
    models: tuple[ModelIdentity, ...]

    @property
    def key(self) -> SliceObstruction:
        """The slice with the highest probability."""
        return max(self.slices, key=lambda each: each.probability)
