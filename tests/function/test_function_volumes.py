"""Volumes and mass against solids of known volume, whatever the geometry of the slices."""

from __future__ import annotations

from dataclasses import replace

import hearts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from pipelines.cine.stack import CineStack, StackGeometry, StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.basal import basal_alternatives
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Chamber, Keyframes
from pipelines.function.measure import measure_function
from pipelines.function.slices import SliceMeasures, fill_cavity, measure_slices
from pipelines.function.uncertainty import CALIBRATED_WEIGHTS_SHA256, CONTOUR_ERROR_MM, KeyPhase, volume_errors
from pipelines.models.registry import list_models
from pipelines.segmentation.labels import Label

NOBODY = StudyContext("1.2.3")


def keyframes_of(stack: CineStack, slices: SliceMeasures) -> Keyframes:
    return find_keyframes(stack, slices.lv_ml)


def cylinder(radius: float, length: float, wall: float = 8.0) -> hearts.Shape:
    def disc(r):
        return lambda x, y, z: (z >= 0) & (z < length) & (x**2 + y**2 <= r**2)

    nothing = lambda x, y, z: np.zeros(np.shape(x), dtype=bool)  # noqa: E731
    return hearts.Shape(disc(radius), disc(radius + wall), nothing)


def cone(radius: float, length: float, wall: float = 8.0) -> hearts.Shape:
    """Base down to a tip; the wall is a larger cone of the same slope."""

    def inside(r, depth):
        return lambda x, y, z: (z >= 0) & (z < depth) & (np.hypot(x, y) <= r * (1 - z / depth))

    nothing = lambda x, y, z: np.zeros(np.shape(x), dtype=bool)  # noqa: E731
    return hearts.Shape(inside(radius, length), inside(radius + wall, length + wall * length / radius), nothing)


def volumes(shape: hearts.Shape, grid: StackGeometry, size=(96, 96)) -> tuple[float, float]:
    slices = measure_slices(*hearts.draw([shape], grid, size))
    return float(slices.lv_ml[0]), float(slices.myo_ml[0])


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.4, 1.4), (1.2, 2.1)])
@pytest.mark.parametrize("turn", [0.0, 0.7])
def test_cylinder(spacing: tuple[float, float], turn: float) -> None:
    # Ten slices of 8 mm: exactly the length of the cylinder.
    grid = hearts.geometry(10, 8.0, spacing, (120, 120), turn=turn, above_base=0.0)
    lv, myo = volumes(cylinder(25.0, 80.0), grid, (120, 120))
    assert lv == pytest.approx(np.pi * 25.0**2 * 80.0 / 1000, rel=0.01)
    assert myo == pytest.approx(np.pi * (33.0**2 - 25.0**2) * 80.0 / 1000, rel=0.015)


@pytest.mark.parametrize("base_first", [True, False])
def test_ellipsoid(base_first: bool) -> None:
    grid = hearts.geometry(26, 4.0, (1.0, 1.25), (110, 100), above_base=4.0, base_first=base_first)
    lv, myo = volumes(hearts.half_ellipsoid(26.0, 9.0, 85.0, rv=False), grid, (110, 100))
    cavity = 2 / 3 * np.pi * 26.0**2 * 85.0 / 1000
    assert lv == pytest.approx(cavity, rel=0.01)
    assert myo == pytest.approx(2 / 3 * np.pi * 35.0**2 * 94.0 / 1000 - cavity, rel=0.01)


def test_cone() -> None:
    grid = hearts.geometry(40, 3.0, (1.0, 1.0), above_base=0.0)
    lv, _ = volumes(cone(30.0, 90.0), grid)
    assert lv == pytest.approx(np.pi * 30.0**2 * 90.0 / 3 / 1000, rel=0.01)


def test_missing_slice_is_bridged_by_its_neighbours() -> None:
    whole = hearts.geometry(10, 8.0, above_base=0.0)
    holed = hearts.geometry(10, 8.0, above_base=0.0, missing=(4,))
    shape = cylinder(25.0, 80.0)
    assert volumes(shape, holed)[0] == pytest.approx(volumes(shape, whole)[0], rel=1e-3)
    # The tapered part loses and gains a little at the neighbours.
    taper = hearts.half_ellipsoid(rv=False)
    assert volumes(taper, holed)[0] == pytest.approx(volumes(taper, whole)[0], rel=0.03)


