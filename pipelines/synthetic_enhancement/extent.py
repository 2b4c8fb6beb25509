"""How much muscle enhances on a late-enhancement image, synthetic or acquired: full width at half maximum and n-SD.

Only muscle is looked at: blood and papillary muscles belong to the cavity. What is bright must lie in the wall to
count: the layer of pixels beside the blood and beside the fat shares its pixels with them, and is bright in every
heart. So

* a region counts where enough of it lies in the core of the wall, and pixels of the rim only beside bright core;
* on the lowest and the highest slice, where the wall curves away or the plane cuts the atrium, a region counts only
  beside one of the next slice;
* remote muscle is what is left of the core after bright pixels have been taken off again and again, and its spread is
  that of the darker half: bright muscle widens neither;
* less than half a per cent of the muscle is none.

A dark core that bright muscle and cavity enclose counts (an obstruction is infarct).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["HALF_MAXIMUM", "INTERMEDIATE", "N_SD", "Extents", "measure_extents", "no_extents"]

HALF_MAXIMUM = "full width at half maximum of the brightest muscle"
INTERMEDIATE = "more than 3 SD above remote muscle and below half maximum"
N_SD = "more than 5 SD above remote muscle"

_SMOOTH_PX = 0.7
_RIM_PX = 1.5
"""A pixel further than this from blood and from what is outside lies in the core of the wall."""
_MIDDLE = (0.3, 0.7)
"""So does one between these shares of the way from the blood to the outside, however thin the wall is."""
_BRIGHT = 0.35
"""Muscle below this share of dense scar is no candidate for the maximum."""
_PEAK = (0.7, 1.3)
_REGION_MM2 = 30.0
_CORE_MM2 = 12.0
"""Least area of a region, and of its part in the core of the wall."""
_INTERMEDIATE = 0.25
"""Muscle below this share of dense scar is not intermediate either."""
_INTERMEDIATE_REGION_MM2 = 40.0
_INTERMEDIATE_CORE_MM2 = 16.0
_CORE_SHARE = 0.3
"""Of the muscle of a slice: larger dark regions are not the core of an infarct."""
_SD = (0.05, 0.15)
_REMOTE_MAX = 0.15
"""Muscle brighter than this share of dense scar is not remote, however much of the heart it is."""
_REMOTE_CUT_SD = 2.5
_REMOTE_PX_MIN = 20
_LEAST_PERCENT = 0.5
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


@dataclass(frozen=True, slots=True)
class _Remote:
    mean: float
    deviation: float


def no_extents(muscle: NDArray[np.bool_]) -> Extents:
    """The extents of a heart (S, n, n) that nothing enhances in."""
    nothing = np.zeros(muscle.shape, bool)
    return Extents(nothing, nothing, 0.0, 0.0, 0.0)


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
        From one end of the ventricle to the other.
    weights : (S,) float64
        Tissue that each slice stands for, mm.
    pixel_mm : float
        Side of a pixel.
    """
    core = _core(muscle, cavity)
    smooth = np.where(core, _smoothed(image, core), _smoothed(image, muscle))

    def kept(bright: NDArray[np.bool_], region_mm2: float, core_mm2: float) -> NDArray[np.bool_]:
        return _regions(
            _beside_core(bright & muscle, core), core, *(_pixels(area, pixel_mm) for area in (region_mm2, core_mm2))
        )

    def percent(mask: NDArray[np.bool_]) -> float:
        total = float((muscle.sum((1, 2)) * weights).sum())
        share = 100 * float((mask.sum((1, 2)) * weights).sum()) / total if total else 0.0
        return share if share >= _LEAST_PERCENT else 0.0

    remote = _remote(smooth[core] if core.sum() >= _REMOTE_PX_MIN else smooth[muscle])
    candidates = kept(smooth > max(remote.mean + 3 * remote.deviation, _BRIGHT), _REGION_MM2, _CORE_MM2)
    brightest = smooth[_beside_next(candidates) & core]
    hyperintense = np.zeros(muscle.shape, bool)
    if brightest.size:
        peak = float(np.clip(np.percentile(brightest, 90), *_PEAK))
        half = smooth >= remote.mean + (peak - remote.mean) / 2
        hyperintense = _with_dark_cores(_beside_next(kept(half, _REGION_MM2, _CORE_MM2)), half & muscle, muscle, cavity)
    if not percent(hyperintense):
        hyperintense = np.zeros(muscle.shape, bool)
    faint = smooth > max(remote.mean + 3 * remote.deviation, _INTERMEDIATE)
    faint = kept(faint & ~hyperintense, _INTERMEDIATE_REGION_MM2, _INTERMEDIATE_CORE_MM2)
    intermediate = _beside_next(faint | hyperintense) & ~hyperintense
    if not percent(intermediate):
        intermediate = np.zeros(muscle.shape, bool)
    beyond = _beside_next(kept(smooth > remote.mean + 5 * remote.deviation, _REGION_MM2, _CORE_MM2))
    return Extents(hyperintense, intermediate, percent(hyperintense), percent(intermediate), percent(beyond))


