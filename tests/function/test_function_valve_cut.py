"""Volumes cut at the valve planes, against phantoms whose volumes are known: true labels, planes found on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.cine.stack import StudyContext, View
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Chamber
from pipelines.function.measure import measure_function
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.function.valve_cut import cut_by_views
from pipelines.long_axis.annulus import annulus_points, apex_points
from pipelines.long_axis.findings import LongAxisView, LongAxisViews, Valve
from pipelines.long_axis.measure import in_step_with
from pipelines.phantom import Disease, Fault, PhantomRecipe, PhantomStudy, simulate
from pipelines.phantom.assembled import cine_stack
from pipelines.phantom.study import CineAcquisition
from pipelines.quality.findings import QualityCheck
from pipelines.quality.limits import QualityLimits
from pipelines.quality.long_axis import long_axis_findings
from pipelines.segmentation.labels import CineSegmentation, Correction, Label
from pipelines.training.long_axis import true_labels

PHASES = 16
PIXEL_MM2 = 1.6**2


def view_of(cine: CineAcquisition) -> LongAxisView:
    labels = true_labels(cine)
    annuli = {valve: points for valve in Valve if (points := annulus_points(labels, cine.geometry, valve)) is not None}
    apex = apex_points(labels, cine.geometry, annuli[Valve.MITRAL])
    return LongAxisView(cine.view, cine_stack(cine), labels, np.ones(len(labels), np.float32), annuli, apex)


def measured(
    study: PhantomStudy, labels: NDArray[np.uint8] | None = None, corrections: tuple[Correction, ...] = ()
) -> tuple[SliceMeasures, SliceMeasures]:
    """By the short axis alone, and cut at the valve planes; with the true labels or others."""
    stack, cine = cine_stack(study.short_axis), study.short_axis
    found = cine.labels if labels is None else labels
    agreement = np.ones(found.shape[:2], np.float32)
    segmentation = CineSegmentation(found, agreement, (0, 1, 0, 1), (), corrections=corrections)
    alone = measure_slices(stack, segmentation)
    views = LongAxisViews(tuple(view_of(one) for one in study.cines[1:]), ())
    return alone, cut_by_views(alone, stack, views)


def ejection_fraction(ml: np.ndarray) -> float:
    return float(100 * (1 - ml.min() / ml.max()))


@pytest.fixture(scope="module", params=[(900, Disease.NORMAL), (901, Disease.DCM), (903, Disease.INFARCT)])
def study(request: pytest.FixtureRequest) -> PhantomStudy:
    seed, disease = request.param
    faults = frozenset({Fault.BREATHING}) if seed % 2 else frozenset()
    return simulate(
        PhantomRecipe(
            seed=seed, disease=disease, slices=10, phases=PHASES, rows=160, columns=160, spacing_mm=1.6, faults=faults
        )
    )


def test_volumes_cut_at_the_planes_are_those_of_the_ventricle(study: PhantomStudy) -> None:
    alone, cut = measured(study)
    truth = np.array([state.lv_volume_ml for state in study.states])
    assert cut.cut == {Chamber.LV}
    # The outflow tract lies above the tricuspid plane.
    assert np.array_equal(cut.rv_mm2, alone.rv_mm2)
    assert cut.base_views == ("2CH", "3CH", "4CH")
    assert abs(cut.lv_ml.max() - truth.max()) < 0.05 * truth.max()
    assert abs(cut.lv_ml.min() - truth.min()) < 0.06 * truth.max()
    error = abs(ejection_fraction(cut.lv_ml) - ejection_fraction(truth))
    assert error < 3.0
    assert error <= abs(ejection_fraction(alone.lv_ml) - ejection_fraction(truth)) + 0.5


def test_labels_lose_what_lies_above_the_plane_and_nothing_else(study: PhantomStudy) -> None:
    alone, cut = measured(study)
    own = ~cut.completed
    changed = (alone.labels != cut.labels) & own[..., None, None]
    assert (cut.lv_mm2 < alone.lv_mm2 - 1.0).any()
    assert (cut.labels[changed] == 0).all()
    assert (cut.lv_mm2 <= alone.lv_mm2 + 1e-6)[own].all()


def test_a_slice_below_the_plane_that_was_not_found_counts_with_its_neighbours_contour(study: PhantomStudy) -> None:
    _, whole = measured(study)
    phase = int(whole.lv_ml.argmax())
    cavity_mm2 = (study.short_axis.labels[phase] == Label.LV).sum(axis=(1, 2)) * PIXEL_MM2
    basal = next(int(i) for i in whole.from_base() if whole.lv_mm2[phase, i] > 0.8 * cavity_mm2[i])
    lost = study.short_axis.labels.copy()
    above = [int(i) for i in whole.from_base()[: list(whole.from_base()).index(basal) + 1]]
    lost[phase, above] = np.where(lost[phase, above] == Label.RV, Label.RV, Label.BACKGROUND)
    alone, cut = measured(study, lost)
    assert alone.lv_mm2[phase, basal] == 0
    assert cut.completed[phase, basal]
    assert not cut.completed[phase, whole.lv_mm2[phase] == 0].any()
    assert abs(cut.lv_mm2[phase, basal] / whole.lv_mm2[phase, basal] - 1) < 0.35
    assert abs(cut.lv_ml[phase] - whole.lv_ml[phase]) < 0.25 * (whole.lv_ml[phase] - alone.lv_ml[phase])
    assert (cut.reported(phase)[basal] == Label.LV).any()
    assert (cut.labels[phase] == Label.RV).sum() == (lost[phase] == Label.RV).sum()
    by_person = Correction(phase, "end diastole", "", "2.25.1", (Label.LV, Label.MYO))
    _, left_empty = measured(study, lost, (by_person,))
    assert left_empty.lv_mm2[phase, basal] == 0
    assert not left_empty.completed[phase].any()
    _, right_alone = measured(study, lost, (replace(by_person, labels=(Label.RV,)),))
    assert right_alone.completed[phase, basal]


def test_a_slice_that_lies_half_above_the_plane_stays_as_it_was_found(study: PhantomStudy) -> None:
    empty_above = study.short_axis.labels.copy()
    _, whole = measured(study)
    share = whole.lv_mm2 / np.maximum((empty_above == Label.LV).sum(axis=(2, 3)) * PIXEL_MM2, 1)
    empty_above[(share < 0.3)] = 0
    _, cut = measured(study, empty_above)
    assert not cut.completed[share < 0.3].any()
    assert not cut.completed[:, whole.from_base()[-1]].any()


def test_views_that_lie_far_from_the_base_are_not_believed(study: PhantomStudy) -> None:
    stack = cine_stack(study.short_axis)
    alone, _ = measured(study)
    views = []
    for one in study.cines[1:]:
        view = view_of(one)
        away = 60.0 * study.heart.axes[2]
        views.append(replace(view, annuli={valve: points + away for valve, points in view.annuli.items()}))
    same = cut_by_views(alone, stack, LongAxisViews(tuple(views), ()))
    assert same.base_views == ()
    assert same.cut == frozenset()
    assert np.array_equal(same.lv_mm2, alone.lv_mm2)
    assert same.beside is not None
    assert same.beside.above_stack_mm is None


def test_slices_far_apart_are_not_cut(study: PhantomStudy) -> None:
    """As those of a Siemens Vida subject, 17.7 mm apart."""
    stack, cine = cine_stack(study.short_axis), study.short_axis
    segmentation = CineSegmentation(cine.labels, np.ones(cine.labels.shape[:2], np.float32), (0, 1, 0, 1), ())
    slices = measure_slices(stack, segmentation)
    views = LongAxisViews(tuple(view_of(one) for one in study.cines[1:]), ())
    wide = replace(slices, intervals_mm=np.full(stack.slices, 17.7))
    assert cut_by_views(slices, stack, views).cut
    uncut = cut_by_views(wide, stack, views)
    assert not uncut.cut
    assert uncut.beside is not None
    np.testing.assert_array_equal(uncut.lv_mm2, slices.lv_mm2)


def test_what_the_views_show_beside_fits_the_short_axis(study: PhantomStudy) -> None:
    _, cut = measured(study)
    beside = cut.beside
    assert beside is not None
    assert [one.name for one in beside.acquisitions] == [View.LAX_2CH, View.LAX_3CH, View.LAX_4CH]
    assert max(abs(shift) for one in beside.acquisitions if (shift := one.shift_mm) is not None) < 6.0
    assert {(one.delay, one.in_step) for one in beside.acquisitions} == {(0.0, True)}
    truth = np.array([state.lv_volume_ml for state in study.states])
    assert beside.volume_ml is not None
    assert abs(beside.volume_ml.max() / truth.max() - 1) < 0.15
    assert beside.above_stack_mm is not None
    lids = np.array([state.lid for state in study.states])
    assert np.abs((beside.above_stack_mm - beside.above_stack_mm[0]) - (lids - lids[0])).max() < 3.0
    assert beside.above_stack_mm.max() < 3.0


def test_of_two_acquisitions_of_a_view_each_is_told_by_itself(study: PhantomStudy) -> None:
    stack, cine = cine_stack(study.short_axis), study.short_axis
    segmentation = CineSegmentation(cine.labels, np.ones(cine.labels.shape[:2], np.float32), (0, 1, 0, 1), ())
    slices = measure_slices(stack, segmentation)
    good = [replace(view_of(one), told_by="series 8") for one in study.cines[1:]]
    four = good[-1]
    assert four.view is View.LAX_4CH
    up = 7.0 * study.heart.axes[2]
    geometry = replace(four.stack.geometry, positions=four.stack.geometry.positions + up)
    moved = replace(four, stack=replace(four.stack, geometry=geometry), told_by="series 9")
    order = np.arange(PHASES) * 5 % PHASES
    mixed = replace(
        four, stack=replace(four.stack, pixels=four.stack.pixels[order]), labels=four.labels[order], told_by="series 10"
    )
    views, left_out = in_step_with([moved, mixed, *good], stack, segmentation)
    found = LongAxisViews(views, (), left_out)
    assert found.left_out(mixed.stack)
    assert not found.left_out(four.stack)
    cut = cut_by_views(slices, stack, found)
    beside = cut.beside
    assert beside is not None
    fits = {one.name: one for one in beside.acquisitions}
    assert len(fits) == 5
    assert [name for name, one in fits.items() if not one.in_step] == ["4CH (series 10)"]
    shift, own = fits["4CH (series 9)"].shift_mm, fits["4CH (series 8)"].shift_mm
    assert shift is not None
    assert own is not None
    # A faint preference for no shift takes some of it.
    assert shift - own == pytest.approx(-7.0, abs=2.5)

    function = measure_function(stack, cut, find_keyframes(stack, cut.lv_ml), StudyContext("2.25.1"))
    said = {one.check: one.sentence for one in long_axis_findings(cut, function, QualityLimits())}
    assert "4CH (series 10) cannot be brought into step" in said[QualityCheck.LONG_AXIS_TIMING]
    assert "(4CH (series 9))" in said[QualityCheck.LONG_AXIS_SHIFT]


def test_a_stack_without_its_basal_slices_is_seen_to_end_below_the_valve(study: PhantomStudy) -> None:
    stack, cine = cine_stack(study.short_axis), study.short_axis
    segmentation = CineSegmentation(cine.labels, np.ones(cine.labels.shape[:2], np.float32), (0, 1, 0, 1), ())
    whole = measure_slices(stack, segmentation)
    views = LongAxisViews(tuple(view_of(one) for one in study.cines[1:]), ())
    before = cut_by_views(whole, stack, views).beside
    kept = np.sort(whole.from_base()[2:])
    geometry = replace(stack.geometry, positions=stack.geometry.positions[kept])
    short = replace(
        stack,
        pixels=stack.pixels[:, kept],
        geometry=geometry,
        sources=tuple(tuple(phase[i] for i in kept) for phase in stack.sources),
        trigger_times=stack.trigger_times[:, kept],
        rr_intervals=stack.rr_intervals[kept],
    )
    labels = cine.labels[:, kept]
    segmentation = CineSegmentation(labels, np.ones(labels.shape[:2], np.float32), (0, 1, 0, 1), ())
    after = cut_by_views(measure_slices(short, segmentation), short, views).beside
    assert before is not None
    assert after is not None
    assert before.above_stack_mm is not None
    assert after.above_stack_mm is not None
    assert after.above_stack_mm == pytest.approx(before.above_stack_mm + 2 * stack.geometry.pitch, abs=3.0)
