"""The wall of the left ventricle as lines that can be followed: around short-axis slices and along long-axis views.

In the plane a point is (row, column) in mm. Around a slice the wall is sampled at ``ANGLES`` directions from the centre
of the cavity, angles from the row direction toward the column direction of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.cine.stack import StackGeometry
from pipelines.segmentation.labels import Label

__all__ = ["ANGLES", "WallLine", "WallRing", "arc_lengths", "long_axis_lines", "wall_ring"]

ANGLES = 120
_BLUR_PX = 1.0
_HARMONICS = 10
"""Angular frequencies kept of a radius: the staircase of the mask goes, the flattened septum stays."""
_REACH_MM = 90.0
_STEP_MM = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class WallRing:
    """Endocardium and epicardium of one slice of one phase.

    Attributes
    ----------
    centre : (2,) float64
        Centre of the cavity, row and column, mm from the first pixel.
    inner, outer : (ANGLES,) float64
        Radii, mm.
    """

    centre: NDArray[np.float64]
    inner: NDArray[np.float64]
    outer: NDArray[np.float64]

    def points(self, radius: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (ANGLES, 2) at radii about the centre."""
        turn = ring_angles()
        return np.asarray(self.centre + radius[:, None] * np.stack([np.sin(turn), np.cos(turn)], axis=-1))

    @property
    def middle(self) -> NDArray[np.float64]:
        """Radius halfway through the wall, mm, (ANGLES,)."""
        return np.asarray((self.inner + self.outer) / 2)

    def at_wall_share(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Radius that has a share of the wall's area inside it, mm: where incompressible muscle of that share lies."""
        return np.asarray(np.sqrt(self.inner**2 + share * (self.outer**2 - self.inner**2)))

    @property
    def middle_share(self) -> NDArray[np.float64]:
        """Share of the wall's area inside the line halfway through it."""
        return np.asarray((self.middle**2 - self.inner**2) / np.maximum(self.outer**2 - self.inner**2, 1e-9))


def ring_angles() -> NDArray[np.float64]:
    """Directions of the samples of a ring, radians."""
    return np.asarray(np.arange(ANGLES) * (2 * np.pi / ANGLES), dtype=np.float64)


def wall_ring(labels: NDArray[np.uint8], spacing: tuple[float, float]) -> WallRing | None:
    """Wall of one slice.

    Parameters
    ----------
    labels : (R, C) uint8
        Values of :class:`Label`, papillary muscles in the cavity.
    spacing : (float, float)
        Distance between rows and between columns, mm.

    Returns
    -------
    WallRing or None
        ``None`` without a cavity, or where its centre lies outside it.
    """
    cavity = labels == Label.LV
    inside = np.nonzero(cavity)
    if not len(inside[0]):
        return None
    scale = np.array(spacing)
    centre = np.array([places.mean() for places in inside]) * scale
    turn = ring_angles()
    borders = []
    for mask in (cavity, cavity | (labels == Label.MYO)):
        window, low = _around(mask, centre / scale, scale)
        radii = _radii(window.shape, low, centre, scale)
        rows = ((centre[0] + radii[:, None] * np.sin(turn)) / scale[0]) - low[0]
        columns = ((centre[1] + radii[:, None] * np.cos(turn)) / scale[1]) - low[1]
        blurred = ndimage.gaussian_filter(window.astype(np.float64), _BLUR_PX)
        along = ndimage.map_coordinates(blurred, [rows, columns], order=1, mode="constant")
        radius = _first_exit(along)
        if (radius <= 0).any():
            return None
        borders.append(_band_limited(radius))
    return WallRing(centre, borders[0], np.maximum(borders[1], borders[0]))


def _around(
    mask: NDArray[np.bool_], centre: NDArray[np.float64], scale: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """The part of a mask that a ring is read from, and its first row and column.

    Beyond it the blurred mask is zero, or out of reach.
    """
    blur = math.ceil(4 * _BLUR_PX) + 1
    reach = np.ceil(_REACH_MM / scale).astype(int)
    low, high = np.empty(2, np.intp), np.empty(2, np.intp)
    for axis in (0, 1):
        places = np.flatnonzero(mask.any(axis=1 - axis))
        low[axis] = max(int(places[0]) - blur, math.floor(centre[axis]) - reach[axis], 0)
        high[axis] = min(int(places[-1]) + blur, math.ceil(centre[axis]) + reach[axis], mask.shape[axis] - 1) + 1
    return mask[low[0] : high[0], low[1] : high[1]], low


def _radii(
    shape: tuple[int, ...], low: NDArray[np.intp], centre: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Radii up to beyond the farthest corner of a window, mm, but no farther than a ring may reach."""
    first = low * scale - centre
    last = (low + np.array(shape) - 1) * scale - centre
    farthest = float(np.hypot(*np.maximum(np.abs(first), np.abs(last))))
    return np.arange(0.0, min(_REACH_MM, farthest + 2 * _STEP_MM), _STEP_MM)


def _first_exit(along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Radius at which each ray of a blurred mask (radii × angles) falls below one half for the first time, mm."""
    out = np.argmax(along < 0.5, axis=0)
    before = np.maximum(out - 1, 0)
    rays = np.arange(along.shape[1])
    inner, outer = along[before, rays], along[out, rays]
    part = np.where(out > 0, (inner - 0.5) / np.where(inner > outer, inner - outer, 1.0), 0.0)
    return np.asarray(np.where(out > 0, (before + part) * _STEP_MM, 0.0))


def _band_limited(radius: NDArray[np.float64]) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(radius)
    spectrum[_HARMONICS + 1 :] = 0
    return np.asarray(np.fft.irfft(spectrum, len(radius)))


def arc_lengths(points: NDArray[np.float64], *, closed: bool) -> NDArray[np.float64]:
    """Distance from each point to the next, (…, N) for closed lines of (…, N, 2) points, (…, N − 1) for open ones."""
    following = np.roll(points, -1, axis=-2) if closed else points[..., 1:, :]
    start = points if closed else points[..., :-1, :]
    return np.asarray(np.sqrt(((following - start) ** 2).sum(axis=-1)))


@dataclass(frozen=True, slots=True, eq=False)
class WallLine:
    """One side of the wall on a long-axis view, from its most basal to its most apical known point.

    Attributes
    ----------
    points : (N, 2) float64
        Mid-wall, row and column, mm from the first pixel of the view.
    height_mm : (N,) float64
        Place of each point along the normal of the short-axis stack, mm from its first slice.
    """

    points: NDArray[np.float64]
    height_mm: NDArray[np.float64]


def long_axis_lines(
    labels: NDArray[np.uint8], short_axis: StackGeometry, rings: NDArray[np.bool_], view: StackGeometry
) -> list[WallLine]:
    """Mid-wall lines of a long-axis view where its plane cuts the walls of the short-axis slices.

    Parameters
    ----------
    labels : (S, R, C) uint8
        Short-axis labels of one phase, papillary muscles in the cavity.
    short_axis : StackGeometry
    rings : (S,) bool
        Slices whose wall is a closed ring.
    view : StackGeometry
        Of the long-axis view; its first slice.

    Returns
    -------
    list of WallLine
        Two, or none where fewer than three slices are cut through their cavity.
    """
    sides: tuple[list[tuple[float, NDArray[np.float64]]], list[tuple[float, NDArray[np.float64]]]] = ([], [])
    along = np.cross(short_axis.normal, view.normal)
    if np.linalg.norm(along) < 0.5:
        return []
    along = along / np.linalg.norm(along)
    first_height = float(short_axis.positions[0] @ short_axis.normal)
    for index in np.flatnonzero(rings):
        crossed = _crossed_wall(labels[index], short_axis, int(index), view, along)
        if crossed is None:
            continue
        height = float(short_axis.positions[index] @ short_axis.normal) - first_height
        for side, point in zip(sides, crossed, strict=True):
            side.append((height, point))
    if min(len(side) for side in sides) < 3:
        return []
    return [_smooth_line(side, view) for side in sides]


def _crossed_wall(
    labels: NDArray[np.uint8], short_axis: StackGeometry, index: int, view: StackGeometry, along: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Middle of the wall on both sides where the line of a view crosses one slice, patient coordinates."""
    cavity = labels == Label.LV
    if not cavity.any():
        return None
    centre = short_axis.to_patient(index, *ndimage.center_of_mass(cavity))
    # From the centre of the cavity within the slice to the plane of the view.
    across = np.cross(along, short_axis.normal)
    offset = float((view.positions[0] - centre) @ view.normal) / float(across @ view.normal)
    origin = centre + offset * across
    place = np.arange(-_REACH_MM, _REACH_MM + _STEP_MM, _STEP_MM)
    points = origin + place[:, None] * along
    relative = points - short_axis.positions[index]
    rows = np.rint(relative @ short_axis.column_direction / short_axis.pixel_spacing[0]).astype(int)
    columns = np.rint(relative @ short_axis.row_direction / short_axis.pixel_spacing[1]).astype(int)
    inside = (rows >= 0) & (rows < labels.shape[0]) & (columns >= 0) & (columns < labels.shape[1])
    seen = np.zeros(len(place), dtype=np.uint8)
    seen[inside] = labels[rows[inside], columns[inside]]
    start = len(place) // 2
    if seen[start] != Label.LV:
        return None
    found = []
    for step in (-1, 1):
        at = start
        while 0 < at < len(place) - 1 and seen[at] == Label.LV:
            at += step
        wall = at
        while 0 < at < len(place) - 1 and seen[at] == Label.MYO:
            at += step
        if at == wall:
            return None
        found.append(points[(wall + at - step) // 2])
    return found[0], found[1]


def _smooth_line(side: list[tuple[float, NDArray[np.float64]]], view: StackGeometry) -> WallLine:
    """A cubic (or less) through the points over height, every 2 mm."""
    height = np.array([entry[0] for entry in side])
    relative = np.stack([entry[1] for entry in side]) - view.positions[0]
    plane = np.stack([relative @ view.column_direction, relative @ view.row_direction], axis=-1)
    degree = min(3, len(side) - 2)
    middle, reach = height.mean(), max(float(np.ptp(height)) / 2, 1e-6)
    fine = np.linspace(height[0], height[-1], max(int(np.ptp(height) / 2), 3))
    fitted = [
        np.polyval(np.polyfit((height - middle) / reach, plane[:, axis], degree), (fine - middle) / reach)
        for axis in (0, 1)
    ]
    return WallLine(np.stack(fitted, axis=-1), fine)
