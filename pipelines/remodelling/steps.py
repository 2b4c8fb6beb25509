"""The steps of the remodelling package. They import what computes when they run: a declaration is read everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NewType

from pipelines.analysis import Analysis, analysis
from pipelines.cine.stack import CineStack, StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import VentricularFunction
from pipelines.function.slices import SliceMeasures
from pipelines.indication import Indication, require_indication
from pipelines.long_axis.findings import LongAxisFunction
from pipelines.motion.findings import CardiacMotion
from pipelines.package import Device
from pipelines.remodelling.findings import RemodellingRisk
from pipelines.ventricular_function.steps import ShortAxis

if TYPE_CHECKING:
    from pipelines.models.registry import LoadedModel

__all__ = ["STEPS", "CineAfterInfarct"]

CineAfterInfarct = NewType("CineAfterInfarct", CineStack)
"""The short-axis stack of a patient with an acute infarct."""


@analysis
def cine_after_infarct(context: StudyContext, stack: ShortAxis) -> CineAfterInfarct:
    """Decline by what the route says, before anything is computed."""
    require_indication(context.indication, Indication.ACUTE_INFARCT, "The risk of adverse remodelling")
    return CineAfterInfarct(stack)


@analysis
def remodelling_risk(
    stack: CineAfterInfarct,
    slices: SliceMeasures,
    function: VentricularFunction,
    motion: CardiacMotion,
    long_axis: LongAxisFunction | None,
    device: Device,
) -> RemodellingRisk:
    """Estimate the risk of adverse remodelling."""
    from pipelines.remodelling.measure import estimate_risk

    return estimate_risk(stack, slices, function, motion, long_axis, _model(device))


def _model(device: str) -> LoadedModel:
    from pipelines.models.registry import ModelUnavailable, load_model_once
    from pipelines.remodelling.network import REMODELLING_MODEL

    try:
        return load_model_once(REMODELLING_MODEL, device)
    except ModelUnavailable as missing:
        sentence = f"The risk of adverse remodelling was not estimated: {missing}."
        raise AnalysisRefused(RefusalReason.MODEL_UNAVAILABLE, sentence) from missing


STEPS: tuple[Analysis[..., Any], ...] = (cine_after_infarct, remodelling_risk)
