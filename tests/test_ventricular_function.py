"""The wiring: a study in, findings out; refusals are data."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import hearts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from pipelines.analysis import Analysis, analysis, plan
from pipelines.cine.stack import CineStack, CineStudy, Omission, OmissionReason, StudyContext, View
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import Keyframes, UncheckedFunction, VentricularFunction
from pipelines.package import Device
from pipelines.quality.findings import Grade, QualityAssessment
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.study import analyse_study
from pipelines.ventricular_function.steps import STEPS, ShortAxis, in_short_axis

CONTEXT = StudyContext("1.2.3", sex="F", height_m=1.7, weight_kg=65.0)
SIZE = (72, 72)


def with_truth(truth: CineSegmentation) -> tuple[Analysis, ...]:
    """The analyses with the drawn truth in the place of the networks."""

    @analysis
    def segmentation(stack: ShortAxis) -> CineSegmentation:
        return truth

    return tuple(segmentation if step.gives is CineSegmentation else step for step in STEPS)


def heart(**kwargs) -> tuple[CineStack, CineSegmentation]:
    return hearts.draw(hearts.beating(12), hearts.geometry(spacing=(2.0, 2.0), size=SIZE, **kwargs), SIZE)


def test_study_gives_function_and_quality_with_seconds() -> None:
    stack, truth = heart()
    started: list[str] = []
    findings = analyse_study(CineStudy(CONTEXT, (stack,), ()), steps=with_truth(truth), on_start=started.append)
    assert findings.refusals == ()
    assert findings[VentricularFunction].lv.ejection_fraction_percent == pytest.approx(60, abs=3)
    assert findings[VentricularFunction].bsa_m2 == pytest.approx(np.sqrt(170 * 65 / 3600))
    assert findings[QualityAssessment].usable
    assert set(findings.seconds) == {step.name for step in STEPS} == set(started)
    assert sum(findings.seconds.values()) > 0


def test_findings_travel_between_processes() -> None:
    stack, truth = heart()
    findings = analyse_study(CineStudy(CONTEXT, (stack,), ()), steps=with_truth(truth))
    there = pickle.loads(pickle.dumps(findings))
    assert there[VentricularFunction].lv.edv_ml == findings[VentricularFunction].lv.edv_ml
    assert there[ShortAxis].slices == stack.slices
    assert there.seconds == findings.seconds


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    phases=st.sampled_from([2, 3, 9, 13]),
    slices=st.integers(3, 6),
    weights=st.tuples(*[st.floats(0, 1)] * 4).filter(lambda w: sum(w) > 0),
    blur=st.floats(0, 3),
    retrospective=st.booleans(),
)
def test_no_segmentation_makes_it_fail(seed, phases, slices, weights, blur, retrospective) -> None:
    """Blobs, specks, empty slices, a single pixel: an answer or a refusal with a reason, never a defect."""
    random = np.random.default_rng(seed)
    scores = random.random((4, phases, slices, 20, 22)) * np.reshape(weights, (4, 1, 1, 1, 1))
    labels = gaussian_filter(scores, (0, 0, 0, blur, blur)).argmax(axis=0).astype(np.uint8)
    labels[:, random.random(slices) < 0.3] = 0
    grid = hearts.geometry(slices, 8.0, (1.5, 2.5), (20, 22), base_first=bool(seed % 2))
    stack = hearts.stack_of(labels, grid, retrospective=retrospective)
    findings = analyse_study(CineStudy(CONTEXT, (stack,), ()), steps=with_truth(hearts.segmentation_of(labels)))
    assert RefusalReason.ANALYSIS_FAILED not in {refusal.reason for refusal in findings.refusals}, findings.refusals
    function = findings.get(VentricularFunction)
    if function is not None:
        assert all(np.isfinite(m.value) for m in function.measurements())
        assert 3 <= function.lv.ejection_fraction_percent <= 95
    assert (function is None) == bool(findings.refusals)


def test_no_short_axis_stack_is_refused_everywhere() -> None:
    stack, truth = heart()
    for stacks in ((), (replace(stack, view=View.LAX_4CH),)):
        findings = analyse_study(CineStudy(CONTEXT, stacks, ()), steps=with_truth(truth))
        assert len(findings.refusals) == len(STEPS)
        assert {refusal.reason for refusal in findings.refusals} == {RefusalReason.NO_SHORT_AXIS_STACK}
        assert findings.refusals[0].because_of is None
        assert {refusal.because_of for refusal in findings.refusals[1:]} == {"short_axis"}
        assert findings.get(VentricularFunction) is None
        assert not findings.refusals[0].reason.retry_can_help


def test_the_refusal_tells_what_may_have_been_the_short_axis_and_could_not_be_read() -> None:
    """Frames that could not be decoded were told as if the study held no short axis."""
    broken = Omission(OmissionReason.UNREADABLE, "Its pixels cannot be decoded.", "1.2", ("1.2.1", "1.2.2"))
    one = Omission(OmissionReason.NO_GEOMETRY, "It says no position.", "1.3", ("1.3.1",))
    other = Omission(OmissionReason.LOCALIZER, "A localizer.", "1.4", ("1.4.1", "1.4.2", "1.4.3"))
    _, truth = heart()

    def refused(*omissions: Omission) -> str:
        return analyse_study(CineStudy(CONTEXT, (), omissions), steps=with_truth(truth)).refusals[0].sentence

    assert refused(other) == "The study holds no short-axis cine stack."
    assert refused(one, broken, other) == (
        "The study holds no short-axis cine stack that can be read; 3 images could not be used, such as: "
        "Its pixels cannot be decoded."
    )
    assert "1 image could not be used, such as: It says no position." in refused(one, other)


def test_too_few_slices_and_phases_are_refused() -> None:
    stack, truth = heart(missing=tuple(range(2, 12)))
    (first, *_) = analyse_study(CineStudy(CONTEXT, (stack,), ()), steps=with_truth(truth)).refusals
    assert first.reason is RefusalReason.TOO_FEW_SLICES
    assert "2 slice" in first.sentence
    stack, truth = hearts.draw(hearts.beating(12)[:1], hearts.geometry(size=SIZE), SIZE)
    (first, *_) = analyse_study(CineStudy(CONTEXT, (stack,), ()), steps=with_truth(truth)).refusals
    assert first.reason is RefusalReason.TOO_FEW_PHASES


def test_low_quality_refuses_the_numbers_and_keeps_the_rest() -> None:
    stack, truth = heart()
    doubtful = replace(truth, agreement=np.full_like(truth.agreement, 0.4))
    findings = analyse_study(CineStudy(CONTEXT, (stack,), ()), steps=with_truth(doubtful))
    (refusal,) = findings.refusals
    assert refusal.analysis == "ventricular_function"
    assert refusal.reason is RefusalReason.QUALITY_TOO_LOW
    assert "mean Dice of 0.40" in refusal.sentence
    assert findings.get(VentricularFunction) is None
    assert findings[QualityAssessment].overall is Grade.UNUSABLE
    assert findings[UncheckedFunction].function.lv.edv_ml > 0
    assert findings[Keyframes].end_diastole == 0


def test_empty_segmentation_is_refused() -> None:
    stack, truth = heart()
    empty = replace(truth, labels=np.zeros_like(truth.labels))
    findings = analyse_study(CineStudy(CONTEXT, (stack,), ()), steps=with_truth(empty))
    assert findings.refusals[0].analysis == "slice_measures"
    assert {refusal.reason for refusal in findings.refusals} == {RefusalReason.NO_VENTRICLE_FOUND}
    assert findings.get(CineSegmentation) is empty


def test_broken_segmentation_is_a_recorded_defect() -> None:
    stack, truth = heart()
    findings = analyse_study(
        CineStudy(CONTEXT, (stack,), ()), steps=with_truth(replace(truth, labels=truth.labels[:, 1:]))
    )
    assert findings.refusals[0].reason is RefusalReason.ANALYSIS_FAILED
    assert findings.refusals[0].reason.retry_can_help


def test_grey_noise_never_raises() -> None:
    """The networks on pixels without a heart: whatever they say, the answer is findings."""
    stack, _ = heart()
    stack = replace(stack, pixels=np.full_like(stack.pixels[:2], np.nan))
    stack = replace(stack, sources=stack.sources[:2], trigger_times=stack.trigger_times[:2])
    findings = analyse_study(CineStudy(CONTEXT, (stack,), ()), steps=STEPS)
    assert findings.get(VentricularFunction) is None
    reasons = {refusal.reason for refusal in findings.refusals}
    assert reasons == {RefusalReason.NO_VENTRICLE_FOUND}


def test_analyses_fit_together_and_can_be_asked_for_one_by_one() -> None:
    names = [step.name for step in plan(STEPS, [CineStudy, StudyContext, Device], [Keyframes])]
    assert names == ["short_axis", "segmentation", "slice_measures", "keyframes"]
    assert plan(STEPS, [CineStudy, StudyContext, Device])[-1].name == "ventricular_function"


def test_start_up_needs_no_networks() -> None:
    """The receiver and the command line import the wiring; torch and MONAI cost seconds."""
    script = (
        "import sys; from pipelines.package import packages; packages(); "
        "print(*sorted({'torch', 'monai', 'pydicom', 'skimage'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""


def test_a_stack_of_open_view_is_measured_only_when_its_images_show_the_short_axis() -> None:
    stack, truth = heart()
    unusual = replace(stack, view_open=True)
    assert in_short_axis(unusual, truth) is truth
    without_wall = replace(truth, labels=np.where(truth.labels == Label.MYO, np.uint8(0), truth.labels))
    assert in_short_axis(stack, without_wall) is without_wall
    with pytest.raises(AnalysisRefused, match="show no short axis") as refused:
        in_short_axis(unusual, without_wall)
    assert refused.value.reason is RefusalReason.NO_SHORT_AXIS_STACK
