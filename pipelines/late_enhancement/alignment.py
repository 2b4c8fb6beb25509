"""Where the late-enhancement slices lie on the short-axis cine: a shift in the plane for each slice.

Both are acquired in breath-holds of their own, so a slice may lie some millimetres beside where its header says.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.cine.stack import CineStack, LateEnhancementStack, StackGeometry
from pipelines.late_enhancement.findings import CineAlignment
from pipelines.late_enhancement.labels import Tissue
from pipelines.segmentation.labels import Label

__all__ = ["align_to_cine", "on_cine_slice"]

V = TypeVar("V", bound=np.number)

_PARALLEL = np.cos(np.deg2rad(20.0))
_SEARCH_MM = 3.0
_SMALLEST_OVERLAP = 0.5
_IMAGE_WEIGHT = 0.25


def on_cine_slice(
    values: NDArray[V],
    source: StackGeometry,
    index: int,
    target: StackGeometry,
    target_index: int,
    shape: tuple[int, int],
    shift_mm: NDArray[np.float64],
    *,
    order: Literal[0, 1] = 0,
) -> NDArray[V]:
    """Bring one late-enhancement slice to the pixels of a cine slice, 0 outside.

    Parameters
    ----------
    values : (R, C)
        Labels or grey values of slice ``index`` of ``source``.
    shape : (int, int)
        Rows and columns of the cine.
    shift_mm : (2,) float64
        Shift along the row and the column direction of ``source``, mm, that brings the late enhancement onto the cine.
    order : int
        Of the interpolation: 0 is the nearest neighbour, 1 bilinear.

    Returns
    -------
    (rows, columns), of the type of ``values``
    """
    rows, columns = _coordinates(source, index, target, target_index, shape, shift_mm)
    return np.asarray(ndimage.map_coordinates(values, [rows, columns], order=order, mode="constant", cval=0))


def _coordinates(
    source: StackGeometry,
    index: int,
    target: StackGeometry,
    target_index: int,
    shape: tuple[int, int],
    shift_mm: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row and column on a late-enhancement slice of every pixel of a cine slice, along the normal."""
    rows, columns = np.indices(shape)
    points = (
        target.positions[target_index]
        + columns[..., None] * target.pixel_spacing[1] * target.row_direction
        + rows[..., None] * target.pixel_spacing[0] * target.column_direction
        - source.positions[index]
    )
    return (
        (points @ source.column_direction - shift_mm[1]) / source.pixel_spacing[0],
        (points @ source.row_direction - shift_mm[0]) / source.pixel_spacing[1],
    )


def align_to_cine(
    late: LateEnhancementStack,
    labels: NDArray[np.uint8],
    cine: CineStack,
    cine_labels: NDArray[np.uint8],
    phase: int,
) -> CineAlignment | None:
    """Find the shift of each late-enhancement slice from the ventricle on both, and refine it with the images.

    Parameters
    ----------
    labels : (S, R, C) uint8
        Values of :class:`~pipelines.late_enhancement.labels.Tissue`.
    cine_labels : (S', R', C') uint8
        Values of :class:`~pipelines.segmentation.labels.Label` at ``phase``.

    Returns
    -------
    CineAlignment or None
        ``None`` where the stacks are not parallel, have no frame of reference in common, or no slices of both show the
        ventricle within reach of each other.
    """
    source, target = late.geometry, cine.geometry
    known = bool(late.frame_of_reference_uid) and late.frame_of_reference_uid == cine.frame_of_reference_uid
    if not known or abs(source.normal @ target.normal) < _PARALLEL:
        return None
    reach = max(source.pitch, target.pitch) / 2 + 0.5
    chosen: list[int | None] = []
    shifts = np.full((late.slices, 2), np.nan)
    overlaps = np.full(late.slices, np.nan)
    for index in range(late.slices):
        centre = _middle(source, index, late.pixels.shape[1:])
        distances = np.abs((target.positions - centre) @ target.normal)
        nearest = int(np.argmin(distances))
        both = (labels[index] > 0).any() and np.isin(cine_labels[nearest], (Label.LV, Label.MYO)).any()
        found = None
        if distances[nearest] <= reach and both:
            found = _shift(late, labels, index, cine, cine_labels[nearest], phase, nearest)
        chosen.append(None if found is None else nearest)
        if found is not None:
            shifts[index], overlaps[index] = found
    if all(one is None for one in chosen):
        return None
    return CineAlignment(phase, tuple(chosen), shifts, overlaps)


def _middle(geometry: StackGeometry, index: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return geometry.to_patient(index, (shape[0] - 1) / 2, (shape[1] - 1) / 2)


def _shift(
    late: LateEnhancementStack,
    labels: NDArray[np.uint8],
    index: int,
    cine: CineStack,
    plane: NDArray[np.uint8],
    phase: int,
    cine_index: int,
) -> tuple[NDArray[np.float64], float] | None:
    """Shift, mm along the axes of the late enhancement, and Dice after it; ``None`` where nothing matches."""
    source, target = late.geometry, cine.geometry
    body = np.isin(plane, (Label.LV, Label.MYO))
    shape = plane.shape
    # Both ventricles in patient coordinates, then in the plane of the late enhancement.
    on_cine = np.array(ndimage.center_of_mass(body))
    on_late = np.array(ndimage.center_of_mass(labels[index] > 0))
    away = target.to_patient(cine_index, *on_cine) - source.to_patient(index, *on_late)
    start = np.array([away @ source.row_direction, away @ source.column_direction])
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    margin = int(np.ceil(12.0 / min(target.pixel_spacing)))
    window = (
        slice(max(int(rows[0]) - margin, 0), int(rows[-1]) + margin + 1),
        slice(max(int(columns[0]) - margin, 0), int(columns[-1]) + margin + 1),
    )
    edges = _edges(cine.pixels[phase, cine_index])[window]
    late_edges = _edges(late.pixels[index])
    step = min(source.pixel_spacing) / 2
    offsets = np.arange(-_SEARCH_MM, _SEARCH_MM + step / 2, step)
    best: tuple[float, NDArray[np.float64], float] | None = None
    base_rows, base_columns = (
        each[window] for each in _coordinates(source, index, target, cine_index, shape, np.zeros(2))
    )
    inside, cavity = body[window], plane[window] == Label.LV
    # The shift that brings centroid onto centroid comes first, so that ties leave it as it is.
    for along_row, along_column in sorted(
        ((x, y) for x in offsets for y in offsets), key=lambda pair: pair[0] ** 2 + pair[1] ** 2
    ):
        shift = start + np.array([along_row, along_column])
        at = [base_rows - shift[1] / source.pixel_spacing[0], base_columns - shift[0] / source.pixel_spacing[1]]
        moved = ndimage.map_coordinates(labels[index], at, order=0, mode="constant", cval=0)
        dice = _dice(moved > 0, inside)
        score = dice + 0.5 * _dice(moved == Tissue.LV, cavity)
        score += _IMAGE_WEIGHT * _correlation(ndimage.map_coordinates(late_edges, at, order=1, mode="nearest"), edges)
        if best is None or score > best[0] + 1e-9:
            best = (score, shift, dice)
    if best is None or best[2] < _SMALLEST_OVERLAP:
        return None
    return best[1], best[2]


def _edges(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Strength of edges: the contrast of blood and muscle differs between cine and late enhancement, its place not."""
    return np.asarray(ndimage.gaussian_gradient_magnitude(image.astype(np.float32), 1.5))


def _dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else 0.0


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0
