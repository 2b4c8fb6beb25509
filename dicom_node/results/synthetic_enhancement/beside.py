"""Acquired late enhancement of the same study on the pixels of the cine, to be looked at beside what was predicted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from pipelines.cine.stack import CineStack, CineStudy, LateEnhancementStack, Reconstruction, View

__all__ = ["acquired_short_axis", "on_slice"]

_FARTHEST_OF_PITCH = 0.5
"""Distance of an acquired slice that is still shown for a cine slice, as part of the pitch of the cine."""


def acquired_short_axis(study: CineStudy) -> LateEnhancementStack | None:
    """The short-axis late enhancement with the most slices, phase sensitive before magnitude."""
    candidates = [stack for stack in study.late_enhancement if stack.view is View.SAX]
    return max(
        candidates,
        key=lambda stack: (stack.slices, stack.reconstruction is Reconstruction.PHASE_SENSITIVE),
        default=None,
    )


def on_slice(late: LateEnhancementStack, cine: CineStack, index: int) -> NDArray[np.float32] | None:
    """The acquired slice nearest to a cine slice, on its pixels, by the positions that the scanner gave.

    No motion between the two breath-holds is corrected.

    Parameters
    ----------
    index
        Slice of the cine.

    Returns
    -------
    (R, C) float32 or None
        NaN outside the acquired image; ``None`` where no slice is near enough.
    """
    if late.frame_of_reference_uid != cine.frame_of_reference_uid:
        return None
    here = cine.geometry
    rows, columns = cine.pixels.shape[2:]
    row, column = np.mgrid[:rows, :columns].astype(np.float64)
    points = here.to_patient(float(index), row, column)
    centre = here.to_patient(float(index), (rows - 1) / 2, (columns - 1) / 2)
    away = np.abs((late.geometry.positions - centre) @ late.geometry.normal)
    nearest = int(np.argmin(away))
    if away[nearest] > _FARTHEST_OF_PITCH * here.pitch:
        return None
    there = late.geometry
    offset = points - there.positions[nearest]
    coordinates = [
        offset @ there.column_direction / there.pixel_spacing[0],
        offset @ there.row_direction / there.pixel_spacing[1],
    ]
    return np.asarray(map_coordinates(late.pixels[nearest], coordinates, order=1, cval=np.nan), dtype=np.float32)
