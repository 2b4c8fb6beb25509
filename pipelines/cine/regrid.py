"""Bringing the slices of one stack to one pixel grid.

A scanner may change matrix, pixel spacing or the direction of the axes in the middle of a stack, and a stack that is
planned again may be tilted by some degrees. Where only rows and columns are cut, added, mirrored or exchanged, grey
values stay as they are; else they are interpolated linearly in the plane.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.headers import FrameHeader

__all__ = ["Grid", "Placement", "common_grid", "image_centre", "orthonormal", "place", "same_lattice"]

_AS_IS_DEG = 0.1
"""Axes that differ by less are the same: 0.3 mm at the edge of a field of view of 300 mm."""
_SPACING_TOLERANCE = 2e-3
_ASIDE_MM = 10.0
"""Images that lie further beside most slices are moved by whole pixels, so that the heart stays in its place."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Pixel grid of a stack.

    Attributes
    ----------
    shape : (int, int)
        Rows, columns.
    pixel_spacing : (float, float)
        Distance between rows, between columns, mm.
    row_direction, column_direction : (3,) float64
        Exactly perpendicular unit vectors: of increasing column index and of increasing row index.
    origin : (3,) float64
        Centre of the first pixel, mm, LPS; only its components in the plane mean anything.
    """

    shape: tuple[int, int]
    pixel_spacing: tuple[float, float]
    row_direction: NDArray[np.float64]
    column_direction: NDArray[np.float64]
    origin: NDArray[np.float64]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal, row direction × column direction."""
        return np.cross(self.row_direction, self.column_direction)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """How the images of one slice come to lie on the grid of their stack.

    Attributes
    ----------
    position : (3,) float64 or None
        Centre of the first pixel on the grid, mm, LPS; ``None`` for images that lie on it as they are.
    exchanged : bool
        Rows and columns change places, first of all.
    mirrored : (bool, bool)
        Rows, columns are reversed, next.
    first : (int, int)
        Row and column of the image that come to lie on the first of the grid, where nothing is interpolated.
    affine : ((2, 2) float64, (2,) float64) or None
        Image index = matrix · grid index + offset; ``None`` where nothing is interpolated.
    """

    shape: tuple[int, int]
    position: NDArray[np.float64] | None = None
    exchanged: bool = False
    mirrored: tuple[bool, bool] = (False, False)
    first: tuple[int, int] = (0, 0)
    affine: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @property
    def interpolated(self) -> bool:
        """Whether grey values are interpolated."""
        return self.affine is not None

    def apply(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring one image (R, C) to the grid; what the image does not cover gets its smallest value."""
        if self.position is None:
            return image
        if self.exchanged:
            image = image.T
        image = image[:: -1 if self.mirrored[0] else 1, :: -1 if self.mirrored[1] else 1]
        background = np.float32(image.min())
        if self.affine is not None:
            # Not at start-up: the scheduler reads headers with this module and needs no scipy.
            from scipy.ndimage import affine_transform

            matrix, offset = self.affine
            return affine_transform(
                image, matrix, offset, output_shape=self.shape, order=1, mode="constant", cval=float(background)
            )
        placed = np.full(self.shape, background, dtype=np.float32)
        spans = []
        for start, have, want in zip(self.first, image.shape, self.shape, strict=True):
            low, high = max(start, 0), min(start + want, have)
            spans.append((slice(low, max(low, high)), slice(low - start, max(low, high) - start)))
        (rows, to_rows), (columns, to_columns) = spans
        placed[to_rows, to_columns] = image[rows, columns]
        return placed


def orthonormal(orientation: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row and column direction of ImageOrientationPatient as exactly perpendicular unit vectors."""
    row = np.asarray(orientation[:3], dtype=np.float64)
    column = np.asarray(orientation[3:], dtype=np.float64)
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def image_centre(frame: FrameHeader) -> NDArray[np.float64]:
    """Centre of a frame that has geometry, mm, LPS."""
    row, column = np.asarray(frame.orientation, dtype=np.float64).reshape(2, 3)
    spacing = frame.pixel_spacing or (1.0, 1.0)
    position = np.asarray(frame.position, dtype=np.float64)
    return np.asarray(
        position + row * spacing[1] * (frame.columns - 1) / 2 + column * spacing[0] * (frame.rows - 1) / 2
    )


def same_lattice(one: FrameHeader, other: FrameHeader) -> bool:
    """Tell whether two frames share matrix, pixel spacing and axes, so that neither is resampled."""
    if (one.rows, one.columns) != (other.rows, other.columns) or one.orientation is None or other.orientation is None:
        return False
    if one.orientation == other.orientation and one.pixel_spacing == other.pixel_spacing:
        return True
    mine, theirs = np.asarray(orthonormal(one.orientation)), np.asarray(orthonormal(other.orientation))
    return _aligned(mine, theirs) and _same_spacing(one.pixel_spacing, other.pixel_spacing)


def _aligned(mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> bool:
    return bool(((mine * theirs).sum(axis=1) >= np.cos(np.radians(_AS_IS_DEG))).all())


def _same_spacing(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    return bool(np.allclose(one or (1.0, 1.0), other or (1.0, 1.0), rtol=_SPACING_TOLERANCE, atol=0))


def common_grid(slices: Sequence[FrameHeader]) -> Grid:
    """Grid on which most slices of a stack lie as they are; of equally many the finer one.

    Parameters
    ----------
    slices : sequence of FrameHeader
        One frame of each slice.
    """
    exact = Counter((frame.rows, frame.columns, frame.pixel_spacing, frame.orientation) for frame in slices)
    leads: dict[tuple[object, ...], FrameHeader] = {}
    for frame in slices:
        leads.setdefault((frame.rows, frame.columns, frame.pixel_spacing, frame.orientation), frame)

    def worth(key: tuple[object, ...]) -> tuple[float, ...]:
        lead = leads[key]
        alike = sum(count for other, count in exact.items() if same_lattice(lead, leads[other]))
        spacing = lead.pixel_spacing or (1.0, 1.0)
        return (alike, exact[key], -spacing[0] * spacing[1], lead.rows * lead.columns)  # type: ignore[index]

    best = leads[max(leads, key=lambda key: (worth(key), leads[key].orientation))]
    row, column = orthonormal(best.orientation or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    axes = np.stack([row, column, np.cross(row, column)])
    origins = [frame.position for frame in slices if same_lattice(best, frame)]
    return Grid(
        shape=(best.rows, best.columns),
        pixel_spacing=best.pixel_spacing or (1.0, 1.0),
        row_direction=row,
        column_direction=column,
        # Along the axes of the stack: where most slices lie, whatever a few of them do.
        origin=np.median(np.asarray(origins, dtype=np.float64) @ axes.T, axis=0) @ axes,
    )


def place(frame: FrameHeader, grid: Grid) -> Placement:
    """Tell how the images of a slice come to lie on a grid.

    Parameters
    ----------
    frame : FrameHeader
        A frame with geometry whose normal is within some degrees of the grid's, in either sense.
    """
    axes = np.asarray(orthonormal(frame.orientation or ()))
    spacing = frame.pixel_spacing or (1.0, 1.0)
    wanted = np.asarray([grid.row_direction, grid.column_direction])
    alike = (frame.rows, frame.columns) == grid.shape and _same_spacing(spacing, grid.pixel_spacing)
    position = np.asarray(frame.position, dtype=np.float64)
    aside = float(np.linalg.norm(wanted @ (grid.origin - position))) > _ASIDE_MM
    if alike and not aside and _aligned(axes, wanted):
        return Placement(grid.shape)
    row, column = axes
    shape = (frame.rows, frame.columns)
    exchanged = abs(row @ wanted[1]) + abs(column @ wanted[0]) > abs(row @ wanted[0]) + abs(column @ wanted[1])
    if exchanged:
        row, column, spacing, shape = column, row, spacing[::-1], shape[::-1]
    mirrored = (bool(column @ wanted[1] < 0), bool(row @ wanted[0] < 0))
    if mirrored[0]:
        position, column = position + column * spacing[0] * (shape[0] - 1), -column
    if mirrored[1]:
        position, row = position + row * spacing[1] * (shape[1] - 1), -row
    if _aligned(np.asarray([row, column]), wanted) and _same_spacing(spacing, grid.pixel_spacing):
        first = (0, 0)
        if shape != grid.shape or aside:
            # By whole pixels: the slice keeps its own lattice and its grey values.
            away = grid.origin - position
            first = (round(float(away @ column) / spacing[0]), round(float(away @ row) / spacing[1]))
        position = position + first[0] * spacing[0] * column + first[1] * spacing[1] * row
        return Placement(grid.shape, position, exchanged, mirrored, first)
    return _interpolated(frame, grid, position, (row, column), spacing, exchanged, mirrored)


def _interpolated(
    frame: FrameHeader,
    grid: Grid,
    position: NDArray[np.float64],
    axes: tuple[NDArray[np.float64], NDArray[np.float64]],
    spacing: tuple[float, float],
    exchanged: bool,
    mirrored: tuple[bool, bool],
) -> Placement:
    """Project the grid, at the depth of the image's centre, along its normal into the plane of the image."""
    normal, own = grid.normal, np.cross(*axes)
    depth = float(image_centre(frame) @ normal)
    corner = grid.origin + (depth - float(grid.origin @ normal)) * normal
    step_row, step_column = grid.pixel_spacing[0] * grid.column_direction, grid.pixel_spacing[1] * grid.row_direction

    def index(point: NDArray[np.float64]) -> NDArray[np.float64]:
        within = point - (float((point - position) @ own) / float(normal @ own)) * normal - position
        return np.array([within @ axes[1] / spacing[0], within @ axes[0] / spacing[1]])

    offset = index(corner)
    matrix = np.stack([index(corner + step_row) - offset, index(corner + step_column) - offset], axis=1)
    return Placement(grid.shape, corner, exchanged, mirrored, affine=(matrix, offset))
