"""AHA segments on late enhancement, counted from the right ventricle that the cine shows."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.cine.stack import StackGeometry
from pipelines.function.segments import SegmentReference, segment_of
from pipelines.late_enhancement.findings import AcquiredSegment
from pipelines.late_enhancement.labels import WALL
from pipelines.late_enhancement.transmurality import depth_by_direction, mean_depth

__all__ = ["enhancement_of_segments", "reference_on"]

_ENHANCED_PERCENT = 10.0
_TRACE_PERCENT = 1.0
"""Less than this of a segment has no depth worth telling: some pixels at the end of a neighbour's infarct."""
_POINTS_MIN = 5


def reference_on(late: StackGeometry, cine: StackGeometry, reference: SegmentReference) -> SegmentReference:
    """The reference of the cine in the plane axes of the late enhancement, which may be turned or mirrored."""
    septal = np.cos(reference.septum) * cine.row_direction + np.sin(reference.septum) * cine.column_direction
    angle = float(np.arctan2(septal @ late.column_direction, septal @ late.row_direction))
    same = cine.normal @ late.normal > 0
    return dataclasses.replace(reference, septum=angle, sign=reference.sign if same else -reference.sign)


def enhancement_of_segments(
    enhanced: NDArray[np.bool_],
    labels: NDArray[np.uint8],
    geometry: StackGeometry,
    levels: tuple[str | None, ...],
    reference: SegmentReference,
) -> tuple[AcquiredSegment, ...]:
    """Part and depth of enhancement of each AHA segment that the slices show.

    Parameters
    ----------
    enhanced : (S, R, C) bool
    labels : (S, R, C) uint8
        Values of :class:`~pipelines.late_enhancement.labels.Tissue`.
    levels : tuple of S str or None
        ``"basal"``, ``"mid"`` or ``"apical"``; slices without one belong to no segment.
    reference : SegmentReference
        In the plane axes of ``geometry``.
    """
    area, bright = np.zeros(17), np.zeros(17)
    depths: dict[int, list[NDArray[np.float64]]] = {number: [] for number in range(1, 17)}
    spacing, weights = geometry.pixel_spacing, geometry.slice_intervals()
    for index, level in enumerate(levels):
        found = depth_by_direction(enhanced[index], labels[index], spacing)
        if level is None or found is None:
            continue
        rows, columns = np.nonzero(np.isin(labels[index], WALL))
        centre = ndimage.center_of_mass(labels[index] > 0)
        angles = np.arctan2((rows - centre[0]) * spacing[0], (columns - centre[1]) * spacing[1])
        segment = segment_of(angles, level, reference)
        area += weights[index] * np.bincount(segment, minlength=17)
        bright += weights[index] * np.bincount(segment, weights=enhanced[index][rows, columns], minlength=17)
        ray_segment = segment_of(found[0], level, reference)
        for number in np.unique(ray_segment):
            depths[int(number)].append(found[1][ray_segment == number])
    made = []
    for number, shares in depths.items():
        share = np.concatenate(shares) if shares else np.array([])
        if np.count_nonzero(np.isfinite(share)) < _POINTS_MIN or area[number] == 0:
            continue
        percent = 100 * float(bright[number] / area[number])
        deep = mean_depth(share) if percent >= _TRACE_PERCENT else 0.0
        made.append(AcquiredSegment(number, percent, deep, percent > _ENHANCED_PERCENT))
    return tuple(made)
