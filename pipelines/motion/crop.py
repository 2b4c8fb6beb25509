"""The square that motion is followed in: where it lies on each view, and the images sampled on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import StackGeometry
from pipelines.segmentation.decision import likeliest
from pipelines.segmentation.grid import Square, intensity_window, sample_square, scale_intensity
from pipelines.segmentation.labels import Label

if TYPE_CHECKING:
    import torch

__all__ = ["SIDE_MM", "SIZE", "SPACING_MM", "centre_of_ventricle", "sample_cine", "sample_labels", "square_at"]

SIZE = 96
SPACING_MM = 1.6
SIDE_MM = SIZE * SPACING_MM


def centre_of_ventricle(labels: NDArray[np.uint8], geometry: StackGeometry) -> NDArray[np.float64] | None:
    """Centre of the left ventricle (cavity and wall) over all phases and slices, patient coordinates (3,), mm.

    Parameters
    ----------
    labels : (T, S, R, C) uint8
    geometry : StackGeometry

    Returns
    -------
    (3,) float64 or None
        ``None`` where no voxel is left ventricle.
    """
    inside = (labels == Label.LV) | (labels == Label.MYO)
    if not inside.any():
        return None
    counts = inside.sum(axis=0, dtype=np.uint32).astype(np.float64)
    slices, rows, columns = (
        float((counts.sum(axis=others) * np.arange(counts.shape[axis])).sum() / counts.sum())
        for axis, others in ((0, (1, 2)), (1, (0, 2)), (2, (0, 1)))
    )
    return geometry.to_patient(slices, rows, columns)


def square_at(centre: NDArray[np.float64], geometry: StackGeometry) -> Square:
    """The square around a point of the patient, projected along the normal onto the plane of a stack."""
    offset = centre - geometry.positions[0]
    return Square(float(offset @ geometry.column_direction), float(offset @ geometry.row_direction), SIDE_MM)


def sample_cine(
    pixels: NDArray[np.float32], pixel_spacing: tuple[float, float], square: Square, size: int = SIZE
) -> torch.Tensor:
    """Images (T, S, R, C) on the square, (T, S, size, size), grey values 0 … 1.25.

    The 2nd and 98th percentile of the square over slices and phases become 0 and 1.
    """
    import torch

    phases, slices = pixels.shape[:2]
    flat = torch.from_numpy(np.ascontiguousarray(pixels.reshape(phases * slices, 1, *pixels.shape[2:])))
    sampled = sample_square(flat, pixel_spacing, square, size)[:, 0]
    return scale_intensity(sampled, intensity_window(sampled.numpy())).reshape(phases, slices, size, size)


def sample_labels(
    labels: NDArray[np.uint8], pixel_spacing: tuple[float, float], square: Square, size: int, count: int
) -> NDArray[np.uint8]:
    """Labels 0 … ``count`` of images (T, S, R, C) on the square, the likeliest at each point, (T, S, size, size)."""
    import torch
    from torch.nn import functional

    flat = torch.from_numpy(labels.reshape(-1, *labels.shape[2:]).astype(np.int64))
    shares = functional.one_hot(flat, count + 1).permute(0, 3, 1, 2).float()
    sampled = likeliest(sample_square(shares, pixel_spacing, square, size).numpy())
    return sampled.reshape(*labels.shape[:2], size, size)
