"""Grouping frames by the plane they lie in, across series."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.headers import FrameHeader
from pipelines.cine.regrid import orthonormal
from pipelines.cine.selection import MIN_PHASES

__all__ = [
    "ParallelGroup",
    "merged",
    "parallel_groups",
    "slice_positions",
    "thickness_of_slices",
    "told_references",
]

_PARALLEL_DEG = 1.0
_SPACING_TOLERANCE = 2e-3
_FRAMES_OF_REFERENCE_DRAWN = 3
"""So many Frames of Reference with one plane each were drawn by an anonymiser and not by the patient's moves."""
_POSITION_TOLERANCE = 0.1
"""Of the slice spacing: what breath-hold rounding may move a slice along the normal."""


@dataclass(frozen=True, slots=True, eq=False)
class ParallelGroup:
    """Parallel frames in one Frame of Reference.

    Attributes
    ----------
    grids : tuple of tuples of FrameHeader
        Frames that share orientation, matrix and pixel spacing; several sets of them only in what `merged` gives.
    frame_of_reference_uid : str
        ``""`` where none is told.
    row_direction, column_direction : (3,) float64
        Unit vectors, exactly perpendicular, of the most frequent orientation.
    """

    grids: tuple[tuple[FrameHeader, ...], ...]
    frame_of_reference_uid: str
    row_direction: NDArray[np.float64]
    column_direction: NDArray[np.float64]

    @property
    def frames(self) -> tuple[FrameHeader, ...]:
        """Frames of all grids."""
        return tuple(itertools.chain.from_iterable(self.grids))

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal, row direction × column direction."""
        return np.cross(self.row_direction, self.column_direction)


def parallel_groups(frames: Sequence[FrameHeader]) -> list[ParallelGroup]:
    """Group frames that have geometry by Frame of Reference, orientation (within 1°), matrix and pixel spacing.

    Frames of Reference are those of :func:`told_references`.
    """
    told = told_references((frame.frame_of_reference_uid, (frame.position, frame.orientation)) for frame in frames)
    buckets: dict[tuple[str, int, int], dict[tuple[tuple[float, ...], tuple[float, float]], list[FrameHeader]]] = {}
    for frame in frames:
        if frame.orientation is None or frame.pixel_spacing is None or frame.position is None:
            continue
        reference = told[frame.frame_of_reference_uid]
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
            row, column = orthonormal(orientation)
            together = tuple(frame for _, part in members for frame in part)
            groups.append(ParallelGroup((together,), reference, row, column))
    return groups


def told_references(frames: Iterable[tuple[str, Hashable]]) -> dict[str, str]:
    """What each Frame of Reference UID of a study counts as.

    A UID that fewer frames share than one slice has phases tells nothing (some anonymisers draw a new one for each
    image), nor do several that hold one plane each (a new one for each series), nor a missing one. Frames without a
    told one are taken to be in that of the others where these have only one, and else together in one of their own.

    Parameters
    ----------
    frames : iterable of (str, hashable)
        UID, ``""`` where it is missing, and plane of each frame.

    Returns
    -------
    dict of str to str
        By UID; ``""`` where nothing is told.
    """
    shared: Counter[str] = Counter()
    planes: dict[str, set[Hashable]] = {}
    for reference, plane in frames:
        shared[reference] += 1
        planes.setdefault(reference, set()).add(plane)
    told = {reference for reference, count in shared.items() if reference and count >= MIN_PHASES}
    drawn = {reference for reference in told if len(planes[reference]) == 1}
    if len(drawn) >= _FRAMES_OF_REFERENCE_DRAWN:
        told -= drawn
    only = next(iter(told)) if len(told) == 1 else ""
    return {reference: reference if reference in told else only for reference in shared}


def merged(groups: Sequence[ParallelGroup]) -> ParallelGroup:
    """Put groups of one Frame of Reference together as one; the first gives the directions.

    Parameters
    ----------
    groups : sequence of ParallelGroup
        Their normals are within some degrees of one another, in either sense.
    """
    lead = groups[0]
    grids = tuple(itertools.chain.from_iterable(group.grids for group in groups))
    return ParallelGroup(grids, lead.frame_of_reference_uid, lead.row_direction, lead.column_direction)


def _same_plane(
    one: tuple[tuple[float, ...], tuple[float, float]], other: tuple[tuple[float, ...], tuple[float, float]]
) -> bool:
    cosine = np.cos(np.radians(_PARALLEL_DEG))
    first, second = np.asarray(one[0]).reshape(2, 3), np.asarray(other[0]).reshape(2, 3)
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    aligned = bool(((first * second).sum(axis=1) >= cosine).all())
    return aligned and bool(np.allclose(one[1], other[1], rtol=_SPACING_TOLERANCE, atol=0))


def slice_positions(group: ParallelGroup) -> list[tuple[float, tuple[FrameHeader, ...]]]:
    """Cluster the frames of a group along its normal.

    Returns
    -------
    list of (float, tuple of FrameHeader)
        Distance of the images' centres along the normal, mm, ascending, and the frames there; positions closer than a
        tenth of the slice spacing are one.
    """
    frames = group.frames
    along = _centres(frames) @ group.normal
    order = np.argsort(along, kind="stable")
    values = along[order]
    gaps = np.diff(values)
    thickness = float(np.median([frame.slice_thickness or 8.0 for frame in frames])) or 8.0
    apart = gaps[gaps > 0.25 * thickness]
    tolerance = max(0.05, _POSITION_TOLERANCE * float(np.median(apart) if len(apart) else thickness))
    starts = np.concatenate([[0], np.flatnonzero(gaps > tolerance) + 1, [len(values)]])
    clusters = []
    for start, stop in itertools.pairwise(starts):
        members = [frames[index] for index in order[start:stop]]
        clusters.append((float(np.median(values[start:stop])), tuple(members)))
    return clusters


def thickness_of_slices(frames: Sequence[FrameHeader], along: NDArray[np.float64]) -> tuple[float, bool]:
    """Thickness of the slices of a stack, mm, and whether an image states it.

    Parameters
    ----------
    frames
        Of the stack.
    along : (S,) float64
        Where its slices lie along the normal, mm, ascending.

    Returns
    -------
    (float, bool)
        Median SliceThickness of the images that state one; where none does, the median distance of neighbouring
        slices, and 8 mm, as is usual in cardiac MR, for a single slice.
    """
    stated = [frame.slice_thickness for frame in frames if frame.slice_thickness]
    if stated:
        return float(np.median(stated)), True
    return (float(np.median(np.diff(along))) if len(along) > 1 else 8.0), False


def _centres(frames: Sequence[FrameHeader]) -> NDArray[np.float64]:
    """Centres of frames that have geometry, (N, 3), mm."""
    positions = np.array([frame.position for frame in frames], dtype=np.float64)
    axes = np.array([frame.orientation for frame in frames], dtype=np.float64).reshape(-1, 2, 3)
    halves = np.array([((frame.columns - 1) / 2, (frame.rows - 1) / 2) for frame in frames], dtype=np.float64)
    spacing = np.array([frame.pixel_spacing for frame in frames], dtype=np.float64)[:, ::-1]
    return np.asarray(positions + ((halves * spacing)[:, :, None] * axes).sum(axis=1))
