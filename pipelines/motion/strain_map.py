"""Circumferential strain of every pixel of the wall at end systole, from the registration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import StackGeometry
from pipelines.motion.wall import wall_ring
from pipelines.segmentation.grid import Square
from pipelines.segmentation.labels import Label

__all__ = ["circumferential_strain_map"]


def circumferential_strain_map(
    labels: NDArray[np.uint8],
    displacement: NDArray[np.floating],
    geometry: StackGeometry,
    square: Square,
    slices: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Strain along the circle about the centre of the cavity, on the image of the reference phase.

    Engineering strain of a short piece of muscle in that direction, |F c| − 1 with the deformation gradient F = I + ∇u
    and the unit vector c. It is the strain of what the slice shows: muscle that moves through the plane is not
    followed, unlike in the global and the segmental numbers.

    Parameters
    ----------
    labels : (S, R, C) uint8
        Of the reference phase; papillary muscles in the cavity.
    displacement : (S, 2, h, w) array
        From the reference phase to the other one, mm, rows and then columns.
    geometry : StackGeometry
    square : Square
        Where the fields lie on the images.
    slices : (S,) bool
        Slices that show the whole wall.

    Returns
    -------
    (S, R, C) float32
        %, negative where muscle shortens; 0 outside the wall and on the other slices.
    """
    spacing = geometry.pixel_spacing
    strain = np.zeros(labels.shape, dtype=np.float32)
    for index in np.flatnonzero(slices):
        ring = wall_ring(labels[index], spacing)
        if ring is None:
            continue
        pixels = np.argwhere(labels[index] == Label.MYO)
        place = pixels * np.array(spacing)
        away = place - ring.centre
        around = np.stack([-away[:, 1], away[:, 0]], axis=-1)
        around /= np.maximum(np.linalg.norm(around, axis=-1, keepdims=True), 1e-6)
        gradient = _gradient_at(
            place - np.array([square.row_mm, square.column_mm]), np.asarray(displacement[index], np.float64), square
        )
        stretched = around + np.einsum("nij,nj->ni", gradient, around)
        strain[index][tuple(pixels.T)] = 100 * (np.linalg.norm(stretched, axis=-1) - 1)
    return strain


def _gradient_at(points: NDArray[np.float64], field: NDArray[np.float64], square: Square) -> NDArray[np.float64]:
    """Gradient ∂u_i/∂x_j (N, 2, 2) of a field (2, h, w) at points (N, 2), mm from the centre of the square."""
    from scipy import ndimage

    shape = np.array(field.shape[1:])
    steps = square.field_mm / shape
    along = np.stack([np.stack(np.gradient(part, *steps)) for part in field])
    where = ((points / square.field_mm + 0.5) * shape - 0.5).T
    sampled = [[ndimage.map_coordinates(one, where, order=1, mode="nearest") for one in row] for row in along]
    return np.moveaxis(np.array(sampled), -1, 0)
