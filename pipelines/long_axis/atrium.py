"""Volume and strain of the left atrium from segmented long-axis views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import View
from pipelines.long_axis.annulus import smooth_cycle
from pipelines.long_axis.findings import AtrialFunction, LongAxisLabel, LongAxisView, Valve
from pipelines.long_axis.outline import wall_length_mm

__all__ = ["atrial_function"]

_FEWEST_PIXELS = 30
_LARGEST_EMPTYING = 0.8
"""An atrium that empties by more was not followed: healthy ones empty by 50 to 70 %."""
_BOOSTER_FROM = 0.75
"""Atrial contraction begins after this share of the cycle at the earliest."""


def atrial_function(views: Sequence[LongAxisView]) -> AtrialFunction | None:
    """Measure the left atrium on 2CH and 4CH, or on the one of them that there is.

    Volume is by area and length: 8 A₁ A₂ ÷ (3 π L) with both views, 8 A² ÷ (3 π L) with one; L is the distance from the
    middle of the annulus to the roof, the mean over the views (methods as in the UK Biobank's code).

    Parameters
    ----------
    views : sequence of LongAxisView

    Returns
    -------
    AtrialFunction or None
        ``None`` where neither view shows atrium and annulus in every phase, or the contours change beyond belief.
    """
    usable = [view for view in _one_each(views) if _measurable(view)]
    if not usable:
        return None
    phases = max(view.stack.phases for view in usable)
    areas: list[NDArray[np.float64]] = []
    lengths: list[NDArray[np.float64]] = []
    walls: list[NDArray[np.float64]] = []
    for view in usable:
        area, length, wall = _of_view(view)
        cyclic = view.stack.retrospective
        for values, into in ((area, areas), (length, lengths), (wall, walls)):
            into.append(smooth_cycle(view.in_step(values, phases), cyclic=cyclic))
    length = np.mean(lengths, axis=0)
    product = areas[0] * areas[-1]
    volume = 8 * product / (3 * np.pi * np.maximum(length, 1.0)) / 1000.0
    if volume.min() < (1 - _LARGEST_EMPTYING) * volume.max():
        return None
    wall = np.sum(walls, axis=0)
    strain = 100 * (wall / wall.min() - 1)
    reservoir = float(strain.max())
    booster = _booster(strain)
    return AtrialFunction(
        volume_ml=volume,
        strain_percent=strain,
        maximum_ml=float(volume.max()),
        minimum_ml=float(volume.min()),
        reservoir_percent=reservoir,
        conduit_percent=reservoir - booster,
        booster_percent=booster,
        views=tuple(view.view for view in usable),
    )


def _one_each(views: Sequence[LongAxisView]) -> list[LongAxisView]:
    """The 2CH and the 4CH view in which the ensemble agrees most."""
    chosen = []
    for kind in (View.LAX_2CH, View.LAX_4CH):
        of_kind = [view for view in views if view.view is kind]
        if of_kind:
            chosen.append(max(of_kind, key=lambda view: float(view.agreement.mean())))
    return chosen


def _measurable(view: LongAxisView) -> bool:
    pixels = (view.labels == LongAxisLabel.LA).sum(axis=(1, 2))
    return Valve.MITRAL in view.annuli and bool((pixels >= _FEWEST_PIXELS).all())


def _of_view(view: LongAxisView) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Area (mm²), length from annulus to roof (mm) and length of the wall (mm) of each phase, (T,)."""
    geometry = view.stack.geometry
    pixel_mm2 = geometry.pixel_spacing[0] * geometry.pixel_spacing[1]
    areas: list[float] = []
    lengths: list[float] = []
    walls: list[float] = []
    for labels, annulus in zip(view.labels, view.annuli[Valve.MITRAL], strict=True):
        atrium = labels == LongAxisLabel.LA
        areas.append(atrium.sum() * pixel_mm2)
        rows, columns = np.nonzero(atrium)
        places = geometry.to_patient(0.0, rows.astype(np.float64), columns.astype(np.float64))
        distance = np.linalg.norm(places - annulus.mean(axis=0), axis=1)
        lengths.append(float(np.percentile(distance, 98)))
        walls.append(wall_length_mm(atrium, geometry, annulus))
    return np.array(areas), np.array(lengths), np.array(walls)


def _booster(strain: NDArray[np.float64]) -> float:
    """Strain just before atrial contraction: the last level reached before the final fall to end diastole."""
    phases = len(strain)
    late = np.arange(int(np.ceil(_BOOSTER_FROM * phases)), phases)
    if late.size < 2:
        return 0.0
    fall = np.diff(np.r_[strain[late], strain[0]])
    steepest = int(np.argmin(fall))
    before = steepest
    while before > 0 and fall[before - 1] < 0.35 * fall[steepest]:
        before -= 1
    return float(max(strain[late[before]], 0.0))
