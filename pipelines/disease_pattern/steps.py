"""The analysis step of the disease-pattern package.

It imports what computes when it runs: a declaration is read everywhere.
"""

from __future__ import annotations

from typing import Any

from pipelines.analysis import Analysis, analysis
from pipelines.cine.stack import StudyContext
from pipelines.disease_pattern.findings import DiseasePattern
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import Keyframes, VentricularFunction
from pipelines.function.slices import SliceMeasures
from pipelines.package import Device
from pipelines.ventricular_function.steps import ShortAxis

__all__ = ["STEPS"]


@analysis
def disease_pattern(
    stack: ShortAxis,
    slices: SliceMeasures,
    keyframes: Keyframes,
    function: VentricularFunction,
    context: StudyContext,
    device: Device,
) -> DiseasePattern:
    """Tell which of five groups of patients the heart resembles."""
    from pipelines.disease_pattern.features import pattern_features
    from pipelines.disease_pattern.measure import classify_pattern
    from pipelines.disease_pattern.network import PATTERN_MODEL
    from pipelines.models.registry import ModelUnavailable, load_model_once
    from pipelines.synthetic_enhancement.features import Circumstances
    from pipelines.synthetic_enhancement.measure import heart_of

    try:
        model = load_model_once(PATTERN_MODEL, device)
    except ModelUnavailable as missing:
        sentence = f"No pattern was told: {missing}."
        raise AnalysisRefused(RefusalReason.MODEL_UNAVAILABLE, sentence) from missing
    circumstances = Circumstances(context.field_strength_t, context.manufacturer)
    heart = heart_of(stack, slices, keyframes, circumstances)
    return classify_pattern(pattern_features(function, heart.crop), function.bsa_m2 is None, model)


STEPS: tuple[Analysis[..., Any], ...] = (disease_pattern,)
