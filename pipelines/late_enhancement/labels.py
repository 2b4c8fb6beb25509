"""The labels of acquired late enhancement."""

from __future__ import annotations

import enum

__all__ = ["WALL", "Tissue"]


class Tissue(enum.IntEnum):
    """Voxel labels of a late-enhancement image."""

    BACKGROUND = 0
    LV = 1
    """LV cavity with its papillary muscles."""
    MYO = 2
    """Left ventricular muscle that does not enhance."""
    INFARCT = 3
    OBSTRUCTION = 4
    """Microvascular obstruction: a dark core inside the infarct."""


WALL = (Tissue.MYO, Tissue.INFARCT, Tissue.OBSTRUCTION)
"""All that is left ventricular wall."""
