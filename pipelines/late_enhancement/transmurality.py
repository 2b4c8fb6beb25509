"""How deep enhancement reaches into the wall, by direction from the centre of the ventricle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.late_enhancement.labels import WALL

__all__ = ["RAYS", "depth_by_direction", "mean_depth"]

RAYS = 180
_STEP_PX = 0.25


def depth_by_direction(
    enhanced: NDArray[np.bool_], labels: NDArray[np.uint8], spacing: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Enhanced part of the wall along 180 rays of one slice.

    Parameters
    ----------
    enhanced : (R, C) bool
    labels : (R, C) uint8
        Values of :class:`~pipelines.late_enhancement.labels.Tissue`.
    spacing : (float, float)
        Distance between rows and between columns, mm.

    Returns
    -------
    angles : (180,) float64
        Radians, from the row direction toward the column direction of the image.
    share : (180,) float64
        0 … 1; NaN where the ray meets no wall.

    ``None`` where the slice shows no wall.
    """
    wall = np.isin(labels, WALL)
    if not wall.any():
        return None
    centre = np.array(ndimage.center_of_mass(labels > 0)) * spacing
    reach = float(np.hypot(*(np.array(labels.shape) * spacing)))
    radii = np.arange(0.0, reach, _STEP_PX * min(spacing))
    angles = np.arange(RAYS, dtype=np.float64) * (2 * np.pi / RAYS)
    rows = np.rint((centre[0] + radii[:, None] * np.sin(angles)) / spacing[0]).astype(int)
    columns = np.rint((centre[1] + radii[:, None] * np.cos(angles)) / spacing[1]).astype(int)
    inside = (rows >= 0) & (rows < wall.shape[0]) & (columns >= 0) & (columns < wall.shape[1])
    rows, columns = np.where(inside, rows, 0), np.where(inside, columns, 0)
    thickness = (wall[rows, columns] & inside).sum(axis=0)
    deep = (wall[rows, columns] & enhanced[rows, columns] & inside).sum(axis=0)
    share = np.where(thickness > 0, deep / np.maximum(thickness, 1), np.nan)
    return angles, np.asarray(share, dtype=np.float64)


def mean_depth(share: NDArray[np.float64]) -> float:
    """Mean depth, % of the wall, over the directions that enhance; 0 where none does."""
    deep = share[np.nan_to_num(share) > 0]
    return 100 * float(deep.mean()) if deep.size else 0.0
