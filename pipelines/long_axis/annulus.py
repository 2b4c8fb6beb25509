"""Annulus points and apex of a segmented long-axis view, smooth over the cycle.

The annulus of a valve crosses a long-axis plane in two points: the ends of the border between ventricle and atrium, or
where the wall of the left ventricle ends below that. Blood looks the same on both sides of an open valve, so the border
may be drawn too far into the atrium; the end of the wall does not depend on the valve.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.cine.stack import StackGeometry
from pipelines.long_axis.findings import LongAxisLabel, Valve

__all__ = ["annulus_points", "apex_points", "smooth_cycle"]

_CHAMBERS = {
    Valve.MITRAL: (LongAxisLabel.LV, LongAxisLabel.LA),
    Valve.TRICUSPID: (LongAxisLabel.RV, LongAxisLabel.RA),
}
_REACH_MM = 3.5
"""How far a pixel of one chamber may lie from the other and still belong to their border."""
_FEWEST_PIXELS = 4
_END_MM = 2.0
"""Pixels of the border no farther than this from its end make the point of the annulus."""
_WALL_ASIDE_MM = 12.0
"""The wall belongs to an end of the border no farther to the side: the wall beyond the aortic root does not."""
_WALL_BELOW_MM = 16.0
"""A wall that ends farther below the border than this is another one, or not seen whole."""
_FEWEST_PHASES = 0.6
"""Share of the phases in which a valve must be seen; the others are interpolated over the cycle."""
_HARMONICS = 4
"""Harmonics of the cycle that the motion of a point is kept to."""


def annulus_points(
    labels: NDArray[np.uint8], geometry: StackGeometry, valve: Valve, *, cyclic: bool = True
) -> NDArray[np.float64] | None:
    """Follow the two points of an annulus over the cycle.

    Parameters
    ----------
    labels : (T, R, C) uint8
        Values of :class:`LongAxisLabel`.

    Returns
    -------
    (T, 2, 3) float64 or None
        Patient coordinates (LPS, mm), the same wall first in every phase; ``None`` where the valve is not seen in
        enough phases.
    """
    found = np.stack([_points_of(phase, geometry, valve) for phase in labels])
    seen = np.isfinite(found[:, 0, 0])
    if seen.mean() < _FEWEST_PHASES:
        return None
    ordered = _matched(found)
    points = geometry.to_patient(0.0, ordered[..., 0], ordered[..., 1])
    return smooth_cycle(points, cyclic=cyclic)


def _points_of(labels: NDArray[np.uint8], geometry: StackGeometry, valve: Valve) -> NDArray[np.float64]:
    """The two ends (row, column) of the border of one phase, (2, 2); NaN where there is none."""
    missing = np.full((2, 2), np.nan)
    if not labels.any():
        return missing
    # Beyond the heart there is nothing to look at.
    rows, columns = (np.flatnonzero(labels.any(axis=axis)) for axis in (1, 0))
    corner = np.array([rows[0], columns[0]])
    labels = labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ventricle, atrium = (labels == label for label in _CHAMBERS[valve])
    if not ventricle.any() or not atrium.any():
        return missing
    spacing = geometry.pixel_spacing
    near_ventricle = _near(ventricle, spacing)
    border = (ventricle & _near(atrium, spacing)) | (atrium & near_ventricle)
    if np.count_nonzero(border) < _FEWEST_PIXELS:
        return missing
    places = (np.argwhere(border) + corner) * np.asarray(spacing)
    middle = places.mean(axis=0)
    _, _, axes = np.linalg.svd(places - middle, full_matrices=False)
    along = (places - middle) @ axes[0]
    # The 4th and 96th percentile: a single pixel of a jagged border does not move the annulus.
    low, high = np.percentile(along, (4, 96))
    at_ends = [places[np.abs(along - end) <= _END_MM] for end in (low, high)]
    if not all(len(pixels) for pixels in at_ends):
        # The percentile fell between two bodies: which of them the annulus belongs to is not known.
        return missing
    ends = np.stack([pixels.mean(axis=0) for pixels in at_ends])
    if valve is Valve.MITRAL:
        wall = (np.argwhere((labels == LongAxisLabel.MYO) & near_ventricle) + corner) * np.asarray(spacing)
        body = (np.argwhere(atrium) + corner).mean(axis=0) * spacing
        basal = axes[1] if (body - middle) @ axes[1] > 0 else -axes[1]
        ends = _no_higher_than_the_wall(ends, wall, axes[0], basal)
    return ends / np.asarray(spacing)


def _near(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> NDArray[np.bool_]:
    """Where a pixel of a mask, which has some, lies within reach."""
    near = np.zeros(mask.shape, np.bool_)
    window = []
    for axis, step in enumerate(spacing):
        places = np.flatnonzero(mask.any(axis=1 - axis))
        margin = math.ceil(_REACH_MM / step)
        window.append(slice(max(int(places[0]) - margin, 0), int(places[-1]) + margin + 1))
    inside = tuple(window)
    near[inside] = ndimage.distance_transform_edt(~mask[inside], sampling=spacing) <= _REACH_MM
    return near


def _no_higher_than_the_wall(
    ends: NDArray[np.float64], wall: NDArray[np.float64], across: NDArray[np.float64], basal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Move each end of the border down to where the wall beside it ends, if that is lower.

    Parameters
    ----------
    ends : (2, 2) float64
        In the plane, mm.
    wall : (N, 2) float64
        Pixels of the wall beside the cavity, mm.
    across, basal : (2,) float64
        Unit vectors along the border and from ventricle to atrium.
    """
    moved = ends.copy()
    middle = ends.mean(axis=0)
    for index, end in enumerate(ends):
        outward = np.sign((end - middle) @ across) * across
        aside = (wall - end) @ outward
        beside = wall[((wall - middle) @ outward > 0) & (np.abs(aside) <= _WALL_ASIDE_MM)]
        if len(beside) < _FEWEST_PIXELS:
            continue
        height = (beside - end) @ basal
        top = float(np.percentile(height, 98))
        if -_WALL_BELOW_MM <= top < -_REACH_MM:
            moved[index] = end + top * basal
    return moved


