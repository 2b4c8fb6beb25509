"""Short-axis measures cut at the valve planes that the long axis shows.

The base moves through the basal slices: at end systole a slice that was ventricle at end diastole is atrium. Where the
annulus is seen on long-axis views, each voxel counts by the share of it that lies below the plane of its valve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.findings import Chamber
from pipelines.function.slices import SliceMeasures
from pipelines.long_axis.valve_plane import ValvePlanes, share_below
from pipelines.segmentation.labels import Label

__all__ = ["cut_at_valves"]

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
        )
    if Chamber.RV in planes:
        share = share_below(stack, planes[Chamber.RV], rows, columns)
        changed = replace(changed, rv_mm2=_area(window == Label.RV, share, pixel_mm2))
        window[(window == Label.RV) & (share < 0.5)] = Label.BACKGROUND
    return replace(changed, labels=labels)


def _window(labels: NDArray[np.uint8]) -> tuple[slice, slice]:
    inside = np.asarray((labels > 0).any(axis=(0, 1)))
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _area(mask: NDArray[np.bool_], share: NDArray[np.float32], pixel_mm2: float) -> NDArray[np.float64]:
    return np.asarray((mask * share).sum(axis=(2, 3), dtype=np.float64) * pixel_mm2)
