"""How far the short axis and a long-axis view were acquired apart: breath-holds that ended at different heights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from pipelines.cine.stack import CineStack
from pipelines.long_axis.findings import LongAxisLabel, LongAxisView
from pipelines.segmentation.labels import Label

__all__ = ["axial_shift_mm"]

_REACH_MM = 70.0
_STEP_MM = 1.0
_LARGEST_SHIFT_MM = 12.0
_SHIFTS_MM = np.arange(-_LARGEST_SHIFT_MM, _LARGEST_SHIFT_MM + 0.5, 1.0)
_FEWEST_CHORDS = 3
_SHORTEST_CHORD_MM = 8.0


def axial_shift_mm(
    stack: CineStack, labels: NDArray[np.uint8], view: LongAxisView, axis: NDArray[np.float64], phases: Sequence[int]
) -> float | None:
    """Shift along the long axis that brings a long-axis view onto the short axis, mm.

    Both see the cavity along the line in which their planes cross; the shift is the one at which the widths of the
    cavity along these lines agree best over the slices and the phases given.

    Parameters
    ----------
    labels : (T, S, R, C) uint8
        Short-axis labels.
    axis : (3,) float64
        Unit vector from apex to base.
    phases : sequence of int
        Of the short axis.

    Returns
    -------
    float or None
        To be added along ``axis`` to points of the view; ``None`` where too few slices show the cavity in both.
    """
    long_axis = view.in_step((view.labels == LongAxisLabel.LV).astype(np.float64), stack.phases)
    direction = np.cross(view.stack.geometry.normal, axis)
    direction /= np.linalg.norm(direction)
    centre = _centre(stack, labels)
    offsets = np.arange(-_REACH_MM, _REACH_MM + _STEP_MM, _STEP_MM)
    errors = np.zeros(len(_SHIFTS_MM))
    chords = 0
    for phase in phases:
        for index in range(stack.slices):
            origin = _on_both(stack, index, view, centre, axis)
            line = origin + offsets[:, None] * direction
            short = _sampled(labels[phase, index] == Label.LV, stack, index, line).sum() * _STEP_MM
            if short < _SHORTEST_CHORD_MM:
                continue
            shifted = line - _SHIFTS_MM[:, None, None] * axis
            widths = _sampled(long_axis[phase], view.stack, 0, shifted).sum(axis=1) * _STEP_MM
            if widths.max() < _SHORTEST_CHORD_MM:
                continue
            errors += np.minimum(np.abs(widths - short), 15.0) ** 2
            chords += 1
    if chords < _FEWEST_CHORDS:
        return None
    # A faint preference for no shift: near the equator the widths hardly change with height.
    errors = errors / chords + 0.05 * _SHIFTS_MM**2
    best = int(np.argmin(errors))
    if 0 < best < len(errors) - 1:
        before, here, after = errors[best - 1 : best + 2]
        bend = before - 2 * here + after
        return float(_SHIFTS_MM[best] + (0.5 * (before - after) / bend if bend > 0 else 0.0))
    return float(_SHIFTS_MM[best])


def _centre(stack: CineStack, labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    counts = (labels == Label.LV).sum(axis=0)
    slices, rows, columns = np.nonzero(counts)
    weights = counts[slices, rows, columns].astype(np.float64)
    places = stack.geometry.to_patient(slices.astype(np.float64), rows.astype(np.float64), columns.astype(np.float64))
    return np.asarray(weights @ places / weights.sum())


def _on_both(
    stack: CineStack, index: int, view: LongAxisView, centre: NDArray[np.float64], axis: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The point nearest to the ventricle's axis on the line in which a slice and the view cross."""
    short, long = stack.geometry.normal, view.stack.geometry.normal
    normals = np.stack([short, long])
    heights = np.array([short @ stack.geometry.positions[index], long @ view.stack.geometry.positions[0]])
    start = centre + ((heights[0] - short @ centre) / (short @ axis)) * axis
    correction, *_ = np.linalg.lstsq(normals, heights - normals @ start, rcond=None)
    return np.asarray(start + correction)


def _sampled(
    mask: NDArray[np.bool_] | NDArray[np.float64], stack: CineStack, index: int, points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values of a mask of one slice at patient points (…, 3); 0 outside the image."""
    geometry = stack.geometry
    offset = points - geometry.positions[index]
    rows = offset @ geometry.column_direction / geometry.pixel_spacing[0]
    columns = offset @ geometry.row_direction / geometry.pixel_spacing[1]
    values = map_coordinates(mask.astype(np.float64), [rows, columns], order=1, mode="constant", cval=0.0)
    return np.asarray(values)
