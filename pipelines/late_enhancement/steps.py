"""The steps of acquired late enhancement. They import what computes when they run: declarations are read everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.analysis import Analysis, analysis
from pipelines.cine.stack import CineStudy, LateEnhancementStack, Reconstruction, View
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import Keyframes
from pipelines.function.slices import SliceMeasures
from pipelines.late_enhancement.findings import LateEnhancement
from pipelines.late_enhancement.segment import EnhancementSegmentation
from pipelines.package import Device
from pipelines.ventricular_function.steps import ShortAxis

__all__ = ["STEPS", "EnhancedShortAxis"]


@dataclass(frozen=True, slots=True, eq=False)
class EnhancedShortAxis:
    """The late-enhancement stack of a study that is measured, and its index among those of the study."""

    stack: LateEnhancementStack
    index: int


@analysis
def enhanced_short_axis(study: CineStudy) -> EnhancedShortAxis:
    """Choose the short-axis late enhancement: most slices, phase sensitive before magnitude."""
    candidates = [
        (one.slices, one.reconstruction is Reconstruction.PHASE_SENSITIVE, -index)
        for index, one in enumerate(study.late_enhancement)
        if one.view is View.SAX
    ]
    if not candidates:
        raise AnalysisRefused(
            RefusalReason.NOT_SUITABLE, "The study holds no short-axis late enhancement of three or more slices."
        )
    index = -max(candidates)[2]
    return EnhancedShortAxis(study.late_enhancement[index], index)


@analysis
def enhancement_segmentation(chosen: EnhancedShortAxis, device: Device) -> EnhancementSegmentation:
    """Label cavity, muscle, infarct and obstruction."""
    from pipelines.late_enhancement.segment import segment_enhancement
    from pipelines.models.registry import ModelUnavailable
    from pipelines.segmentation.refusal import SegmentationRefused

    try:
        return segment_enhancement(chosen.stack, device)
    except SegmentationRefused as refusal:
        raise AnalysisRefused(RefusalReason.NO_VENTRICLE_FOUND, str(refusal)) from refusal
    except ModelUnavailable as missing:
        raise AnalysisRefused(
            RefusalReason.MODEL_UNAVAILABLE, f"The late enhancement was not segmented: {missing}."
        ) from missing


@analysis
def late_enhancement(
    chosen: EnhancedShortAxis,
    segmentation: EnhancementSegmentation,
    cine: ShortAxis | None,
    slices: SliceMeasures | None,
    keyframes: Keyframes | None,
) -> LateEnhancement:
    """Measure extent, depth and presence; by segment where a cine of the study shows the right ventricle."""
    from pipelines.late_enhancement.measure import measure_enhancement

    beside = None if cine is None or slices is None or keyframes is None else (cine, slices, keyframes)
    return measure_enhancement(chosen.stack, chosen.index, segmentation, beside)


STEPS: tuple[Analysis[..., Any], ...] = (enhanced_short_axis, enhancement_segmentation, late_enhancement)
