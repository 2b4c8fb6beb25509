"""Annulus points and apex of a segmented long-axis view, smooth over the cycle.

The annulus of a valve crosses a long-axis plane in two points: the ends of the border between ventricle and atrium.
"""

from __future__ import annotations

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
    ventricle, atrium = (labels == label for label in _CHAMBERS[valve])
    missing = np.full((2, 2), np.nan)
    if not ventricle.any() or not atrium.any():
        return missing
    reach = _REACH_MM
    spacing = geometry.pixel_spacing
    near_atrium = ndimage.distance_transform_edt(~atrium, sampling=spacing) <= reach
    near_ventricle = ndimage.distance_transform_edt(~ventricle, sampling=spacing) <= reach
    border = (ventricle & near_atrium) | (atrium & near_ventricle)
    if np.count_nonzero(border) < _FEWEST_PIXELS:
        return missing
    places = np.argwhere(border) * np.asarray(spacing)
    middle = places.mean(axis=0)
    _, _, axes = np.linalg.svd(places - middle, full_matrices=False)
    along = (places - middle) @ axes[0]
    # The 4th and 96th percentile: a single pixel of a jagged border does not move the annulus.
    low, high = np.percentile(along, (4, 96))
    ends = [places[np.abs(along - end) <= 2.0].mean(axis=0) for end in (low, high)]
    return np.stack(ends) / np.asarray(spacing)


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
