"""Acquired late enhancement on the grid of the cine, for comparison with what was predicted there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, LateEnhancementStack
from pipelines.late_enhancement.alignment import on_cine_slice
from pipelines.late_enhancement.findings import AcquiredSegment, ExtentMethod, LateEnhancement
from pipelines.late_enhancement.labels import WALL

__all__ = ["AcquiredOnCine", "acquired_image", "acquired_on_cine"]


@dataclass(frozen=True, slots=True, eq=False)
class AcquiredOnCine:
    """Acquired late enhancement on the slices of the short-axis cine that it covers.

    Attributes
    ----------
    method : ExtentMethod
    phase : int
        0-based phase of the cine that it was laid onto (end diastole).
    slices : tuple of int
        Cine slices that a late-enhancement slice was laid onto, ascending.
    tissue : (S, R, C) uint8
        Values of :class:`~pipelines.late_enhancement.labels.Tissue` on the grid of the cine; 0 on other slices.
    enhanced : (S, R, C) bool
        Enhanced muscle by ``method``, obstruction included.
    percent_by_slice : dict of int to float
        Enhanced part of the acquired muscle, %, by cine slice.
    percent : float
        Of the acquired muscle on all late-enhancement slices.
    segments : tuple of AcquiredSegment
        AHA segments (network); empty where they could not be told.
    """

    method: ExtentMethod
    phase: int
    slices: tuple[int, ...]
    tissue: NDArray[np.uint8]
    enhanced: NDArray[np.bool_]
    percent_by_slice: dict[int, float]
    percent: float
    segments: tuple[AcquiredSegment, ...]


def acquired_on_cine(
    found: LateEnhancement, cine: CineStack, method: ExtentMethod = ExtentMethod.NETWORK
) -> AcquiredOnCine | None:
    """Bring acquired late enhancement onto the cine that it was aligned with.

    Parameters
    ----------
    found : LateEnhancement
    cine : CineStack
        The short-axis stack of the same study.
    method : ExtentMethod
        Which enhancement.

    Returns
    -------
    AcquiredOnCine or None
        ``None`` where the late enhancement could not be laid onto the cine.
    """
    alignment = found.alignment
    if alignment is None:
        return None
    shape = (int(cine.pixels.shape[2]), int(cine.pixels.shape[3]))
    tissue = np.zeros((cine.slices, *shape), dtype=np.uint8)
    enhanced = np.zeros(tissue.shape, dtype=bool)
    by_slice: dict[int, float] = {}
    extent = found.extent(method)
    for target, index in _nearest(found, cine).items():
        move = (found.geometry, index, cine.geometry, target, shape, alignment.shift_mm[index])
        tissue[target] = on_cine_slice(found.labels[index], *move)
        bright = on_cine_slice(found.enhanced[method][index].astype(np.uint8), *move)
        enhanced[target] = (bright > 0) & np.isin(tissue[target], WALL)
        by_slice[target] = extent.by_slice[index]
    return AcquiredOnCine(
        method=method,
        phase=alignment.phase,
        slices=tuple(sorted(by_slice)),
        tissue=tissue,
        enhanced=enhanced,
        percent_by_slice=by_slice,
        percent=extent.percent,
        segments=found.segments,
    )


def acquired_image(stack: LateEnhancementStack, found: LateEnhancement, cine: CineStack) -> NDArray[np.float32]:
    """Grey values of acquired late enhancement on the grid of the cine, (S, R, C); 0 on slices that it does not cover.

    Parameters
    ----------
    stack : LateEnhancementStack
        That ``found`` was measured on.
    found : LateEnhancement
    cine : CineStack
        The short-axis stack of the same study.
    """
    shape = (int(cine.pixels.shape[2]), int(cine.pixels.shape[3]))
    image = np.zeros((cine.slices, *shape), np.float32)
    if found.alignment is not None:
        for target, index in _nearest(found, cine).items():
            shift = found.alignment.shift_mm[index]
            move = (found.geometry, index, cine.geometry, target, shape, shift)
            image[target] = on_cine_slice(stack.pixels[index], *move, order=1)
    return image


def _nearest(found: LateEnhancement, cine: CineStack) -> dict[int, int]:
    """Late-enhancement slice for each cine slice that one was laid onto: the nearest of several."""
    chosen: dict[int, tuple[float, int]] = {}
    for index, target in enumerate(found.alignment.cine_slice if found.alignment is not None else ()):
        if target is None:
            continue
        away = cine.geometry.positions[target] - found.geometry.positions[index]
        distance = abs(float(away @ cine.geometry.normal))
        if target not in chosen or distance < chosen[target][0]:
            chosen[target] = (distance, index)
    return {target: index for target, (_, index) in chosen.items()}
