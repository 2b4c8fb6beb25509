"""Segmentation of a cine stack: its labels, their certainty, and corrections by a person."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.models.identity import ModelIdentity

__all__ = ["CineSegmentation", "Correction", "Label"]


class Label(enum.IntEnum):
    """Voxel labels. Data sets number them differently (ACDC: 1 RV, 2 myocardium, 3 LV): always map by name."""

    BACKGROUND = 0
    LV = 1
    """LV cavity; papillary muscles and trabeculae are included in the cavity."""
    MYO = 2
    RV = 3


@dataclass(frozen=True, slots=True)
class Correction:
    """One phase of which a person drew labels in place of the network's."""

    phase: int
    """0-based phase of the stack."""
    when: str
    """In words: "end diastole"."""
    by: str
    """Who, as the SEG says (ContentCreatorName); empty where it does not."""
    sop_instance_uid: str
    """Of the SEG."""
    labels: tuple[Label, ...]
    """What was drawn; of other labels the network's stay."""

    @property
    def sentence(self) -> str:
        """The correction in a sentence for reports."""
        whose = self.by.replace("^", " ").strip() or "a person whom the object does not name"
        return (
            f"Masks at {self.when} were corrected by {whose} (SEG {self.sop_instance_uid}); other phases and the "
            "intervals of the numbers are the network's."
        )


@dataclass(frozen=True, slots=True, eq=False)
class CineSegmentation:
    """Labels of every voxel of every phase of a cine stack, on the grid of that stack.

    Attributes
    ----------
    labels : (T, S, R, C) uint8
        Values of :class:`Label`.
    agreement : (T, S) float32
        Mean Dice coefficient over the labels present between the members of the test-time ensemble and their
        consensus, 0 … 1; 1 where no member sees a ventricle. Low values mark slices a person should look at.
    crop : (int, int, int, int)
        First row, end row, first column, end column of the heart crop on the stack's grid: voxels outside were not
        looked at by the fine network.
    models : tuple of ModelIdentity
        Every network that took part.
    confidence : (T, S) float32 or None
        Dice coefficient that each slice is predicted to have with an expert's contours, 1 where nothing is labelled;
        ``None`` where no network gave probabilities.
    corrections : tuple of Correction
        Phases whose labels a person has drawn.
    """

    labels: NDArray[np.uint8]
    agreement: NDArray[np.float32]
    crop: tuple[int, int, int, int]
    models: tuple[ModelIdentity, ...]
    confidence: NDArray[np.float32] | None = None
    corrections: tuple[Correction, ...] = ()
