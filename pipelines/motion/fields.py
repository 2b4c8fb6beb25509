"""Deformation fields in the plane: warping, integration, composition, Jacobian.

A field is the displacement of material points: a point at x moves to x + u(x). Tensors are (N, 2, h, w), millimetres,
channel 0 along rows (down the image), channel 1 along columns. A field covers a square of side ``side_mm`` with points
at the centres of h × w equal cells, whatever h and w are; images of another size cover the same square.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["compose", "displace_points", "integrate", "jacobian", "warp"]

INTEGRATION_STEPS = 6
"""Squarings: a velocity of 20 mm is integrated in steps of 0.3 mm."""


def warp(images: torch.Tensor, displacement: torch.Tensor, side_mm: float) -> torch.Tensor:
    """Pull an image back along a field: the result at x is the image at x + u(x).

    Parameters
    ----------
    images : (N, K, H, W) tensor
    displacement : (N, 2, h, w) tensor, mm
        Interpolated to the grid of the images where it is coarser.
    side_mm : float

    Returns
    -------
    (N, K, H, W) tensor
        Bilinear; the value of the nearest border pixel beyond the image.
    """
    from torch.nn import functional

    size = (images.shape[2], images.shape[3])
    if displacement.shape[2:] != size:
        displacement = functional.interpolate(displacement, size=size, mode="bilinear", align_corners=False)
    # Columns before rows, as grid_sample takes them; the two planes are views of its last axis.
    moved = _centres(size, displacement.dtype, displacement.device) + displacement.flip(1) * (2 / side_mm)
    return functional.grid_sample(
        images, moved.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=False
    )


@cache
def _centres(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Column and row (2, h, w) of the cells of a grid, −1 … 1 from border to border; the same object every time."""
    import torch

    # Kept for whoever comes next, who may want gradients of what is added to it.
    with torch.inference_mode(False):
        axes = [(2 * torch.arange(length, dtype=dtype, device=device) + 1) / length - 1 for length in size]
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        return torch.stack([columns, rows])


def compose(first: torch.Tensor, second: torch.Tensor, side_mm: float) -> torch.Tensor:
    """Field of moving along ``first`` and then along ``second``: u(x) = first(x) + second(x + first(x))."""
    return first + warp(second, first, side_mm)


def integrate(velocity: torch.Tensor, side_mm: float, steps: int = INTEGRATION_STEPS) -> torch.Tensor:
    """Displacement after unit time of a stationary velocity field, by scaling and squaring.

    The integral of the negative velocity is the inverse (Arsigny et al., MICCAI 2006; Dalca et al., Med Image Anal
    2019;57:226).
    """
    displacement = velocity / 2**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement, side_mm)
    return displacement


def jacobian(displacement: NDArray[np.floating], side_mm: float) -> NDArray[np.float64]:
    """Determinant of the deformation gradient det(I + ∇u); not positive where the field folds.

    Parameters
    ----------
    displacement : (…, 2, h, w) array, mm

    Returns
    -------
    (…, h, w) float64
        By central differences, one-sided at the border.
    """
    field = np.asarray(displacement, dtype=np.float64)
    step_row, step_column = side_mm / field.shape[-2], side_mm / field.shape[-1]
    rows_down, rows_across = np.gradient(field[..., 0, :, :], step_row, step_column, axis=(-2, -1))
    columns_down, columns_across = np.gradient(field[..., 1, :, :], step_row, step_column, axis=(-2, -1))
    return np.asarray((1 + rows_down) * (1 + columns_across) - rows_across * columns_down)


def displace_points(
    points: NDArray[np.float64], displacement: NDArray[np.floating], side_mm: float
) -> NDArray[np.float64]:
    """Positions of points after their displacement.

    Parameters
    ----------
    points : (N, 2) float64
        Row and column, mm from the centre of the square.
    displacement : (…, 2, h, w) array, mm
        Any number of fields.

    Returns
    -------
    (…, N, 2) float64
        Bilinear in the field; points beyond its outermost samples take the nearest value.
    """
    height, width = displacement.shape[-2:]
    row = np.clip((points[:, 0] / side_mm + 0.5) * height - 0.5, 0, height - 1)
    column = np.clip((points[:, 1] / side_mm + 0.5) * width - 0.5, 0, width - 1)
    top = np.minimum(row.astype(np.intp), height - 2)
    left = np.minimum(column.astype(np.intp), width - 2)
    down, right = row - top, column - left
    value = (
        displacement[..., top, left] * ((1 - down) * (1 - right))
        + displacement[..., top + 1, left] * (down * (1 - right))
        + displacement[..., top, left + 1] * ((1 - down) * right)
        + displacement[..., top + 1, left + 1] * (down * right)
    )
    return np.asarray(points + np.moveaxis(value, -2, -1), dtype=np.float64)
