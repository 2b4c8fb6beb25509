"""Predictors of scar from motion, thickness and texture alone, for a classifier without images.

Texture after the Image Biomarker Standardisation Initiative (Zwanenburg et al., Radiology 2020;295:328): first order
and grey level co-occurrence, fixed bin width, in the muscle at end diastole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic_enhancement.features import HeartCrop, regional_motion

__all__ = ["HEART_PREDICTORS", "SLICE_PREDICTORS", "heart_predictors", "slice_predictors"]

_BIN = 0.05
_BINS = 26
SLICE_PREDICTORS = (
    *("mean loss of area", "least loss of area", "spread of loss of area"),
    *("mean thickening", "least thickening", "spread of thickening"),
    *("mean thickness", "least thickness", "largest thickness", "late loss of area"),
    *("grey level", "standard deviation", "skewness", "kurtosis", "entropy"),
    *("contrast", "correlation", "inverse difference", "joint entropy", "height"),
)
HEART_PREDICTORS = tuple(f"{name}, {part}" for name in SLICE_PREDICTORS[:-1] for part in ("mean", "extreme"))
_LEAST = ("least loss of area", "mean loss of area", "mean thickening", "least thickening", "least thickness")


def slice_predictors(heart: HeartCrop) -> NDArray[np.float64]:
    """Predictors (S, len(SLICE_PREDICTORS)) of each slice of a heart."""
    loss, thickening = regional_motion(heart.inner, heart.outer)
    thickness = heart.outer[0] - heart.inner[0]
    late = loss[3:].max(axis=0).mean(axis=-1) - loss[1].mean(axis=-1) if heart.whole_cycle else np.zeros(heart.slices)
    motion = [
        loss[1].mean(-1),
        np.percentile(loss[1], 10, axis=-1),
        loss[1].std(-1),
        thickening[1].mean(-1),
        np.percentile(thickening[1], 10, axis=-1),
        thickening[1].std(-1),
        thickness.mean(-1),
        np.percentile(thickness, 10, axis=-1),
        np.percentile(thickness, 95, axis=-1),
        late,
    ]
    texture = np.array(
        [_texture(image / 200, muscle) for image, muscle in zip(heart.images[0], heart.muscle, strict=True)]
    )
    return np.column_stack([*motion, texture, heart.height]).astype(np.float64)


def heart_predictors(of_slices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Predictors (len(HEART_PREDICTORS),) of a heart from those of its slices: mean, and mean of the two extremes."""
    found = []
    for index, name in enumerate(SLICE_PREDICTORS[:-1]):
        values = np.sort(of_slices[:, index])
        extreme = values[:2] if name in _LEAST else values[-2:]
        found += [float(values.mean()), float(extreme.mean())]
    return np.array(found)


def _texture(image: NDArray[np.float64], muscle: NDArray[np.bool_]) -> list[float]:
    values = image[muscle]
    if values.size < 8:
        return [0.0] * 9
    mean, sd = float(values.mean()), float(max(values.std(), 1e-6))
    normal = (values - mean) / sd
    levels = np.clip((image / _BIN).astype(np.intp), 0, _BINS - 1)
    share = np.bincount(levels[muscle], minlength=_BINS) / values.size
    together = np.zeros((_BINS, _BINS))
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        first = _shift(muscle, 0, 0, down, across)
        second = _shift(muscle, down, across, 0, 0)
        both = first & second
        one, other = (_shift(levels, 0, 0, down, across)[both], _shift(levels, down, across, 0, 0)[both])
        np.add.at(together, (one, other), 1)
        np.add.at(together, (other, one), 1)
    together /= max(together.sum(), 1)
    row, column = np.indices(together.shape)
    at = float((row * together).sum())
    variance = max(float(((row - at) ** 2 * together).sum()), 1e-6)
    return [
        mean,
        sd,
        float((normal**3).mean()),
        float((normal**4).mean()) - 3,
        _entropy(share),
        float(((row - column) ** 2 * together).sum()),
        float(((row - at) * (column - at) * together).sum()) / variance,
        float((together / (1 + np.abs(row - column))).sum()),
        _entropy(together),
    ]


def _shift(values: NDArray[Any], top: int, left: int, bottom: int, right: int) -> NDArray[Any]:
    """Crop so that two calls with exchanged arguments give neighbouring pixels at the same place."""
    first_row, end_row = top, values.shape[0] - bottom
    first, end = max(left, 0) + max(-right, 0), values.shape[1] - max(right, 0) - max(-left, 0)
    return values[first_row:end_row, first:end]


def _entropy(share: NDArray[np.float64]) -> float:
    present = share[share > 0]
    return float(-(present * np.log2(present)).sum())
