"""Phantoms as the assembler would give them, without DICOM in between."""

from __future__ import annotations

import numpy as np

from pipelines.cine.stack import CineStack, CineStudy, FrameSource, PhaseEncoding, StudyContext
from pipelines.phantom.study import CineAcquisition, PhantomStudy

__all__ = ["cine_stack", "cine_study"]


def cine_stack(cine: CineAcquisition) -> CineStack:
    """One cine of a phantom as a stack; its frames name no instances."""
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
        phase_encoding=PhaseEncoding.COLUMN,
    )


def cine_study(study: PhantomStudy) -> CineStudy:
    """Every cine of a phantom as stacks."""
    context = StudyContext(study_instance_uid="2.25.1")
    return CineStudy(context, tuple(cine_stack(cine) for cine in study.cines), ())
