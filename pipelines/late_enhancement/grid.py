"""The square around the left ventricle, and the grey values inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.segmentation.grid import Square, scale_intensity

if TYPE_CHECKING:
    import torch

__all__ = ["FIELD_PER_EXTENT", "scale_slices", "ventricle_square"]

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


def scale_slices(slices: torch.Tensor) -> torch.Tensor:
    """Map the 2nd and 98th percentile of each image (…, H, W) to 0 and 1 and clip to 0 … 1.25.

    Slice by slice: each has its own inversion time, and often its own scaling.
    """
    from pipelines.segmentation.grid import intensity_window

    flat = slices.reshape(-1, *slices.shape[-2:])
    windows = [intensity_window(one.numpy()) for one in flat]
    scaled = [scale_intensity(one, window) for one, window in zip(flat, windows, strict=True)]
    return flat.new_empty(0).reshape(slices.shape) if not scaled else _stack(scaled).reshape(slices.shape)


def _stack(scaled: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.stack(scaled)
