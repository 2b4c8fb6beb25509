"""Each fault made on purpose is found, graded and said; a good study has no concerns."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import fields, replace

import hearts
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cine.stack import CineStack, StackGeometry, StudyContext
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Chamber
from pipelines.function.measure import measure_function
from pipelines.function.slices import measure_slices
from pipelines.long_axis.evidence import AcquisitionFit, LongAxisEvidence
from pipelines.quality.acquisition import shift_residuals_mm
from pipelines.quality.assess import assess_quality, overall_grade
from pipelines.quality.findings import (
    CONFIDENCE_MEANS,
    Grade,
    QualityAssessment,
    QualityCheck,
    QualityFinding,
    QualityStage,
)
from pipelines.quality.limits import Limit, QualityLimits
from pipelines.quality.noise import contrast_to_noise
from pipelines.quality.right_ventricle import area_dips, fragmented_slices
from pipelines.segmentation.labels import CineSegmentation, Label

PHASES = 12
SIZE = (72, 72)
SPACING = (2.0, 2.0)


def grid(**kwargs):
    return hearts.geometry(**{"slices": 12, "pitch": 9.0, "spacing": SPACING, "size": SIZE, **kwargs})


@pytest.fixture(scope="module")
def good() -> tuple[CineStack, CineSegmentation]:
    return hearts.draw(hearts.beating(PHASES), grid(), SIZE)


def assess(stack: CineStack, segmentation: CineSegmentation) -> QualityAssessment:
    slices = measure_slices(stack, segmentation)
    function = measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), StudyContext("1.2.3"))
    return assess_quality(stack, segmentation, slices, function)


def assess_beside(
    study: tuple[CineStack, CineSegmentation],
    *,
    above_mm: float | None = -8.0,
    delay: float = 0.0,
    in_step: bool = True,
    shift_mm: float | None = 1.0,
    volume: float | None = 1.02,
) -> QualityAssessment:
    """With a second 4CH that shows this beside; ``volume`` relative to the short axis."""
    stack, segmentation = study
    slices = measure_slices(stack, segmentation)
    beside = LongAxisEvidence(
        acquisitions=(
            AcquisitionFit("2CH", shift_mm=None if shift_mm is None else 0.5),
            AcquisitionFit("4CH (series 9)", in_step=in_step, delay=delay, shift_mm=shift_mm),
            AcquisitionFit("4CH (series 8)", shift_mm=None if shift_mm is None else 0.2),
        ),
        volume_ml=None if volume is None else slices.lv_ml * volume,
        above_stack_mm=None if above_mm is None else np.full(stack.phases, above_mm),
    )
    slices = replace(slices, beside=beside)
    function = measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), StudyContext("1.2.3"))
    return assess_quality(stack, segmentation, slices, function)


def finding(assessment: QualityAssessment, check: QualityCheck) -> QualityFinding:
    (found,) = [f for f in assessment.findings if f.check is check]
    return found


def relabelled(segmentation: CineSegmentation, change) -> CineSegmentation:
    labels = segmentation.labels.copy()
    change(labels)
    return replace(segmentation, labels=labels)


def test_good_study_has_no_concern(good) -> None:
    assessment = assess(*good)
    assert assessment.concerns == ()
    assert assessment.overall <= Grade.GOOD
    assert assessment.usable
    assert {f.check for f in assessment.findings} == set(QualityCheck) - BY_LONG_AXIS
    assert all(f.sentence.endswith(".") for f in assessment.findings)
    stages = {f.check.stage for f in assessment.findings}
    assert stages == set(QualityStage)


BY_LONG_AXIS = {
    QualityCheck.BASE_REACHED,
    QualityCheck.LONG_AXIS_TIMING,
    QualityCheck.LONG_AXIS_SHIFT,
    QualityCheck.LONG_AXIS_VOLUME,
}


def test_a_study_whose_long_axis_fits_has_every_check_and_no_concern(good) -> None:
    assessment = assess_beside(good)
    assert {f.check for f in assessment.findings} == set(QualityCheck)
    assert assessment.concerns == ()
    assert finding(assessment, QualityCheck.BASE_REACHED).sentence.startswith("The stack of slices reaches beyond")
    for check in (QualityCheck.BASE_REACHED, QualityCheck.LONG_AXIS_SHIFT):
        assert finding(assessment, check).unit == "mm"
    for check in (QualityCheck.LONG_AXIS_TIMING, QualityCheck.LONG_AXIS_VOLUME):
        assert finding(assessment, check).unit == "%"


@pytest.mark.parametrize(
    ("differs", "check", "grade", "said"),
    [
        ({"above_mm": 1.0}, QualityCheck.BASE_REACHED, Grade.EXCELLENT, "lies 1 mm above"),
        ({"above_mm": 3.0}, QualityCheck.BASE_REACHED, Grade.GOOD, "the ventricle is larger than reported"),
        ({"above_mm": 9.0}, QualityCheck.BASE_REACHED, Grade.POOR, "lies 9 mm above the stack"),
        ({"delay": -0.2}, QualityCheck.LONG_AXIS_TIMING, Grade.POOR, "short axis (4CH (series 9) by 20%"),
        ({"in_step": False}, QualityCheck.LONG_AXIS_TIMING, Grade.POOR, "4CH (series 9) cannot be brought"),
        (
            {"shift_mm": -5.0},
            QualityCheck.LONG_AXIS_SHIFT,
            Grade.GOOD,
            "5.0 mm from the short axis, along the long axis (4CH (series 9))",
        ),
        ({"shift_mm": 7.0}, QualityCheck.LONG_AXIS_SHIFT, Grade.POOR, "Breath holds ended at different heights"),
        ({"volume": 1.12}, QualityCheck.LONG_AXIS_VOLUME, Grade.GOOD, "by 2CH and 4CH"),
        ({"volume": 0.8}, QualityCheck.LONG_AXIS_VOLUME, Grade.POOR, "They are 20 % apart"),
    ],
)
def test_a_long_axis_that_differs_is_said(good, differs, check: QualityCheck, grade: Grade, said: str) -> None:
    found = finding(assess_beside(good, **differs), check)
    assert found.grade is grade
    assert said in found.sentence


def test_what_the_views_leave_open_is_not_judged(good) -> None:
    assessment = assess_beside(good, shift_mm=None, volume=None, above_mm=None)
    assert {f.check for f in assessment.findings} & BY_LONG_AXIS == {QualityCheck.LONG_AXIS_TIMING}


UNITS = {
    "{phases}": {QualityCheck.PHASES},
    "{slices}": {QualityCheck.SLICES},
    "{minima}": {QualityCheck.CURVE_SHAPE},
    "{points}": {QualityCheck.BASAL_STABILITY},
    "deg": {QualityCheck.PLANE},
    "mm": {QualityCheck.SLICE_GAP, QualityCheck.SLICE_SHIFT},
    "ml": {QualityCheck.PLAUSIBLE_VOLUMES},
    "g": {QualityCheck.PLAUSIBLE_MASS},
    "%": {
        *(QualityCheck.RR_VARIATION, QualityCheck.CURVE_SMOOTHNESS, QualityCheck.CONTRACTION),
        *(QualityCheck.STROKE_VOLUMES, QualityCheck.MASS_CONSTANCY, QualityCheck.GHOSTING, QualityCheck.TRIGGERING),
        *(QualityCheck.RV_FRAGMENTS, QualityCheck.RV_OVER_SLICES, QualityCheck.RV_OVER_TIME),
    },
}


def test_each_value_has_its_unit(good) -> None:
    found = {one.check: one for one in assess(*good).findings}
    for unit, checks in UNITS.items():
        for check in checks & set(found):
            assert found[check].unit == unit, check
    others = set(found) - set().union(*UNITS.values())
    assert {found[check].unit for check in others} == {"1"}
    assert len(set(found) - others) >= 14
    assert QualityCheck.PLANE in found


@pytest.mark.parametrize(
    ("phases", "grade"), [(25, Grade.EXCELLENT), (15, Grade.GOOD), (10, Grade.POOR), (2, Grade.POOR)]
)
def test_phases(phases: int, grade: Grade) -> None:
    shapes = hearts.beating(20)
    chosen = [shapes[int(i * 20 / phases)] for i in range(phases)] if phases > 2 else [shapes[0], shapes[7]]
    found = finding(assess(*hearts.draw(chosen, grid(), SIZE)), QualityCheck.PHASES)
    assert found.grade is grade
    assert str(phases) in found.sentence


def test_a_slice_thickness_that_was_assumed_is_told() -> None:
    stack, segmentation = hearts.draw(hearts.beating(PHASES), grid(), SIZE)
    told = finding(assess(stack, segmentation), QualityCheck.SLICE_GAP)
    assert "thickness" not in told.sentence
    geometry = dataclasses.replace(stack.geometry, thickness_stated=False)
    assumed = finding(assess(dataclasses.replace(stack, geometry=geometry), segmentation), QualityCheck.SLICE_GAP)
    assert (told.grade, assumed.grade) == (Grade.EXCELLENT, Grade.GOOD)
    assert "No image states a slice thickness that can be read" in assumed.sentence


def test_sparse_stack() -> None:
    shapes = hearts.beating(PHASES)
    assessment = assess(*hearts.draw(shapes, grid(slices=6, pitch=17.7, above_base=17.7), SIZE))
    assert finding(assessment, QualityCheck.SLICE_GAP).grade is Grade.POOR
    assert "17.7 mm apart" in finding(assessment, QualityCheck.SLICE_GAP).sentence
    assert finding(assessment, QualityCheck.SLICES).grade is Grade.GOOD
    few = assess(*hearts.draw(shapes, grid(slices=4, pitch=30.0, above_base=30.0), SIZE))
    assert finding(few, QualityCheck.SLICES).grade is Grade.POOR
    assert finding(few, QualityCheck.SLICE_GAP).grade is Grade.UNUSABLE
    assert not few.usable
    assert "30.0 mm apart" in few.refusal


def test_missing_slice_is_named() -> None:
    found = finding(assess(*hearts.draw(hearts.beating(PHASES), grid(missing=(4,)), SIZE)), QualityCheck.SLICE_GAP)
    assert found.grade is Grade.POOR
    assert found.slices == (3, 4)
    assert found.value == pytest.approx(18.0)
    assert "between slices 4 and 5" in found.sentence


def test_prospective_gating(good) -> None:
    stack, segmentation = good
    found = finding(assess(replace(stack, retrospective=False), segmentation), QualityCheck.GATING)
    assert found.grade is Grade.POOR


def test_rr_variation(good) -> None:
    stack, segmentation = good
    rr = stack.rr_intervals.copy()
    rr[3] *= 1.3
    found = finding(assess(replace(stack, rr_intervals=rr), segmentation), QualityCheck.RR_VARIATION)
    assert found.grade is Grade.POOR
    assert found.value == pytest.approx(30.0)
    unknown = replace(stack, rr_intervals=np.full(stack.slices, np.nan))
    assert QualityCheck.RR_VARIATION not in {f.check for f in assess(unknown, segmentation).findings}


@pytest.mark.parametrize("base_first", [True, False])
def test_missing_base(base_first: bool) -> None:
    shapes = hearts.beating(PHASES)
    cut = assess(*hearts.draw(shapes, grid(slices=10, above_base=-18.0, base_first=base_first), SIZE))
    found = finding(cut, QualityCheck.BASE_COVERAGE)
    assert found.grade is Grade.POOR
    assert found.slices == ((0,) if base_first else (9,))
    # The slice that is lost holds about as much as the most basal one that is there.
    per_slice = np.pi * 26.0**2 * (1 - (22.5 / 85) ** 2) * 9.0 / 1000
    assert f"about {per_slice:.0f} ml" in found.sentence
    # A stack that starts in the ventricle at ED, whose base descends past the end slice at ES, is just covered.
    descending = [s if i in (0, 11) else _lowered(s) for i, s in enumerate(shapes)]
    just = assess(*hearts.draw(descending, grid(slices=11, above_base=0.0, base_first=base_first), SIZE))
    assert finding(just, QualityCheck.BASE_COVERAGE).grade is Grade.GOOD


def _lowered(shape: hearts.Shape) -> hearts.Shape:
    """Nothing above 12 mm: the base has moved toward the apex."""
    return hearts.Shape(*(lambda x, y, z, f=f: f(x, y, z) & (z > 12) for f in (shape.lv, shape.heart, shape.rv)))


def test_missing_apex() -> None:
    found = finding(assess(*hearts.draw(hearts.beating(PHASES), grid(slices=7), SIZE)), QualityCheck.APEX_COVERAGE)
    assert found.grade is Grade.POOR
    assert found.slices == (6,)
    assert found.value == pytest.approx(1 - (49.5 / 85) ** 2, abs=0.05)


def test_shifted_slice_is_measured_and_named() -> None:
    shifts = np.zeros((12, 2))
    shifts[5] = [9.0, -6.0]
    stack, segmentation = hearts.draw(hearts.beating(2), grid(), SIZE, shifts=shifts)
    residuals = shift_residuals_mm(measure_slices(stack, segmentation), 0)
    assert residuals[5] == pytest.approx(np.hypot(9, 6), abs=1.5)
    assert np.nanmax(np.delete(residuals, 5)) < 1.5
    found = finding(assess(stack, segmentation), QualityCheck.SLICE_SHIFT)
    assert found.slices == (5,)
    assert "Slice 6 is shifted" in found.sentence
    assert found.grade is Grade.GOOD


def test_many_shifted_slices_are_poor() -> None:
    shifts = np.random.default_rng(1).normal(0, 9.0, (12, 2))
    found = finding(assess(*hearts.draw(hearts.beating(2), grid(), SIZE, shifts=shifts)), QualityCheck.SLICE_SHIFT)
    assert found.grade is Grade.POOR
    assert found.value > 3.4


def test_oblique_stack_without_shifts_has_no_residual(good) -> None:
    """A long axis oblique to the normal moves the centres from slice to slice, but smoothly."""
    stack, segmentation = hearts.draw(
        hearts.beating(2), grid(), SIZE, shifts=np.arange(12)[:, None] * np.array([[1.5, -1.0]])
    )
    assert finding(assess(stack, segmentation), QualityCheck.SLICE_SHIFT).value < 0.7


@pytest.mark.parametrize(("off_deg", "grade"), [(0, Grade.EXCELLENT), (10, Grade.EXCELLENT), (30, Grade.POOR)])
def test_stack_that_is_not_across_the_long_axis_is_found(off_deg: float, grade: Grade) -> None:
    straight = grid()
    angle = math.radians(off_deg)
    normal, row = straight.normal, straight.row_direction
    # Turned about the column direction through the middle of the ventricle.
    turned = StackGeometry(
        positions=_about(straight.positions, np.array([20.0, -30.0, 40.0]) + 40.0 * hearts.TO_APEX, row, normal, angle),
        row_direction=math.cos(angle) * row + math.sin(angle) * normal,
        column_direction=straight.column_direction,
        pixel_spacing=straight.pixel_spacing,
        slice_thickness=straight.slice_thickness,
    )
    found = finding(assess(*hearts.draw(hearts.beating(2), turned, SIZE)), QualityCheck.PLANE)
    assert found.grade is grade
    assert 0.5 * off_deg - 1 < found.value < off_deg + 2
    assert ("not planned across the long axis" in found.sentence) == (grade is Grade.POOR)


def _about(positions, middle, row, normal, angle):
    """Positions turned from the row direction towards the normal, about an axis through the middle."""
    along, across = (positions - middle) @ row, (positions - middle) @ normal
    rest = positions - along[:, None] * row - across[:, None] * normal
    return (
        rest
        + (math.cos(angle) * along - math.sin(angle) * across)[:, None] * row
        + (math.sin(angle) * along + math.cos(angle) * across)[:, None] * normal
    )


def test_drifting_centres_that_scatter_leave_the_plane_open() -> None:
    shifts = np.arange(12)[:, None] * np.array([[4.0, 0.0]]) + np.random.default_rng(1).normal(0, 8.0, (12, 2))
    found = finding(assess(*hearts.draw(hearts.beating(2), grid(), SIZE, shifts=shifts)), QualityCheck.PLANE)
    assert found.value > 12
    assert found.grade is Grade.GOOD
    assert "due to shifts" in found.sentence


def test_too_few_slices_with_a_ring_say_nothing_of_the_plane() -> None:
    found = assess(*hearts.draw(hearts.beating(2), grid(slices=4, pitch=30.0, above_base=30.0), SIZE))
    assert QualityCheck.PLANE not in {one.check for one in found.findings}


def test_low_contrast(good) -> None:
    stack, segmentation = good
    grey = np.random.default_rng(2).normal(100, 10, stack.pixels.shape).astype(np.float32)
    found = finding(assess(replace(stack, pixels=grey), segmentation), QualityCheck.CONTRAST)
    assert found.grade is Grade.UNUSABLE
    flat = replace(stack, pixels=np.zeros_like(stack.pixels))
    assert finding(assess(flat, segmentation), QualityCheck.CONTRAST).grade is Grade.UNUSABLE


def test_contrast_is_that_of_blood_and_wall_whatever_lies_around(good) -> None:
    stack, segmentation = good
    grey = np.zeros(len(Label), dtype=np.float32)
    grey[[Label.MYO, Label.RV, Label.LV]] = 100, 150, 200
    found = finding(assess(replace(stack, pixels=grey[segmentation.labels]), segmentation), QualityCheck.CONTRAST)
    assert found.value == pytest.approx(1.0, abs=0.01)
    assert found.sentence == "Blood is 100 % of the range brighter than the wall."


def test_hole_in_the_ventricle(good) -> None:
    stack, segmentation = good
    found = finding(
        assess(stack, relabelled(segmentation, lambda labels: labels[:, 5].fill(0))), QualityCheck.CONTIGUITY
    )
    assert found.grade is Grade.POOR
    assert found.slices == (5,)
    assert "slice 6" in found.sentence


@pytest.mark.parametrize(
    ("dice", "grade"), [(0.95, Grade.EXCELLENT), (0.88, Grade.GOOD), (0.8, Grade.POOR), (0.5, Grade.UNUSABLE)]
)
def test_agreement(good, dice: float, grade: Grade) -> None:
    stack, segmentation = good
    low = replace(segmentation, agreement=np.full_like(segmentation.agreement, dice))
    found = finding(assess(stack, low), QualityCheck.AGREEMENT)
    assert found.grade is grade
    assert bool(found.slices) is (dice < 0.85)


def test_agreement_of_slices_without_ventricle_does_not_count(good) -> None:
    stack, segmentation = good
    agreement = segmentation.agreement.copy()
    agreement[:, 0] = 0.1
    found = finding(assess(stack, replace(segmentation, agreement=agreement)), QualityCheck.AGREEMENT)
    assert found.grade is Grade.EXCELLENT


def test_ventricle_cut_by_the_crop(good) -> None:
    stack, segmentation = good
    rows = np.flatnonzero((segmentation.labels == Label.LV).any(axis=(0, 1, 3)))
    cut = replace(segmentation, crop=(int(rows[0]) + 3, 72, 0, 72))
    found = finding(assess(stack, cut), QualityCheck.CROP)
    assert found.grade is Grade.POOR
    assert len(found.slices) > 3


def test_open_ring(good) -> None:
    stack, segmentation = good

    def open_one(labels) -> None:
        wall = labels[:, 5] == Label.MYO
        wall[:, :, :38] = False
        labels[:, 5][wall] = Label.BACKGROUND

    found = finding(assess(stack, relabelled(segmentation, open_one)), QualityCheck.MYOCARDIAL_RING)
    assert found.grade is Grade.POOR
    assert found.slices == (5,)

    def open_all(labels) -> None:
        labels[:, 4:][labels[:, 4:] == Label.MYO] = Label.BACKGROUND

    assert (
        finding(assess(stack, relabelled(segmentation, open_all)), QualityCheck.MYOCARDIAL_RING).grade is Grade.UNUSABLE
    )


def test_missing_right_ventricle() -> None:
    assessment = assess(*hearts.draw(hearts.beating(PHASES, rv=False), grid(), SIZE))
    found = finding(assessment, QualityCheck.RIGHT_VENTRICLE)
    assert (found.grade, found.sentence) == (
        Grade.POOR,
        "The right ventricle was not found: it is not reported.",
    )
    assert QualityCheck.STROKE_VOLUMES not in {f.check for f in assessment.findings}
    assert assessment.usable


def test_rough_curve() -> None:
    jitter = np.random.default_rng(3).normal(0, 0.12, PHASES)
    rough = [hearts.half_ellipsoid(24.0 * (1 + j), 9.0, 85.0) for j in jitter]
    assessment = assess(*hearts.draw(rough, grid(), SIZE))
    assert finding(assessment, QualityCheck.CURVE_SMOOTHNESS).grade >= Grade.POOR


@pytest.mark.parametrize("start", [0, 7, 13])
def test_two_beats_in_one_curve(start: int) -> None:
    once = hearts.beating(10, ef=0.6)
    twice = [*once, *once]
    turned = twice[start:] + twice[:start]
    found = finding(assess(*hearts.draw(turned, grid(), SIZE)), QualityCheck.CURVE_SHAPE)
    assert found.grade is Grade.POOR
    assert found.value == 2


@pytest.mark.parametrize(
    ("ef", "grade"), [(0.0, Grade.UNUSABLE), (0.06, Grade.POOR), (0.12, Grade.GOOD), (0.5, Grade.EXCELLENT)]
)
def test_contraction(ef: float, grade: Grade) -> None:
    fine = grid(spacing=(1.0, 1.0), size=(110, 110))
    shapes = hearts.beating(20, ef=ef)
    assessment = assess(*hearts.draw([shapes[0], shapes[7]], fine, (110, 110)))
    assert finding(assessment, QualityCheck.CONTRACTION).grade is grade
    assert assessment.usable is (grade is not Grade.UNUSABLE)


def test_implausibly_high_ejection_fraction(good) -> None:
    found = finding(assess(*hearts.draw(hearts.beating(PHASES, ef=0.9), grid(), SIZE)), QualityCheck.CONTRACTION)
    assert found.grade is Grade.POOR
    assert "implausibly high" in found.sentence


def test_stroke_volumes_apart() -> None:
    shapes = hearts.beating(PHASES, rv_size=0.95)  # an RV that hardly pumps
    found = finding(assess(*hearts.draw(shapes, grid(), SIZE)), QualityCheck.STROKE_VOLUMES)
    assert found.grade is Grade.POOR
    assert "shunt" in found.sentence


def test_mass_that_changes() -> None:
    # Wall as thick at ES as at ED: mass is lost.
    shapes = [hearts.half_ellipsoid(26.0 * np.sqrt(1 - 0.75 * c), 9.0, 85.0) for c in hearts.contraction(PHASES)]
    found = finding(assess(*hearts.draw(shapes, grid(), SIZE)), QualityCheck.MASS_CONSTANCY)
    assert found.grade is Grade.POOR
    assert "over the cycle" in found.sentence


def test_mass_that_changes_in_mid_cycle_only(good) -> None:
    """ED and ES may agree while the phases between do not."""
    stack, segmentation = good
    key = find_keyframes(stack, measure_slices(stack, segmentation).lv_ml)
    between = [p for p in range(PHASES) if p not in (key.end_diastole, key.end_systole)][2:6]

    def thinner(labels) -> None:
        for phase in between:
            wall = labels[phase, 3:] == Label.MYO
            wall[:, ::2] = False
            labels[phase, 3:][wall] = Label.BACKGROUND

    found = finding(assess(stack, relabelled(segmentation, thinner)), QualityCheck.MASS_CONSTANCY)
    assert found.grade is Grade.POOR


def test_small_stroke_volumes_are_not_exempt() -> None:
    """14 ml beside 7 ml is as wrong as 140 beside 70."""
    shapes = hearts.beating(PHASES, ef=0.1, rv_size=0.95)
    found = finding(
        assess(*hearts.draw(shapes, grid(spacing=(1.5, 1.5), size=(96, 96)), (96, 96))), QualityCheck.STROKE_VOLUMES
    )
    assert found.value > 25
    assert found.grade is Grade.POOR


def test_right_ventricle_in_fragments(good) -> None:
    stack, segmentation = good

    def tear(labels) -> None:
        for index in range(2, 8):
            where = np.argwhere((labels[:, index] == Label.RV).any(axis=0))
            middle = int(np.median(where[:, 0]))
            strip = labels[:, index, middle - 1 : middle + 2]
            strip[strip == Label.RV] = Label.BACKGROUND

    assessment = assess(stack, relabelled(segmentation, tear))
    found = finding(assessment, QualityCheck.RV_FRAGMENTS)
    assert found.grade is Grade.POOR
    assert set(found.slices) <= set(range(2, 8))
    assert len(found.slices) >= 4
    assert "in pieces" in found.sentence
    assert assessment.overall is Grade.POOR


def test_bodies_of_the_right_ventricle() -> None:
    plane = np.zeros((3, 20, 20), dtype=np.uint8)
    plane[0, 2:8, 2:8] = Label.RV
    plane[1] = plane[0]
    plane[1, 12:18, 12:18] = Label.RV
    plane[2] = plane[0]
    plane[2, 12:15, 12:15] = Label.RV  # nine pixels: a ragged edge
    assert fragmented_slices(plane, 2.0).tolist() == [False, True, False]
    assert not fragmented_slices(np.zeros_like(plane), 2.0).any()


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=12))
def test_areas_with_one_maximum_have_no_dip(areas: list[float]) -> None:
    ordered = sorted(areas)
    assert area_dips(np.array(ordered[::2] + ordered[1::2][::-1])) == pytest.approx(0.0, abs=1e-9)
    assert 0.0 <= area_dips(np.array(areas)) <= len(areas)


def test_dip_of_areas() -> None:
    assert area_dips(np.array([10.0, 4.0, 8.0])) == pytest.approx(4 / 22)
    assert area_dips(np.array([5.0, 0.0, 0.0, 5.0])) == pytest.approx(1.0)
    assert area_dips(np.zeros(4)) == 0.0


def test_right_ventricle_that_is_lost_on_slices_between(good) -> None:
    stack, segmentation = good

    def lose(labels) -> None:
        labels[:, 3:5][labels[:, 3:5] == Label.RV] = Label.BACKGROUND

    found = finding(assess(stack, relabelled(segmentation, lose)), QualityCheck.RV_OVER_SLICES)
    assert found.grade is Grade.POOR
    assert "Slices between others" in found.sentence


def test_right_ventricle_that_flickers(good) -> None:
    stack, segmentation = good

    def flicker(labels) -> None:
        for index in range(1, 9):
            lost = labels[index % 2 :: 2, index]
            lost[:, ::2][lost[:, ::2] == Label.RV] = Label.BACKGROUND

    found = finding(assess(stack, relabelled(segmentation, flicker)), QualityCheck.RV_OVER_TIME)
    assert found.grade is Grade.POOR
    assert "jump" in found.sentence


def test_right_ventricle_that_is_hardly_there(good) -> None:
    stack, segmentation = good

    def shrink(labels) -> None:
        labels[:, 3:][labels[:, 3:] == Label.RV] = Label.BACKGROUND

    found = finding(assess(stack, relabelled(segmentation, shrink)), QualityCheck.RV_SIZE)
    assert found.grade is Grade.POOR
    assert "not found" in found.sentence


def test_weight_of_the_basal_slice() -> None:
    """Thick slices of a small heart: one of them is a large part of the whole."""
    shapes = hearts.beating(PHASES, ef=0.6, radius=20.0, length=50.0)
    assessment = assess(*hearts.draw(shapes, grid(slices=7, pitch=14.0, above_base=14.0), SIZE))
    found = finding(assessment, QualityCheck.BASAL_STABILITY)
    assert found.grade >= Grade.GOOD
    fine = assess(*hearts.draw(hearts.beating(PHASES), grid(slices=22, pitch=5.0, above_base=5.0), SIZE))
    assert finding(fine, QualityCheck.BASAL_STABILITY).value < found.value
    assert finding(fine, QualityCheck.BASAL_STABILITY).grade is Grade.EXCELLENT


def test_of_a_heart_that_is_cut_it_is_said_what_the_mitral_plane_weighs() -> None:
    """A small heart that is cut at the plane: 5 mm are much of it, whether the plane is right or not."""
    shapes = hearts.beating(PHASES, ef=0.6, radius=16.0, length=38.0)
    stack, segmentation = hearts.draw(shapes, grid(slices=8, pitch=8.0, above_base=8.0), SIZE)
    slices = replace(measure_slices(stack, segmentation), cut=frozenset({Chamber.LV}))
    function = measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), StudyContext("1.2.3"))
    found = finding(assess_quality(stack, segmentation, slices, function), QualityCheck.BASAL_STABILITY)
    assert found.value is not None
    assert found.value > QualityLimits().basal_spread_points.poor
    assert found.grade is Grade.POOR
    assert "With the mitral plane 5 mm higher or lower, ejection fraction moves by up to" in found.sentence
    assert "another basal slice of the RV" in found.sentence


def test_the_whole_is_never_excellent(good) -> None:
    """Not even where the base is cut at a mitral plane and no check has found anything."""
    assert assess(*good).overall is Grade.GOOD
    assert assess_beside(good).overall is Grade.GOOD
    assert overall_grade(graded()) is Grade.GOOD


def test_noise_is_a_departure(good) -> None:
    stack, segmentation = good
    noise = np.random.default_rng(4).normal(0, 25, stack.pixels.shape)
    noisy = assess_beside((replace(stack, pixels=(stack.pixels + noise).astype(np.float32)), segmentation))
    assert finding(noisy, QualityCheck.NOISE).grade is Grade.GOOD


def graded(**grades: Grade) -> list[QualityFinding]:
    """Checks that are within limits unless said otherwise."""
    checks = (QualityCheck.NOISE, QualityCheck.CROP, QualityCheck.SLICE_GAP)
    return [QualityFinding(check, grades.get(check.name, Grade.EXCELLENT), "") for check in checks]


@pytest.mark.parametrize("worst", [Grade.GOOD, Grade.POOR, Grade.UNUSABLE])
def test_the_whole_is_no_better_than_its_worst_concern(worst: Grade) -> None:
    assert overall_grade(graded(CROP=worst)) is worst


def test_every_grade_of_the_whole_says_what_it_stands_for() -> None:
    assert set(CONFIDENCE_MEANS) == set(Grade) - {Grade.EXCELLENT}
    assert len(set(CONFIDENCE_MEANS.values())) == len(CONFIDENCE_MEANS)


@pytest.mark.parametrize("sigma", [5.0, 20.0])
@pytest.mark.parametrize("phases", [12, 25])
def test_noise_is_told_in_any_number_of_phases(sigma: float, phases: int) -> None:
    """Blood and wall of a heart that stands still differ by a known step."""
    stack, segmentation = hearts.draw(hearts.beating(phases)[:1] * phases, grid(), SIZE)
    slices = measure_slices(stack, segmentation)
    clean = np.zeros_like(stack.pixels)
    clean[segmentation.labels == Label.LV] = 300.0
    clean[segmentation.labels == Label.MYO] = 100.0
    noise = np.random.default_rng(phases).normal(0, sigma, clean.shape)
    found = contrast_to_noise(replace(stack, pixels=(clean + noise).astype(np.float32)), slices)
    assert found == pytest.approx(200.0 / sigma, rel=0.15)


def test_noise_is_not_told_from_few_phases_nor_where_nothing_is_random(good) -> None:
    stack, segmentation = hearts.draw(hearts.beating(11), grid(), SIZE)
    assert contrast_to_noise(stack, measure_slices(stack, segmentation)) is None
    flat = np.where(good[1].labels == Label.LV, 300.0, 100.0).astype(np.float32)
    constant = replace(good[0], pixels=np.broadcast_to(flat[:1], flat.shape).copy())
    assert contrast_to_noise(constant, measure_slices(*good)) is None


@pytest.mark.parametrize(
    ("radius", "wall", "check"),
    [
        (45.0, 9.0, QualityCheck.PLAUSIBLE_VOLUMES),
        (8.0, 3.0, QualityCheck.PLAUSIBLE_VOLUMES),
        (26.0, 30.0, QualityCheck.PLAUSIBLE_MASS),
        (13.0, 1.5, QualityCheck.PLAUSIBLE_MASS),
    ],
)
def test_implausible_size(radius: float, wall: float, check: QualityCheck) -> None:
    size = (110, 110)
    shapes = hearts.beating(2 * PHASES, radius=radius, wall=wall, length=130.0 if radius > 40 else 85.0)
    wide = grid(size=size, slices=18)
    found = finding(assess(*hearts.draw([shapes[0], shapes[8]], wide, size)), check)
    assert found.grade >= Grade.POOR
    assert "hardly possible" in found.sentence


def test_limit_grades_both_ways() -> None:
    rising, falling = Limit(1, 2, 3, "test"), Limit(3, 2, 1, "test")
    assert [rising.grade(v) for v in (0, 1, 1.5, 2, 2.5, 3, 4)] == [
        Grade.EXCELLENT, Grade.EXCELLENT, Grade.GOOD, Grade.GOOD, Grade.POOR, Grade.POOR, Grade.UNUSABLE,
    ]  # fmt: skip
    assert [falling.grade(v) for v in (4, 3, 2.5, 2, 1.5, 1, 0)] == [
        Grade.EXCELLENT, Grade.EXCELLENT, Grade.GOOD, Grade.GOOD, Grade.POOR, Grade.POOR, Grade.UNUSABLE,
    ]  # fmt: skip
    assert rising.grade(math.nan) is Grade.UNUSABLE
    with pytest.raises(ValueError, match="ascend or descend"):
        Limit(1, 3, 2, "test")


def test_every_limit_says_where_it_comes_from() -> None:
    limits = QualityLimits()
    for item in fields(limits):
        assert len(getattr(limits, item.name).source) > 20


def test_worst_first_and_refusal_from_all_unusable() -> None:
    def one(grade: Grade) -> QualityFinding:
        return QualityFinding(QualityCheck.PHASES, grade, f"{grade.name}.")

    for order in itertools.permutations([Grade.GOOD, Grade.POOR, Grade.UNUSABLE]):
        assessment = QualityAssessment(tuple(one(g) for g in order), Grade.UNUSABLE, "UNUSABLE.")
        assert [f.grade for f in assessment.concerns] == [Grade.UNUSABLE, Grade.POOR]
        assert not assessment.usable