def test_papillary_muscles_belong_to_the_cavity_and_not_to_the_mass() -> None:
    grid = hearts.geometry(10, 8.0, above_base=0.0)
    stack, segmentation = hearts.draw([cylinder(25.0, 80.0)], grid)
    clean = measure_slices(stack, segmentation)
    labels = segmentation.labels.copy()
    labels[:, 2:6, 44:49, 40:44] = Label.MYO
    labels[:, 3, 50:52, 52:54] = Label.BACKGROUND
    filled = measure_slices(stack, hearts.segmentation_of(labels))
    assert np.array_equal(filled.lv_ml, clean.lv_ml)
    assert np.array_equal(filled.myo_ml, clean.myo_ml)
    assert (fill_cavity(labels) == clean.labels).all()


def test_basal_slice_counts_from_half_a_ring_on() -> None:
    grid = hearts.geometry(10, 8.0, above_base=0.0)
    stack, segmentation = hearts.draw([cylinder(25.0, 80.0)], grid)
    base = 0
    columns = np.arange(stack.pixels.shape[3])
    for open_beyond, counts in ((70, True), (52, True), (42, False), (0, False)):
        labels = segmentation.labels.copy()
        wall = labels[0, base] == Label.MYO
        labels[0, base][wall & (columns >= open_beyond)] = Label.BACKGROUND
        slices = measure_slices(stack, hearts.segmentation_of(labels))
        assert bool(slices.counted[0, base]) is counts, open_beyond
        assert slices.counted[0, 1:].all()
    # An open slice in the middle is a fault of contouring, not the base: it counts.
    labels = segmentation.labels.copy()
    labels[0, 5][labels[0, 5] == Label.MYO] = Label.BACKGROUND
    assert measure_slices(stack, hearts.segmentation_of(labels)).counted.all()


@pytest.mark.parametrize("base_first", [True, False])
def test_segmented_atrium_is_told_by_its_filling_in_systole(base_first: bool) -> None:
    """Networks draw a ventricle around the aortic root and the atrium: a ring, but one that does not contract."""
    shapes = hearts.beating(20)
    size = {"slices": 13, "above_base": 18.0, "spacing": (2.0, 2.0), "size": (72, 72), "base_first": base_first}
    clean = measure_slices(*hearts.draw(shapes, hearts.geometry(**size), (72, 72)))

    def with_atrium(shape: hearts.Shape, contraction: float) -> hearts.Shape:
        def disc(radius):
            return lambda x, y, z: (z < 0) & (x**2 + y**2 <= radius**2)

        atrium, ring = disc(16.0 + 3.0 * contraction), disc(22.0 + 3.0 * contraction)
        return hearts.Shape(
            lambda x, y, z: shape.lv(x, y, z) | atrium(x, y, z),
            lambda x, y, z: shape.heart(x, y, z) | ring(x, y, z),
            shape.rv,
        )

    drawn = [with_atrium(s, c) for s, c in zip(shapes, hearts.contraction(20), strict=True)]
    found = measure_slices(*hearts.draw(drawn, hearts.geometry(**size), (72, 72)))
    order = found.from_base()
    assert found.above_base[order].tolist() == [True, True] + 11 * [False]
    assert found.lv_ml == pytest.approx(clean.lv_ml)
    assert found.myo_ml == pytest.approx(clean.myo_ml)
    assert not clean.above_base.any()


@pytest.mark.parametrize(("part", "ventricle"), [(0.55, False), (0.7, True)])
def test_a_still_slice_at_the_base_is_ventricle_when_it_is_wide(part: float, ventricle: bool) -> None:
    """The rule by which an atrium is told asks for less than 0.6 of the largest cavity."""
    shapes = hearts.beating(20)
    size = {"slices": 13, "above_base": 9.0, "spacing": (1.0, 1.0), "size": (110, 110)}
    stack, segmentation = hearts.draw(shapes, hearts.geometry(**size), (110, 110))
    labels = segmentation.labels.copy()
    largest = (labels == Label.LV).sum(axis=(2, 3)).max()
    rows, columns = np.mgrid[:110, :110] - 55.0
    distance = np.hypot(rows, columns)
    labels[:, 0][:, distance**2 < (part * largest) / np.pi * 1.6] = Label.MYO
    labels[:, 0][:, distance**2 < (part * largest) / np.pi] = Label.LV
    slices = measure_slices(stack, hearts.segmentation_of(labels))
    assert slices.lv_mm2[0, 0] / slices.lv_mm2[0].max() == pytest.approx(part, abs=0.02)
    assert bool(slices.above_base[0]) is not ventricle
    assert bool(slices.counted[0, 0]) is ventricle


