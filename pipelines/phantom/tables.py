"""Material tables of the left ventricle: levels along the long axis × angles around it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

__all__ = ["ANGLES", "STEP_MM", "angle_grid", "angular_distance", "smooth_table"]

Array = NDArray[np.float64]

ANGLES = 120
"""Angular samples of the tables (3° apart)."""
STEP_MM = 1.0
"""Distance of the levels, mm."""


def angle_grid() -> Array:
    """Material angles of the tables, rad, shape (ANGLES,)."""
    return np.arange(ANGLES, dtype=np.float64) * (2 * math.pi / ANGLES)


def smooth_table(table: Array, length_mm: float, angle_deg: float) -> Array:
    """Gaussian smoothing of a (levels, angles) table, periodic in angle; sigmas in mm and degrees."""
    sigma = (length_mm / STEP_MM, angle_deg / 360 * ANGLES)
    return gaussian_filter(table, sigma, mode=("nearest", "wrap"))


def angular_distance(angle: Array, centre_deg: float) -> Array:
    """Signed angle from a centre, degrees, −180 … 180."""
    return np.mod(np.degrees(angle) - centre_deg + 180, 360) - 180
