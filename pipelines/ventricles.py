"""The analyses of ventricular function, and the one entry that runs them on a study."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NewType

from pipelines.analysis import Analysis, Findings, analysis, run
from pipelines.cine.stack import CineStack, CineStudy, OmissionReason, StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Keyframes, UncheckedFunction, VentricularFunction
from pipelines.function.measure import measure_function
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.quality.assess import assess_quality
from pipelines.quality.findings import QualityAssessment
from pipelines.segmentation.labels import CineSegmentation

__all__ = ["VENTRICLES", "Device", "ShortAxis", "analyse_study"]

ShortAxis = NewType("ShortAxis", CineStack)
"""The short-axis stack of a study that the ventricles are measured on."""

Device = NewType("Device", str)
"""Torch device that networks run on."""

SLICES_MIN = 3
PHASES_MIN = 2


@analysis
def short_axis(study: CineStudy) -> ShortAxis:
    """Choose the short-axis stack."""
    stack = study.short_axis
    if stack is None:
        raise AnalysisRefused(RefusalReason.NO_SHORT_AXIS_STACK, "The study holds no short-axis cine stack.")
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


@analysis
def segmentation(stack: ShortAxis, device: Device) -> CineSegmentation:
    """Segment both ventricles on every phase."""
    # Not at start-up: the receiver and the command line read this module and need no networks.
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
def slice_measures(stack: ShortAxis, segmentation: CineSegmentation) -> SliceMeasures:
    """Measure areas and centres of every slice."""
    return measure_slices(stack, segmentation)


@analysis
def keyframes(stack: ShortAxis, slices: SliceMeasures) -> Keyframes:
    """Find end diastole and end systole."""
    return find_keyframes(stack, slices.lv_ml)


@analysis
def function_measurement(
    stack: ShortAxis, slices: SliceMeasures, keyframes: Keyframes, context: StudyContext
) -> UncheckedFunction:
    """Measure function, before quality control."""
    return UncheckedFunction(measure_function(stack, slices, keyframes, context))


@analysis
def quality(
    stack: ShortAxis, segmentation: CineSegmentation, slices: SliceMeasures, measured: UncheckedFunction
) -> QualityAssessment:
    """Judge acquisition and measurement."""
    return assess_quality(stack, segmentation, slices, measured.function)


@analysis
def ventricular_function(measured: UncheckedFunction, quality: QualityAssessment) -> VentricularFunction:
    """Release the numbers, or refuse them when the quality is too low."""
    if quality.refusal is not None:
        raise AnalysisRefused(RefusalReason.QUALITY_TOO_LOW, f"Quality is too low to report numbers. {quality.refusal}")
    return measured.function


VENTRICLES: tuple[Analysis[..., Any], ...] = (
    short_axis,
    segmentation,
    slice_measures,
    keyframes,
    function_measurement,
    quality,
    ventricular_function,
)


def analyse_study(
    study: CineStudy,
    analyses: Iterable[Analysis[..., Any]] = VENTRICLES,
    wanted: Iterable[type] | None = None,
    on_start: Callable[[str], None] | None = None,
    device: str = "cpu",
) -> Findings:
    """Run analyses on a study; what could not be done is in ``refusals`` of the findings and is never raised.

    Parameters
    ----------
    study : CineStudy
    analyses, wanted, on_start
        See :func:`pipelines.analysis.run`.
    device : str
        Torch device that networks run on.

    Raises
    ------
    AnalysisSetupError
        The analyses do not fit together: a defect of the configuration, whatever the study.
    """
    return run(analyses, {CineStudy: study, StudyContext: study.context, Device: Device(device)}, wanted, on_start)
