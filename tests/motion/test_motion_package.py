"""The package on one phantom, from images to findings, with the networks that come with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipelines.analysis import Findings
from pipelines.cine.stack import View
from pipelines.errors import RefusalReason
from pipelines.motion.findings import CardiacMotion, Keyframe
from pipelines.motion.package import PACKAGE
from pipelines.phantom.assembled import cine_study
from pipelines.phantom.recipe import PhantomRecipe
from pipelines.phantom.study import simulate
from pipelines.phantom.truth import measure_truth
from pipelines.study import analyse_study, findings_of

RECIPE = PhantomRecipe(seed=61, slices=8, phases=20, rows=160, columns=176)


@pytest.fixture(scope="module")
def study():
    return simulate(RECIPE, workers=1)


@pytest.fixture(scope="module")
def findings(study) -> Findings:
    return analyse_study(cine_study(study), [CardiacMotion])


@pytest.mark.slow
def test_keyframes_and_strain_of_a_healthy_phantom(study, findings: Findings) -> None:
    found, facts = findings[CardiacMotion], measure_truth(study).facts
    short_axis = found.keyframes.of(View.SAX)
    assert short_axis is not None
    assert found.keyframes.of(View.LAX_4CH) is not None
    for key in (Keyframe.END_DIASTOLE, Keyframe.END_SYSTOLE):
        apart = abs(short_axis.phases[key] - getattr(facts.keyframes, key.value)) % RECIPE.phases
        assert min(apart, RECIPE.phases - apart) <= 2, key
    strain = found.strain
    assert strain.longitudinal is not None
    assert strain.longitudinal.peak_percent == pytest.approx(facts.gls_percent, abs=5)
    assert strain.circumferential.peak_percent == pytest.approx(facts.gcs_percent, abs=4)
    assert found.folded_percent < 0.1
    assert [model.name for model in found.models] == ["motion-registration"]
    views = [stack.view for stack in found.stacks]
    assert views[0] is View.SAX
    assert sorted(views) == sorted({View.SAX, View.LAX_2CH, View.LAX_3CH, View.LAX_4CH})
    assert len(strain.segments) == 3
    assert np.isfinite(strain.segments[0].peak_percent).sum() >= 12


@pytest.mark.slow
def test_a_cine_of_two_phases_is_declined_and_says_why(study) -> None:
    whole = cine_study(study)
    sax = whole.short_axis
    assert sax is not None
    few = dataclasses.replace(
        sax,
        pixels=sax.pixels[[0, 7]],
        sources=(sax.sources[0], sax.sources[7]),
        trigger_times=sax.trigger_times[[0, 7]],
    )
    causes = findings_of(PACKAGE, analyse_study(dataclasses.replace(whole, stacks=(few,)), [CardiacMotion])).causes
    assert [one.reason for one in causes] == [RefusalReason.TOO_FEW_PHASES]
    assert "8 are needed to follow motion" in causes[0].sentence