def test_mass_is_myocardial_volume_times_its_density() -> None:
    stack, segmentation = hearts.draw(hearts.beating(4), hearts.geometry())
    slices = measure_slices(stack, segmentation)
    function = measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), NOBODY)
    # SCMR (JCMR 2020;22:19): 1.05 g/ml.
    assert function.lv_mass_curve_g == pytest.approx(1.05 * slices.myo_ml, rel=1e-12)
    assert function.lv_mass_g == pytest.approx(1.05 * slices.myo_ml[function.keyframes.end_diastole], rel=1e-12)


def test_what_is_drawn_and_sent_is_what_is_counted() -> None:
    """One label map: filled cavity, without what the rules of the base leave out."""
    shapes = hearts.beating(12)
    stack, segmentation = hearts.draw(shapes, hearts.geometry(above_base=9.0))
    labels = segmentation.labels.copy()
    labels[:, 4, 46:50, 42:46] = Label.MYO  # a papillary muscle
    labels[:, 1][(labels[:, 1] == Label.MYO) & (np.arange(96) < 60)] = Label.BACKGROUND  # an open basal slice
    rows, columns = np.mgrid[:96, :96] - 48.0
    ring = np.hypot(rows, columns)
    for phase, contraction in enumerate(hearts.contraction(12)):  # an atrium that fills in systole
        labels[phase, 0][ring < 13 + 2 * contraction] = Label.MYO
        labels[phase, 0][ring < 8 + 2 * contraction] = Label.LV
    slices = measure_slices(stack, hearts.segmentation_of(labels))
    assert slices.above_base[0]
    assert not slices.counted[:, 1].any()
    voxel = 1.5 * 1.5 * slices.intervals_mm / 1000.0
    for phase in range(12):
        reported = slices.reported(phase)
        for label, ml in ((Label.LV, slices.lv_ml), (Label.MYO, slices.myo_ml), (Label.RV, slices.rv_ml)):
            assert float((reported == label).sum(axis=(1, 2)) @ voxel) == pytest.approx(float(ml[phase]), rel=1e-12)
    assert (slices.reported(0)[4, 46:50, 42:46] == Label.LV).all()


def test_ventricle_that_hardly_contracts_keeps_its_base() -> None:
    """A dilated ventricle may stand still at the base, but it is wide there."""
    for akinetic in (0.0, -0.05):
        assert not measure_slices(
            *hearts.draw(hearts.beating(12, ef=akinetic), hearts.geometry(spacing=(2.0, 2.0), size=(72, 72)), (72, 72))
        ).above_base.any()


def test_no_ventricle_is_refused() -> None:
    stack, segmentation = hearts.draw([cylinder(25.0, 80.0)], hearts.geometry())
    with pytest.raises(AnalysisRefused) as refused:
        measure_slices(stack, replace(segmentation, labels=np.zeros_like(segmentation.labels)))
    assert refused.value.reason is RefusalReason.NO_VENTRICLE_FOUND
    with pytest.raises(ValueError, match="on a stack of"):
        measure_slices(stack, replace(segmentation, labels=segmentation.labels[:, :-1]))


@pytest.mark.parametrize("base_first", [True, False])
@pytest.mark.parametrize("rv", [True, False])
def test_base_is_told_from_the_segmentation(base_first: bool, rv: bool) -> None:
    grid = hearts.geometry(base_first=base_first)
    slices = measure_slices(*hearts.draw([hearts.half_ellipsoid(rv=rv)], grid))
    assert slices.base_first is base_first
    assert not slices.orientation_doubtful
    first = slices.from_base()[0]
    assert slices.lv_mm2[0, first] == 0  # the slice above the base
    assert slices.lv_mm2[0, slices.from_base()[1]] == slices.lv_mm2[0].max()


