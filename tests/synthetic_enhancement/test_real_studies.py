"""Where each oddity of real studies leads: image and probability, probability alone, or declined with its reason.

The studies are those that lie beside the checkout: two of Sunnybrook (GE), one of a Siemens Vida, patients of ACDC (two
phases each) and of EMIDEC (late enhancement alone). What is cut off them is what arrives in practice: few phases, few
slices, one view, no cine.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from pipelines.analysis import Findings
from pipelines.cine.assemble import assemble, assemble_datasets, dicom_files
from pipelines.cine.stack import CineStudy, StudyContext
from pipelines.errors import RefusalReason
from pipelines.study import analyse_study, findings_of
from pipelines.synthetic_enhancement.findings import Shown, SyntheticEnhancement
from pipelines.synthetic_enhancement.package import PACKAGE
from pipelines.training.acdc import read_patient, to_stack
from pipelines.training.emidec import find_cases, read_case
from pipelines.training.emidec import to_stack as late_enhancement_of

pytestmark = [pytest.mark.real_data, pytest.mark.filterwarnings("ignore:Invalid value for VR")]

EVERY_OTHER = slice(None, None, 2)
"""Ten of twenty phases lead where all of them do, for half of the time."""
CONTEXT = StudyContext(study_instance_uid="2.25.1")


def analysed(study: CineStudy) -> Findings:
    return analyse_study(study, [SyntheticEnhancement])


def predicted(study: CineStudy) -> SyntheticEnhancement:
    """What is found, held against what must be true wherever it leads."""
    found = analysed(study)[SyntheticEnhancement]
    assert (found.image is None) == (found.uncertainty is None) == (found.shown is Shown.PROBABILITY)
    assert (found.shown is Shown.PROBABILITY) == bool(found.withheld)
    assert 0 <= found.study_probability <= 1
    return found


def declined(study: CineStudy) -> tuple[RefusalReason, str]:
    findings = analysed(study)
    assert findings.get(SyntheticEnhancement) is None
    (cause,) = findings_of(PACKAGE, findings).causes
    return cause.reason, cause.sentence


def part(study: CineStudy, *, phases: slice = slice(None), slices: slice = slice(None)) -> CineStudy:
    """The study with some phases and slices of its short axis, and without other cine."""
    stack = study.short_axis
    assert stack is not None
    few = replace(
        stack,
        pixels=stack.pixels[phases, slices],
        sources=tuple(row[slices] for row in stack.sources[phases]),
        trigger_times=stack.trigger_times[phases, slices],
        rr_intervals=stack.rr_intervals[slices],
        geometry=replace(stack.geometry, positions=stack.geometry.positions[slices]),
    )
    return replace(study, stacks=(few,))


@pytest.fixture(scope="module")
def sunnybrook(sunnybrook_dir: Path) -> dict[int, CineStudy]:
    """By number of slices: 12 of SCD0000101, 10 of SCD0000301; both in heart failure after an infarct."""
    found = {}
    for study in assemble(dicom_files(sunnybrook_dir)):
        assert study.short_axis is not None
        found[study.short_axis.slices] = study
    return found


@pytest.fixture(scope="module")
def siemens_vida(siemens_vida_dir: Path) -> CineStudy:
    (study,) = assemble(dicom_files(siemens_vida_dir))
    return study


def test_a_whole_short_axis_gives_image_and_probability(sunnybrook: dict[int, CineStudy]) -> None:
    """GE, 12 slices, invalid UIDs and an impossible date: none of that is a reason to withhold anything."""
    found = predicted(part(sunnybrook[12], phases=EVERY_OTHER))
    assert found.shown is Shown.IMAGE_AND_PROBABILITY
    assert found.image is not None
    assert found.present, "this heart has failed after an infarct"
    assert found.study_probability >= found.operating_point


def test_a_stack_that_ends_inside_the_ventricle_gives_the_probability_alone(sunnybrook: dict[int, CineStudy]) -> None:
    found = predicted(part(sunnybrook[10], phases=EVERY_OTHER))
    assert found.shown is Shown.PROBABILITY
    assert any("base is not covered" in sentence for sentence in found.withheld)


def test_slices_far_apart_give_the_probability_alone(siemens_vida: CineStudy) -> None:
    """Six slices 17.7 mm apart, one series each."""
    found = predicted(part(siemens_vida, phases=slice(0, None, 3)))
    assert found.shown is Shown.PROBABILITY
    assert any("17.7 mm apart" in sentence for sentence in found.withheld)


@pytest.mark.parametrize(("step", "phases"), [(10, 2), (3, 7)])
def test_few_phases_give_the_probability_alone(sunnybrook: dict[int, CineStudy], step: int, phases: int) -> None:
    found = predicted(part(sunnybrook[12], phases=slice(None, None, step)))
    assert found.shown is Shown.PROBABILITY
    assert any(f"{phases} phases" in sentence for sentence in found.withheld)


def test_three_slices_give_the_probability_alone(sunnybrook: dict[int, CineStudy]) -> None:
    found = predicted(part(sunnybrook[12], phases=EVERY_OTHER, slices=slice(6, 9)))
    assert found.shown is Shown.PROBABILITY
    for word in ("Only 3 slices", "base is not covered", "apex is not covered"):
        assert any(word in sentence for sentence in found.withheld)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_slices_decline(sunnybrook: dict[int, CineStudy], count: int) -> None:
    reason, sentence = declined(part(sunnybrook[12], slices=slice(6, 6 + count)))
    assert reason is RefusalReason.TOO_FEW_SLICES
    assert f"{count} slice(s)" in sentence


def test_one_phase_declines(sunnybrook: dict[int, CineStudy]) -> None:
    reason, sentence = declined(part(sunnybrook[12], phases=slice(0, 1)))
    assert reason is RefusalReason.TOO_FEW_PHASES
    assert "a single cardiac phase" in sentence


def test_images_that_are_no_cine_decline(sunnybrook_dir: Path) -> None:
    """One image of every slice, as a localiser or a black-blood stack has: nothing is made of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid UIDs, on purpose
        images = [pydicom.dcmread(path) for path in dicom_files(sunnybrook_dir / "SCD0000101")]
    places = {tuple(image.ImagePositionPatient): image for image in images}
    (study,) = assemble_datasets(list(places.values()))
    assert not study.stacks
    assert study.omissions
    reason, sentence = declined(study)
    assert reason is RefusalReason.NO_SHORT_AXIS_STACK
    assert "1 of 20 phases" in sentence


