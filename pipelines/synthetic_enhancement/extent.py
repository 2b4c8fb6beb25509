"""How much muscle enhances on a late-enhancement image, synthetic or acquired: full width at half maximum and n-SD.

Only muscle is looked at: blood and papillary muscles belong to the cavity. A rim of muscle that is bright only because
it shares its pixels with blood does not count, and a dark core that bright muscle and cavity enclose does (an
obstruction is infarct).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["HALF_MAXIMUM", "INTERMEDIATE", "N_SD", "Extents", "measure_extents"]

HALF_MAXIMUM = "full width at half maximum of the brightest muscle"
INTERMEDIATE = "more than 2 SD above remote muscle and below half maximum"
N_SD = "more than 5 SD above remote muscle"

_SMOOTH_PX = 0.7
_RIM_PX = 1.0
_DEEP = 0.3
"""Share of a region that lies beyond the rim."""
_BRIGHT = 0.35
"""Muscle below this share of dense scar is no candidate for the maximum."""
_PEAK = (0.7, 1.3)
_REGION_MM2 = 15.0
_CORE_SHARE = 0.3
"""Of the muscle of a slice: larger dark regions are not the core of an infarct."""
_SD_MIN = 0.05
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, slots=True, eq=False)
class Extents:
    """Enhanced muscle of S slices.

    Attributes
    ----------
    hyperintense, intermediate : (S, n, n) bool
    hyperintense_percent, intermediate_percent, n_sd_percent : float
        Of the muscle, each slice weighted by the tissue that it stands for.
    """

    hyperintense: NDArray[np.bool_]
    intermediate: NDArray[np.bool_]
    hyperintense_percent: float
    intermediate_percent: float
    n_sd_percent: float


def measure_extents(
    image: NDArray[np.float32],
    muscle: NDArray[np.bool_],
    cavity: NDArray[np.bool_],
    weights: NDArray[np.float64],
    pixel_mm: float,
) -> Extents:
    """Measure enhanced muscle.

    Parameters
    ----------
    image : (S, n, n) float32
        Nulled muscle 0, dense scar about 1.
    muscle, cavity : (S, n, n) bool
    weights : (S,) float64
        Tissue that each slice stands for, mm.
    pixel_mm : float
        Side of a pixel.
    """
    smooth = _smoothed(image, muscle)
    inner = muscle & ~_within(cavity, _RIM_PX)
    fewest = max(round(_REGION_MM2 / pixel_mm**2), 1)
    bright = smooth[inner & (smooth > _BRIGHT)]
    hyperintense = np.zeros(muscle.shape, bool)
    peak = float(np.clip(np.percentile(bright, 95), *_PEAK)) if len(bright) >= fewest else _PEAK[1]
    if len(bright) >= fewest:
        hyperintense = _regions(muscle & (smooth >= peak / 2), inner, fewest)
        hyperintense = _with_cores(hyperintense, muscle, cavity)
    remote = muscle & ~_within(hyperintense, 3.0)
    values = smooth[remote] if remote.any() else smooth[muscle]
    mean = float(np.median(values)) if values.size else 0.0
    spread = max(1.4826 * float(np.median(np.abs(values - mean))) if values.size else 0.0, _SD_MIN)
    intermediate = _regions(muscle & ~hyperintense & inner & (smooth > mean + 2 * spread), inner, fewest)
    beyond = _regions(muscle & (smooth > mean + 5 * spread), inner, fewest)

    def percent(mask: NDArray[np.bool_]) -> float:
        total = float((muscle.sum((1, 2)) * weights).sum())
        return 100 * float((mask.sum((1, 2)) * weights).sum()) / total if total else 0.0

    return Extents(hyperintense, intermediate, percent(hyperintense), percent(intermediate), percent(beyond))


def _smoothed(image: NDArray[np.float32], muscle: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image smoothed within muscle, in the plane: blood beside it does not bleed in."""
    sigma = (0.0, _SMOOTH_PX, _SMOOTH_PX)
    inside = muscle.astype(np.float32)
    blurred = ndimage.gaussian_filter(image * inside, sigma)
    share = ndimage.gaussian_filter(inside, sigma)
    return np.where(muscle, blurred / np.maximum(share, 1e-6), 0).astype(np.float32)


def _within(mask: NDArray[np.bool_], distance_px: float) -> NDArray[np.bool_]:
    """Pixels at most so far from a mask, slice by slice; the mask belongs to them."""
    return np.stack(
        [
            ndimage.distance_transform_edt(~plane) <= distance_px if plane.any() else np.zeros(plane.shape, bool)
            for plane in mask
        ]
    )


def _regions(mask: NDArray[np.bool_], inner: NDArray[np.bool_], fewest: int) -> NDArray[np.bool_]:
    """Regions of each slice that are large enough and reach beyond the rim beside the blood."""
    kept = np.zeros(mask.shape, bool)
    for plane, out, deep in zip(mask, kept, inner, strict=True):
        numbered, count = ndimage.label(plane, _EIGHT)
        for number in range(1, count + 1):
            region = numbered == number
            if region.sum() >= fewest and (region & deep).sum() >= _DEEP * region.sum():
                out |= region
    return kept


def _with_cores(enhanced: NDArray[np.bool_], muscle: NDArray[np.bool_], cavity: NDArray[np.bool_]) -> NDArray[np.bool_]:
    filled = enhanced.copy()
    for plane, wall, blood, out in zip(enhanced, muscle, cavity, filled, strict=True):
        if not plane.any():
            continue
        enclosed = ndimage.binary_fill_holes(plane | blood) & ~plane & ~blood & wall
        numbered, count = ndimage.label(enclosed, _EIGHT)
        for number in range(1, count + 1):
            core = numbered == number
            if core.sum() <= _CORE_SHARE * wall.sum():
                out |= core
    return filled
