"""The five keyframes as one volume of fixed size around the left ventricle: what the image branch is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.motion.crop import centre_of_ventricle, sample_cine, sample_labels, square_at
from pipelines.motion.findings import Keyframe
from pipelines.segmentation.grid import Square, sample_image
from pipelines.segmentation.labels import Label

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEPTH",
    "KEYFRAMES",
    "SIZE",
    "SPACING_MM",
    "WIDE",
    "KeyframeVolume",
    "keyframe_volume",
    "on_stack",
    "to_depth",
    "ventricle_of",
]

SIZE = 64
SPACING_MM = 1.75
WIDE = 88
"""Pixels of the square whose grey values set the window, and that training turns and shifts before it crops."""
DEPTH = 8
KEYFRAMES = tuple(Keyframe)
"""The order of the channels."""


@dataclass(frozen=True, slots=True, eq=False)
class KeyframeVolume:
    """The keyframes of one stack.

    Attributes
    ----------
    images : (5, D, size, size) float32
        Grey values 0 … 1.25, apex first.
    ventricle : (5, D, size, size) bool
        Cavity and muscle of the left ventricle.
    square : Square
        Where it lies in the plane of the stack.
    slices : (S',) int
        Slices that showed muscle at end diastole, which D was interpolated from, apex first.
    phases : dict of Keyframe to int
    """

    images: NDArray[np.float32]
    ventricle: NDArray[np.bool_]
    square: Square
    slices: NDArray[np.intp]
    phases: dict[Keyframe, int]


def keyframe_volume(
    stack: CineStack,
    labels: NDArray[np.uint8],
    phases: Mapping[Keyframe, int],
    *,
    base_first: bool,
    size: int = SIZE,
) -> KeyframeVolume | None:
    """Sample the keyframes on a square of ``size`` pixels around the left ventricle, slices interpolated to a depth.

    Parameters
    ----------
    stack : CineStack
    labels : (T, S, R, C) uint8
        Segmentation of the stack: tells where the left ventricle is, and which slices show its muscle.
    phases : mapping of Keyframe to int
        0-based.
    base_first : bool
        Whether slice 0 is at the basal end.
    size : int
        At most 88.

    Returns
    -------
    KeyframeVolume or None
        ``None`` where no slice shows muscle at end diastole.
    """
    centre = centre_of_ventricle(labels, stack.geometry)
    shows = np.flatnonzero((labels[phases[Keyframe.END_DIASTOLE]] == Label.MYO).any(axis=(1, 2)))
    if centre is None or not shows.size:
        return None
    if base_first:
        shows = shows[::-1]
    place = square_at(centre, stack.geometry)
    wide = Square(place.row_mm, place.column_mm, WIDE * SPACING_MM)
    # The grey values of the wide square over the whole cine set the window, as in training.
    sampled = sample_cine(stack.pixels[:, shows], stack.geometry.pixel_spacing, wide, WIDE).numpy()
    chosen = [phases[name] for name in KEYFRAMES]
    margin = (WIDE - size) // 2
    cropped = sampled[chosen][..., margin : margin + size, margin : margin + size]
    square = Square(place.row_mm, place.column_mm, size * SPACING_MM)
    seen = sample_labels(labels[chosen][:, shows], stack.geometry.pixel_spacing, square, size, max(Label))
    return KeyframeVolume(
        to_depth(cropped), ventricle_of(seen), square, shows, dict(zip(KEYFRAMES, chosen, strict=True))
    )


def ventricle_of(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Cavity and muscle of the left ventricle of slices (…, S, n, n), at the levels of :func:`to_depth`."""
    inside = (labels == Label.LV) | (labels == Label.MYO)
    return np.asarray(to_depth(inside.astype(np.float32)) >= 0.5)


def to_depth(images: NDArray[np.float32], depth: int = DEPTH) -> NDArray[np.float32]:
    """Slices (…, S, n, n) interpolated linearly to ``depth`` levels between the first and the last, (…, D, n, n)."""
    places = np.linspace(0, images.shape[-3] - 1, depth)
    low = np.floor(places).astype(np.intp)
    high = np.minimum(low + 1, images.shape[-3] - 1)
    share = (places - low).astype(np.float32)[:, None, None]
    return np.asarray(images[..., low, :, :] * (1 - share) + images[..., high, :, :] * share)


def on_stack(values: torch.Tensor, volume: KeyframeVolume, stack: CineStack) -> NDArray[np.float32]:
    """Bring values of one keyframe, (D, n, n), back to the slices and pixels of the stack, (S, R, C); 0 outside."""
    import torch

    rows, columns = stack.pixels.shape[2:]
    places = np.linspace(0, values.shape[0] - 1, len(volume.slices))
    low = np.floor(places).astype(np.intp)
    high = np.minimum(low + 1, values.shape[0] - 1)
    share = torch.from_numpy((places - low).astype(np.float32))[:, None, None]
    of_slices = values[low] * (1 - share) + values[high] * share
    spacing, square = stack.geometry.pixel_spacing, volume.square
    extents = []
    for centre, pixel, length in ((square.row_mm, spacing[0], rows), (square.column_mm, spacing[1], columns)):
        first = int(np.clip(np.ceil((centre - square.field_mm / 2) / pixel), 0, length))
        extents.append((first, int(np.clip(np.floor((centre + square.field_mm / 2) / pixel) + 1, first, length))))
    there = sample_image(of_slices[:, None], spacing, square, *extents)[:, 0]
    result = np.zeros((stack.slices, rows, columns), np.float32)
    result[volume.slices, extents[0][0] : extents[0][1], extents[1][0] : extents[1][1]] = there.numpy()
    return result