def test_long_axis_views_alone_decline(siemens_vida: CineStudy) -> None:
    views = tuple(stack for stack in siemens_vida.stacks if stack is not siemens_vida.short_axis)
    assert len(views) == 5
    assert declined(replace(siemens_vida, stacks=views))[0] is RefusalReason.NO_SHORT_AXIS_STACK


def test_late_enhancement_alone_declines(shared_data: Path) -> None:
    """Real contrast-enhanced images are no input: nothing is predicted from them, whatever they show."""
    images = next(iter(find_cases(shared_data / "emidec").values()))
    study = CineStudy(CONTEXT, (), (), (late_enhancement_of(read_case(images)),))
    assert declined(study)[0] is RefusalReason.NO_SHORT_AXIS_STACK


@pytest.mark.parametrize(("patient", "aslant"), [("patient051", True), ("patient010", False)])
def test_two_phases_of_a_patient_and_a_stack_planned_off_the_long_axis(
    acdc_dir: Path, patient: str, aslant: bool
) -> None:
    found = predicted(CineStudy(CONTEXT, (to_stack(read_patient(acdc_dir / patient)),), ()))
    assert found.shown is Shown.PROBABILITY
    assert any("2 phases" in sentence for sentence in found.withheld)
    assert any("not planned across the long axis" in sentence for sentence in found.withheld) == aslant


def test_an_image_that_is_no_heart_declines(sunnybrook: dict[int, CineStudy]) -> None:
    """The same headers over a picture without a ventricle: a calf, a phantom, another plane under a wrong name."""
    stack = sunnybrook[12].short_axis
    assert stack is not None
    rows, columns = np.indices(stack.pixels.shape[2:])
    away: NDArray[np.float64] = np.hypot(rows - 128, columns - 128)
    calf = np.where(away < 70, 90 + 10 * np.sin(away), 3).astype(stack.pixels.dtype)
    noise = np.random.default_rng(0).integers(0, 6, stack.pixels[:8, :6].shape).astype(stack.pixels.dtype)
    study = part(sunnybrook[12], phases=slice(0, 8), slices=slice(0, 6))
    (few,) = study.stacks
    reason, sentence = declined(replace(study, stacks=(replace(few, pixels=calf + noise),)))
    assert reason in (RefusalReason.NO_VENTRICLE_FOUND, RefusalReason.QUALITY_TOO_LOW, RefusalReason.NOT_SUITABLE)
    assert sentence
