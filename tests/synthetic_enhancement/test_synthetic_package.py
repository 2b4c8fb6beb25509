"""The package on phantoms, from images to findings, with the networks that come with it; and what leads to what."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from pipelines.analysis import Findings
from pipelines.cine.stack import CineStack, CineStudy, StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import Keyframes
from pipelines.function.slices import SliceMeasures
from pipelines.models.registry import ModelUnavailable
from pipelines.phantom.assembled import cine_study
from pipelines.phantom.recipe import Disease, Fault, PhantomRecipe
from pipelines.phantom.study import simulate
from pipelines.quality.findings import Grade, QualityAssessment, QualityCheck, QualityFinding
from pipelines.sampling import Sampling
from pipelines.study import analyse_study, findings_of
from pipelines.synthetic_enhancement import measure
from pipelines.synthetic_enhancement.findings import Shown, SyntheticEnhancement
from pipelines.synthetic_enhancement.load import Networks, load_networks
from pipelines.synthetic_enhancement.measure import synthesise
from pipelines.synthetic_enhancement.package import PACKAGE
from pipelines.ventricular_function.steps import ShortAxis

RECIPE = PhantomRecipe(
    seed=71,
    disease=Disease.INFARCT,
    transmurality=1.0,
    acute=True,
    slices=8,
    phases=10,
    rows=112,
    columns=112,
    spacing_mm=1.8,
    coils=2,
    long_axis=False,
)
CONTEXT = StudyContext(study_instance_uid="2.25.1", manufacturer="SIEMENS", field_strength_t=1.5)


def _analysed(recipe: PhantomRecipe) -> Findings:
    return analyse_study(replace(cine_study(simulate(recipe, workers=1)), context=CONTEXT), [SyntheticEnhancement])


@pytest.fixture(scope="module")
def study() -> CineStudy:
    return replace(cine_study(simulate(RECIPE, workers=1)), context=CONTEXT)


@pytest.fixture(scope="module")
def findings(study: CineStudy) -> Findings:
    return analyse_study(study, [SyntheticEnhancement, ShortAxis, SliceMeasures, Keyframes, QualityAssessment])


@pytest.fixture(scope="module")
def networks() -> Networks:
    return load_networks()


def test_an_infarct_gives_image_probability_and_extent_on_the_grid_of_the_cine(
    study: CineStudy, findings: Findings
) -> None:
    found = findings[SyntheticEnhancement]
    stack = study.short_axis
    assert stack is not None
    shape = stack.pixels.shape[1:]
    for volume in (found.probability, found.enhanced, found.muscle):
        assert volume.shape == shape
    assert found.muscle.any(axis=(1, 2)).nonzero()[0].tolist() == list(found.slices)
    assert not (found.enhanced & ~found.muscle).any()
    assert not found.probability[~found.muscle].any()
    assert set(found.slice_probability) == set(found.slices)
    assert all(1 <= entry.segment <= 16 and 0 <= entry.probability <= 1 for entry in found.segments)
    assert len(found.segments) >= 10
    assert found.study_probability == next(one.probability for one in found.classifiers if one.reported)
    assert len(found.classifiers) == 3
    for extent in (found.hyperintense, found.intermediate, found.beyond_5_sd):
        assert extent is not None
        assert extent.interval.lower <= extent.percent <= extent.interval.upper
    assert [model.name for model in found.models] == list(PACKAGE.models)
    assert all("simulated" in model.training_data for model in found.models)
    if found.shown is Shown.IMAGE_AND_PROBABILITY:
        assert found.image is not None
        assert found.uncertainty is not None
        assert found.image.shape == found.uncertainty.shape == shape
        assert not found.image[[i for i in range(shape[0]) if i not in found.slices]].any()
    else:
        assert found.withheld


def _resynthesised(
    findings: Findings, networks: Networks, quality: QualityAssessment | None = None, **calibration: object
) -> SyntheticEnhancement:
    lenient: dict[str, object] = {"deviation_limit": 9.0, "novelty_limit": 99.0, "novelty_refused": 999.0}
    whole = networks.calibration.whole_cycle.model_copy(update={"operating_point": 0.0})
    changed = networks.calibration.model_copy(update=lenient | {"whole_cycle": whole} | calibration)
    clean = quality or QualityAssessment((), Grade.GOOD)
    return synthesise(
        findings[ShortAxis],
        findings[SliceMeasures],
        findings[Keyframes],
        clean,
        CONTEXT,
        replace(networks, calibration=changed),
        Sampling(2, 1),
    )


def test_image_and_probability_where_nothing_speaks_against_it(findings: Findings, networks: Networks) -> None:
    found = _resynthesised(findings, networks)
    assert found.shown is Shown.IMAGE_AND_PROBABILITY
    assert found.image is not None
    assert not found.withheld
    assert (found.samples, found.steps) == (2, 1)
    inside = found.image[list(found.slices)]
    assert inside[found.muscle[list(found.slices)]].std() > 0


@pytest.mark.parametrize(
    ("change", "word"), [({"deviation_limit": 0.0}, "disagree"), ({"novelty_limit": 0.0}, "unlike")]
)
def test_probability_alone_where_samples_disagree_or_the_heart_is_unlike_those_known(
    findings: Findings, networks: Networks, change: dict[str, float], word: str
) -> None:
    found = _resynthesised(findings, networks, **change)
    assert found.shown is Shown.PROBABILITY
    assert found.image is None
    assert found.uncertainty is None
    assert any(word in sentence for sentence in found.withheld)
    assert found.probability.any()


def test_nothing_where_the_heart_is_too_unlike_those_known(findings: Findings, networks: Networks) -> None:
    with pytest.raises(AnalysisRefused, match="too unlike") as refused:
        _resynthesised(findings, networks, novelty_refused=0.0)
    assert refused.value.reason is RefusalReason.NOT_SUITABLE


@pytest.mark.parametrize("check", sorted(measure._WITHHELD_BY))
def test_every_poor_check_of_motion_and_muscle_withholds_the_image(
    findings: Findings, networks: Networks, check: QualityCheck
) -> None:
    poor = QualityAssessment((QualityFinding(check, Grade.POOR, f"Poor {check}."),), Grade.POOR)
    assert _withheld_by(findings, networks, poor) == (f"Poor {check}.",)


def _withheld_by(findings: Findings, networks: Networks, quality: QualityAssessment) -> tuple[str, ...]:
    stack = findings[ShortAxis]
    heart = measure.heart_of(stack, findings[SliceMeasures], findings[Keyframes], measure.Circumstances())
    still = np.zeros((2, len(heart.slices), 64, 64), np.float32)
    answer = measure.Answer(still[0], np.zeros(len(heart.slices)), still[0], still, np.zeros(1), np.zeros(3))
    return measure._withheld(heart, answer, networks.calibration, quality, stack, 0.0)


def test_other_checks_do_not(findings: Findings, networks: Networks) -> None:
    poor = QualityFinding(QualityCheck.RV_SIZE, Grade.POOR, "Poor.")
    good = QualityFinding(QualityCheck.SLICE_SHIFT, Grade.GOOD, "A little.")
    assert _withheld_by(findings, networks, QualityAssessment((poor, good), Grade.POOR)) == ()


def test_quality_too_low_for_numbers_declines(findings: Findings, networks: Networks) -> None:
    with pytest.raises(AnalysisRefused, match="Nothing is visible") as refused:
        _resynthesised(findings, networks, QualityAssessment((), Grade.UNUSABLE, "Nothing is visible."))
    assert refused.value.reason is RefusalReason.QUALITY_TOO_LOW


def _phases(study: CineStudy, chosen: list[int]) -> CineStudy:
    stack = study.short_axis
    assert stack is not None
    few: CineStack = replace(
        stack,
        pixels=stack.pixels[chosen],
        sources=tuple(stack.sources[phase] for phase in chosen),
        trigger_times=stack.trigger_times[chosen],
    )
    return replace(study, stacks=(few,))


def test_two_phases_give_a_probability_and_no_image(study: CineStudy) -> None:
    found = analyse_study(_phases(study, [0, 4]), [SyntheticEnhancement])[SyntheticEnhancement]
    assert found.shown is Shown.PROBABILITY
    assert any("2 phases" in sentence for sentence in found.withheld)
    assert 0 <= found.study_probability <= 1


def test_one_phase_declines(study: CineStudy) -> None:
    causes = findings_of(PACKAGE, analyse_study(_phases(study, [0]), [SyntheticEnhancement])).causes
    assert [one.reason for one in causes] == [RefusalReason.TOO_FEW_PHASES]


def test_missing_networks_decline(study: CineStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> Networks:
        raise ModelUnavailable("there is no model")

    monkeypatch.setattr("pipelines.synthetic_enhancement.load.load_networks", absent)
    causes = findings_of(PACKAGE, analyse_study(_phases(study, [0, 4]), [SyntheticEnhancement])).causes
    assert [one.reason for one in causes] == [RefusalReason.MODEL_UNAVAILABLE]


WITHHELD_FAULTS = frozenset({Fault.MISSING_SLICES, Fault.POOR_COVERAGE, Fault.WRONG_VIEW})
"""What shows less muscle than there is, or cuts it aslant; the others leave an image, with about the probability of a
clean study."""


@pytest.mark.slow
@pytest.mark.parametrize("fault", sorted(Fault))
def test_each_fault_of_the_phantom_leads_where_it_should(fault: Fault, findings: Findings) -> None:
    found = _analysed(replace(RECIPE, faults=frozenset({fault})))
    result = found.get(SyntheticEnhancement)
    if result is None:
        assert all(refusal.sentence for refusal in found.refusals)
        return
    if fault in WITHHELD_FAULTS:
        assert result.shown is Shown.PROBABILITY
    # Whatever the fault: no image without its uncertainty, no refusal of it without a reason.
    assert (result.image is None) == bool(result.withheld)
    assert (result.image is None) == (result.uncertainty is None)
    if fault is not Fault.WRONG_VIEW:
        clean = findings[SyntheticEnhancement]
        assert result.study_probability == pytest.approx(clean.study_probability, abs=0.25)


def test_below_the_operating_point_there_is_no_extent_and_no_image_that_shows_one(
    findings: Findings, networks: Networks
) -> None:
    usual = networks.calibration.whole_cycle
    shows = _resynthesised(findings, networks, whole_cycle=usual.model_copy(update={"operating_point": 0.0}))
    assert shows.present
    assert shows.hyperintense.percent >= measure.EXTENT_SEEN
    assert shows.shown is Shown.IMAGE_AND_PROBABILITY
    quiet = _resynthesised(findings, networks, whole_cycle=usual.model_copy(update={"operating_point": 1.0}))
    assert not quiet.present
    assert quiet.study_probability == shows.study_probability
    assert {quiet.hyperintense.percent, quiet.intermediate.percent} == {0.0}
    assert quiet.hyperintense.interval.upper > 0, "the samples are told all the same"
    assert not quiet.enhanced.any()
    assert not any(one.percent or one.transmurality_percent for one in quiet.segments)
    assert quiet.image is None
    assert any("does not bear out" in sentence for sentence in quiet.withheld)
    just_below = usual.model_copy(update={"operating_point": shows.study_probability + 0.0004})
    (said,) = re.findall(
        r"\((\S+), (\S+) needed\)", " ".join(_resynthesised(findings, networks, whole_cycle=just_below).withheld)
    )
    assert float(said[0]) < float(said[1]), "what is said tells the two apart"


def test_an_image_that_shows_nothing_of_what_the_probability_says_is_withheld(
    findings: Findings, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = networks.calibration.whole_cycle.model_copy(update={"operating_point": 0.0})
    real = measure.measure_extents
    monkeypatch.setattr(measure, "measure_extents", lambda image, *rest: real(np.zeros_like(image), *rest))
    faint = _resynthesised(findings, networks, whole_cycle=usual)
    assert faint.present
    assert faint.hyperintense.percent == 0
    assert faint.shown is Shown.PROBABILITY
    assert faint.image is None
    assert any("no measurement" in sentence for sentence in faint.withheld)
