"""Grouping frames by the plane they lie in, across series."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.headers import FrameHeader
from pipelines.cine.selection import MIN_PHASES

__all__ = ["ParallelGroup", "parallel_groups", "slice_positions"]

_PARALLEL_DEG = 1.0
_SPACING_TOLERANCE = 2e-3
_POSITION_TOLERANCE = 0.1
"""Of the slice spacing: what breath-hold rounding may move a slice along the normal."""


@dataclass(frozen=True, slots=True, eq=False)
class ParallelGroup:
    """Frames that share Frame of Reference, orientation, matrix and pixel spacing.

    Attributes
    ----------
    frames : tuple of FrameHeader
    frame_of_reference_uid : str
        ``""`` where it tells nothing.
    row_direction, column_direction : (3,) float64
        Unit vectors, exactly perpendicular, of the most frequent orientation.
    """

    frames: tuple[FrameHeader, ...]
    frame_of_reference_uid: str
    row_direction: NDArray[np.float64]
    column_direction: NDArray[np.float64]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal, row direction × column direction."""
        return np.cross(self.row_direction, self.column_direction)


def parallel_groups(frames: Sequence[FrameHeader]) -> list[ParallelGroup]:
    """Group frames that have geometry by Frame of Reference, orientation (within 1°), matrix and pixel spacing.

    A Frame of Reference UID that fewer frames share than one slice has phases tells nothing (some anonymisers
    draw a new one for each image): such frames are taken to be in one frame of reference.
    """
    shared = Counter(frame.frame_of_reference_uid for frame in frames)
    buckets: dict[tuple[str, int, int], dict[tuple[tuple[float, ...], tuple[float, float]], list[FrameHeader]]] = {}
    for frame in frames:
        if frame.orientation is None or frame.pixel_spacing is None or frame.position is None:
            continue
        reference = frame.frame_of_reference_uid if shared[frame.frame_of_reference_uid] >= MIN_PHASES else ""
        bucket = buckets.setdefault((reference, frame.rows, frame.columns), {})
        bucket.setdefault((frame.orientation, frame.pixel_spacing), []).append(frame)
    groups: list[ParallelGroup] = []
    for (reference, _, _), bucket in buckets.items():
        # The most frequent orientation leads, so that the rounding of a few frames decides nothing.
        waiting = sorted(bucket.items(), key=lambda item: (-len(item[1]), item[0]))
        while waiting:
            (orientation, spacing), _ = waiting[0]
            members = [entry for entry in waiting if _same_plane(entry[0], (orientation, spacing))]
            waiting = [entry for entry in waiting if not _same_plane(entry[0], (orientation, spacing))]
            row, column = _orthonormal(orientation)
            together = tuple(frame for _, part in members for frame in part)
            groups.append(ParallelGroup(together, reference, row, column))
    return groups


def _same_plane(
    one: tuple[tuple[float, ...], tuple[float, float]], other: tuple[tuple[float, ...], tuple[float, float]]
) -> bool:
    cosine = np.cos(np.radians(_PARALLEL_DEG))
    first, second = np.asarray(one[0]).reshape(2, 3), np.asarray(other[0]).reshape(2, 3)
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    aligned = bool(((first * second).sum(axis=1) >= cosine).all())
    return aligned and bool(np.allclose(one[1], other[1], rtol=_SPACING_TOLERANCE, atol=0))


def _orthonormal(orientation: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    row = np.asarray(orientation[:3], dtype=np.float64)
    column = np.asarray(orientation[3:], dtype=np.float64)
    row /= np.linalg.norm(row)
    column -= (column @ row) * row
    return row, column / np.linalg.norm(column)


def slice_positions(group: ParallelGroup) -> list[tuple[float, tuple[FrameHeader, ...]]]:
    """Cluster the frames of a group along its normal.

    Returns
    -------
    list of (float, tuple of FrameHeader)
        Distance along the normal, mm, ascending, and the frames there; positions closer than a tenth of the slice
        spacing are one.
    """
    normal = group.normal
    along = np.array([np.asarray(frame.position, dtype=np.float64) @ normal for frame in group.frames])
    order = np.argsort(along, kind="stable")
    values = along[order]
    gaps = np.diff(values)
    thickness = float(np.median([frame.slice_thickness or 8.0 for frame in group.frames])) or 8.0
    apart = gaps[gaps > 0.25 * thickness]
    tolerance = max(0.05, _POSITION_TOLERANCE * float(np.median(apart) if len(apart) else thickness))
    starts = np.concatenate([[0], np.flatnonzero(gaps > tolerance) + 1, [len(values)]])
    clusters = []
    for start, stop in itertools.pairwise(starts):
        members = [group.frames[index] for index in order[start:stop]]
        clusters.append((float(np.median(values[start:stop])), tuple(members)))
    return clusters
