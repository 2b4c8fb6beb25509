"""The steps of the motion package. They import what computes when they run: a declaration is read everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.analysis import Analysis, analysis
from pipelines.cine.stack import CineStudy
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.slices import SliceMeasures
from pipelines.long_axis.findings import LongAxisViews
from pipelines.motion.findings import CardiacMotion, MotionKeyframes
from pipelines.motion.track import CineMotion
from pipelines.package import Device
from pipelines.ventricular_function.steps import ShortAxis

if TYPE_CHECKING:
    from pipelines.models.registry import LoadedModel

__all__ = ["STEPS"]


@analysis
def cine_motion(
    study: CineStudy, stack: ShortAxis, slices: SliceMeasures, views: LongAxisViews | None, device: Device
) -> CineMotion:
    """Follow the motion between consecutive frames of the short axis and of the long-axis views."""
    from pipelines.motion.measure import follow_study

    return follow_study(study, stack, slices, views, _model(device))


@analysis
def motion_keyframes(motion: CineMotion) -> MotionKeyframes:
    """Find the five keyframes."""
    from pipelines.motion.measure import keyframes_of

    return keyframes_of(motion)


@analysis
def cardiac_motion(
    motion: CineMotion,
    keyframes: MotionKeyframes,
    slices: SliceMeasures,
    views: LongAxisViews | None,
    device: Device,
) -> CardiacMotion:
    """Measure strain from end diastole on."""
    from pipelines.motion.measure import measure_motion

    return measure_motion(motion, keyframes, slices, views, _model(device))


def _model(device: str) -> LoadedModel:
    from pipelines.models.registry import ModelUnavailable, load_model_once
    from pipelines.motion.network import REGISTRATION_MODEL

    try:
        return load_model_once(REGISTRATION_MODEL, device)
    except ModelUnavailable as missing:
        raise AnalysisRefused(RefusalReason.MODEL_UNAVAILABLE, f"The motion was not followed: {missing}.") from missing


STEPS: tuple[Analysis[..., Any], ...] = (cine_motion, motion_keyframes, cardiac_motion)
