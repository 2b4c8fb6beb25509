"""Local wall thickness in one short-axis plane, and where the right ventricle joins it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import find_contours

from pipelines.segmentation.labels import Label

__all__ = ["SeptalArc", "WallProfile", "septal_arc", "wall_profile"]

RAYS = 120
BLUR_PX = 1.0
"""Smooths the staircase of the mask; shrinks a circle of radius r by BLUR²/2r, 0.04 pixels at 12."""
CONTACT_MM = 3.0
"""The RV touches the epicardium when it begins within this distance of it."""
ARC_GAP_DEG = 15
ARC_DEG = (40, 240)
"""Plausible width of the septum as seen from the LV centre."""


@dataclass(frozen=True, slots=True, eq=False)
class WallProfile:
    """Thickness around one slice.

    Attributes
    ----------
    angles : (N,) float64
        Direction of each mid-wall point from the centre of the ventricle, radians, from the row direction toward the
        column direction of the image.
    thickness_mm : (N,) float64
        NaN where the point is not in myocardium (an open ring).
    """

    angles: NDArray[np.float64]
    thickness_mm: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SeptalArc:
    """Where the RV touches the LV in one slice; angles as in :class:`WallProfile`.

    Attributes
    ----------
    middle : float
        Direction of the middle of the arc, radians.
    width : float
        Radians.
    ends_px : (2, 2) float64
        The insertion points, as (row, column) in pixels: at the lower, at the higher angle.
    """

    middle: float
    width: float
    ends_px: NDArray[np.float64]


def wall_profile(labels: NDArray[np.uint8], spacing: tuple[float, float]) -> WallProfile | None:
    """Thickness at mid-wall points: twice the radius of the largest disc inside the wall there.

    A mid-wall point has the same distance to the endocardial and the epicardial contour (both sub-pixel); their sum is
    the thickness: exact where the contours are parallel, and independent of the choice of a centre.

    Parameters
    ----------
    labels : (R, C) uint8
        Values of :class:`Label`, papillary muscles in the cavity.
    spacing : (float, float)
        Distance between rows and between columns, mm.

    Returns
    -------
    WallProfile or None
        ``None`` without a cavity, or where its centre is not inside it.
    """
    plane = _Plane.around(labels, spacing)
    if plane is None:
        return None
    endo, epi = plane.contour(plane.cavity), plane.contour(plane.heart)
    if endo is None or epi is None:
        return None
    origin = plane.centroid(plane.cavity)
    angles = np.arange(RAYS) * (2 * np.pi / RAYS)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    inner = plane.crossing(plane.cavity, origin, directions)
    outer = plane.crossing(plane.heart, origin, directions)
    if not (inner > 0).all():
        return None
    to_endo, to_epi = cKDTree(endo), cKDTree(epi)
    low, high = inner, np.maximum(inner, outer)
    for _ in range(14):
        middle = (low + high) / 2
        points = origin + middle[:, None] * directions
        nearer_endo = to_endo.query(points)[0] < to_epi.query(points)[0]
        low, high = np.where(nearer_endo, middle, low), np.where(nearer_endo, high, middle)
    points = origin + low[:, None] * directions
    thickness = np.add(to_endo.query(points)[0], to_epi.query(points)[0])
    thickness[plane.label_at(points) != Label.MYO] = np.nan
    around = points - plane.centroid(plane.heart)
    return WallProfile(np.arctan2(around[:, 1], around[:, 0]), thickness)


def septal_arc(labels: NDArray[np.uint8], spacing: tuple[float, float]) -> SeptalArc | None:
    """Arc of the epicardium that the RV touches; its ends are the RV insertion points.

    Parameters
    ----------
    labels : (R, C) uint8
    spacing : (float, float)
        Distance between rows and between columns, mm.

    Returns
    -------
    SeptalArc or None
        ``None`` when the RV does not touch, or not over a plausible arc.
    """
    plane = _Plane.around(labels, spacing)
    if plane is None or not (labels == Label.RV).any():
        return None
    centre = plane.centroid(plane.heart)
    angles = np.deg2rad(np.arange(360))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    radius = plane.crossing(plane.heart, centre, directions)
    touching = np.zeros(360, dtype=bool)
    for beyond in np.linspace(0.5 * min(spacing), CONTACT_MM, 5):
        touching |= plane.label_at(centre + (radius + beyond)[:, None] * directions) == Label.RV
    first, length = _longest_arc(touching)
    if not ARC_DEG[0] <= length <= ARC_DEG[1]:
        return None
    ends = np.array([first, (first + length - 1) % 360])
    points = centre + radius[ends, None] * directions[ends]
    middle = np.deg2rad((first + (length - 1) / 2) % 360)
    return SeptalArc(float(middle), float(np.deg2rad(length)), plane.to_pixels(points))


def _longest_arc(touching: NDArray[np.bool_]) -> tuple[int, int]:
    """First degree and length of the longest run on the circle, after closing small gaps."""
    wrapped = np.tile(touching, 3)
    closed = ndimage.binary_closing(wrapped, np.ones(ARC_GAP_DEG + 1, dtype=bool))[360:720]
    if closed.all():
        return 0, 360
    if not closed.any():
        return 0, 0
    start = int(np.flatnonzero(~closed)[0])
    runs, count = ndimage.label(np.roll(closed, -start))
    lengths = np.bincount(runs, minlength=count + 1)[1:]
    best = int(np.argmax(lengths)) + 1
    return (int(np.flatnonzero(runs == best)[0]) + start) % 360, int(lengths[best - 1])


@dataclass(frozen=True, slots=True, eq=False)
class _Plane:
    """The part of one plane around the heart, in mm: x along the row direction, y along the column direction."""

    labels: NDArray[np.uint8]
    cavity: NDArray[np.float64]
    heart: NDArray[np.float64]
    spacing: tuple[float, float]
    corner: tuple[int, int]

    @classmethod
    def around(cls, labels: NDArray[np.uint8], spacing: tuple[float, float]) -> _Plane | None:
        cavity = labels == Label.LV
        if not cavity.any():
            return None
        heart = ndimage.label(cavity | (labels == Label.MYO))[0]
        # The component that holds most of the cavity: specks elsewhere are not wall.
        body = heart == np.bincount(heart[cavity]).argmax()
        rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
        margin = 4 + int(np.ceil(CONTACT_MM / min(spacing)))
        corner = (int(rows[0]) - margin, int(columns[0]) - margin)
        shape = (int(rows[-1]) + margin + 1 - corner[0], int(columns[-1]) + margin + 1 - corner[1])
        window = np.full(shape, Label.BACKGROUND, dtype=np.uint8)
        inside = np.zeros(shape, dtype=bool)
        source = tuple(
            slice(max(c, 0), min(c + n, full)) for c, n, full in zip(corner, shape, labels.shape, strict=True)
        )
        target = tuple(slice(s.start - c, s.stop - c) for s, c in zip(source, corner, strict=True))
        window[target] = labels[source]
        inside[target] = body[source]
        blurred = [
            ndimage.gaussian_filter(mask.astype(np.float64), BLUR_PX)
            for mask in (inside & (window == Label.LV), inside)
        ]
        return cls(window, blurred[0], blurred[1], spacing, corner)

    def contour(self, mask: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Longest iso-contour of a blurred mask, densely sampled, (N, 2) mm."""
        found = find_contours(mask, 0.5)
        if not found:
            return None
        line = max(found, key=len)
        steps = np.arange(0, len(line) - 1, 0.2)
        dense = [np.interp(steps, np.arange(len(line)), line[:, axis]) for axis in (1, 0)]
        return np.stack([dense[0] * self.spacing[1], dense[1] * self.spacing[0]], axis=-1)

    def centroid(self, mask: NDArray[np.float64]) -> NDArray[np.float64]:
        row, column = ndimage.center_of_mass(mask)
        return np.array([column * self.spacing[1], row * self.spacing[0]])

    def crossing(
        self, mask: NDArray[np.float64], origin: NDArray[np.float64], directions: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Radius at which each ray leaves a blurred mask for the first time, mm; 0 when the origin is outside."""
        reach = float(np.hypot(*(np.array(self.labels.shape) * self.spacing)))
        radii = np.arange(0.0, reach, 0.25 * min(self.spacing))
        points = origin + radii[:, None, None] * directions
        at = np.stack([points[..., 1] / self.spacing[0], points[..., 0] / self.spacing[1]])
        values = ndimage.map_coordinates(mask, at, order=1, mode="constant")
        first_out = np.argmax(values < 0.5, axis=0)
        before = np.maximum(first_out - 1, 0)
        rays = np.arange(len(directions))
        inner, outer = values[before, rays], values[first_out, rays]
        with np.errstate(invalid="ignore", divide="ignore"):
            part = np.where(first_out > 0, (inner - 0.5) / (inner - outer), 0.0)
        return np.asarray(radii[before] + part * (radii[1] - radii[0]) * (first_out > 0))

    def label_at(self, points: NDArray[np.float64]) -> NDArray[np.uint8]:
        rows = np.clip(np.rint(points[..., 1] / self.spacing[0]).astype(int), 0, self.labels.shape[0] - 1)
        columns = np.clip(np.rint(points[..., 0] / self.spacing[1]).astype(int), 0, self.labels.shape[1] - 1)
        return np.asarray(self.labels[rows, columns])

    def to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(row, column) on the whole image."""
        rows_columns = np.stack([points[..., 1] / self.spacing[0], points[..., 0] / self.spacing[1]], axis=-1)
        return np.asarray(rows_columns + np.array(self.corner))
