"""Remodelling: risk of adverse remodelling after an acute infarct, from cine."""

from __future__ import annotations

from pipelines.package import AnalysisPackage, Slot, Source
from pipelines.remodelling.findings import RemodellingRisk
from pipelines.remodelling.steps import STEPS

__all__ = ["PACKAGE"]

PACKAGE = AnalysisPackage(
    name="remodelling",
    title="remodelling risk",
    version="1.2.3",
    gives=RemodellingRisk,
    steps=STEPS,
    sources=frozenset({Source.SHORT_AXIS_CINE}),
    models=("remodelling",),
    series_block=6,
    priority=-5,
    slot=Slot.GPU,
)
