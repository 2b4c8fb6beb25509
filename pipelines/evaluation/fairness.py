"""Fairness of the segmentation: its accuracy compared between groups of persons and of scanners."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.logistic import fit_logistic
from pipelines.phantom.study import PhantomStudy
from pipelines.segmentation.labels import CineSegmentation
from pipelines.statistics import Estimate, auc_interval

__all__ = ["Trait", "TraitGroup", "crop_thumbnail", "gap", "habitus", "phantom_traits", "told_by_crops", "trait_groups"]

_THUMBNAIL = 16
_COMPONENTS = 6
_PARTS = 5
_FEWEST_TO_TELL = 20

FEWEST = 3
"""A group of fewer cases is shown, but neither best nor worst."""


class Trait(enum.StrEnum):
    """Trait by which persons or scanners are grouped."""

    DISEASE = "disease"
    SEX = "sex"
    HABITUS = "habitus"
    """Body mass index: below 25, 25 to 30, 30 and more kg/m² (WHO)."""
    FAT = "subcutaneous fat"
    """Over the anterior chest: below 12, 12 to 20, 20 mm and more."""
    VENDOR = "vendor"
    FIELD = "field strength"


@dataclass(frozen=True, slots=True)
class TraitGroup:
    """Cases that share one value of a trait.

    Attributes
    ----------
    dice : float
        Mean over labels and phases of the cases that were not refused; NaN where all were.
    lvef_error : float
        Mean absolute error of the LV ejection fraction, points; NaN where there is none.
    """

    trait: Trait
    value: str
    cases: int
    refused: int
    dice: float
    lvef_error: float


def habitus(height_m: float, weight_kg: float) -> str:
    """Class of the body mass index."""
    index = weight_kg / height_m**2
    return "BMI below 25" if index < 25 else "BMI 25 to 30" if index < 30 else "BMI 30 and more"


def phantom_traits(study: PhantomStudy) -> dict[Trait, str]:
    """All traits of a phantom."""
    body = study.subject.body
    fat = "below 12 mm" if body.fat_mm < 12 else "12 to 20 mm" if body.fat_mm < 20 else "20 mm and more"
    return {
        Trait.DISEASE: str(study.recipe.disease),
        Trait.SEX: body.sex,
        Trait.HABITUS: habitus(body.height_m, body.weight_kg),
        Trait.FAT: fat,
        Trait.VENDOR: study.recipe.dialect.manufacturer,
        Trait.FIELD: f"{study.protocol.field_t:g} T",
    }


def trait_groups(
    cases: Sequence[tuple[Mapping[Trait, str], float | None, float | None]],
) -> tuple[TraitGroup, ...]:
    """Group cases by every trait that any of them has.

    Parameters
    ----------
    cases : sequence of (traits, Dice, error of the LV ejection fraction)
        Dice is ``None`` for a refused case; the error is ``None`` where there is none.
    """
    groups = []
    for trait in Trait:
        for value in sorted({traits[trait] for traits, _, _ in cases if trait in traits}):
            members = [(dice, error) for traits, dice, error in cases if traits.get(trait) == value]
            dices = [dice for dice, _ in members if dice is not None]
            errors = [error for _, error in members if error is not None]
            groups.append(
                TraitGroup(
                    trait=trait,
                    value=value,
                    cases=len(members),
                    refused=len(members) - len(dices),
                    dice=float(np.mean(dices)) if dices else float("nan"),
                    lvef_error=float(np.mean(errors)) if errors else float("nan"),
                )
            )
    return tuple(groups)


def gap(groups: Sequence[TraitGroup], trait: Trait) -> float:
    """How much lower the Dice of the worst group of a trait is than that of the best; NaN with fewer than two groups.

    Groups of fewer than three cases do not count.
    """
    large = [group.dice for group in groups if group.trait is trait and group.cases >= FEWEST]
    known = [dice for dice in large if np.isfinite(dice)]
    return max(known) - min(known) if len(known) > 1 else float("nan")


def crop_thumbnail(pixels: NDArray[np.float32], segmentation: CineSegmentation) -> NDArray[np.float32]:
    """What the fine network saw of the middle slice at end diastole, 16 × 16 pixels of mean 0 and deviation 1.

    Parameters
    ----------
    pixels : (T, S, R, C) float32
        Of a stack whose first phase is end diastole.
    """
    row, end_row, column, end_column = segmentation.crop
    crop = pixels[0, pixels.shape[1] // 2, row:end_row, column:end_column]
    small = ndimage.zoom(crop, [_THUMBNAIL / length for length in crop.shape], order=1, grid_mode=True, mode="nearest")
    return np.asarray((small - small.mean()) / max(float(small.std()), 1e-6), np.float32)


def told_by_crops(thumbnails: Sequence[NDArray[np.float32]], trait: Sequence[bool]) -> Estimate:
    """How well a simple classifier tells a trait from the crops: area under the curve of held-out predictions.

    Logistic regression on six principal components of the thumbnails, in five parts, each predicted by the others. One
    half is chance: the network then cannot treat the two kinds of person differently by what the crop shows of them.

    Returns
    -------
    Estimate
        NaN with fewer than twenty cases, or fewer than five of a kind.
    """
    kinds = np.array(trait, dtype=bool)
    if len(kinds) < _FEWEST_TO_TELL or min(int(kinds.sum()), int((~kinds).sum())) < _PARTS:
        return Estimate(float("nan"), float("nan"), float("nan"))
    table = np.stack([np.asarray(one, np.float64).ravel() for one in thumbnails])
    part = np.empty(len(kinds), dtype=int)
    for kind in (False, True):
        part[kinds == kind] = np.arange(int((kinds == kind).sum())) % _PARTS
    scores = np.empty(len(kinds))
    for number in range(_PARTS):
        known = part != number
        mean = table[known].mean(0)
        axes = np.linalg.svd(table[known] - mean, full_matrices=False)[2][:_COMPONENTS]
        model = fit_logistic((table[known] - mean) @ axes.T, kinds[known], penalty=1.0)
        scores[~known] = model.probability((table[~known] - mean) @ axes.T)
    return auc_interval(kinds, scores)
