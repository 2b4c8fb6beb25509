"""Motion-normalised clips: a slice of cine as 30 frames of one cardiac cycle, end diastole first.

Time is stretched piecewise linearly so that end systole falls on the same frame in every heart, whatever its rate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import StackGeometry
from pipelines.motion.crop import centre_of_ventricle, sample_cine, square_at
from pipelines.obstruction.network import FRAMES, SIZE
from pipelines.segmentation.grid import Square
from pipelines.segmentation.labels import Label

__all__ = [
    "END_SYSTOLE_FRAME",
    "SPACING_MM",
    "WIDE",
    "clips_of_stack",
    "images_around_ventricle",
    "in_time",
    "normalised_phases",
    "slices_with_muscle",
]

SPACING_MM = 1.75
"""64 pixels are 112 mm, wider than the epicardium of a dilated left ventricle."""
WIDE = 88
"""Pixels of a side that grey values are scaled over; training crops from it."""
END_SYSTOLE_FRAME = 11


def normalised_phases(end_diastole: float, end_systole: float, phases: int) -> NDArray[np.float64]:
    """Phase of the cine, fractional, that each of the 30 frames shows, (30,).

    Parameters
    ----------
    end_diastole, end_systole : float
        Phases of the cine, 0 … ``phases``.
    phases : int
        Phases of one cycle; equally spaced.

    Raises
    ------
    ValueError
        Both are the same phase.
    """
    systole = (end_systole - end_diastole) % phases
    if systole == 0:
        raise ValueError("end diastole and end systole are the same phase")
    frame = np.arange(FRAMES, dtype=np.float64)
    early = frame / END_SYSTOLE_FRAME * systole
    late = systole + (frame - END_SYSTOLE_FRAME) / (FRAMES - END_SYSTOLE_FRAME) * (phases - systole)
    return np.asarray((end_diastole + np.where(frame < END_SYSTOLE_FRAME, early, late)) % phases, np.float64)


def in_time(images: NDArray[np.float32], at: NDArray[np.float64]) -> NDArray[np.float32]:
    """Images (T, …) at fractional phases (N,), interpolated linearly around the cycle, (N, …)."""
    phases = len(images)
    before = np.floor(at).astype(np.int64)
    share = (at - before).astype(np.float32).reshape(-1, *(1,) * (images.ndim - 1))
    return np.asarray((1 - share) * images[before % phases] + share * images[(before + 1) % phases], np.float32)


def slices_with_muscle(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Slices of labels (S, R, C) of end diastole that show muscle."""
    return np.flatnonzero((labels == Label.MYO).any(axis=(1, 2)))


def images_around_ventricle(
    pixels: NDArray[np.float32], labels: NDArray[np.uint8], geometry: StackGeometry, end_diastole: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], Square]:
    """Images of the slices of a stack that show muscle at end diastole.

    Parameters
    ----------
    pixels : (T, S, R, C) float32
    labels : (T, S, R, C) uint8
        Values of :class:`Label`.
    geometry : StackGeometry
    end_diastole : int

    Returns
    -------
    images : (T, N, 88, 88) float32
        Grey values 0 … 1.25.
    slices : (N,) int64
        Indices of the slices.
    square : Square
        Where the inner 64 × 64 pixels lie.

    Raises
    ------
    ValueError
        There is no left ventricle.
    """
    centre = centre_of_ventricle(labels, geometry)
    slices = slices_with_muscle(labels[end_diastole])
    if centre is None or not slices.size:
        raise ValueError("the labels show no left ventricle")
    middle = square_at(centre, geometry)
    wide = Square(middle.row_mm, middle.column_mm, WIDE * SPACING_MM)
    images = sample_cine(np.ascontiguousarray(pixels[:, slices]), geometry.pixel_spacing, wide, WIDE).numpy()
    return images, slices, Square(middle.row_mm, middle.column_mm, SIZE * SPACING_MM)


def clips_of_stack(
    pixels: NDArray[np.float32],
    labels: NDArray[np.uint8],
    geometry: StackGeometry,
    end_diastole: int,
    end_systole: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64], Square]:
    """Clips (N, 30, 64, 64) of the slices that show muscle, grey values 0 … 1.25, their indices and their square.

    Parameters
    ----------
    pixels, labels, geometry, end_diastole
        See :func:`images_around_ventricle`.
    end_systole : int

    Raises
    ------
    ValueError
        There is no left ventricle, or both moments are the same.
    """
    images, slices, square = images_around_ventricle(pixels, labels, geometry, end_diastole)
    margin = (WIDE - SIZE) // 2
    inner = images[:, :, margin : margin + SIZE, margin : margin + SIZE]
    clips = in_time(inner, normalised_phases(end_diastole, end_systole, len(images))).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(clips), slices, square
