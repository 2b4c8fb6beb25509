"""Annulus points, valve planes and atrium against drawn hearts whose geometry is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.cine.stack import CineStack, FrameSource, StackGeometry, View
from pipelines.long_axis.annulus import annulus_points, apex_points, smooth_cycle
from pipelines.long_axis.atrium import atrial_function
from pipelines.long_axis.findings import LongAxisLabel, LongAxisView, Valve
from pipelines.long_axis.in_step import resample_phases
from pipelines.long_axis.measure import measure_long_axis
from pipelines.long_axis.outline import _distance, axis_length_mm, midwall_length_mm, wall_length_mm
from pipelines.long_axis.segment import keep_plausible
from pipelines.long_axis.valve_plane import ValvePlanes, share_below, valve_planes

SPACING = 1.25
SIZE = 160
PHASES = 20
GEOMETRY = StackGeometry(
    positions=np.array([[-10.0, 40.0, 25.0]]),
    row_direction=np.array([1.0, 0.0, 0.0]),
    column_direction=np.array([0.0, 0.0, -1.0]),
    pixel_spacing=(SPACING, SPACING),
    slice_thickness=6.0,
)


def valve_rows(phases: int = PHASES) -> NDArray[np.float64]:
    """Row of the valve plane at each phase: 12 mm towards the apex (larger rows) at end systole."""
    return 60.0 + 12.0 / SPACING * 0.5 * (1 - np.cos(2 * np.pi * np.arange(phases) / phases))


def drawn(phases: int = PHASES, roof: float = 25.0) -> NDArray[np.uint8]:
    """A left heart: a half ellipse of ventricle below the valve, a half ellipse of atrium above, wall around."""
    row, column = np.mgrid[:SIZE, :SIZE].astype(float)
    labels = np.zeros((phases, SIZE, SIZE), np.uint8)
    for phase, valve in enumerate(valve_rows(phases)):
        across = (column - 80.0) / 20.0
        ventricle = (row >= valve) & (across**2 + ((row - valve) / (130.0 - valve)) ** 2 < 1)
        wall = (row >= valve) & (((column - 80.0) / 28.0) ** 2 + ((row - valve) / (138.0 - valve)) ** 2 < 1)
        atrium = (row < valve) & (((column - 80.0) / 18.0) ** 2 + ((row - valve) / (valve - roof)) ** 2 < 1)
        labels[phase][wall] = LongAxisLabel.MYO
        labels[phase][ventricle] = LongAxisLabel.LV
        labels[phase][atrium] = LongAxisLabel.LA
    return labels


def stack_of(labels: NDArray[np.uint8], view: View, geometry: StackGeometry = GEOMETRY) -> CineStack:
    phases = len(labels)
    source = FrameSource("", "", "", None, None, None)
    return CineStack(
        view=view,
        pixels=labels[:, None].astype(np.float32),
        geometry=geometry,
        sources=((source,),) * phases,
        trigger_times=np.arange(phases)[:, None] * 40.0,
        rr_intervals=np.array([40.0 * phases]),
        frame_of_reference_uid="1.2",
    )


def view_of(view: View = View.LAX_2CH, geometry: StackGeometry = GEOMETRY) -> LongAxisView:
    labels = drawn()
    mitral = annulus_points(labels, geometry, Valve.MITRAL)
    assert mitral is not None
    apex = apex_points(labels, geometry, mitral)
    agreement = np.ones(PHASES, np.float32)
    return LongAxisView(view, stack_of(labels, view, geometry), labels, agreement, {Valve.MITRAL: mitral}, apex)


def test_the_annulus_is_where_ventricle_and_atrium_meet() -> None:
    points = annulus_points(drawn(), GEOMETRY, Valve.MITRAL)
    assert points is not None
    truth = GEOMETRY.positions[0, 2] - SPACING * (valve_rows() - 0.5)
    assert np.abs(points[:, :, 2] - truth[:, None]).max() < 1.2
    width = np.abs(points[:, 0, 0] - points[:, 1, 0])
    assert np.abs(width - 36.0 * SPACING).max() < 4.0


def test_the_annulus_is_where_the_wall_ends_when_the_cavity_is_drawn_into_the_atrium() -> None:
    labels = drawn()
    for phase, valve in enumerate(valve_rows()):
        if phase in (0, 1, 2, 17, 18, 19):
            # Ten millimetres of atrium are taken for ventricle behind the open valve.
            behind = np.arange(SIZE)[:, None] >= valve - 10.0 / SPACING
            labels[phase][(labels[phase] == LongAxisLabel.LA) & behind] = LongAxisLabel.LV
    points = annulus_points(labels, GEOMETRY, Valve.MITRAL)
    assert points is not None
    truth = GEOMETRY.positions[0, 2] - SPACING * (valve_rows() - 0.5)
    assert np.abs(points[..., 2] - truth[:, None]).max() < 3.0


def test_a_wall_that_ends_far_aside_or_below_does_not_move_the_annulus() -> None:
    labels = drawn()
    found = annulus_points(labels, GEOMETRY, Valve.MITRAL)
    # One wall is seen in its apical half alone, as where the outflow tract is cut.
    labels[:, :100, :80][labels[:, :100, :80] == LongAxisLabel.MYO] = LongAxisLabel.BACKGROUND
    cut = annulus_points(labels, GEOMETRY, Valve.MITRAL)
    assert found is not None
    assert cut is not None
    assert np.abs(found - cut).max() < 1.5


@pytest.mark.filterwarnings("error")
def test_a_border_in_two_bodies_whose_end_falls_between_them_is_not_an_annulus() -> None:
    between = 0
    for width in range(40, 90):
        labels = np.zeros((3, SIZE, SIZE), np.uint8)
        labels[:, 60:100, 30:130] = LongAxisLabel.LV
        labels[:, 59, 30] = LongAxisLabel.LA
        labels[:, 59, 130 - width : 130] = LongAxisLabel.LA
        points = annulus_points(labels, GEOMETRY, Valve.MITRAL)
        between += points is None
        assert points is None or np.isfinite(points).all()
    assert between > 0


def test_each_side_of_the_annulus_stays_the_same_side() -> None:
    points = annulus_points(drawn(), GEOMETRY, Valve.MITRAL)
    assert points is not None
    assert len({bool(first < second) for first, second in points[:, :, 0]}) == 1


def test_phases_in_which_the_valve_is_not_seen_are_filled_in() -> None:
    labels = drawn()
    labels[[3, 4, 11]] = 0
    points = annulus_points(labels, GEOMETRY, Valve.MITRAL)
    whole = annulus_points(drawn(), GEOMETRY, Valve.MITRAL)
    assert points is not None
    assert whole is not None
    assert np.abs(points - whole).max() < 1.5


def test_a_valve_seen_too_seldom_is_not_told() -> None:
    labels = drawn()
    labels[:12] = 0
    assert annulus_points(labels, GEOMETRY, Valve.MITRAL) is None
    assert annulus_points(drawn(), GEOMETRY, Valve.TRICUSPID) is None


def test_the_apex_is_the_far_end_of_the_cavity() -> None:
    view = view_of()
    truth = GEOMETRY.to_patient(0.0, np.float64(129.0), np.float64(80.0))
    assert np.linalg.norm(view.apex - truth, axis=1).max() < 3.0


def test_excursion_is_that_of_the_valve() -> None:
    found = measure_long_axis(
        type("Views", (), {"views": (view_of(),), "models": ()})()  # type: ignore[arg-type]
    )
    assert found.plane_excursion_mm[Valve.MITRAL] == pytest.approx(12.0, abs=1.0)
    assert Valve.TRICUSPID not in found.plane_excursion_mm


@given(amplitude=st.floats(0, 20), offset=st.floats(-50, 50), harmonic=st.integers(1, 4), phases=st.integers(12, 40))
def test_smoothing_keeps_slow_motion_exactly(amplitude: float, offset: float, harmonic: int, phases: int) -> None:
    time = np.arange(phases) / phases
    points = offset + amplitude * np.cos(2 * np.pi * harmonic * time + 0.3)[:, None] * np.ones(3)
    assert np.allclose(smooth_cycle(points), points, atol=1e-6)


def test_smoothing_does_not_follow_one_phase_that_jumps() -> None:
    time = np.arange(24) / 24
    points = (5 * np.cos(2 * np.pi * time))[:, None] * np.ones(3)
    jumped = points.copy()
    jumped[7] += 15.0
    assert np.abs(smooth_cycle(jumped) - points).max() < 4.0


def planes_of(*geometries: StackGeometry) -> ValvePlanes:
    views = [view_of(view, geometry) for view, geometry in zip((View.LAX_2CH, View.LAX_4CH), geometries, strict=False)]
    planes = valve_planes(views, Valve.MITRAL, np.array([0.0, 0.0, 1.0]), PHASES)
    assert planes is not None
    return planes


def test_the_plane_of_two_views_follows_the_valve() -> None:
    across = StackGeometry(
        positions=np.array([[90.0, -60.0, 25.0]]),
        row_direction=np.array([0.0, 1.0, 0.0]),
        column_direction=np.array([0.0, 0.0, -1.0]),
        pixel_spacing=(SPACING, SPACING),
        slice_thickness=6.0,
    )
    planes = planes_of(GEOMETRY, across)
    truth = 25.0 - SPACING * (valve_rows() - 0.5)
    assert planes.views == 2
    assert np.abs(planes.points[:, 2] - truth).max() < 1.2
    assert (planes.normals @ [0.0, 0.0, 1.0]).min() > 0.99


def test_a_slice_counts_by_the_share_below_the_plane() -> None:
    planes = ValvePlanes(Valve.MITRAL, np.tile([0.0, 0.0, 10.0], (2, 1)), np.tile([0.0, 0.0, 1.0], (2, 1)), 1)
    geometry = StackGeometry(
        positions=np.array([[0.0, 0.0, height] for height in (0.0, 8.0, 12.0, 16.0)]),
        row_direction=np.array([1.0, 0.0, 0.0]),
        column_direction=np.array([0.0, 1.0, 0.0]),
        pixel_spacing=(2.0, 2.0),
        slice_thickness=4.0,
    )
    source = FrameSource("", "", "", None, None, None)
    stack = CineStack(
        view=View.SAX,
        pixels=np.zeros((2, 4, 8, 8), np.float32),
        geometry=geometry,
        sources=((source,) * 4,) * 2,
        trigger_times=np.zeros((2, 4)),
        rr_intervals=np.full(4, 800.0),
        frame_of_reference_uid="1.2",
    )
    shares = share_below(stack, planes, slice(2, 5), slice(0, 8))
    assert shares.shape == (2, 4, 3, 8)
    # Intervals 8, 6, 4, 4 mm: slice 1 (8 mm) reaches to 11 mm, slice 2 begins at 10 mm.
    assert shares[0, :, 0, 0] == pytest.approx([1.0, 0.5 + 2.0 / 6.0, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(("count", "phases"), [(20, 30), (30, 20), (25, 25)])
def test_resampling_in_time_is_cyclic(count: int, phases: int) -> None:
    time = np.arange(count) / count
    values = np.cos(2 * np.pi * time)
    expected = np.cos(2 * np.pi * np.arange(phases) / phases)
    assert np.abs(resample_phases(values, phases) - expected).max() < 0.03


def test_the_length_of_a_wall_is_that_of_its_curve() -> None:
    row, column = np.mgrid[:SIZE, :SIZE].astype(float)
    radius = 30.0
    mask = (row <= 80) & ((row - 80) ** 2 + (column - 80) ** 2 < radius**2)
    annulus = np.stack([GEOMETRY.to_patient(0.0, 80.0, 80 - radius), GEOMETRY.to_patient(0.0, 80.0, 80 + radius)])
    assert wall_length_mm(mask, GEOMETRY, annulus) == pytest.approx(np.pi * radius * SPACING, rel=0.04)


def half_ring(inner: float, outer: float) -> NDArray[np.uint8]:
    """A half spherical shell about row 80, column 80, open at the valve; radii in pixels."""
    row, column = np.mgrid[:SIZE, :SIZE].astype(float)
    radius = np.hypot(row - 80, column - 80)
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[(row >= 80) & (radius < outer)] = LongAxisLabel.MYO
    labels[(row >= 80) & (radius < inner)] = LongAxisLabel.LV
    return labels


@pytest.mark.parametrize("wall", [6.0, 10.0, 16.0])
def test_the_midwall_line_follows_the_muscle_of_a_shell_that_keeps_its_volume(wall: float) -> None:
    inner = 40.0 - 12.0 * 0.5 * (1 - np.cos(2 * np.pi * np.arange(PHASES) / PHASES))
    shell = (inner[0] + wall) ** 3 - inner[0] ** 3
    outer = (shell + inner**3) ** (1 / 3)
    muscle = ((inner[0] + wall / 2) ** 3 - inner[0] ** 3 + inner**3) ** (1 / 3)
    labels = np.stack([half_ring(*radii) for radii in zip(inner, outer, strict=True)])
    ends = [[GEOMETRY.to_patient(0.0, 80.0, 80 - each), GEOMETRY.to_patient(0.0, 80.0, 80 + each)] for each in muscle]
    apex = [GEOMETRY.to_patient(0.0, 80 + each, 80.0) for each in inner]
    stack = stack_of(labels, View.LAX_4CH)
    agreement = np.ones(PHASES, np.float32)
    view = LongAxisView(View.LAX_4CH, stack, labels, agreement, {Valve.MITRAL: np.array(ends)}, np.array(apex))
    length = midwall_length_mm(view, 0)
    assert length is not None
    # The first 5 mm of either side below the annulus are left out.
    expected = np.pi * muscle * SPACING - 10.0
    assert length == pytest.approx(expected, rel=0.02)
    strain, truth = length / length[0] - 1, expected / expected[0] - 1
    assert strain.min() == pytest.approx(truth.min(), abs=0.01)
    assert axis_length_mm(view) == pytest.approx(inner * SPACING)


def test_a_view_without_wall_or_annulus_has_no_midwall_line() -> None:
    view = view_of()
    assert midwall_length_mm(view, 0) is not None
    without_apex = dataclasses.replace(view, apex=np.full_like(view.apex, np.nan))
    for lacking in (dataclasses.replace(view, annuli={}), without_apex):
        assert midwall_length_mm(lacking, 0) is None
        assert axis_length_mm(lacking) is None
    bare = np.where(view.labels == LongAxisLabel.MYO, LongAxisLabel.BACKGROUND, view.labels)
    assert midwall_length_mm(dataclasses.replace(view, labels=bare), 0) is None


def test_atrial_volume_is_that_of_the_ellipsoid_and_largest_when_the_valve_descends() -> None:
    atrium = atrial_function([view_of()])
    assert atrium is not None
    valve = valve_rows()
    length = (valve - 25.0) * SPACING
    truth = 8 * (np.pi / 2 * 18.0 * SPACING * length) ** 2 / (3 * np.pi * length) / 1000
    assert np.abs(atrium.volume_ml - truth).max() < 0.08 * truth.max()
    assert int(np.argmax(atrium.volume_ml)) == pytest.approx(PHASES // 2, abs=1)
    assert atrium.reservoir_percent > 10
    assert atrium.reservoir_percent == pytest.approx(atrium.conduit_percent + atrium.booster_percent)


def test_one_body_of_each_chamber_is_kept() -> None:
    labels = drawn()[0]
    labels[5:9, 5:9] = LongAxisLabel.LA
    labels[150:155, 10:16] = LongAxisLabel.LV
    kept = keep_plausible(labels)
    assert not kept[:10, :10].any()
    assert not kept[148:, :20].any()
    assert (kept[20:140, 40:120] == drawn()[0][20:140, 40:120]).all()


def test_an_empty_view_keeps_nothing() -> None:
    assert not keep_plausible(np.zeros((20, 30), np.uint8)).any()


@pytest.mark.parametrize("distance", [3, 24, 25, 60])
def test_distances_are_the_same_however_far_the_target_lies(distance: int) -> None:
    places = np.zeros((120, 110), bool)
    places[30:36, 20:40] = True
    target = np.zeros_like(places)
    target[35 + distance, 25] = True
    expected = ndimage.distance_transform_edt(~target)[places]
    assert np.array_equal(_distance(target, places), expected)
