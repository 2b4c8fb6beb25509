"""AHA segments land on their walls, whatever the orientation of the images and of the patient."""

from __future__ import annotations

from dataclasses import replace

import hearts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Keyframes
from pipelines.function.segments import SegmentReference, segment_map, segment_of, segmental_wall
from pipelines.function.slices import measure_slices
from pipelines.phantom import PhantomRecipe, simulate
from pipelines.phantom.assembled import cine_stack
from pipelines.segmentation.labels import Label
from pipelines.segmentation.segment import segment

ED_ONLY = Keyframes(0, 0, 0.0, 0.0, "test")

# Directions of the walls, degrees from the middle of the septum through anterior (+) to inferior (−).
WALLS = {
    "anterior": 90.0,
    "anteroseptal": 30.0,
    "inferoseptal": -30.0,
    "inferior": -90.0,
    "inferolateral": -150.0,
    "anterolateral": 150.0,
}
SEGMENTS = {
    "anterior": (1, 7),
    "anteroseptal": (2, 8),
    "inferoseptal": (3, 9),
    "inferior": (4, 10),
    "inferolateral": (5, 11),
    "anterolateral": (6, 12),
}


def bulging(wall: str, radius: float = 24.0, thin: float = 7.0, thick: float = 13.0) -> hearts.Shape:
    """Cylinder whose wall is thick in one sector of 60 degrees; the bulge goes inward, so that the RV fits outside."""
    outer = radius + thin
    middle = np.deg2rad(WALLS[wall])

    def lv(x, y, z):
        turn = np.abs(np.angle(np.exp(1j * (np.arctan2(y, x) - middle))))
        inner = np.where(turn <= np.deg2rad(30), outer - thick, radius)
        return (z >= 0) & (z < 90) & (x**2 + y**2 <= inner**2)

    def heart(x, y, z):
        return (z >= 0) & (z < 90) & (x**2 + y**2 <= outer**2)

    def rv(x, y, z):
        return (z >= 0) & (z < 62) & ((x - outer) ** 2 + y**2 <= (0.98 * outer) ** 2) & ~heart(x, y, z)

    return hearts.Shape(lv, heart, rv)


def walls(shapes, grid, keyframes=ED_ONLY, size=(96, 96)):
    stack, segmentation = hearts.draw(shapes, grid, size)
    return segmental_wall(stack, measure_slices(stack, segmentation), keyframes)


@pytest.mark.parametrize("wall", WALLS)
@pytest.mark.parametrize("base_first", [True, False])
@pytest.mark.parametrize("turn", [0.0, -2.4])
def test_thick_wall_is_found_in_its_segment(wall: str, base_first: bool, turn: float) -> None:
    grid = hearts.geometry(11, 9.0, base_first=base_first, turn=turn)
    found = walls([bulging(wall)], grid)
    assert "CAUTION" not in found.method
    for level in (0, 1):
        ring = found.ed_thickness_mm[6 * level : 6 * level + 6]
        assert np.argmax(ring) + 1 + 6 * level == SEGMENTS[wall][level]
        thick = ring[SEGMENTS[wall][level] - 1 - 6 * level]
        assert thick > 10.0
        assert np.median(ring) == pytest.approx(7.0, abs=0.8)
    apical = {"anterior": 13, "inferior": 15}
    if wall in apical:
        assert np.argmax(found.ed_thickness_mm[12:]) + 13 == apical[wall]


def flipped(grid, rows: int):
    """The same planes with the rows counted from below: normal, and with it the slice order, turn over."""
    last = (rows - 1) * grid.pixel_spacing[0] * grid.column_direction
    return replace(grid, positions=(grid.positions + last)[::-1], column_direction=-grid.column_direction)


@settings(max_examples=8, deadline=None)
@given(turn=st.floats(-3.1, 3.1), base_first=st.booleans(), flip=st.booleans(), wall=st.sampled_from(sorted(WALLS)))
def test_segments_do_not_hang_on_the_orientation_of_the_images(turn, base_first, flip, wall) -> None:
    size = (64, 64)
    grid = hearts.geometry(9, 11.0, (2.0, 2.0), size, base_first=base_first, turn=turn)
    found = walls([bulging(wall)], flipped(grid, 64) if flip else grid, size=size)
    assert np.argmax(found.ed_thickness_mm[:6]) + 1 == SEGMENTS[wall][0]
    assert np.argmax(found.ed_thickness_mm[6:12]) + 7 == SEGMENTS[wall][1]
    # The insertion points are where they are, in the patient.
    between = found.anterior_insertion - found.inferior_insertion
    assert between / np.linalg.norm(between) == pytest.approx(hearts.ANTERIOR, abs=0.1)


