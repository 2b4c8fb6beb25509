"""How well each slice is segmented, predicted from what the networks were sure of and from the shape that came out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.segmentation.decision import likeliest
from pipelines.segmentation.labels import Label

__all__ = ["LIKELY_WRONG", "confidence_terms", "expected_dice", "predicted_dice"]

_FEWEST_POINTS = 20
"""Points of the crop that a label needs to count."""
_INTERCEPT, _PER_EXPECTED, _PER_LOG_AREA, _PER_RING = -0.2354, 0.8757, 0.04388, 0.1586
"""Least squares on 24 phantoms with faults and fold 1 of ACDC in style ``ge``: ``benchmarks/slice_confidence.py``."""
LIKELY_WRONG = 0.83
"""A slice predicted below this is among the least certain fifth, which holds most of the worst tenth."""


def expected_dice(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dice coefficient of the likeliest labels that the probabilities themselves lead one to expect.

    Parameters
    ----------
    probability : (N, L, n, n) float32
        Of each label; label 0 is the background.

    Returns
    -------
    (N,) float32
        Mean over the labels that are seen; 1 where there is only background.
    """
    consensus = likeliest(probability)
    total, count = np.zeros(len(probability)), np.zeros(len(probability))
    for label in range(1, probability.shape[1]):
        chosen = consensus == label
        mass, area = probability[:, label].sum((1, 2)), chosen.sum((1, 2))
        inside = (probability[:, label] * chosen).sum((1, 2))
        seen = (area > _FEWEST_POINTS) | (mass > _FEWEST_POINTS)
        total += np.where(seen, 2 * inside / np.maximum(mass + area, 1e-6), 0.0)
        count += seen
    return np.where(count > 0, total / np.maximum(count, 1), 1.0).astype(np.float32)


def predicted_dice(labels: NDArray[np.uint8], expected: NDArray[np.float32], pixel_mm2: float) -> NDArray[np.float32]:
    """Dice coefficient that a slice is predicted to have with an expert's contours, mean over its labels.

    Parameters
    ----------
    labels : (T, S, R, C) uint8
    expected : (T, S) float32
        Of :func:`expected_dice`, before anything was smoothed or removed.
    pixel_mm2 : float
        Area of a pixel.

    Returns
    -------
    (T, S) float32
        0 … 1; 1 where nothing is labelled.
    """
    terms = confidence_terms(labels, expected, pixel_mm2)
    value = _INTERCEPT + terms @ (_PER_EXPECTED, _PER_LOG_AREA, _PER_RING)
    return np.where(terms[..., 1] > 0, np.clip(value, 0, 1), 1.0).astype(np.float32)


def confidence_terms(labels: NDArray[np.uint8], expected: NDArray[np.float32], pixel_mm2: float) -> NDArray[np.float64]:
    """What the prediction is linear in: Dice expected, log of 1 + labelled area in cm², ring of muscle; (T, S, 3)."""
    area_cm2 = (labels != Label.BACKGROUND).sum((2, 3)) * pixel_mm2 / 100
    return np.stack([expected, np.log1p(area_cm2), _contained(labels)], axis=-1)


def _contained(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of the border of the LV cavity, outside it, that is myocardium, (T, S); 1 without cavity."""
    cavity = np.pad(labels == Label.LV, ((0, 0), (0, 0), (1, 1), (1, 1)))
    grown = cavity.copy()
    for axis in (2, 3):
        for step in (-1, 1):
            grown |= np.roll(cavity, step, axis)
    border = (grown & ~cavity)[:, :, 1:-1, 1:-1]
    count = border.sum((2, 3))
    wall = (border & (labels == Label.MYO)).sum((2, 3))
    return np.where(count > 0, wall / np.maximum(count, 1), 1.0)
