"""The steps of ventricular function, from the short-axis stack to released numbers.

Steps import what computes when they run: a declaration is read by processes that never analyse anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NewType

from pipelines.analysis import Analysis, analysis
from pipelines.cine.stack import CineStack, CineStudy, OmissionReason, StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import Keyframes, UncheckedFunction, VentricularFunction
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.long_axis.findings import LongAxisViews
from pipelines.package import Device
from pipelines.quality.findings import QualityAssessment
from pipelines.segmentation.labels import CineSegmentation

__all__ = ["STEPS", "ShortAxis", "in_short_axis"]

ShortAxis = NewType("ShortAxis", CineStack)
"""The short-axis stack of a study that the ventricles are measured on."""

_DAMAGE = frozenset(
    {OmissionReason.UNREADABLE, OmissionReason.TOO_LARGE, OmissionReason.NO_GEOMETRY, OmissionReason.MISSING_FRAMES}
)
"""Reasons that say nothing of what the images show: they may have been the short axis."""
SLICES_MIN = 3
PHASES_MIN = 2


@analysis
def short_axis(study: CineStudy) -> ShortAxis:
    """Choose the short-axis stack."""
    stack = study.short_axis
    if stack is None:
        raise AnalysisRefused(RefusalReason.NO_SHORT_AXIS_STACK, _without_short_axis(study))
    continued = next((one for one in study.omissions if one.reason is OmissionReason.CONTINUED_ELSEWHERE), None)
    if continued is not None:
        raise AnalysisRefused(RefusalReason.SPLIT_STACK, f"The volumes are unusable: {continued.detail}")
    if stack.slices < SLICES_MIN:
        sentence = f"The short-axis stack has {stack.slices} slice(s); {SLICES_MIN} are needed to measure a volume."
        raise AnalysisRefused(RefusalReason.TOO_FEW_SLICES, sentence)
    if stack.phases < PHASES_MIN:
        sentence = "The short-axis stack has a single cardiac phase: end diastole and end systole cannot be told."
        raise AnalysisRefused(RefusalReason.TOO_FEW_PHASES, sentence)
    return ShortAxis(stack)


def _without_short_axis(study: CineStudy) -> str:
    """Say that there is no short axis, and what of the study may have been one and could not be read."""
    sentence = "The study holds no short-axis cine stack"
    damaged = [one for one in study.omissions if one.reason in _DAMAGE]
    if not damaged:
        return f"{sentence}."
    most = max(damaged, key=lambda one: len(one.sop_instance_uids))
    count = sum(len(one.sop_instance_uids) for one in damaged)
    images = "1 image" if count == 1 else f"{count} images"
    return f"{sentence} that can be read; {images} could not be used, such as: {most.detail}"


@analysis
def segmentation(stack: ShortAxis, device: Device) -> CineSegmentation:
    """Segment both ventricles on every phase."""
    from pipelines.models.registry import ModelUnavailable
    from pipelines.segmentation.refusal import SegmentationRefused
    from pipelines.segmentation.segment import segment

    try:
        found = segment(stack, device)
    except SegmentationRefused as refusal:
        raise AnalysisRefused(RefusalReason.NO_VENTRICLE_FOUND, str(refusal)) from refusal
    except ModelUnavailable as missing:
        raise AnalysisRefused(
            RefusalReason.MODEL_UNAVAILABLE, f"The ventricles were not segmented: {missing}."
        ) from missing
    return in_short_axis(stack, found)


def in_short_axis(stack: CineStack, found: CineSegmentation) -> CineSegmentation:
    """Return a segmentation that shows the short axis, where geometry leaves open that the stack is one.

    Raises
    ------
    AnalysisRefused
        Neither geometry nor segmentation shows the short axis.
    """
    from pipelines.segmentation.orientation import shows_short_axis

    if stack.view_open and not shows_short_axis(found.labels, stack.geometry.pixel_spacing):
        sentence = f"The stack of {stack.slices} slices lies in no usual position, and its images show no short axis."
        raise AnalysisRefused(RefusalReason.NO_SHORT_AXIS_STACK, sentence)
    return found


@analysis
def slice_measures(stack: ShortAxis, segmentation: CineSegmentation, views: LongAxisViews | None) -> SliceMeasures:
    """Measure areas and centres of every slice, cut at the valve planes where long-axis views show them."""
    from pipelines.function.valve_cut import cut_by_views

    slices = measure_slices(stack, segmentation)
    return slices if views is None else cut_by_views(slices, stack, views)


@analysis
def keyframes(stack: ShortAxis, slices: SliceMeasures) -> Keyframes:
    """Find end diastole and end systole."""
    from pipelines.function.curves import find_keyframes

    return find_keyframes(stack, slices.lv_ml)


@analysis
def function_measurement(
    stack: ShortAxis,
    segmentation: CineSegmentation,
    slices: SliceMeasures,
    keyframes: Keyframes,
    context: StudyContext,
) -> UncheckedFunction:
    """Measure function, before quality control."""
    from pipelines.function.measure import measure_function

    measured = measure_function(stack, slices, keyframes, context)
    corrected = tuple(one.sentence for one in segmentation.corrections)
    return UncheckedFunction(replace(measured, notes=(*corrected, *measured.notes)))


@analysis
def quality(
    stack: ShortAxis, segmentation: CineSegmentation, slices: SliceMeasures, measured: UncheckedFunction
) -> QualityAssessment:
    """Judge acquisition and measurement."""
    from pipelines.quality.assess import assess_quality

    return assess_quality(stack, segmentation, slices, measured.function)


@analysis
def ventricular_function(measured: UncheckedFunction, quality: QualityAssessment) -> VentricularFunction:
    """Release the numbers, or refuse them when the quality is too low."""
    if quality.refusal is not None:
        raise AnalysisRefused(RefusalReason.QUALITY_TOO_LOW, f"Quality is too low to report numbers. {quality.refusal}")
    return measured.function


STEPS: tuple[Analysis[..., Any], ...] = (
    short_axis,
    segmentation,
    slice_measures,
    keyframes,
    function_measurement,
    quality,
    ventricular_function,
)
