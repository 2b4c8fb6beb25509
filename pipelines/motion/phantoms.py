"""Phantoms that motion is measured on, and where points of their walls are seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import StackGeometry
from pipelines.phantom.recipe import Dialect, Disease, Fault, PhantomRecipe
from pipelines.phantom.truth import PhantomTruth
from pipelines.segmentation.grid import Square

__all__ = ["measured_recipe", "seen_points"]

_NEAR_MM = 4.0
"""Points this close to a long-axis plane at end diastole are taken to lie in it."""


_FAULTS = (Fault.MISTRIGGER, Fault.BREATHING, Fault.GHOSTING, Fault.ARRHYTHMIA, Fault.LOW_SNR)
"""Faults of the images. Missing slices, wrong view and poor coverage are faults of planning, for quality control."""


def measured_recipe(seed: int, *, faults: bool) -> PhantomRecipe:
    """Recipe of number ``seed`` of the phantoms that figures are reported on: all diseases and vendors in turn."""
    rng = np.random.default_rng([seed, 0x4D5452])
    vendors = tuple(Dialect)
    return PhantomRecipe(
        seed=seed,
        disease=tuple(Disease)[seed % len(Disease)],
        dialect=vendors[int(rng.integers(len(vendors)))],
        slices=int(rng.integers(8, 11)),
        phases=int(rng.integers(20, 31)),
        rows=176,
        columns=192,
        faults=frozenset({_FAULTS[int(rng.integers(len(_FAULTS)))]}) if faults and rng.random() < 0.6 else frozenset(),
    )


def seen_points(
    truth: PhantomTruth, geometry: StackGeometry, index: int, square: Square, *, through: bool
) -> NDArray[np.float64]:
    """Where points of the wall are seen on one slice over the cycle, (T, N, 2), mm from the centre of the square.

    Parameters
    ----------
    truth : PhantomTruth
    geometry : StackGeometry
    index : int
        Slice.
    square : Square
        Its centre is the origin.
    through : bool
        The muscle moves through the plane (short axis): a point is one of a line of muscle of one angle and depth,
        seen where the line crosses the plane at each phase. Otherwise points near the plane at end diastole, projected.
    """
    lines = truth.point_position.reshape(len(truth.point_position), *_material_shape(truth), 3).astype(np.float64)
    relative = lines - geometry.positions[index]
    height = relative @ geometry.normal
    place = np.stack([relative @ geometry.column_direction, relative @ geometry.row_direction], axis=-1)
    place = place - np.array([square.row_mm, square.column_mm])
    if not through:
        near = np.flatnonzero(np.abs(height[0]).ravel() < _NEAR_MM)
        return np.asarray(place.reshape(len(place), -1, 2)[:, near])
    below, above = height[:, :, :-1], height[:, :, 1:]
    crosses = (below <= 0) != (above <= 0)
    first = crosses.argmax(axis=2)[:, :, None]
    low, high = (np.take_along_axis(part, first, axis=2) for part in (below, above))
    share = (low / np.where(low == high, 1.0, low - high))[..., None]
    start = np.take_along_axis(place[:, :, :-1], first[..., None], axis=2)
    end = np.take_along_axis(place[:, :, 1:], first[..., None], axis=2)
    seen = (start + share * (end - start))[:, :, 0]
    seen[~crosses.any(axis=2)] = np.nan
    return np.asarray(seen.reshape(len(seen), -1, 2))


def _material_shape(truth: PhantomTruth) -> tuple[int, int, int]:
    """Depths, levels and angles of the grid of material points."""
    depths, angles = (len(np.unique(truth.point_material[:, axis].round(6))) for axis in (0, 1))
    return depths, len(truth.point_material) // (depths * angles), angles
