"""Acquired late enhancement: infarct and microvascular obstruction on the images themselves."""

from __future__ import annotations

from pipelines.late_enhancement.findings import LateEnhancement
from pipelines.late_enhancement.steps import STEPS
from pipelines.package import AnalysisPackage, Slot, Source

__all__ = ["PACKAGE"]

PACKAGE = AnalysisPackage(
    name="late_enhancement",
    title="late enhancement",
    version="1.3.0",
    gives=LateEnhancement,
    steps=STEPS,
    sources=frozenset({Source.LATE_ENHANCEMENT}),
    models=("enhancement-localiser", "enhancement-segmentation"),
    series_block=8,
    priority=10,
    slot=Slot.GPU,
)
