"""Mean grey value of the short axis over the cardiac cycle."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.analysis import analysis
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.package import AnalysisPackage, Source
from pipelines.ventricular_function.steps import ShortAxis

__all__ = ["PACKAGE", "Brightness"]


@dataclass(frozen=True, slots=True)
class Brightness:
    """Mean grey value of the whole stack.

    Attributes
    ----------
    by_phase : tuple of float
        One for each cardiac phase.
    brightest : int
        0-based phase that has the largest.
    """

    by_phase: tuple[float, ...]
    brightest: int


@analysis
def brightness(stack: ShortAxis) -> Brightness:
    """Average the grey values of each phase."""
    if stack.pixels.max() <= 0:
        raise AnalysisRefused(RefusalReason.NOT_SUITABLE, "The short-axis stack is black.")
    means = tuple(float(phase.mean()) for phase in stack.pixels)
    return Brightness(means, means.index(max(means)))


PACKAGE = AnalysisPackage(
    name="toy",
    title="toy brightness",
    version="1.0.0",
    gives=Brightness,
    steps=(brightness,),
    sources=frozenset({Source.SHORT_AXIS_CINE}),
    models=("toy-model",),
    series_block=45,
    timeout_s=60,
    priority=5,
)
