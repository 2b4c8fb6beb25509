"""Short-axis measures cut at the valve planes that the long axis shows.

The base moves through the basal slices: at end systole a slice that was ventricle at end diastole is atrium. Where the
annulus is seen on long-axis views, each voxel counts by the share of it that lies below the plane of its valve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.findings import Chamber
from pipelines.function.slices import SliceMeasures
from pipelines.long_axis.alignment import axial_shift_mm
from pipelines.long_axis.findings import LongAxisView, LongAxisViews, Valve
from pipelines.long_axis.valve_plane import ValvePlanes, share_below, valve_planes
from pipelines.segmentation.labels import Label

__all__ = ["cut_at_valves", "cut_by_views"]

_VALVES = {Chamber.LV: Valve.MITRAL, Chamber.RV: Valve.TRICUSPID}
_FARTHEST_MM = 25.0
"""A plane that lies farther than this from the base that the short axis shows is not believed."""

_SLICE_COUNTS = 0.05
"""A slice counts when at least this share of the largest cavity lies below the plane."""


def cut_at_valves(slices: SliceMeasures, stack: CineStack, planes: Mapping[Chamber, ValvePlanes]) -> SliceMeasures:
    """Count each voxel of a ventricle by the share of it that lies below its valve plane.


    Parameters
    ----------
    slices : SliceMeasures
        As the labels alone give them.
    planes : mapping of Chamber to ValvePlanes
        The mitral plane for the LV and its wall, the tricuspid plane for the RV; a chamber without one stays.

    Returns
    -------
    SliceMeasures
        Areas are those below the planes; labels lose what lies mostly above.
    """
    rows, columns = _window(slices.labels)
    pixel_mm2 = stack.geometry.pixel_spacing[0] * stack.geometry.pixel_spacing[1]
    labels = slices.labels.copy()
    window = labels[:, :, rows, columns]
    changed = slices
    if Chamber.LV in planes:
        share = share_below(stack, planes[Chamber.LV], rows, columns)
        lv_mm2 = _area(window == Label.LV, share, pixel_mm2)
        myo_mm2 = _area(window == Label.MYO, share, pixel_mm2)
        window[np.isin(window, (Label.LV, Label.MYO)) & (share < 0.5)] = Label.BACKGROUND
        largest = lv_mm2.max(axis=1, keepdims=True)
        counted = (lv_mm2 > 0) & (lv_mm2 >= _SLICE_COUNTS * largest)
        changed = replace(
            changed,
            lv_mm2=lv_mm2,
            myo_mm2=myo_mm2,
            counted=counted,
            above_base=np.zeros(stack.slices, dtype=bool),
            cut=changed.cut | {Chamber.LV},
        )
    if Chamber.RV in planes:
        share = share_below(stack, planes[Chamber.RV], rows, columns)
        changed = replace(changed, rv_mm2=_area(window == Label.RV, share, pixel_mm2), cut=changed.cut | {Chamber.RV})
        window[(window == Label.RV) & (share < 0.5)] = Label.BACKGROUND
    return replace(changed, labels=labels)


def cut_by_views(slices: SliceMeasures, stack: CineStack, views: LongAxisViews) -> SliceMeasures:
    """Cut at the valve planes that long-axis views show, moved to where the short axis was acquired.

    Parameters
    ----------
    slices : SliceMeasures
        As the labels alone give them.

    Returns
    -------
    SliceMeasures
        The same where no view shows a valve near the base of the short axis.
    """
    axis = -stack.geometry.normal if slices.base_first else stack.geometry.normal
    volumes = slices.lv_ml
    phases = (int(np.argmax(volumes)), int(np.argmin(volumes)))
    moved = [_moved(view, slices, stack, axis, phases) for view in views.views]
    planes = {}
    for chamber, valve in _VALVES.items():
        found = valve_planes(moved, valve, axis, stack.phases)
        if found is not None and _near_the_base(found, slices, stack, axis, phases[0]):
            planes[chamber] = found
    # The wall of both ventricles ends at the mitral plane: without it the tricuspid one says too little.
    if Chamber.LV not in planes:
        return slices
    shown = tuple(str(view.view) for view in moved if Valve.MITRAL in view.annuli)
    return replace(cut_at_valves(slices, stack, planes), base_views=tuple(dict.fromkeys(shown)))


def _moved(
    view: LongAxisView, slices: SliceMeasures, stack: CineStack, axis: NDArray[np.float64], phases: Sequence[int]
) -> LongAxisView:
    """The view with its annuli where the breath-hold of the short axis has them."""
    shift = axial_shift_mm(stack, slices.labels, view, axis, phases)
    if shift is None:
        return view
    annuli = {valve: points + shift * axis for valve, points in view.annuli.items()}
    return replace(view, annuli=annuli, apex=view.apex + shift * axis)


def _near_the_base(
    planes: ValvePlanes, slices: SliceMeasures, stack: CineStack, axis: NDArray[np.float64], phase: int
) -> bool:
    counted = [int(index) for index in slices.from_base() if slices.counted[phase, index]]
    if not counted:
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