def _matched(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Order the two points of each phase as in the phase before, (T, 2, 2)."""
    ordered = found.copy()
    last: NDArray[np.float64] | None = None
    for points in ordered:
        if not np.isfinite(points).all():
            continue
        if last is not None and np.linalg.norm(points - last) > np.linalg.norm(points[::-1] - last):
            points[:] = points[::-1].copy()
        last = points
    return ordered


def smooth_cycle(points: NDArray[np.float64], *, cyclic: bool = True) -> NDArray[np.float64]:
    """Least-squares fit of the first harmonics of the cycle to points over time, NaN filled in.

    Parameters
    ----------
    points : (T, …) float64
        NaN where a phase has none.
    cyclic : bool
        Whether the last phase is followed by the first; else half-cosines are fitted, which need not close.
    """
    phases = len(points)
    flat = points.reshape(phases, -1)
    seen = np.isfinite(flat).all(axis=1)
    terms = min(2 * _HARMONICS + 1, max(1, int(seen.sum()) - 1))
    time = np.arange(phases) / phases
    if cyclic:
        columns = [np.ones(phases)]
        for harmonic in range(1, (terms - 1) // 2 + 1):
            columns += [np.cos(2 * np.pi * harmonic * time), np.sin(2 * np.pi * harmonic * time)]
    else:
        columns = [np.cos(np.pi * order * (time + 0.5 / phases)) for order in range(terms)]
    design = np.stack(columns, axis=1)
    weights = np.ones(int(seen.sum()))
    for _ in range(3):
        # A phase that lies far off counts less (Huber).
        fit, *_ = np.linalg.lstsq(design[seen] * weights[:, None], flat[seen] * weights[:, None], rcond=None)
        distance = np.linalg.norm(flat[seen] - design[seen] @ fit, axis=1)
        limit = max(1.5 * float(np.median(distance)), 1e-6)
        weights = np.sqrt(np.minimum(1.0, limit / np.maximum(distance, 1e-9)))
    return (design @ fit).reshape(points.shape)


def apex_points(
    labels: NDArray[np.uint8], geometry: StackGeometry, mitral: NDArray[np.float64], *, cyclic: bool = True
) -> NDArray[np.float64]:
    """Endocardial apex: the cavity's point farthest from the middle of the mitral annulus, (T, 3), mm."""
    points = np.full((len(labels), 3), np.nan)
    for phase, (mask, annulus) in enumerate(zip(labels == LongAxisLabel.LV, mitral, strict=True)):
        rows, columns = np.nonzero(mask)
        if rows.size == 0:
            continue
        places = geometry.to_patient(0.0, rows.astype(float), columns.astype(float))
        distance = np.linalg.norm(places - annulus.mean(axis=0), axis=1)
        points[phase] = places[distance >= np.percentile(distance, 99)].mean(axis=0)
    return smooth_cycle(points, cyclic=cyclic)
