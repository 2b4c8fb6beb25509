"""Phantoms as the assembler would give them, without DICOM in between: what motion is measured on."""

from __future__ import annotations

import numpy as np

from pipelines.cine.stack import CineStack, CineStudy, FrameSource, StudyContext
from pipelines.phantom.recipe import Dialect, Disease, Fault, PhantomRecipe
from pipelines.phantom.study import CineAcquisition, PhantomStudy

__all__ = ["cine_study", "measured_recipe"]

_FAULTS = (Fault.MISTRIGGER, Fault.BREATHING, Fault.GHOSTING, Fault.ARRHYTHMIA, Fault.LOW_SNR)
"""Faults of the images. Missing slices, wrong view and poor coverage are faults of planning, for quality control."""


def measured_recipe(seed: int, *, faults: bool) -> PhantomRecipe:
    """Recipe of number ``seed`` of the phantoms that figures are reported on: all diseases and vendors in turn."""
    rng = np.random.default_rng([seed, 0x4D5452])
    vendors = tuple(Dialect)
    return PhantomRecipe(
        seed=seed,
        disease=tuple(Disease)[seed % len(Disease)],
        dialect=vendors[int(rng.integers(len(vendors)))],
        slices=int(rng.integers(9, 13)),
        phases=int(rng.integers(20, 36)),
        rows=176,
        columns=192,
        faults=frozenset({_FAULTS[int(rng.integers(len(_FAULTS)))]}) if faults and rng.random() < 0.6 else frozenset(),
    )


def cine_study(study: PhantomStudy) -> CineStudy:
    """Every cine of a phantom as stacks."""
    context = StudyContext(study_instance_uid="2.25.1")
    return CineStudy(context, tuple(_stack(cine) for cine in study.cines), ())


def _stack(cine: CineAcquisition) -> CineStack:
    phases, slices = cine.pixels.shape[:2]
    source = FrameSource("", "", "", None, None, None)
    return CineStack(
        view=cine.view,
        pixels=cine.pixels.astype(np.float32),
        geometry=cine.geometry,
        sources=((source,) * slices,) * phases,
        trigger_times=cine.trigger_times,
        rr_intervals=cine.rr_intervals,
        frame_of_reference_uid="2.25.1",
    )
