"""Checks of the right ventricle: one body on each slice, areas that change as a ventricle's do, a possible size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.cine.stack import CineStack
from pipelines.function.curves import smooth
from pipelines.function.findings import VentricularFunction
from pipelines.function.slices import SliceMeasures
from pipelines.quality.findings import QualityCheck, QualityFinding
from pipelines.quality.limits import QualityLimits
from pipelines.segmentation.labels import Label

__all__ = ["area_dips", "fragmented_slices", "right_ventricle_findings"]

FRAGMENT_MM2 = 30.0
"""A second body smaller than this, some fifteen pixels, is the ragged edge of the first."""


def right_ventricle_findings(
    stack: CineStack, slices: SliceMeasures, function: VentricularFunction, limits: QualityLimits
) -> tuple[QualityFinding, ...]:
    """Every check of the right ventricle; none where it was not found, which is a finding of its own."""
    if function.rv is None:
        return ()
    return (
        _fragments(stack, slices, limits),
        _over_slices(slices, function, limits),
        _over_time(stack, slices, limits),
        _size(function, limits),
    )


def fragmented_slices(labels: NDArray[np.uint8], pixel_mm2: float) -> NDArray[np.bool_]:
    """Planes on which the right ventricle is in more than one body of ``FRAGMENT_MM2``.

    Parameters
    ----------
    labels : (..., R, C) uint8
    pixel_mm2 : float

    Returns
    -------
    (...) bool
    """
    right = labels == Label.RV
    broken = np.zeros(labels.shape[:-2], dtype=bool)
    eight = np.ones((3, 3), dtype=bool)
    for plane in np.argwhere(right.any(axis=(-2, -1))):
        bodies, count = ndimage.label(right[tuple(plane)], structure=eight)
        if count > 1:
            sizes = np.bincount(bodies.ravel())[1:] * pixel_mm2
            broken[tuple(plane)] = int((sizes > FRAGMENT_MM2).sum()) > 1
    return broken


def area_dips(mm2: NDArray[np.float64]) -> float:
    """Area that areas along an axis lack to have a single maximum, as a fraction of their sum; 0 for a ventricle.

    Parameters
    ----------
    mm2 : (S,) float64
        Areas in the order of the slices.
    """
    total = float(mm2.sum())
    if total == 0:
        return 0.0
    from_one_end, from_the_other = np.maximum.accumulate(mm2), np.maximum.accumulate(mm2[::-1])[::-1]
    return float((np.minimum(from_one_end, from_the_other) - mm2).sum()) / total


def _fragments(stack: CineStack, slices: SliceMeasures, limits: QualityLimits) -> QualityFinding:
    seen = slices.rv_mm2 > 0
    spacing = stack.geometry.pixel_spacing
    broken = fragmented_slices(slices.labels, spacing[0] * spacing[1])
    percent = 100.0 * float(broken.sum()) / max(int(seen.sum()), 1)
    often = tuple(int(i) for i in np.flatnonzero(broken.sum(axis=0) * 4 > len(broken)))
    sentence = f"The right ventricle is one body on {100 - percent:.0f} % of its images."
    grade = limits.rv_fragments_percent.grade(percent)
    if often:
        numbers = ", ".join(str(index + 1) for index in often)
        sentence += f" It is in pieces in slice {numbers}: look at its contours there."
    return QualityFinding(
        QualityCheck.RV_FRAGMENTS, grade, sentence, percent, "%", limits.rv_fragments_percent.poor, often
    )


def _over_slices(slices: SliceMeasures, function: VentricularFunction, limits: QualityLimits) -> QualityFinding:
    """The area has one maximum along the axis, at either key phase."""
    phases = (function.keyframes.end_diastole, function.keyframes.end_systole)
    percent = max(100.0 * area_dips(slices.rv_mm2[phase]) for phase in phases)
    sentence = f"The area of the right ventricle over the slices lacks {percent:.0f} % to have one maximum."
    grade = limits.rv_dips_percent.grade(percent)
    if percent > limits.rv_dips_percent.poor:
        sentence += " Slices between others hold too little of it: look at its contours."
    return QualityFinding(QualityCheck.RV_OVER_SLICES, grade, sentence, percent, "%", limits.rv_dips_percent.poor)


def _over_time(stack: CineStack, slices: SliceMeasures, limits: QualityLimits) -> QualityFinding:
    """The area on each slice changes smoothly over the cycle."""
    areas = slices.rv_mm2
    smoothed = np.stack([smooth(line, cyclic=stack.retrospective).values for line in areas.T], axis=1)
    percent = 100.0 * float(np.abs(areas - smoothed).sum() / areas.sum())
    sentence = f"The area of the right ventricle on each slice departs by {percent:.1f} % from a smooth course in time."
    if percent > limits.rv_flicker_percent.poor:
        sentence += " Its contours jump from phase to phase."
    grade = limits.rv_flicker_percent.grade(percent)
    return QualityFinding(QualityCheck.RV_OVER_TIME, grade, sentence, percent, "%", limits.rv_flicker_percent.poor)


def _size(function: VentricularFunction, limits: QualityLimits) -> QualityFinding:
    """Size beside that of the left ventricle."""
    assert function.rv is not None
    ratio = function.rv.edv_ml / function.lv.edv_ml if function.lv.edv_ml > 0 else float("nan")
    low, high = limits.rv_to_lv_low, limits.rv_to_lv_high
    grade, limit = max((low.grade(ratio), low.poor), (high.grade(ratio), high.poor))
    sentence = f"The right ventricle holds {ratio:.2f} of the volume of the left at end diastole."
    if ratio < low.poor:
        sentence += " That is hardly possible: parts of it were probably not found."
    elif ratio > high.poor:
        sentence += " A great overload would explain it; otherwise other structures were taken for it."
    return QualityFinding(QualityCheck.RV_SIZE, grade, sentence, ratio, "1", limit)
