"""Slices on which something beside the left ventricle was taken for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.segmentation.confidence import LIKELY_WRONG
from pipelines.segmentation.labels import Label

__all__ = ["LEAST_COMMON", "not_left_ventricle", "without_left_ventricle"]

LEAST_COMMON = 0.4
"""Share of the smaller of two neighbouring slices' left ventricles (cavity and wall) that both have in common. The
least that experts drew in 80 patients of ACDC, where breath holds moved slices by up to 25 mm, is 0.40."""


def not_left_ventricle(labels: NDArray[np.uint8], confidence: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Slices of one phase whose left ventricle lies beside that of the slices nearer to the middle, (S,).

    Starting at the slice whose left ventricle is largest and surest, each further slice is held against the last one
    that is left ventricle. A dilated right ventricle taken for the left one at the apex, or what lies beside the heart
    above the base or below the apex, is elsewhere, and the networks are not sure of it; a slice that they are sure of
    is left as it is. Where half of the slices or more would be strays, the first may be the wrong one: then none is.

    Parameters
    ----------
    labels : (S, R, C) uint8
    confidence : (S,) float
        Dice coefficient that each slice is predicted to have, 0 … 1.
    """
    body = (labels == Label.LV) | (labels == Label.MYO)
    size = body.sum((1, 2))
    strays = np.zeros(len(labels), dtype=bool)
    if not size.any():
        return strays
    first = int(np.argmax(np.where(size > 0, confidence * np.sqrt(size), -1.0)))
    for outwards in (range(first - 1, -1, -1), range(first + 1, len(labels))):
        last = first
        for index in outwards:
            if size[index] == 0:
                continue
            common = np.count_nonzero(body[index] & body[last]) / min(size[index], size[last])
            if common < LEAST_COMMON and confidence[index] < LIKELY_WRONG:
                strays[index] = True
            else:
                last = index
    return strays if 2 * strays.sum() < np.count_nonzero(size) else np.zeros_like(strays)


def without_left_ventricle(probability: NDArray[np.float32], slices: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Probabilities (S, L, R, C) of a phase with no chance of cavity or wall of the left ventricle on some slices."""
    changed = probability.copy()
    for label in (Label.LV, Label.MYO):
        changed[slices, label] = 0.0
    return changed
