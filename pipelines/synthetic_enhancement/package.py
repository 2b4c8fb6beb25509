"""Synthetic late enhancement: an image as with contrast agent, and the probability of enhancement, from cine alone."""

from __future__ import annotations

from pipelines.package import AnalysisPackage, Slot, Source
from pipelines.synthetic_enhancement.findings import SyntheticEnhancement
from pipelines.synthetic_enhancement.steps import STEPS

__all__ = ["PACKAGE"]

PACKAGE = AnalysisPackage(
    name="synthetic_enhancement",
    title="synthetic enhancement",
    version="1.5.1",
    gives=SyntheticEnhancement,
    steps=STEPS,
    sources=frozenset({Source.SHORT_AXIS_CINE}),
    models=("synthetic-enhancement", "synthetic-enhancement-refiner", "scar-sequence"),
    series_block=4,
    priority=5,
    slot=Slot.GPU,
)
