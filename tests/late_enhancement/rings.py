"""Ventricles drawn as rings, whose enhancement is known in closed form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import LateEnhancementStack, StackGeometry
from pipelines.late_enhancement.labels import Tissue
from pipelines.training.emidec import nominal_stack

SIZE = 120
CENTRE = (60.0, 58.0)
INNER, OUTER = 24.0, 36.0


def polar() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Radius and angle (row direction toward column direction) of every pixel, in pixels and radians."""
    rows, columns = np.indices((SIZE, SIZE), dtype=np.float64)
    return np.hypot(rows - CENTRE[0], columns - CENTRE[1]), np.arctan2(rows - CENTRE[0], columns - CENTRE[1])


def ring(sector_deg: tuple[float, float] | None = None, depth: float = 1.0, core: bool = False) -> NDArray[np.uint8]:
    """Labels of one slice; the sector enhances from the endocardium up to a part of the wall.

    ``core`` makes the middle of the sector, at mid-wall, an obstruction.
    """
    radius, angle = polar()
    labels = np.zeros((SIZE, SIZE), dtype=np.uint8)
    labels[radius < OUTER] = Tissue.MYO
    labels[radius < INNER] = Tissue.LV
    if sector_deg is not None:
        first, last = np.deg2rad(sector_deg)
        inside = (labels == Tissue.MYO) & (angle >= first) & (angle < last)
        labels[inside & (radius < INNER + depth * (OUTER - INNER))] = Tissue.INFARCT
        if core:
            middle, quarter = (first + last) / 2, (last - first) / 4
            middle_wall = np.abs(radius - (INNER + OUTER) / 2) < 2.0
            labels[inside & middle_wall & (np.abs(angle - middle) < quarter)] = Tissue.OBSTRUCTION
    return labels


def painted(
    labels: NDArray[np.uint8], grey: dict[Tissue, float], noise: float = 0.0, seed: int = 0
) -> NDArray[np.float32]:
    """An image with one grey value a label."""
    image = np.zeros(labels.shape, dtype=np.float64)
    for tissue, value in grey.items():
        image[labels == tissue] = value
    return (image + noise * np.random.default_rng(seed).standard_normal(labels.shape)).astype(np.float32)


GREY = {Tissue.LV: 180.0, Tissue.MYO: 20.0, Tissue.INFARCT: 220.0, Tissue.OBSTRUCTION: 15.0}


def stack_of(pixels: NDArray[np.float32], spacing: float = 1.5, pitch: float = 10.0) -> LateEnhancementStack:
    """Axial slices of equal pitch."""
    positions = np.zeros((pixels.shape[0], 3))
    positions[:, 2] = pitch * np.arange(pixels.shape[0])
    geometry = StackGeometry(positions, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), (spacing, spacing), 8.0)
    return nominal_stack(pixels, geometry, "2.25.1")
