"""The square crop around the heart: its grid on the image, its grey values, and the way back to the image.

Everything here is in the plane of one stack. A point is (row, column) in millimetres from the centre of the first
pixel; a crop is the same square on every slice and phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = [
    "LOWER_PERCENTILE",
    "UPPER_PERCENTILE",
    "Square",
    "anchored_window",
    "heart_square",
    "intensity_window",
    "pool_factor",
    "sample_image",
    "sample_square",
    "scale_intensity",
]

LOWER_PERCENTILE, UPPER_PERCENTILE = 2.0, 98.0
"""Grey values of the crop that become 0 and 1. Above ACDC's own clipping at the 1st and 99th percentile of the image,
so that clipped and unclipped images look alike."""
_CEILING = 1.25
_USUAL_BLOOD = 0.82
"""Median of the blood's place in the window over training patients."""
_WIDTH_RANGE = (0.35, 1.5)
"""How far the window may be narrowed or widened: further, what was found is hardly blood."""
_FIELD_PER_EXTENT = 1.35
_FIELD_RANGE_MM = (110.0, 230.0)


@dataclass(frozen=True, slots=True)
class Square:
    """A square of the image plane, sides parallel to rows and columns."""

    row_mm: float
    column_mm: float
    """Centre, mm from the centre of the first pixel."""
    field_mm: float
    """Length of a side, mm."""


def heart_square(row_mm: tuple[float, float], column_mm: tuple[float, float]) -> Square:
    """Crop for a heart (both ventricles, all slices) that lies between the given rows and columns, mm.

    The crop grows with the heart, so a child's and a dilated heart meet the network at about the same size.
    """
    extent = max(row_mm[1] - row_mm[0], column_mm[1] - column_mm[0])
    field = float(np.clip(_FIELD_PER_EXTENT * extent, *_FIELD_RANGE_MM))
    return Square((row_mm[0] + row_mm[1]) / 2, (column_mm[0] + column_mm[1]) / 2, field)


def intensity_window(values: NDArray[np.float32]) -> tuple[float, float]:
    """Grey values that become 0 and 1; a constant image gets a window of width one."""
    low, high = np.percentile(values, (LOWER_PERCENTILE, UPPER_PERCENTILE))
    return float(low), float(high) if high > low else float(low) + 1.0


def anchored_window(window: tuple[float, float], blood: float | None) -> tuple[float, float]:
    """The window with its upper end moved so that the blood of the left ventricle lies where it usually does.

    Where fat is much brighter than blood, as with surface coils and without a uniformity filter, the percentiles follow
    the fat, and the heart is left with the lowest third of the grey values.

    Parameters
    ----------
    window : (float, float)
        Of :func:`intensity_window`.
    blood : float or None
        Grey value of the blood; ``None`` leaves the window as it is.
    """
    low, high = window
    if blood is None:
        return window
    least, most = (factor * (high - low) for factor in _WIDTH_RANGE)
    return low, low + min(max((blood - low) / _USUAL_BLOOD, least), most)


def scale_intensity(pixels: torch.Tensor, window: tuple[float, float]) -> torch.Tensor:
    """Map the window to 0 … 1 and clip to 0 … 1.25, any shape."""
    return ((pixels - window[0]) / (window[1] - window[0])).clamp(0.0, _CEILING)


def pool_factor(pixel_mm: float, target_mm: float) -> int:
    """How many pixels to average along an axis before sampling it at ``target_mm``, so that nothing aliases."""
    return max(1, int(target_mm / pixel_mm + 1e-6))


def sample_square(images: torch.Tensor, pixel_spacing: tuple[float, float], square: Square, size: int) -> torch.Tensor:
    """Sample the square on a grid of ``size`` × ``size`` points.

    Parameters
    ----------
    images : (N, K, R, C) tensor
    pixel_spacing : (float, float)
        Distance between rows, between columns, mm.

    Returns
    -------
    (N, K, size, size) tensor
        Bilinear; 0 outside the image. The points are the centres of ``size`` equal cells along each side.
    """
    import torch
    from torch.nn import functional

    step = square.field_mm / size
    factors = [pool_factor(spacing, step) for spacing in pixel_spacing]
    if max(factors) > 1:
        images = functional.avg_pool2d(images, factors, ceil_mode=True)
    offsets = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * step
    axes = []
    for centre, spacing, factor, length in zip(
        (square.row_mm, square.column_mm), pixel_spacing, factors, images.shape[2:], strict=True
    ):
        index = ((centre + offsets) / spacing - (factor - 1) / 2) / factor
        axes.append((2 * index + 1) / length - 1)
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).to(images)
    return functional.grid_sample(
        images, grid.expand(images.shape[0], -1, -1, -1), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def sample_image(
    crops: torch.Tensor,
    pixel_spacing: tuple[float, float],
    square: Square,
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> torch.Tensor:
    """Undo :func:`sample_square`: values of the crop at the centres of image pixels.

    Parameters
    ----------
    crops : (N, K, size, size) tensor
    rows, columns : (int, int)
        First and end index of the image pixels wanted.

    Returns
    -------
    (N, K, rows, columns) tensor
        Bilinear; pixels beyond the outermost points take the value of the nearest point.
    """
    import torch
    from torch.nn import functional

    axes = []
    for centre, spacing, (first, end) in zip(
        (square.row_mm, square.column_mm), pixel_spacing, (rows, columns), strict=True
    ):
        index = torch.arange(first, end, dtype=torch.float64)
        axes.append(2 * (index * spacing - centre) / square.field_mm)
    grid_rows, grid_columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([grid_columns, grid_rows], dim=-1).to(crops)
    return functional.grid_sample(
        crops, grid.expand(crops.shape[0], -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
    )
