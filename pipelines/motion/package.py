"""Motion: keyframes and strain of the left ventricle from cine."""

from __future__ import annotations

from pipelines.motion.findings import CardiacMotion
from pipelines.motion.steps import STEPS
from pipelines.package import AnalysisPackage, Slot, Source

__all__ = ["PACKAGE"]

PACKAGE = AnalysisPackage(
    name="motion",
    title="motion and strain",
    version="1.3.1",
    gives=CardiacMotion,
    steps=STEPS,
    sources=frozenset({Source.SHORT_AXIS_CINE}),
    models=("motion-registration",),
    series_block=1,
    priority=10,
    slot=Slot.GPU,
)