def test_segmentation_overrules_a_mirrored_patient_orientation() -> None:
    grid = hearts.geometry()
    stack, segmentation = hearts.draw([hearts.half_ellipsoid()], grid)
    # The same labels on a grid that claims to ascend from apex to base.
    upside_down = StackGeometry(
        grid.positions @ np.diag([-1.0, -1.0, -1.0]), -grid.row_direction, grid.column_direction, (1.5, 1.5), 8.0
    )
    slices = measure_slices(replace(stack, geometry=upside_down), segmentation)
    assert slices.base_first
    assert slices.orientation_doubtful


def whole_measurement(shapes, grid, size=(96, 96), context=NOBODY, **kwargs):
    stack, segmentation = hearts.draw(shapes, grid, size, **kwargs)
    slices = measure_slices(stack, segmentation)
    return measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), context)


def test_function_of_a_beating_heart() -> None:
    context = StudyContext("1.2.3", height_m=1.8, weight_kg=80.0)
    function = whole_measurement(
        hearts.beating(25, ef=0.6), hearts.geometry(24, 5.0, above_base=10.0), (96, 96), context
    )
    edv = 2 / 3 * np.pi * 26.0**2 * 85.0 / 1000
    lv = function.lv
    assert lv.edv_ml == pytest.approx(edv, rel=0.01)
    assert lv.esv_ml == pytest.approx(0.4 * edv, rel=0.02)
    assert lv.ejection_fraction_percent == pytest.approx(60.0, abs=0.7)
    assert function.heart_rate_bpm == pytest.approx(60000 / 900)
    assert lv.cardiac_output_l_min == pytest.approx(0.6 * edv * 60 / 0.9 / 1000, rel=0.02)
    assert function.bsa_m2 == pytest.approx(2.0)
    assert lv.edv_index_ml_m2 == pytest.approx(lv.edv_ml / 2.0)
    assert lv.cardiac_index_l_min_m2 == pytest.approx(lv.cardiac_output_l_min / 2.0)
    mass = 1.05 * (2 / 3 * np.pi * 35.0**2 * 94.0 / 1000 - edv)
    assert function.lv_mass_g == pytest.approx(mass, rel=0.01)
    assert function.lv_mass_index_g_m2 == pytest.approx(mass / 2.0, rel=0.01)
    assert function.keyframes.end_diastole == 0
    assert abs(function.keyframes.end_systole - 0.35 * 25) <= 0.5
    assert function.rv is not None
    # d/dt of the cosine that drives the volume, in each half of the cycle.
    assert lv.peak_ejection_rate_ml_s == pytest.approx(np.pi / 2 * 0.6 * edv / (0.35 * 0.9), rel=0.05)
    assert lv.peak_filling_rate_ml_s == pytest.approx(np.pi / 2 * 0.6 * edv / (0.65 * 0.9), rel=0.05)
    # The base lies anywhere within a slice of 5 mm, a uniform distribution, and the contours are off.
    base = 1.96 / np.sqrt(12) * np.pi * 26.0**2 * 5.0 / 1000
    surface = quad(lambda z: 2 * np.pi * 26.0 * np.sqrt(1 - (z / 85.0) ** 2), 0, 85.0)[0] / 1000
    inside, outside = CONTOUR_ERROR_MM[Chamber.LV, KeyPhase.END_DIASTOLE]
    assert lv.edv_interval_ml.upper - lv.edv_ml == pytest.approx(np.hypot(base, surface * outside), rel=0.1)
    assert lv.edv_ml - lv.edv_interval_ml.lower == pytest.approx(np.hypot(base, surface * inside), rel=0.1)
    assert lv.stroke_volume_interval_ml.lower < lv.stroke_volume_ml < lv.stroke_volume_interval_ml.upper
    assert function.lv_mass_interval_g.lower < function.lv_mass_g < function.lv_mass_interval_g.upper
    keys = [m.quantity.value for m in function.measurements()]
    assert len(keys) == len(set(keys)) == 26
    assert all(m.method and m.quantity.unit for m in function.measurements())


def test_two_phases_are_enough() -> None:
    shapes = hearts.beating(20, ef=0.5)
    function = whole_measurement([shapes[7], shapes[0]], hearts.geometry())
    assert function.keyframes.end_diastole == 1
    assert function.keyframes.end_systole == 0
    assert function.lv.ejection_fraction_percent == pytest.approx(50.0, abs=1.5)
    assert function.lv.peak_ejection_rate_ml_s is None
    assert function.lv.edv_interval_ml.lower < function.lv.edv_ml
    assert function.wall is not None


