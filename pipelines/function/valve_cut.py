"""Short-axis measures of the LV cut at the mitral plane that the long axis shows.

The base moves through the basal slices: at end systole a slice that was ventricle at end diastole is atrium. Where the
annulus is seen on long-axis views, each voxel counts by the share of it that lies below the plane of the valve, and a
slice below the plane without a contour gets that of its neighbour.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.below_plane import complete_base
from pipelines.function.findings import Chamber
from pipelines.function.slices import SliceMeasures
from pipelines.long_axis.alignment import axial_shift_mm
from pipelines.long_axis.evidence import AcquisitionFit, LongAxisEvidence, biplane_volume_ml
from pipelines.long_axis.findings import LongAxisView, LongAxisViews, Valve
from pipelines.long_axis.valve_plane import ValvePlanes, share_below, valve_planes
from pipelines.segmentation.labels import Label

__all__ = ["cut_at_mitral_plane", "cut_by_views"]

_FARTHEST_MM = 25.0
"""A plane that lies farther than this from the base that the short axis shows is not believed."""

_WIDEST_MM = 15.0
"""Slices farther apart than this are not cut: what the plane takes or gives is a part of a slice that stands for more
than the contour at its middle tells. Of the one subject with such slices (17.7 mm) LVEF was 14 points too high."""

_SLICE_COUNTS = 0.05
"""A slice counts when at least this share of the largest cavity lies below the plane."""


def cut_at_mitral_plane(slices: SliceMeasures, stack: CineStack, plane: ValvePlanes) -> SliceMeasures:
    """Count each voxel of the LV and of its wall by the share of it that lies below the mitral plane.

    The RV stays as the short axis shows it: its outflow tract lies above the tricuspid plane and belongs to it. On ten
    phantoms a cut there lost 7 % of RVEDV that the short axis had right (``docs/motion.md``).

    Parameters
    ----------
    slices : SliceMeasures
        As the labels alone give them.
    plane : ValvePlanes
        The mitral plane at each phase.

    Returns
    -------
    SliceMeasures
        Areas are those below the plane; labels lose what lies mostly above, and slices below it without a cavity have
        the contour of their neighbour.
    """
    rows, columns = _window(slices.labels)
    pixel_mm2 = stack.geometry.pixel_spacing[0] * stack.geometry.pixel_spacing[1]
    labels = slices.labels.copy()
    share = share_below(stack, plane, rows, columns)
    window, completed = complete_base(labels[:, :, rows, columns], share, slices.from_base(), slices.drawn)
    lv_mm2 = _area(window == Label.LV, share, pixel_mm2)
    myo_mm2 = _area(window == Label.MYO, share, pixel_mm2)
    window[np.isin(window, (Label.LV, Label.MYO)) & (share < 0.5)] = Label.BACKGROUND
    labels[:, :, rows, columns] = window
    largest = lv_mm2.max(axis=1, keepdims=True)
    return replace(
        slices,
        lv_mm2=lv_mm2,
        myo_mm2=myo_mm2,
        counted=(lv_mm2 > 0) & (lv_mm2 >= _SLICE_COUNTS * largest),
        above_base=np.zeros(stack.slices, dtype=bool),
        cut=slices.cut | {Chamber.LV},
        completed=completed,
        labels=labels,
    )


def cut_by_views(slices: SliceMeasures, stack: CineStack, views: LongAxisViews) -> SliceMeasures:
    """Cut the LV at the mitral plane that long-axis views show, moved to where the short axis was acquired.

    Parameters
    ----------
    slices : SliceMeasures
        As the labels alone give them.

    Returns
    -------
    SliceMeasures
        Uncut where no view shows the valve near the base of the short axis or slices lie too far apart; with what the
        views show beside.
    """
    axis = -stack.geometry.normal if slices.base_first else stack.geometry.normal
    volumes = slices.lv_ml
    phases = (int(np.argmax(volumes)), int(np.argmin(volumes)))
    shifts = [axial_shift_mm(stack, slices.labels, view, axis, phases) for view in views.views]
    moved = [_moved(view, shift, axis) for view, shift in zip(views.views, shifts, strict=True)]
    plane = valve_planes(moved, Valve.MITRAL, axis, stack.phases)
    if plane is not None and not _near_the_base(plane, slices, stack, axis, phases[0]):
        plane = None
    beside = LongAxisEvidence(
        acquisitions=(
            *(
                AcquisitionFit(view.name, delay=view.delay, shift_mm=shift)
                for view, shift in zip(views.views, shifts, strict=True)
            ),
            *(AcquisitionFit(view.name, in_step=False) for view in views.out_of_step),
        ),
        volume_ml=biplane_volume_ml(views.views, stack.phases),
        above_stack_mm=None if plane is None else _above_stack(plane, slices, stack, axis),
    )
    if plane is None:
        return replace(slices, beside=beside)
    shown = [view for view in views.views if Valve.MITRAL in view.annuli]
    return replace(
        cut_at_mitral_plane(slices, stack, plane),
        base_views=tuple(view.name for view in shown),
        base_stacks=tuple(view.stack for view in shown),
        beside=beside,
    )


def _moved(view: LongAxisView, shift: float | None, axis: NDArray[np.float64]) -> LongAxisView:
    """The view with its annuli where the breath-hold of the short axis has them."""
    if shift is None:
        return view
    annuli = {valve: points + shift * axis for valve, points in view.annuli.items()}
    return replace(view, annuli=annuli, apex=view.apex + shift * axis)


def _above_stack(
    planes: ValvePlanes, slices: SliceMeasures, stack: CineStack, axis: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Height of the middle of the plane over the basal end of the stack, (T,), mm; negative within it."""
    basal = int(slices.from_base()[0])
    end = stack.geometry.positions[basal] @ axis + slices.intervals_mm[basal] / 2
    return np.asarray(planes.points @ axis - end)


def _near_the_base(
    planes: ValvePlanes, slices: SliceMeasures, stack: CineStack, axis: NDArray[np.float64], phase: int
) -> bool:
    counted = [int(index) for index in slices.from_base() if slices.counted[phase, index]]
    if not counted:
        return False
    if slices.intervals_mm[counted[0]] > _WIDEST_MM:
        return False
    rows, columns = np.nonzero(slices.labels[phase, counted[0]] == Label.LV)
    centre = stack.geometry.to_patient(float(counted[0]), float(rows.mean()), float(columns.mean()))
    return bool(abs((planes.points[phase] - centre) @ axis) <= _FARTHEST_MM)


def _window(labels: NDArray[np.uint8]) -> tuple[slice, slice]:
    inside = np.asarray((labels > 0).any(axis=(0, 1)))
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _area(mask: NDArray[np.bool_], share: NDArray[np.float32], pixel_mm2: float) -> NDArray[np.float64]:
    return np.asarray((mask * share).sum(axis=(2, 3), dtype=np.float64) * pixel_mm2)
