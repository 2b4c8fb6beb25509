"""Features of the wall model: how much less the wall of the left ventricle moves where it moves least.

Only the contours of end diastole and end systole enter. Motion is told in two frames: about the centre of the
ventricle at end diastole, in which a wall that stands still stands still, and about its centre of each moment, which
takes out what the whole heart does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.synthetic_enhancement.contours import directions, wall_radii

__all__ = ["FEATURES", "LOWEST_FIFTH", "MOTIONS", "WallMotion", "describe_wall"]

Array = NDArray[np.float64]

MOTIONS = (
    "loss of cavity area about the fixed centre",
    "mid-wall shortening about the fixed centre",
    "mid-wall shortening about the moving centre",
    "epicardial shortening about the moving centre",
    "thickening",
)
_STATISTICS = ("worst place", "better half", "lowest twentieth", "lowest fifth")
FEATURES = tuple(f"{motion}, {statistic}" for motion in MOTIONS for statistic in _STATISTICS)
"""Each motion where the wall moves least, as the mean of the half that moves best, its 5th percentile, and its mean
over the fifth of the wall where it is least."""
LOWEST_FIFTH = _STATISTICS.index("lowest fifth")
"""Which of the statistics of a motion that is."""
_LOWEST = 0.2

_AREA_PX2 = 1.0
_THIN_PX = 2.0
_WALL_PX = 1.5
"""Thinner than this there is no wall to speak of."""
_ACROSS_SLICES, _ALONG_WALL = 1.5, 7.0
"""Standard deviation of the smoothing: slices, and of 64 directions."""
_CHANGE = (-1.0, 2.0)


@dataclass(frozen=True, slots=True, eq=False)
class WallMotion:
    """The motion of one ventricle between end diastole and end systole.

    Attributes
    ----------
    features : (20,) float64
        See :data:`FEATURES`.
    deficit : (S, ANGLES) float64
        How many standard deviations of this heart's wall each place moves less than its mean, by thickening, loss of
        area and mid-wall shortening together; 0 where there is no wall.
    centre : (S, 2) float64
        Of the ventricle at end diastole, row and column in pixels from the centre of the field.
    """

    features: Array
    deficit: Array
    centre: Array

    @property
    def by_slice(self) -> Array:
        """The largest deficit of each slice, (S,)."""
        return np.asarray(self.deficit.max(axis=1), np.float64)


def describe_wall(diastole: NDArray[np.uint8], systole: NDArray[np.uint8]) -> WallMotion:
    """Describe the motion of the wall from two moments.

    Parameters
    ----------
    diastole, systole : (S, n, n) uint8
        Values of :class:`pipelines.segmentation.labels.Label` on pixels of 1.75 mm, slices in anatomical order.

    Raises
    ------
    ValueError
        End diastole shows no wall.
    """
    first, last = wall_radii(diastole), wall_radii(systole)
    inner, outer = first.inner.astype(np.float64), first.outer.astype(np.float64)
    moved = (last.centre - first.centre).astype(np.float64) @ directions().T
    thickness = outer - inner
    weight = np.where(thickness > _WALL_PX, (inner + outer) / 2 * thickness, 0.0)
    if not weight.any():
        raise ValueError("end diastole shows no wall of the left ventricle")

    def shortening(inner_now: Array, outer_now: Array) -> Array:
        return 1 - (inner_now + outer_now) / np.maximum(inner + outer, 1)

    inner_now, outer_now = last.inner.astype(np.float64), last.outer.astype(np.float64)
    fixed_inner = np.maximum(inner_now + moved, 0)
    area_loss = _smooth(1 - (fixed_inner**2 + _AREA_PX2) / (inner**2 + _AREA_PX2), weight)
    fixed = _smooth(shortening(inner_now + moved, outer_now + moved), weight)
    moving = _smooth(shortening(inner_now, outer_now), weight)
    epicardial = _smooth(1 - outer_now / np.maximum(outer, 1), weight)
    thickening = _smooth((outer_now - inner_now) / np.maximum(thickness, _THIN_PX) - 1, weight)
    # Half of the motion of the centre is that of the heart, half that of a wall that does not contract.
    between_inner = np.maximum(inner_now + moved / 2, 0)
    between = shortening(inner_now + moved / 2, outer_now + moved / 2)
    together = (
        _standard(thickening, weight)
        + _standard(_smooth(between, weight), weight)
        + _standard(_smooth(1 - (between_inner**2 + _AREA_PX2) / (inner**2 + _AREA_PX2), weight), weight)
    )
    wall = weight > 0
    worst = np.unravel_index(int(np.argmin(np.where(wall, together, np.inf))), together.shape)
    better = wall & (together > np.median(together[wall]))
    features = [
        (
            motion[worst],
            np.average(motion[better], weights=weight[better]),
            np.quantile(motion[wall], 0.05),
            _lowest(motion[wall], weight[wall]),
        )
        for motion in (area_loss, fixed, moving, epicardial, thickening)
    ]
    return WallMotion(
        features=np.array(features).ravel(),
        deficit=np.where(wall, -together / 3, 0.0),
        centre=first.centre.astype(np.float64),
    )


def _lowest(motion: Array, weight: Array) -> float:
    """Mean of a motion over the share of the wall where it is least."""
    order = np.argsort(motion)
    least = order[: 1 + int(np.searchsorted(np.cumsum(weight[order]), _LOWEST * weight.sum()))]
    return float(np.average(motion[least], weights=weight[least]))


def _smooth(change: Array, weight: Array) -> Array:
    """Weighted mean over the neighbourhood: the circle is closed, the stack is not."""
    mode: tuple[Literal["constant"], Literal["wrap"]] = ("constant", "wrap")

    def blurred(values: Array) -> Array:
        return np.asarray(ndimage.gaussian_filter(values, (_ACROSS_SLICES, _ALONG_WALL), mode=mode), np.float64)

    return blurred(np.clip(change, *_CHANGE) * weight) / np.maximum(blurred(weight), 1e-6)


def _standard(values: Array, weight: Array) -> Array:
    mean = np.average(values, weights=weight)
    spread = np.sqrt(np.average((values - mean) ** 2, weights=weight))
    return np.asarray((values - mean) / max(float(spread), 1e-6), np.float64)