def _pixels(area_mm2: float, pixel_mm: float) -> int:
    return max(round(area_mm2 / pixel_mm**2), 1)


def _smoothed(image: NDArray[np.float32], muscle: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image smoothed within a mask, in the plane: what lies beside it does not bleed in."""
    sigma = (0.0, _SMOOTH_PX, _SMOOTH_PX)
    inside = muscle.astype(np.float32)
    blurred = ndimage.gaussian_filter(image * inside, sigma)
    share = ndimage.gaussian_filter(inside, sigma)
    return np.where(muscle, blurred / np.maximum(share, 1e-6), 0).astype(np.float32)


def _core(muscle: NDArray[np.bool_], cavity: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Muscle that shares its pixels neither with blood nor with what lies outside the ventricle."""
    found = np.zeros(muscle.shape, bool)
    for wall, blood, out in zip(muscle, cavity, found, strict=True):
        if not wall.any():
            continue
        away = ndimage.distance_transform_edt(wall | blood)
        inward = ndimage.distance_transform_edt(~blood) if blood.any() else np.full(wall.shape, np.inf)
        with np.errstate(invalid="ignore"):
            share = np.where(np.isinf(inward), 1.0, inward / (inward + away))
        middle = (share > _MIDDLE[0]) & (share < _MIDDLE[1])
        out |= wall & (((inward > _RIM_PX) & (away > _RIM_PX)) | middle)
    return found


def _remote(values: NDArray[np.float32]) -> _Remote:
    """Mean and standard deviation of muscle that does not enhance, from that of the whole heart."""
    if not values.size:
        return _Remote(0.0, _SD[1])
    left = values
    while left.size >= _REMOTE_PX_MIN:
        middle = float(np.median(left))
        spread = max(middle - float(np.percentile(left, 16)), _SD[0])
        darker = left[left < middle + _REMOTE_CUT_SD * spread]
        if darker.size == left.size:
            break
        left = darker
    middle = float(np.median(left))
    spread = float(np.clip(middle - np.percentile(left, 16), *_SD))
    return _Remote(min(middle, _REMOTE_MAX), spread)


def _beside_core(bright: NDArray[np.bool_], core: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bright muscle of the core, and bright pixels of the rim that touch it."""
    return np.asarray(bright & ndimage.binary_dilation(bright & core, _EIGHT[None]))


def _regions(mask: NDArray[np.bool_], core: NDArray[np.bool_], fewest: int, fewest_core: int) -> NDArray[np.bool_]:
    """Regions of each slice that are large enough, and whose part in the core of the wall is."""
    kept = np.zeros(mask.shape, bool)
    for plane, deep, out in zip(mask, core, kept, strict=True):
        numbered, count = ndimage.label(plane, _EIGHT)
        sizes = np.bincount(numbered.ravel(), minlength=count + 1)
        cores = np.bincount(numbered[deep], minlength=count + 1)
        out |= np.isin(numbered, [n for n in range(1, count + 1) if sizes[n] >= fewest and cores[n] >= fewest_core])
    return kept


def _beside_next(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without regions of the two end slices that have nothing beside them on the next slice."""
    found = mask.copy()
    if len(mask) < 3:
        return found
    for end, following in ((0, 1), (-1, -2)):
        near = ndimage.binary_dilation(mask[following], _EIGHT, iterations=3) if mask[following].any() else None
        numbered, _ = ndimage.label(mask[end], _EIGHT)
        touching = np.unique(numbered[near]) if near is not None else np.zeros(0, np.intp)
        found[end] = np.isin(numbered, touching[touching > 0])
    return found


def _with_dark_cores(
    enhanced: NDArray[np.bool_], bright: NDArray[np.bool_], muscle: NDArray[np.bool_], cavity: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Enhanced muscle with the dark cores that it encloses, alone or with the cavity.

    The bright rim that closes a core to the outside belongs to the infarct too, though no bright core lies beneath it.
    """
    filled = enhanced.copy()
    for plane, half, wall, blood, out in zip(enhanced, bright, muscle, cavity, filled, strict=True):
        if not plane.any():
            continue
        connected, _ = ndimage.label(half, _EIGHT)
        ring = plane | np.isin(connected, np.unique(connected[plane & half]))
        ring &= half | plane
        enclosed = ndimage.binary_fill_holes(ring | blood) & ~ring & ~blood & wall
        numbered, count = ndimage.label(enclosed, _EIGHT)
        for number in range(1, count + 1):
            dark = numbered == number
            if dark.sum() <= min(_CORE_SHARE * wall.sum(), ring.sum()):
                out |= dark | (ring & ndimage.binary_dilation(dark, _EIGHT, iterations=2))
    return filled
