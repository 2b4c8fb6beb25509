"""The assembler on simulated studies in every dialect, written by the phantom: two independent readings of DICOM."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from pipelines.cine.assemble import assemble
from pipelines.cine.files import dicom_files
from pipelines.cine.stack import OmissionReason, PhaseEncoding, Reconstruction, View
from pipelines.cine.views import base_first
from pipelines.phantom.recipe import Dialect, PhantomRecipe
from pipelines.phantom.study import PhantomStudy, simulate
from pipelines.phantom.writer import write_study


@functools.cache
def phantom() -> PhantomStudy:
    recipe = PhantomRecipe(
        seed=11, slices=6, phases=12, rows=64, columns=72, spacing_mm=4.0, coils=1, late_enhancement=True
    )
    return simulate(recipe)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_every_dialect_gives_the_simulated_stacks(tmp_path, dialect) -> None:
    truth = phantom()
    write_study(truth, tmp_path, dialect=dialect, ecg=True)
    (study,) = assemble(dicom_files(tmp_path))
    assert [found.view for found in study.stacks] == [View.SAX, View.LAX_2CH, View.LAX_3CH, View.LAX_4CH]
    for found in study.stacks:
        cine = next(cine for cine in truth.cines if cine.view is found.view)
        assert found.pixels.shape == cine.pixels.shape
        forward = float(found.geometry.normal @ cine.geometry.normal) > 0
        pixels = cine.pixels if forward else cine.pixels[:, ::-1]
        # Philips and GE rescale: the pattern is the same, the scale is not.
        for phase, index in ((0, 0), (5, found.slices - 1)):
            agreement = np.corrcoef(found.pixels[phase, index].ravel(), pixels[phase, index].ravel())[0, 1]
            assert agreement > 0.999
        np.testing.assert_allclose(found.geometry.pitch, cine.geometry.pitch, atol=0.05)
        rr = cine.rr_intervals if forward else cine.rr_intervals[::-1]
        np.testing.assert_allclose(found.rr_intervals, rr, rtol=0.03)
        assert found.retrospective
        assert found.phase_encoding is PhaseEncoding.COLUMN
    assert base_first(study.stacks[0]) is False
    assert [stack.view for stack in study.long_axis] == [View.LAX_2CH, View.LAX_3CH, View.LAX_4CH]
    assert {entry.reason for entry in study.omissions} == {OmissionReason.NOT_AN_IMAGE}
    assert truth.enhancement is not None
    assert [(stack.view, stack.reconstruction) for stack in study.late_enhancement] == [
        (View.SAX, Reconstruction.MAGNITUDE),
        (View.SAX, Reconstruction.PHASE_SENSITIVE),
    ]
    for stack, pixels in zip(
        study.late_enhancement, (truth.enhancement.magnitude, truth.enhancement.phase_sensitive), strict=True
    ):
        forward = float(stack.geometry.normal @ truth.enhancement.geometry.normal) > 0
        wanted = pixels if forward else pixels[::-1]
        assert np.corrcoef(stack.pixels.ravel(), wanted.ravel())[0, 1] > 0.999
        np.testing.assert_allclose(stack.inversion_times_ms, truth.enhancement.timing.inversion_ms, atol=1)
        np.testing.assert_allclose(stack.trigger_times_ms, truth.enhancement.trigger_ms, atol=1)
        here = truth.enhancement.geometry.positions if forward else truth.enhancement.geometry.positions[::-1]
        np.testing.assert_allclose(stack.geometry.positions, here, atol=0.01)
