"""The analysis step of the synthetic-enhancement package.

It imports what computes when it runs: a declaration is read everywhere.
"""

from __future__ import annotations

from typing import Any

from pipelines.analysis import Analysis, analysis
from pipelines.cine.stack import StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import Keyframes
from pipelines.function.slices import SliceMeasures
from pipelines.package import Device
from pipelines.quality.findings import QualityAssessment
from pipelines.sampling import Sampling
from pipelines.synthetic_enhancement.findings import SyntheticEnhancement
from pipelines.ventricular_function.steps import ShortAxis

__all__ = ["STEPS"]


@analysis
def synthetic_enhancement(
    stack: ShortAxis,
    slices: SliceMeasures,
    keyframes: Keyframes,
    quality: QualityAssessment,
    context: StudyContext,
    device: Device,
) -> SyntheticEnhancement:
    """Predict late enhancement from the short-axis cine."""
    from pipelines.models.registry import ModelUnavailable
    from pipelines.synthetic_enhancement.load import load_networks
    from pipelines.synthetic_enhancement.measure import synthesise

    try:
        networks = load_networks(device, precision=(context.sampling or Sampling()).precision)
    except ModelUnavailable as missing:
        sentence = f"Enhancement was not predicted: {missing}."
        raise AnalysisRefused(RefusalReason.MODEL_UNAVAILABLE, sentence) from missing
    return synthesise(stack, slices, keyframes, quality, context, networks, context.sampling)


STEPS: tuple[Analysis[..., Any], ...] = (synthetic_enhancement,)
