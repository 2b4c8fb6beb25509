"""What a network of obstruction can learn of every slice of a phantom: how deep its infarct goes, how its wall moves.

Obstruction is one bit a heart. Depth of the infarct, its place and the motion that is left are numbers of every slice
or of every place, and go with obstruction.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.contours import ANGLES, directions, paint, polar_coordinates, wall_radii

__all__ = ["infarct_depth", "retained_area"]

_AREA_PX2 = 1.0
"""Added to areas, so that a cavity of a pixel or two has a ratio."""
_ALONG_WALL = 9
"""Directions, of 64, that one place is a mean of: 51 degrees."""


def infarct_depth(labels: NDArray[np.uint8], scar: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of the wall's thickness that is scar, mean of the deepest eighth of the circle, (S,), 0 … 1.

    Parameters
    ----------
    labels : (S, n, n) uint8
        Values of :class:`pipelines.segmentation.labels.Label`.
    scar : (S, n, n) bool
    """
    wall = wall_radii(labels)
    ventricle = (labels == Label.LV) | (labels == Label.MYO)
    # The length of each ray that lies in scar, from the same centre.
    within = wall_radii(np.where(scar, Label.LV, np.where(ventricle, Label.MYO, Label.BACKGROUND)).astype(np.uint8))
    share = np.clip(within.inner / np.maximum(wall.outer - wall.inner, 1), 0, 1)
    return np.asarray(np.sort(share, axis=1)[:, -share.shape[1] // 8 :].mean(axis=1), np.float64)


def retained_area(diastole: NDArray[np.uint8], systole: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of the cavity's area that is left at end systole, painted on the wall at end diastole, (S, n, n).

    1 where the wall stands still or moves outward, 0 where the cavity is emptied, and 0 outside the wall. Motion is
    told about the centre at end diastole, in which a wall that stands still stands still.

    Parameters
    ----------
    diastole, systole : (S, n, n) uint8
        Values of :class:`pipelines.segmentation.labels.Label`.
    """
    first, last = wall_radii(diastole), wall_radii(systole)
    moved = (last.centre - first.centre) @ directions().T
    left = (np.maximum(last.inner + moved, 0) ** 2 + _AREA_PX2) / (first.inner**2 + _AREA_PX2)
    beside = _ALONG_WALL // 2
    around = np.take(np.clip(left, 0, 1), np.arange(-beside, ANGLES + beside) % ANGLES, axis=1)
    smooth = np.lib.stride_tricks.sliding_window_view(around, _ALONG_WALL, axis=1).mean(axis=-1).astype(np.float32)
    _, position = polar_coordinates(torch.from_numpy(first.centre), diastole.shape[-1])
    painted = paint(torch.from_numpy(smooth)[:, None], position)[:, 0].numpy()
    return np.asarray(painted * (diastole == Label.MYO), np.float32)
