"""The wall of each slice as two radii by direction: its motion is measured on them, and a training can disturb them.

A slice is a square image; a place in it is (row, column) in pixels from its centre. Directions run from the row
direction toward the column direction, as in :mod:`pipelines.motion.wall`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.segmentation.labels import Label

if TYPE_CHECKING:
    import torch

__all__ = ["ANGLES", "WallRadii", "directions", "paint", "polar_coordinates", "wall_radii"]

ANGLES = 64
"""Directions around the ventricle."""
_STEP_PX = 0.5
_REACH_PX = 40.0


@dataclass(frozen=True, slots=True, eq=False)
class WallRadii:
    """Endocardium and epicardium of N slices; pixels.

    Attributes
    ----------
    centre : (N, 2) float32
        Centre of the left ventricle with its wall, row and column from the centre of the image.
    inner, outer : (N, ANGLES) float32
        Radius of the cavity and of the ventricle with its wall; equal where there is no muscle, 0 where there is
        nothing.
    """

    centre: NDArray[np.float32]
    inner: NDArray[np.float32]
    outer: NDArray[np.float32]


def directions() -> NDArray[np.float32]:
    """Unit vectors (ANGLES, 2) along rows and columns."""
    angles = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def wall_radii(labels: NDArray[np.uint8]) -> WallRadii:
    """Radii of the wall of slices (N, n, n), values of :class:`Label`, papillary muscles in the cavity.

    Each radius is the length of the ray from the centre that lies in the cavity, or in cavity and wall: sub-pixel,
    because the masks are interpolated along the ray.
    """
    import torch
    from torch.nn import functional

    count, size = labels.shape[0], labels.shape[-1]
    cavity = torch.from_numpy(labels == Label.LV).float()
    heart = cavity + torch.from_numpy(labels == Label.MYO).float()
    place = torch.arange(size) - (size - 1) / 2
    area = heart.sum((1, 2)).clamp(min=1)
    centre = torch.stack([(heart.sum(2) @ place) / area, (heart.sum(1) @ place) / area], dim=-1)
    along = torch.arange(_STEP_PX / 2, _REACH_PX, _STEP_PX)
    rays = torch.from_numpy(directions())[:, None] * along[:, None]
    points = centre[:, None, None] + rays
    grid = (points.flip(-1) * (2 / size)).reshape(count, ANGLES, len(along), 2)
    sampled = functional.grid_sample(torch.stack([cavity, heart], 1), grid, align_corners=False)
    inner, outer = (sampled[:, channel].sum(-1) * _STEP_PX for channel in (0, 1))
    return WallRadii(centre.numpy(), inner.numpy(), torch.maximum(outer, inner).numpy())


def polar_coordinates(centre: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Radius, pixels, and direction in units of ``ANGLES`` bins, of every pixel around centres (N, 2).

    Returns
    -------
    radius, position : (N, size, size) tensor
    """
    import torch

    place = torch.arange(size, dtype=centre.dtype) - (size - 1) / 2
    rows = place[None, :, None] - centre[:, 0, None, None]
    columns = place[None, None, :] - centre[:, 1, None, None]
    radius = (rows.square() + columns.square()).sqrt()
    position = torch.atan2(columns.expand_as(radius), rows.expand_as(radius)) * (ANGLES / (2 * np.pi))
    return radius, position % ANGLES


def paint(values: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Spread values by direction (N, K, ANGLES) over the plane: (N, K, size, size), interpolated between directions."""
    import torch

    lower = position.floor()
    share = (position - lower)[:, None]
    first = lower.long() % ANGLES
    flat = first.flatten(1)[:, None].expand(-1, values.shape[1], -1)
    low = torch.gather(values, 2, flat)
    high = torch.gather(values, 2, (flat + 1) % ANGLES)
    shape = (*values.shape[:2], *position.shape[1:])
    return low.view(shape) * (1 - share) + high.view(shape) * share
