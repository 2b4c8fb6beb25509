"""Mean grey value of the short axis over the cardiac cycle."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.analysis import analysis
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.models.identity import ModelIdentity
from pipelines.package import AnalysisPackage, Device, Source
from pipelines.ventricular_function.steps import ShortAxis

__all__ = ["PACKAGE", "Brightness"]

MODEL = "toy-model"


@dataclass(frozen=True, slots=True)
class Brightness:
    """Mean grey value of the whole stack.

    Attributes
    ----------
    by_phase : tuple of float
        One for each cardiac phase.
    brightest : int
        0-based phase that has the largest.
    models : tuple of ModelIdentity
        The network that took part.
    """

    by_phase: tuple[float, ...]
    brightest: int
    models: tuple[ModelIdentity, ...] = ()


@analysis
def brightness(stack: ShortAxis, device: Device) -> Brightness:
    """Average the grey values of each phase, times the one weight of a network, which is 1."""
    import torch

    from pipelines.models.registry import load_model_once

    if stack.pixels.max() <= 0:
        raise AnalysisRefused(RefusalReason.NOT_SUITABLE, "The short-axis stack is black.")
    model = load_model_once(MODEL, device)
    means = torch.tensor([float(phase.mean()) for phase in stack.pixels], device=device).reshape(-1, 1, 1, 1)
    with torch.inference_mode():
        by_phase = tuple(model.network(means).flatten().tolist())
    return Brightness(by_phase, by_phase.index(max(by_phase)), (model.identity,))


PACKAGE = AnalysisPackage(
    name="toy",
    title="toy brightness",
    version="1.0.0",
    gives=Brightness,
    steps=(brightness,),
    sources=frozenset({Source.SHORT_AXIS_CINE}),
    models=(MODEL,),
    series_block=45,
    timeout_s=60,
    priority=5,
)
