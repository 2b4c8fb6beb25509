"""Disease pattern: which of five groups of patients a heart resembles. No diagnosis."""

from __future__ import annotations

from pipelines.disease_pattern.findings import DiseasePattern
from pipelines.disease_pattern.steps import STEPS
from pipelines.package import AnalysisPackage, Slot, Source

__all__ = ["PACKAGE"]

PACKAGE = AnalysisPackage(
    name="disease_pattern",
    title="disease pattern",
    version="1.0.5",
    gives=DiseasePattern,
    steps=STEPS,
    sources=frozenset({Source.SHORT_AXIS_CINE}),
    models=("disease-pattern",),
    series_block=9,
    slot=Slot.CPU,
)