def test_what_is_not_known_is_left_out() -> None:
    shapes = hearts.beating(12, rv=False)
    stack, segmentation = hearts.draw(shapes, hearts.geometry())
    stack = replace(stack, rr_intervals=np.full(stack.slices, np.nan))
    slices = measure_slices(stack, segmentation)
    function = measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), NOBODY)
    assert function.rv is None
    assert function.wall is None
    assert function.heart_rate_bpm is None
    assert function.lv.cardiac_output_l_min is None
    assert function.lv.edv_index_ml_m2 is None
    assert function.lv.peak_filling_rate_ml_s is None
    known = {m.quantity.value for m in function.measurements()}
    assert known == {"LVEDV_ml", "LVESV_ml", "LVSV_ml", "LVEF_percent", "LVM_g"}
    assert any("heart rate" in note for note in function.notes)
    header = replace(NOBODY, heart_rate_bpm=75.0)
    assert measure_function(stack, slices, function.keyframes, header).heart_rate_bpm == 75.0


def test_doubtful_basal_slice_widens_the_interval() -> None:
    shapes = hearts.beating(12)
    stack, segmentation = hearts.draw(shapes, hearts.geometry(above_base=0.0))
    labels = segmentation.labels.copy()
    wall = labels[:, 0] == Label.MYO
    wall[:, :, :43] = False
    opened = labels.copy()
    opened[:, 0][wall] = Label.BACKGROUND

    def measured(these):
        slices = measure_slices(stack, hearts.segmentation_of(these))
        return slices, measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), NOBODY).lv

    slices, lv = measured(opened)
    _, closed = measured(labels)
    assert not slices.counted[:, 0].any()
    basal = slices.lv_mm2[0, 0] * 9.0 / 1000
    assert lv.edv_ml == pytest.approx(closed.edv_ml - basal)
    assert lv.edv_interval_ml.upper >= closed.edv_ml
    assert lv.edv_interval_ml.upper - lv.edv_ml > basal
    # The doubt is about adding the slice, not about taking another away.
    next_slice = slices.lv_mm2[0, 1] * 9.0 / 1000
    off = volume_errors(Chamber.LV, slices, lv.curve, keyframes_of(stack, slices))[KeyPhase.END_DIASTOLE]
    assert off.too_small_ml >= basal
    assert off.too_large_ml == pytest.approx(1.96 / np.sqrt(12) * next_slice, rel=0.1)


def test_alternatives_leave_the_basal_slice_out_and_count_the_next() -> None:
    stack, segmentation = hearts.draw(hearts.beating(12), hearts.geometry(above_base=0.0))
    labels = segmentation.labels.copy()
    opened = labels[:, 0]
    opened[opened == Label.MYO] = Label.BACKGROUND
    slices = measure_slices(stack, hearts.segmentation_of(labels))
    key = keyframes_of(stack, slices)
    ml = slices.lv_mm2 * slices.intervals_mm / 1000.0
    found = basal_alternatives(slices, key, Chamber.LV)
    reported = slices.lv_ml[key.end_diastole]
    expected = (reported, reported - ml[key.end_diastole, 1], reported + ml[key.end_diastole, 0])
    assert found.edv_ml == pytest.approx(expected)
    fractions = [100 * (1 - s / d) for d in found.edv_ml for s in found.esv_ml]
    assert found.ejection_fraction_spread == pytest.approx(max(abs(f - fractions[0]) for f in fractions))
    right = basal_alternatives(slices, key, Chamber.RV)
    assert len(right.edv_ml) == 2
    assert right.edv_ml[0] == pytest.approx(slices.rv_ml[key.end_diastole])
    nothing = replace(slices, counted=np.zeros_like(slices.counted))
    assert basal_alternatives(nothing, key, Chamber.LV).ejection_fraction_spread == 0.0


