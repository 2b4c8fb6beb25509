"""The plane of each valve annulus over the cycle, and how much of a short-axis slice lies below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.long_axis.findings import LongAxisView, Valve

__all__ = ["ValvePlanes", "share_below", "valve_planes"]


@dataclass(frozen=True, slots=True, eq=False)
class ValvePlanes:
    """The annulus plane of one valve at each phase.

    Attributes
    ----------
    points : (T, 3) float64
        Middle of the annulus, patient coordinates (LPS, mm).
    normals : (T, 3) float64
        Unit normals, from the ventricle towards the atrium.
    views : int
        How many views it was fitted to.
    """

    valve: Valve
    points: NDArray[np.float64]
    normals: NDArray[np.float64]
    views: int


def valve_planes(
    views: Sequence[LongAxisView], valve: Valve, axis: NDArray[np.float64], phases: int
) -> ValvePlanes | None:
    """Fit the plane of an annulus to all views that show it, at each of ``phases`` phases.

    Parameters
    ----------
    axis : (3,) float64
        Unit vector from apex to base: what a single view leaves open is taken across it.
    phases : int
        Of the short axis; views of another count, or that are late, are resampled.

    Returns
    -------
    ValvePlanes or None
        ``None`` where no view shows the valve.
    """
    shown = [view for view in views if valve in view.annuli]
    if not shown:
        return None
    points = np.concatenate([view.in_step(view.annuli[valve], phases) for view in shown], axis=1)
    middles = points.mean(axis=1)
    normals = np.stack([_normal(points[phase] - middles[phase], axis) for phase in range(phases)])
    return ValvePlanes(valve, middles, normals, len(shown))


def _normal(offsets: NDArray[np.float64], axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normal nearest to the axis of the plane through points about their middle, ridge-regularised towards it."""
    across = offsets - np.outer(offsets @ axis, axis)
    height = offsets @ axis
    # Height over the plane across the axis as a linear function of the place in it: a tilt, shrunk where views agree
    # too little to tell it (their points lie nearly on one line).
    first = np.linalg.svd(across, full_matrices=False)[2][:2]
    design = across @ first.T
    ridge = (8.0**2) * np.eye(2)
    slope = np.linalg.solve(design.T @ design + ridge, design.T @ height)
    normal = axis - first.T @ slope
    return normal / np.linalg.norm(normal)


def share_below(stack: CineStack, planes: ValvePlanes, rows: slice, columns: slice) -> NDArray[np.float32]:
    """Share of each voxel that lies on the ventricle's side of the plane, through the slice's interval.

    Parameters
    ----------
    rows, columns : slice
        The part of the grid that is looked at.

    Returns
    -------
    (T, S, rows, columns) float32
        1 below the plane, 0 above it, between where it cuts the slice.
    """
    geometry = stack.geometry
    row = np.arange(rows.start, rows.stop, dtype=np.float64)[:, None]
    column = np.arange(columns.start, columns.stop, dtype=np.float64)[None, :]
    intervals = geometry.slice_intervals()
    result = np.empty((stack.phases, stack.slices, row.size, column.size), dtype=np.float32)
    for index in range(stack.slices):
        places = geometry.to_patient(float(index), row, column)
        for phase, (point, normal) in enumerate(zip(planes.points, planes.normals, strict=True)):
            height = (places - point) @ normal
            through = max(float(intervals[index] * abs(geometry.normal @ normal)), 1e-6)
            result[phase, index] = np.clip(0.5 - height / through, 0.0, 1.0)
    return result
