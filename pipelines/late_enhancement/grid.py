"""The square around the left ventricle, and the grey values inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.segmentation.grid import Square, intensity_window, scale_intensity

if TYPE_CHECKING:
    import torch

__all__ = ["FIELD_PER_EXTENT", "pixels_of", "scale_slices", "ventricle_square"]

FIELD_PER_EXTENT = 1.7
_FIELD_RANGE_MM = (70.0, 200.0)


def ventricle_square(row_mm: tuple[float, float], column_mm: tuple[float, float]) -> Square:
    """Crop for a left ventricle (cavity and wall, all slices) that lies between the given rows and columns, mm.

    The crop grows with the ventricle: the networks learnt from images whose spacing is lost, so size says nothing to
    them.
    """
    extent = max(row_mm[1] - row_mm[0], column_mm[1] - column_mm[0])
    field = float(np.clip(FIELD_PER_EXTENT * extent, *_FIELD_RANGE_MM))
    return Square((row_mm[0] + row_mm[1]) / 2, (column_mm[0] + column_mm[1]) / 2, field)


def scale_slices(slices: NDArray[np.float32], inside: tuple[slice, slice]) -> torch.Tensor:
    """Map the 2nd and 98th percentile of a part of each slice to 0 and 1, and clip to 0 … 1.25.

    Slice by slice: each has its own inversion time, and often its own scaling.

    Parameters
    ----------
    slices : (S, R, C) float32
    inside : (slice, slice)
        Rows and columns that the percentiles are taken of.

    Returns
    -------
    (S, R, C) tensor
    """
    import torch

    return torch.stack(
        [scale_intensity(torch.from_numpy(np.ascontiguousarray(one)), intensity_window(one[inside])) for one in slices]
    )


def pixels_of(square: Square, spacing: tuple[float, float], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of an image that a square covers, with the pixels that its edge runs through."""
    bounds = []
    for centre, step, length in zip((square.row_mm, square.column_mm), spacing, shape, strict=True):
        first = int(np.clip(np.floor((centre - square.field_mm / 2) / step), 0, length - 1))
        end = int(np.clip(np.ceil((centre + square.field_mm / 2) / step) + 1, first + 1, length))
        bounds.append(slice(first, end))
    return bounds[0], bounds[1]
