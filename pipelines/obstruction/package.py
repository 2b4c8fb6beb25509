"""Obstruction: the probability of microvascular obstruction of an acute infarct, from short-axis cine."""

from __future__ import annotations

from pipelines.obstruction.findings import Obstruction
from pipelines.obstruction.steps import STEPS
from pipelines.package import AnalysisPackage, Slot, Source

__all__ = ["PACKAGE"]

PACKAGE = AnalysisPackage(
    name="obstruction",
    title="microvascular obstruction",
    version="0.4.1",
    gives=Obstruction,
    steps=STEPS,
    sources=frozenset({Source.SHORT_AXIS_CINE}),
    models=("obstruction", "obstruction-network"),
    series_block=5,
    priority=0,
    slot=Slot.GPU,
)
