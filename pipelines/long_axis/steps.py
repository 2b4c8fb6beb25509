"""The steps of the long-axis package. They import what computes when they run: a declaration is read everywhere."""

from __future__ import annotations

from typing import Any

from pipelines.analysis import Analysis, analysis
from pipelines.cine.stack import CineStudy
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.long_axis.findings import LongAxisFunction, LongAxisViews
from pipelines.package import Device
from pipelines.segmentation.labels import CineSegmentation
from pipelines.ventricular_function.steps import ShortAxis

__all__ = ["STEPS"]


@analysis
def long_axis_views(
    study: CineStudy, device: Device, stack: ShortAxis | None, segmentation: CineSegmentation | None
) -> LongAxisViews:
    """Segment the long-axis views; the short axis, where it could be read, tells where the heart is."""
    from pipelines.long_axis.measure import long_axis_stacks, read_views
    from pipelines.models.registry import ModelUnavailable

    stacks = long_axis_stacks(study)
    if not stacks:
        raise AnalysisRefused(RefusalReason.NOT_SUITABLE, "The study holds no 2CH, 3CH or 4CH cine.")
    try:
        return read_views(stacks, stack, segmentation, device)
    except ModelUnavailable as missing:
        sentence = f"The long-axis views were not read: {missing}."
        raise AnalysisRefused(RefusalReason.MODEL_UNAVAILABLE, sentence) from missing


@analysis
def long_axis_function(views: LongAxisViews) -> LongAxisFunction:
    """Measure the motion of the annuli and the left atrium."""
    from pipelines.long_axis.measure import measure_long_axis

    return measure_long_axis(views)


STEPS: tuple[Analysis[..., Any], ...] = (long_axis_views, long_axis_function)
