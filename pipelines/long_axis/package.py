"""Long axis: motion of the valve planes and function of the left atrium from long-axis cine."""

from __future__ import annotations

from pipelines.long_axis.findings import LongAxisFunction
from pipelines.long_axis.steps import STEPS
from pipelines.package import AnalysisPackage, Slot, Source

__all__ = ["PACKAGE"]

PACKAGE = AnalysisPackage(
    name="long_axis",
    title="valve planes and left atrium",
    version="1.1.1",
    gives=LongAxisFunction,
    steps=STEPS,
    sources=frozenset({Source.LONG_AXIS_CINE}),
    models=("long-axis-segmentation",),
    series_block=2,
    priority=10,
    slot=Slot.GPU,
)
