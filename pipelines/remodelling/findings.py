"""What the analysis of remodelling finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.findings import Interval
from pipelines.models.identity import ModelIdentity
from pipelines.motion.findings import Keyframe

__all__ = ["Attribution", "Contribution", "InfarctEstimate", "RemodellingRisk"]


@dataclass(frozen=True, slots=True)
class Contribution:
    """How one predictor moved the probability away from that of an average patient of the training.

    Attributes
    ----------
    name : str
        As within a sentence.
    value : float
    unit : str
        UCUM; ``1`` for a logit.
    logit : float
        Coefficient times (value less mean): above 0 it raises the probability.
    """

    name: str
    value: float
    unit: str
    logit: float


@dataclass(frozen=True, slots=True)
class InfarctEstimate:
    """Infarct size without contrast agent, % of the left ventricular muscle, regressed from function and motion."""

    percent: float
    interval: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """Guided Grad-CAM of the image branch on the keyframe where it is strongest.

    Attributes
    ----------
    keyframe : Keyframe
    phase : int
        0-based phase of the short-axis stack.
    slices : tuple of int
        Slices that the map covers, in ascending order.
    map : (S, R, C) float32
        0 … 1, relative to its own maximum, on the grid of the stack; 0 where nothing raised the probability.
    share : dict of Keyframe to float
        Share of each keyframe in the attribution of all five; all 0 where nothing raised the probability.
    in_ventricle : float
        Share of the attribution of all five that lies in cavity and muscle of the left ventricle.
    by_chance : float
        Share of all pixels that are such.
    """

    keyframe: Keyframe
    phase: int
    slices: tuple[int, ...]
    map: NDArray[np.float32]
    share: dict[Keyframe, float]
    in_ventricle: float
    by_chance: float


@dataclass(frozen=True, slots=True, eq=False)
class RemodellingRisk:
    """Probability of adverse remodelling of the left ventricle after an acute infarct.

    Attributes
    ----------
    stack : CineStack
        The short axis that was looked at.
    probability : float
        Of the combined model, 0 … 1.
    interval : Interval
        2.5th and 97.5th percentile over the bootstrap of the combined model; it tells how well the model was
        determined by its training, not how well it fits a patient.
    population_probability : float
        Mean risk of the training population.
    network_probability : float
        Of the network alone, uncalibrated.
    contributions : tuple of Contribution
        Of the combined model, the strongest first.
    features : dict of str to float
        Everything that the network was given, by name with its unit.
    missing : tuple of str
        Features that this study does not have, in words.
    infarct : InfarctEstimate
    attribution : Attribution or None
        ``None`` of a network that sees no images.
    notes : tuple of str
        What a reader must know.
    models : tuple of ModelIdentity
    """

    stack: CineStack
    probability: float
    interval: Interval
    population_probability: float
    network_probability: float
    contributions: tuple[Contribution, ...]
    features: dict[str, float]
    missing: tuple[str, ...]
    infarct: InfarctEstimate
    attribution: Attribution | None
    notes: tuple[str, ...]
    models: tuple[ModelIdentity, ...]
