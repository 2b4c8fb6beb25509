"""The steps of the obstruction package. They import what computes when they run: a declaration is read everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NewType

from pipelines.analysis import Analysis, analysis
from pipelines.cine.stack import CineStack, StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import Keyframes, VentricularFunction
from pipelines.indication import Indication, require_indication
from pipelines.obstruction.findings import Obstruction
from pipelines.package import Device
from pipelines.segmentation.labels import CineSegmentation
from pipelines.ventricular_function.steps import ShortAxis

__all__ = ["PHASES_MIN", "STEPS", "InfarctCine"]

PHASES_MIN = 12
"""Of a movie that shows how the wall moves; the network was trained on 16 to 24."""

InfarctCine = NewType("InfarctCine", CineStack)
"""The short-axis stack of a patient with an acute infarct, of enough phases."""


@analysis
def infarct_cine(context: StudyContext, stack: ShortAxis) -> InfarctCine:
    """Decline by what route and headers say, before anything is computed."""
    require_indication(context.indication, Indication.ACUTE_INFARCT, "Microvascular obstruction")
    if stack.phases < PHASES_MIN:
        sentence = (
            f"The short-axis cine has {stack.phases} phases; {PHASES_MIN} are needed to estimate microvascular "
            "obstruction."
        )
        raise AnalysisRefused(RefusalReason.TOO_FEW_PHASES, sentence)
    return InfarctCine(stack)


@analysis
def obstruction(
    stack: InfarctCine,
    segmentation: CineSegmentation,
    keyframes: Keyframes,
    released: VentricularFunction,  # noqa: ARG001 - declined with it, where quality is too low for numbers
    device: Device,
) -> Obstruction:
    """Estimate the probability of microvascular obstruction."""
    if keyframes.end_diastole == keyframes.end_systole:
        raise AnalysisRefused(RefusalReason.NOT_SUITABLE, "The left ventricle does not contract: there is no systole.")
    from pipelines.models.registry import ModelUnavailable, is_installed, load_model_once
    from pipelines.obstruction.calibration import tells_hearts_apart
    from pipelines.obstruction.estimate import estimate_obstruction
    from pipelines.obstruction.network import MODEL, NETWORK_MODEL

    try:
        model = load_model_once(MODEL, device)
        other = load_model_once(NETWORK_MODEL, device) if is_installed(NETWORK_MODEL) else None
    except ModelUnavailable as missing:
        sentence = f"Microvascular obstruction was not estimated: {missing}."
        raise AnalysisRefused(RefusalReason.MODEL_UNAVAILABLE, sentence) from missing
    if not tells_hearts_apart(model.network):
        # A model may be installed to be trained further; what it says of a patient would be chance.
        raise AnalysisRefused(
            RefusalReason.NOT_SUITABLE,
            "Microvascular obstruction is not estimated: the model installed did not tell hearts with obstruction "
            "from those without, beyond chance, when it was calibrated. A site can train it on its own studies.",
        )
    moments = keyframes.end_diastole, keyframes.end_systole
    found = estimate_obstruction(stack, segmentation.labels, *moments, model)
    if other is None or not tells_hearts_apart(other.network):
        return found
    second = estimate_obstruction(stack, segmentation.labels, *moments, other)
    return replace(found, models=(*found.models, *second.models), second_opinion=second)


STEPS: tuple[Analysis[..., Any], ...] = (infarct_cine, obstruction)
