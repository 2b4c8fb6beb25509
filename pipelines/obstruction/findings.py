"""What is found of microvascular obstruction."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.findings import Interval
from pipelines.models.identity import ModelIdentity
from pipelines.segmentation.grid import Square

__all__ = ["Method", "MotionContribution", "Obstruction", "SliceObstruction"]


class Method(enum.Enum):
    """What the probability was read from."""

    NETWORK = "network"
    """Clips of each slice, by the network; attributions are Grad-CAM."""
    WALL_MOTION = "wall motion"
    """Contours of end diastole and end systole, by the wall model; attributions are deficits of motion."""


@dataclass(frozen=True, slots=True)
class MotionContribution:
    """How one motion of the wall moved the probability away from that of an average heart of the training.

    Attributes
    ----------
    motion : str
        As within a sentence.
    value, usual : float
        Mean over the fifth of the wall where it is least, as a fraction; and the mean of that over the hearts fitted
        to.
    logit : float
        Above 0 it raises the probability.
    """

    motion: str
    value: float
    usual: float
    logit: float


@dataclass(frozen=True, slots=True, eq=False)
class SliceObstruction:
    """Estimate of obstruction on one slice.

    Attributes
    ----------
    index : int
        Slice of the stack.
    phase : int
        Phase of the stack that the attribution lies on.
    probability : float
        That this slice shows obstruction, 0 … 1, calibrated on slices; NaN where a site's labels told of hearts only.
    attribution : (64, 64) float32
        What raised the estimate within the muscle of that phase, 0 … 1 over all slices; 0 outside the muscle.
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
    method : Method
    probability : float
        That the heart has an obstruction anywhere, 0 … 1, as calibrated.
    interval : Interval
        95 % of what calibration on few hearts, and of a network the mirrored views, leave open.
    area_under_curve : float
        Of the model on hearts that it had not seen.
    area_interval : Interval
        95 %.
    contributions : tuple of MotionContribution
        What moved the probability, the strongest first; empty of a network.
    slices : tuple of SliceObstruction
        Those that show muscle at end diastole, apex to base.
    square : Square
        Where the attributions lie on the stack.
    stack : CineStack
    population : str
        Whom the estimate is for.
    models : tuple of ModelIdentity
        That of this estimate first; then that of the second opinion, where there is one.
    second_opinion : Obstruction or None
        What a network says, shown beside it where one is installed that passes the rule: its probability of the heart
        and of the slices, and its map.
    """

    method: Method
    probability: float
    interval: Interval
    area_under_curve: float
    area_interval: Interval
    contributions: tuple[MotionContribution, ...]
    slices: tuple[SliceObstruction, ...]
    square: Square
    stack: CineStack
    population: str
    models: tuple[ModelIdentity, ...]
    second_opinion: Obstruction | None = None

    @property
    def key(self) -> SliceObstruction:
        """The slice with the highest probability, or, where slices have none, with the largest attribution."""
        return max(self.slices, key=lambda each: (np.nan_to_num(each.probability), float(each.attribution.max())))