def test_the_insertion_points_are_those_of_the_middle_mid_slice() -> None:
    stack, segmentation = hearts.draw([bulging("anterior")], hearts.geometry(21, 4.5))
    slices = measure_slices(stack, segmentation)
    found = segmental_wall(stack, slices, ED_ONLY)
    mid = [index for index, level in enumerate(segment_map(stack, slices, 0).levels) if level == "mid"]
    assert len(mid) >= 6
    for point in (found.anterior_insertion, found.inferior_insertion):
        off = np.abs((stack.geometry.positions - point) @ stack.geometry.normal)
        assert off.argmin() == mid[len(mid) // 2]


def test_patient_on_the_side_is_told_by_the_heart_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the chord of the insertions is square to the patient's anterior–superior axis, the heart's axes decide."""
    sideways = np.cross(hearts.ANTERIOR, hearts.TO_APEX)
    monkeypatch.setattr("pipelines.function.segments.ANTERIOR_SUPERIOR", sideways)
    for wall in ("anterior", "inferior"):
        found = walls([bulging(wall)], hearts.geometry(9, 11.0))
        assert np.argmax(found.ed_thickness_mm[:6]) + 1 == SEGMENTS[wall][0]


def test_mirrored_heart_is_flagged() -> None:
    """In a mirror image the patient's axes still tell anterior from inferior; the heart's own say the opposite."""
    shape = bulging("anterior")
    mirrored = hearts.Shape(*(lambda x, y, z, f=f: f(x, -y, z) for f in (shape.lv, shape.heart, shape.rv)))
    found = walls([mirrored], hearts.geometry(9, 11.0))
    assert "CAUTION" not in found.method  # mirrored labels alone are a thick inferior wall
    assert np.argmax(found.ed_thickness_mm[:6]) + 1 == SEGMENTS["inferior"][0]
    grid = hearts.geometry(9, 11.0)
    stack, segmentation = hearts.draw([shape], grid)
    slices = replace(measure_slices(stack, segmentation), base_first=False)
    assert "CAUTION" in segmental_wall(stack, slices, ED_ONLY).method


def test_levels_are_thirds_from_base_to_apex() -> None:
    grid = hearts.geometry(11, 9.0)
    found = walls([hearts.half_ellipsoid(length=81.0)], grid)
    assert found.levels == (None, *["basal"] * 3, *["mid"] * 3, *["apical"] * 3, None)
    upward = walls([hearts.half_ellipsoid(length=81.0)], hearts.geometry(11, 9.0, base_first=False))
    assert upward.levels == found.levels[::-1]


def test_thickness_and_thickening_of_a_beating_heart() -> None:
    shapes = hearts.beating(12, ef=0.6, radius=25.0, wall=8.0)
    stack, segmentation = hearts.draw(shapes, hearts.geometry(20, 5.0, (1.2, 1.2), (110, 110)), (110, 110))
    slices = measure_slices(stack, segmentation)
    found = segmental_wall(stack, slices, find_keyframes(stack, slices.lv_ml))
    assert found.segments == 16
    for radius, thickness in ((25.0, found.ed_thickness_mm), (np.sqrt(0.4) * 25.0, found.es_thickness_mm)):
        outer = np.sqrt(33.0**2 - 25.0**2 + radius**2)
        depth = np.arange(0.5, 28.0)
        inside = radius * np.sqrt(1 - (depth / 85.0) ** 2)
        outside = outer * np.sqrt(1 - (depth / (85.0 + outer - radius)) ** 2)
        assert thickness[:6] == pytest.approx((outside - inside).mean(), abs=0.25)
    assert found.thickening_percent == pytest.approx(100 * (found.es_thickness_mm / found.ed_thickness_mm - 1))
    assert (found.thickening_percent > 15).all()


def test_cap_only_where_slices_are_close_enough() -> None:
    shape = hearts.half_ellipsoid(20.0, 9.0, 60.0)
    coarse = walls([shape], hearts.geometry(12, 8.0, (1.5, 1.5)))
    fine = walls([shape], hearts.geometry(40, 2.5, (1.5, 1.5)))
    assert coarse.segments == 16
    assert "cap" not in coarse.levels
    assert fine.segments == 17
    assert fine.ed_thickness_mm[16] == pytest.approx(9.0, abs=2.5)
    assert fine.levels.count("cap") in (3, 4)


def test_the_cap_is_found_on_the_labels_of_the_network() -> None:
    """Segment 17 of a thin stack; the labels are not drawn but found."""
    recipe = PhantomRecipe(
        seed=7, slices=26, phases=4, rows=144, columns=144, spacing_mm=1.8, pitch_mm=4.0, long_axis=False
    )
    stack = cine_stack(simulate(recipe, workers=1).short_axis)
    slices = measure_slices(stack, segment(stack))
    wall = segmental_wall(stack, slices, find_keyframes(stack, slices.lv_ml))
    assert wall is not None
    assert wall.segments == 17
    assert "cap" in wall.levels
    assert 2.0 <= wall.ed_thickness_mm[16] <= 12.0


def test_no_rv_no_segments() -> None:
    assert walls([hearts.half_ellipsoid(rv=False)], hearts.geometry(9, 11.0)) is None


def test_open_sector_is_not_a_number() -> None:
    grid = hearts.geometry(9, 11.0)
    stack, segmentation = hearts.draw([bulging("anterior")], grid)
    labels = segmentation.labels.copy()
    clean = segmental_wall(stack, measure_slices(stack, segmentation), ED_ONLY)
    # Cut the inferolateral wall away by its distance from the insertion points' far side.
    rows, columns = np.meshgrid(np.arange(96), np.arange(96), indexing="ij")
    for index in range(9):
        points = grid.to_patient(index, rows, columns) - np.array([20.0, -30.0, 40.0])
        turn = np.rad2deg(np.arctan2(points @ hearts.ANTERIOR, points @ hearts.SEPTAL))
        plane = labels[0, index]
        plane[(plane == Label.MYO) & (turn < -118) | (plane == Label.MYO) & (turn > 178)] = Label.BACKGROUND
    found = segmental_wall(stack, measure_slices(stack, hearts.segmentation_of(labels)), ED_ONLY)
    assert np.isnan(found.ed_thickness_mm[[4, 10]]).all()
    assert found.ed_thickness_mm[[0, 1, 2, 6]] == pytest.approx(clean.ed_thickness_mm[[0, 1, 2, 6]], abs=0.5)


@pytest.mark.parametrize("sign", [1, -1])
def test_segment_numbers_around_the_ring(sign: int) -> None:
    reference = SegmentReference(0.7, sign, np.zeros(3), np.zeros(3), True)
    # Degrees from the middle of the septum toward inferior.
    turn = np.array([-30, 30, 90, 150, -150, -90])
    angles = 0.7 + sign * np.deg2rad(turn)
    assert segment_of(angles, "basal", reference).tolist() == [2, 3, 4, 5, 6, 1]
    assert segment_of(angles + 6 * np.pi, "mid", reference).tolist() == [8, 9, 10, 11, 12, 7]
    quarters = 0.7 + sign * np.deg2rad(np.array([0, 90, 180, -90, 44, -44]))
    assert segment_of(quarters, "apical", reference).tolist() == [14, 15, 16, 13, 14, 14]


@pytest.mark.parametrize("turns", [-3, -1, 0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_direction_has_its_segment_however_often_it_went_around(turns: int, sign: int) -> None:
    """Each degree but the borders, as Cerqueira et al. draw them, on every level."""
    reference = SegmentReference(2.5, sign, np.zeros(3), np.zeros(3), True)
    degrees = np.arange(-179.5, 180.0)
    angles = 2.5 + sign * np.deg2rad(degrees + 360.0 * turns)
    apical = np.select([abs(degrees) < 45, abs(degrees) > 135, degrees > 0], [14, 16, 15], 13)
    assert segment_of(angles, "apical", reference).tolist() == apical.tolist()
    ends = [(-60, 2), (0, 3), (60, 4), (120, 5)]
    basal = np.where(degrees < -120, 6, 1)
    for start, number in ends:
        basal[(degrees > start) & (degrees < start + 60)] = number
    assert segment_of(angles, "basal", reference).tolist() == basal.tolist()
    assert segment_of(angles, "mid", reference).tolist() == (basal + 6).tolist()
