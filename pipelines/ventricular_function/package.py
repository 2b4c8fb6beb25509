"""Ventricular function: volumes, ejection fraction, mass and wall of both ventricles from short-axis cine."""

from __future__ import annotations

from pipelines.function.findings import VentricularFunction
from pipelines.package import AnalysisPackage, Source
from pipelines.ventricular_function.steps import STEPS

__all__ = ["PACKAGE"]

PACKAGE = AnalysisPackage(
    name="ventricular_function",
    title="ventricular function",
    version="1.8.0",
    gives=VentricularFunction,
    steps=STEPS,
    sources=frozenset({Source.SHORT_AXIS_CINE}),
    models=("heart-localiser", "ventricle-segmentation"),
    series_block=0,
    priority=20,
)
