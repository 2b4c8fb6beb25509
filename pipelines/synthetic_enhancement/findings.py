"""What the analysis of synthetic enhancement finds, on the short-axis stack of the cine at end diastole."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import StackGeometry
from pipelines.function.findings import Interval
from pipelines.models.identity import ModelIdentity

__all__ = ["Extent", "ScarClassifier", "SegmentEnhancement", "Shown", "SyntheticEnhancement"]


class Shown(enum.StrEnum):
    """How much of the result may be shown, decided by quality and by how unlike the training hearts the study is."""

    IMAGE_AND_PROBABILITY = "image and probability"
    PROBABILITY = "probability"
    """The image is withheld; ``SyntheticEnhancement.withheld`` says why."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Extent of predicted enhancement, % of the left ventricular muscle on the slices that were looked at.

    Attributes
    ----------
    percent : float
    interval : Interval
        From the spread of the samples.
    method : str
        Threshold, such as ``full width at half maximum``.
    """

    percent: float
    interval: Interval
    method: str


@dataclass(frozen=True, slots=True)
class SegmentEnhancement:
    """Predicted enhancement of one AHA segment.

    Attributes
    ----------
    segment : int
        1 … 16.
    probability : float
        That more than a tenth of the segment enhances, 0 … 1, calibrated.
    percent : float
        Part of the segment that is hyperintense on the synthetic image.
    transmurality_percent : float
        Mean depth of predicted enhancement over the angles that enhance; 0 where none does.
    """

    segment: int
    probability: float
    percent: float
    transmurality_percent: float


@dataclass(frozen=True, slots=True)
class ScarClassifier:
    """One way to the probability that there is scar.

    Attributes
    ----------
    name : str
    probability : float
        0 … 1, of this study.
    reported : bool
        Whether it is the best calibrated one, whose probability is the one reported.
    """

    name: str
    probability: float
    reported: bool


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticEnhancement:
    """Synthetic late enhancement of a study; S slices of the short-axis cine, in its order.

    Attributes
    ----------
    geometry : StackGeometry
        Of the short-axis stack.
    phase : int
        0-based phase of the cine (end diastole) whose anatomy the images show.
    slices : tuple of int
        Slices that muscle was seen on, in ascending order; nothing is predicted elsewhere.
    image : (S, R, C) float32 or None
        0 nulled muscle, 1 dense scar, on the grid of the cine, 0 outside the square that was looked at; ``None``
        where it is withheld.
    uncertainty : (S, R, C) float32 or None
        Standard deviation of ``image`` over the samples.
    probability : (S, R, C) float32
        Of enhancement, in the muscle; 0 elsewhere.
    enhanced : (S, R, C) bool
        Hyperintense muscle (full width at half maximum) of ``image``, enclosed dark cores included; nothing below the
        operating point.
    muscle : (S, R, C) bool
        Muscle at ``phase``, from the segmentation of the cine.
    slice_probability : dict of int to float
        Probability that a slice holds enhancement, by slice.
    segments : tuple of SegmentEnhancement
        AHA segments 1 … 16; empty where the segments could not be told.
    study_probability : float
        That the heart holds enhancement at all, calibrated on held-out simulated hearts.
    operating_point : float
        Probability of the heart from which enhancement is said to be there.
    hyperintense, intermediate : Extent
        0 below the operating point, whatever the image shows; the interval is that of the samples all the same.
    shown : Shown
    withheld : tuple of str
        Sentences for a radiologist: why the image is withheld; empty when it is shown.
    classifiers : tuple of ScarClassifier
        Every way to the probability that was computed; one of them is reported.
    samples, steps : int
        Samples drawn and steps of each.
    notes : tuple of str
        What a reader must know.
    models : tuple of ModelIdentity
    beyond_5_sd : Extent or None
        Muscle more than 5 SD above remote muscle, for those who measure so.
    novelty : float
        How far the heart is from the simulated hearts that the networks know, standard deviations.
    """

    geometry: StackGeometry
    phase: int
    slices: tuple[int, ...]
    image: NDArray[np.float32] | None
    uncertainty: NDArray[np.float32] | None
    probability: NDArray[np.float32]
    enhanced: NDArray[np.bool_]
    muscle: NDArray[np.bool_]
    slice_probability: dict[int, float]
    segments: tuple[SegmentEnhancement, ...]
    study_probability: float
    operating_point: float
    hyperintense: Extent
    intermediate: Extent
    shown: Shown
    withheld: tuple[str, ...]
    classifiers: tuple[ScarClassifier, ...]
    samples: int
    steps: int
    notes: tuple[str, ...]
    models: tuple[ModelIdentity, ...]
    beyond_5_sd: Extent | None = None
    novelty: float = 0.0

    @property
    def present(self) -> bool:
        """Whether enhancement is said to be there at all: the probability of the heart reaches the operating point."""
        return self.study_probability >= self.operating_point
