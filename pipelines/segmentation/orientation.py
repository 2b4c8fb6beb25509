"""Whether a segmentation shows the left ventricle in short axis, where geometry leaves the view of a stack open."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.segmentation.labels import Label

__all__ = ["shows_short_axis"]

_OF_LARGEST = 0.4
"""Slices whose cavity has at least this fraction of the largest are looked at: not the apex, not the base."""
_SLICES_MIN = 3
_RINGED_MIN = 0.85
"""Muscle runs round the cavity in short axis; in long axis it is open to the atrium."""
_ELONGATION_MAX = 1.6
"""Long by short axis of the cavity: about 1 in short axis, 2 in long axis."""


def shows_short_axis(labels: NDArray[np.uint8], pixel_spacing: tuple[float, float]) -> bool:
    """Tell whether in most slices of the ventricle the cavity is round and ringed by muscle.

    Parameters
    ----------
    labels : (T, S, R, C) uint8
        Values of `Label`.
    pixel_spacing : (float, float)
        Distance between rows, between columns, mm.
    """
    # The largest cavity: end diastole, when the wall is thin but the valves are shut.
    phase = labels[int((labels == Label.LV).sum(axis=(1, 2, 3)).argmax())]
    areas = (phase == Label.LV).sum(axis=(1, 2))
    looked_at = np.flatnonzero(areas >= max(_OF_LARGEST * int(areas.max()), 20))
    if len(looked_at) < _SLICES_MIN:
        return False
    shown = [_ringed(phase[index]) and _round(phase[index] == Label.LV, pixel_spacing) for index in looked_at]
    return sum(shown) > len(shown) / 2


def _ringed(labels: NDArray[np.uint8]) -> bool:
    cavity = ndimage.binary_fill_holes(labels == Label.LV)
    around = ndimage.binary_dilation(cavity) & ~cavity
    return bool((labels[around] == Label.MYO).mean() >= _RINGED_MIN)


def _round(cavity: NDArray[np.bool_], pixel_spacing: tuple[float, float]) -> bool:
    points = np.argwhere(cavity) * np.asarray(pixel_spacing)
    shortest, longest = np.linalg.eigvalsh(np.cov(points.T))
    return bool(longest <= _ELONGATION_MAX**2 * max(shortest, 1e-6))
