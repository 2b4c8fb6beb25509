"""The wall as lines: drawn rings, cuts of a cone, and strain of motion that is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from pipelines.cine.stack import StackGeometry
from pipelines.motion.crop import SIDE_MM
from pipelines.motion.findings import Component
from pipelines.motion.strain import (
    LongAxisTrack,
    RingTrack,
    Timing,
    descent,
    draw_rings,
    measure_strain,
    of_the_same_muscle,
    stretch_of_volume,
    track_rings,
)
from pipelines.motion.wall import arc_lengths, long_axis_lines, wall_ring
from pipelines.segmentation.grid import Square
from pipelines.segmentation.labels import Label

SPACING = (1.2, 1.2)
SIZE = 128
PITCH = 8.0
CENTRE = (SIZE - 1) / 2 * 1.2


def disc_labels(inner: float, outer: float) -> np.ndarray:
    axis = np.arange(SIZE) * 1.2 - CENTRE
    radius = np.hypot(*np.meshgrid(axis, axis, indexing="ij"))
    return np.where(radius < inner, Label.LV, np.where(radius < outer, Label.MYO, Label.BACKGROUND)).astype(np.uint8)


def stack_geometry(slices: int) -> StackGeometry:
    return StackGeometry(
        positions=np.array([[0.0, 0.0, PITCH * index] for index in range(slices)]),
        row_direction=np.array([1.0, 0, 0]),
        column_direction=np.array([0, 1.0, 0]),
        pixel_spacing=SPACING,
        slice_thickness=PITCH,
    )


def timing(phases: int) -> Timing:
    return Timing(np.arange(phases) * 800.0 / phases, 800.0, 0, phases // 3)


@pytest.mark.parametrize(("inner", "outer"), [(15.0, 22.0), (28.0, 37.0)])
def test_a_drawn_ring_has_its_radii_to_half_a_pixel(inner: float, outer: float):
    ring = wall_ring(disc_labels(inner, outer), SPACING)
    assert ring is not None
    assert ring.centre == pytest.approx([CENTRE, CENTRE], abs=0.1)
    assert ring.inner == pytest.approx(inner, abs=0.6)
    assert ring.outer == pytest.approx(outer, abs=0.6)
    assert ring.inner.mean() == pytest.approx(inner, abs=0.2)
    length = arc_lengths(ring.points(ring.middle), closed=True).sum()
    assert length == pytest.approx(np.pi * (inner + outer), rel=0.01)


def test_muscle_keeps_its_place_in_the_area_of_the_wall():
    at_rest, contracted = wall_ring(disc_labels(28.0, 37.0), SPACING), wall_ring(disc_labels(18.0, 30.12), SPACING)
    assert at_rest is not None
    assert contracted is not None
    # r² = R² − 28² + 18² for every point of an incompressible wall of constant length.
    assert contracted.at_wall_share(at_rest.middle_share) == pytest.approx(np.sqrt(32.5**2 - 28**2 + 18**2), abs=0.4)


def test_no_cavity_no_ring():
    assert wall_ring(np.zeros((SIZE, SIZE), np.uint8), SPACING) is None


def contracting_tube(slices: int, phases: int, shortening: float):
    """Labels and fields of a tube whose cavity and wall shrink by the same incompressible law in every slice."""
    beat = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(phases) / phases)
    stretch = 1 - shortening * beat
    inner, outer = 28.0, 37.0
    inner_now = inner * (1 - 0.3 * beat)
    labels, fields = [], []
    axis = (np.arange(48) + 0.5) * SIDE_MM / 48 - SIDE_MM / 2
    place = np.stack(np.meshgrid(axis, axis, indexing="ij"))
    radius = np.hypot(*place)
    for now, length in zip(inner_now, stretch, strict=True):
        outer_now = np.sqrt((outer**2 - inner**2) / length + now**2)
        labels.append(np.stack([disc_labels(now, outer_now)] * slices))
        moved = np.sqrt(np.maximum((radius**2 - inner**2) / length + now**2, 1.0))
        fields.append(np.stack([place * (moved / np.maximum(radius, 1e-6) - 1)] * slices))
    return np.stack(labels), np.stack(fields).astype(np.float32), stretch, beat


def followed_rings(labels: np.ndarray, geometry: StackGeometry, fields: np.ndarray) -> RingTrack | None:
    drawn = draw_rings(labels, geometry.pixel_spacing, 0, np.ones(labels.shape[1], bool))
    return track_rings(drawn, labels[0], geometry, fields, Square(CENTRE, CENTRE, SIDE_MM), 0, base_first=True)


def test_strain_of_an_incompressible_tube_is_its_closed_form():
    phases, slices = 12, 6
    labels, fields, stretch, beat = contracting_tube(slices, phases, 0.15)
    geometry = stack_geometry(slices)
    rings = followed_rings(labels, geometry, fields)
    assert rings is not None
    # The apical end of the last slice does not move; a tube is the same at every height.
    assert rings.apex_mm == pytest.approx((slices - 0.5) * PITCH)
    assert stretch_of_volume(rings, 0) == pytest.approx(stretch, abs=0.02)
    strain = measure_strain(rings, [], None, None, timing(phases), geometry, base_first=True)
    middle = np.sqrt((32.5**2 - 28**2) / stretch + (28 * (1 - 0.3 * beat)) ** 2)
    expected = 100 * (middle / 32.5 - 1)
    assert strain.circumferential.percent == pytest.approx(expected, abs=0.7)
    assert strain.circumferential.second_percent == pytest.approx(expected, abs=0.7)
    outer = np.sqrt((37.0**2 - 28**2) / stretch + (28 * (1 - 0.3 * beat)) ** 2)
    assert strain.radial.percent == pytest.approx(100 * ((outer - 28 * (1 - 0.3 * beat)) / 9 - 1), abs=5)
    assert strain.circumferential.interval.lower < expected.min() < strain.circumferential.interval.upper
    assert strain.longitudinal is None
    assert any("long-axis" in note for note in strain.notes)
    assert strain.circumferential.systolic_rate_per_s is not None
    assert strain.circumferential.systolic_rate_per_s < 0 < (strain.circumferential.early_diastolic_rate_per_s or 0)


def long_axis_track(stretch: np.ndarray, apex_mm: float) -> LongAxisTrack:
    """One straight wall along the normal of the short axis that shortens toward the apex, its contour unseen."""
    height = np.linspace(0.0, apex_mm, 13)
    lengths = np.diff(height) * stretch[:, None]
    down = (stretch[:, None] - 1) * (height - apex_mm)
    return LongAxisTrack(height, lengths, lengths, down, np.stack([np.zeros(13), np.zeros(13), height], axis=1))


def test_radial_strain_comes_from_the_volume_of_the_muscle_where_the_long_axis_is_known():
    phases, slices = 12, 6
    labels, fields, stretch, beat = contracting_tube(slices, phases, 0.15)
    # The wall is drawn a millimetre too thin at the epicardium at every phase but end diastole, as networks do.
    eroded = labels.copy()
    for phase in range(1, phases):
        for index in range(slices):
            body = binary_erosion(labels[phase, index] > 0)
            eroded[phase, index][~body] = 0
    geometry = stack_geometry(slices)
    rings = followed_rings(eroded, geometry, fields)
    assert rings is not None
    lines = [long_axis_track(stretch, rings.apex_mm)]
    strain = measure_strain(rings, lines, None, None, timing(phases), geometry, base_first=True)
    inner = 28 * (1 - 0.3 * beat)
    expected = 100 * ((np.sqrt((37.0**2 - 28**2) / stretch + inner**2) - inner) / 9 - 1)
    assert strain.longitudinal is not None
    assert strain.longitudinal.percent == pytest.approx(100 * (stretch - 1), abs=0.01)
    assert strain.radial.percent.max() == pytest.approx(expected.max(), abs=4)
    assert strain.radial.second_percent.max() < expected.max() - 8
    assert strain.radial.interval.lower < expected.max() < strain.radial.interval.upper
    assert "constant volume" in strain.radial.method


def test_a_turning_ring_twists_and_does_not_strain():
    phases, slices = 8, 4
    labels = np.stack([np.stack([disc_labels(28.0, 37.0)] * slices)] * phases)
    axis = (np.arange(48) + 0.5) * SIDE_MM / 48 - SIDE_MM / 2
    place = np.stack(np.meshgrid(axis, axis, indexing="ij"))
    beat = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(phases) / phases)
    fields = np.zeros((phases, slices, 2, 48, 48), np.float32)
    for phase in range(phases):
        for index in range(slices):
            turn = np.radians(4.0 * index * beat[phase])  # from columns (x) toward rows (y)
            cosine, sine = np.cos(turn), np.sin(turn)
            fields[phase, index, 0] = (cosine * place[0] + sine * place[1]) - place[0]
            fields[phase, index, 1] = (cosine * place[1] - sine * place[0]) - place[1]
    geometry = stack_geometry(slices)
    rings = followed_rings(labels, geometry, fields)
    assert rings is not None
    strain = measure_strain(rings, [], None, None, timing(phases), geometry, base_first=True)
    assert np.abs(strain.circumferential.percent).max() < 0.2
    assert strain.torsion is not None
    # Slices are seen from the base here: clockwise on the image is counter-clockwise from the apex.
    assert strain.torsion.peak_deg_per_cm == pytest.approx(4.0 / (PITCH / 10), rel=0.03)


def test_a_level_is_read_where_its_muscle_is():
    height = np.arange(5) * PITCH
    values = np.stack([np.repeat(height[:, None], 3, axis=1)] * 2)  # what a level shows is its height
    moved = np.stack([np.zeros(5), np.full(5, 3.0)])
    read = of_the_same_muscle(values, height, moved)
    assert read[0, :, 0] == pytest.approx(height)
    assert read[1, :, 0] == pytest.approx(height + 3.0)


def test_a_level_that_left_the_stack_has_no_value():
    height = np.arange(5) * PITCH
    read = of_the_same_muscle(np.ones((1, 5, 3)), height, np.full((1, 5), 0.8 * PITCH))
    assert np.isnan(read[0, -1]).all()
    assert (read[0, :-1] == 1).all()


def test_without_long_axis_nothing_is_known_of_descent():
    assert descent([], np.arange(3.0)) is None


def test_a_long_axis_plane_cuts_both_walls():
    slices = 6
    labels = np.stack([disc_labels(28.0, 37.0)] * slices)
    geometry = stack_geometry(slices)
    view = StackGeometry(
        positions=np.array([[0.0, CENTRE, 100.0]]),
        row_direction=np.array([1.0, 0, 0]),
        column_direction=np.array([0, 0, -1.0]),
        pixel_spacing=(1.0, 1.0),
        slice_thickness=6.0,
    )
    lines = long_axis_lines(labels, geometry, np.ones(slices, bool), view)
    assert len(lines) == 2
    for line, side in zip(sorted(lines, key=lambda one: one.points[0, 1]), (-1, 1), strict=True):
        assert line.points[:, 1] == pytest.approx(CENTRE + side * 32.5, abs=1.0)
        assert line.points[:, 0] == pytest.approx(100 - line.height_mm, abs=0.1)
    assert {component.value for component in Component} == {"longitudinal", "circumferential", "radial"}


def test_a_ring_is_the_same_wherever_the_image_ends():
    labels = disc_labels(28.0, 37.0)
    whole = wall_ring(labels, SPACING)
    cut = wall_ring(labels[20:-20, 24:-24], SPACING)
    assert whole is not None
    assert cut is not None
    assert cut.centre + np.array([20, 24]) * 1.2 == pytest.approx(whole.centre)
    assert cut.inner == pytest.approx(whole.inner)
    assert cut.outer == pytest.approx(whole.outer)


def test_a_wall_beyond_reach_is_no_ring():
    # Muscle to the border of the image, which is farther away than a ring may reach.
    labels = np.full((2 * SIZE, 2 * SIZE), Label.MYO, np.uint8)
    labels[SIZE - 10 : SIZE + 10, SIZE - 10 : SIZE + 10] = Label.LV
    assert wall_ring(labels, SPACING) is None