def test_alternatives_of_a_chamber_that_is_cut_move_the_valve_plane_either_way() -> None:
    """By 5 mm, with the largest area of the basal half."""
    stack, segmentation = hearts.draw(hearts.beating(12), hearts.geometry(above_base=0.0))
    slices = measure_slices(stack, segmentation)
    key = keyframes_of(stack, slices)
    whole = basal_alternatives(replace(slices, cut=frozenset({Chamber.LV})), key, Chamber.LV)
    for found, phase in ((whole.edv_ml, key.end_diastole), (whole.esv_ml, key.end_systole)):
        reported = slices.lv_mm2[phase] @ slices.intervals_mm / 1000.0
        moved = slices.lv_mm2[phase].max() * 5.0 / 1000.0
        assert found == pytest.approx((reported, reported - moved, reported + moved))
    alone = basal_alternatives(replace(slices, cut=frozenset({Chamber.LV})), key, Chamber.RV)
    assert alone == basal_alternatives(slices, key, Chamber.RV)


def test_the_errors_belong_to_the_network_that_is_shipped() -> None:
    """Another network errs otherwise: CONTOUR_ERROR_MM, MASS_ERROR and the limits must be taken from it again."""
    weights = {card.name: card.weights_sha256 for card in list_models()}
    assert weights["ventricle-segmentation"] == CALIBRATED_WEIGHTS_SHA256


SMALL = {"slices": 9, "pitch": 11.0, "spacing": (2.2, 2.2), "size": (56, 56)}


@settings(max_examples=15, deadline=None)
@given(
    turn=st.floats(-3.1, 3.1),
    base_first=st.booleans(),
    flip_rows=st.booleans(),
    move=st.tuples(*[st.floats(-200, 200)] * 3),
)
def test_volumes_do_not_hang_on_the_orientation_of_the_images(turn, base_first, flip_rows, move) -> None:
    shape = hearts.half_ellipsoid()
    reference = measure_slices(*hearts.draw([shape], hearts.geometry(**SMALL), SMALL["size"]))
    grid = hearts.geometry(**SMALL, turn=turn, base_first=base_first)
    stack, segmentation = hearts.draw([shape], grid, SMALL["size"])
    if flip_rows:
        # The same voxels, rows counted from below: the slice normal turns over, so the slices are stored the other way.
        last = (SMALL["size"][0] - 1) * grid.pixel_spacing[0] * grid.column_direction
        grid = StackGeometry(
            (grid.positions + last)[::-1], grid.row_direction, -grid.column_direction, grid.pixel_spacing, 8.0
        )
        segmentation = hearts.segmentation_of(segmentation.labels[:, ::-1, ::-1].copy())
        base_first = not base_first
    stack = replace(stack, geometry=replace(grid, positions=grid.positions + np.array(move)))
    slices = measure_slices(stack, segmentation)
    assert slices.base_first is base_first
    assert slices.lv_ml[0] == pytest.approx(reference.lv_ml[0], rel=0.02)
    assert slices.myo_ml[0] == pytest.approx(reference.myo_ml[0], rel=0.02)
    assert slices.rv_ml[0] == pytest.approx(reference.rv_ml[0], rel=0.04)


@pytest.mark.parametrize("offset", np.linspace(-4.5, 4.5, 7))
def test_true_volume_lies_within_the_bounds_wherever_the_base_falls(offset: float) -> None:
    shapes = hearts.beating(20, ef=0.6)
    grid = hearts.geometry(12, 10.0, (2.0, 2.0), (72, 72), above_base=10.0 + offset)
    function = whole_measurement([shapes[0], shapes[7]], grid, (72, 72))
    edv = 2 / 3 * np.pi * 26.0**2 * 85.0 / 1000
    lv = function.lv
    assert lv.edv_interval_ml.lower < edv < lv.edv_interval_ml.upper
    assert lv.ejection_fraction_interval_percent.lower < 60.0 < lv.ejection_fraction_interval_percent.upper


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(0.6, 1.8))
def test_ejection_fraction_does_not_hang_on_size(scale: float) -> None:
    shapes = hearts.beating(8)
    stack, segmentation = hearts.draw(shapes, hearts.geometry(**SMALL), SMALL["size"])
    grid = stack.geometry
    larger = replace(
        stack,
        geometry=replace(
            grid, positions=scale * grid.positions, pixel_spacing=(scale * 2.2, scale * 2.2), slice_thickness=8 * scale
        ),
    )
    ml = [measure_slices(s, segmentation).lv_ml for s in (stack, larger)]
    assert ml[1] == pytest.approx(scale**3 * ml[0], rel=1e-9)
    ef = [1 - v.min() / v.max() for v in ml]
    assert ef[1] == pytest.approx(ef[0], abs=1e-9)
