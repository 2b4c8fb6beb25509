"""Which label a pixel gets from its probabilities: the likeliest, once the cavity has about its true size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.segmentation.labels import Label

__all__ = ["MOST", "likeliest", "likeliest_labels"]

MOST = 1.5
"""The log odds of the cavity are moved by no more than this."""


def likeliest(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The label of the highest probability, of equal ones the first: what ``argmax(1)`` gives, in a fifth of its time.

    Parameters
    ----------
    probability : (N, L, …) float32
        Finite.

    Returns
    -------
    (N, …) uint8
    """
    highest = probability[:, 0].copy()
    labels = np.zeros(highest.shape, dtype=np.uint8)
    for label in range(1, probability.shape[1]):
        np.copyto(labels, np.uint8(label), where=probability[:, label] > highest)
        np.maximum(highest, probability[:, label], out=highest)
    return labels


def likeliest_labels(
    probability: NDArray[np.float32], bias: tuple[float, float], pixel_mm2: float
) -> NDArray[np.uint8]:
    """Label each pixel with the likeliest label, after the log odds of the LV cavity were moved by ``a - b / r``.

    A network that was trained with an overlap loss draws small cavities too large: at end systole and at the apex the
    border moves outward where it is blurred, while at end diastole volumes are right. ``r`` is the radius of the disc
    that has the area of the cavity of that slice, mm, so that the correction grows as the cavity shrinks.

    Parameters
    ----------
    probability : (S, L, R, C) float32
        Of each label, one phase.
    bias : (float, float)
        ``a`` and ``b`` (mm); (0, 0) leaves the likeliest label.
    pixel_mm2 : float
        Area of a pixel.

    Returns
    -------
    (S, R, C) uint8
    """
    labels = likeliest(probability)
    a, b = bias
    if a == b == 0:
        return labels
    area = (labels == Label.LV).sum((1, 2)) * pixel_mm2
    move = np.clip(a - b / np.sqrt(np.maximum(area, pixel_mm2) / np.pi), -MOST, MOST)
    moved = probability.copy()
    moved[:, Label.LV] *= np.exp(move).astype(np.float32)[:, None, None]
    return likeliest(moved)
