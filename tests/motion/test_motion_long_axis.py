"""Long-axis lines followed through motion that is known in closed form, and strain by segment."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.cine.stack import StackGeometry
from pipelines.function.segments import SegmentMap, SegmentReference
from pipelines.motion.crop import SIDE_MM
from pipelines.motion.findings import Component
from pipelines.motion.strain import (
    LongAxisTrack,
    RingTrack,
    Timing,
    ViewLengths,
    descent,
    measure_strain,
    track_line,
)
from pipelines.motion.wall import ANGLES, WallLine, ring_angles
from pipelines.segmentation.grid import Square

PHASES = 12
BEAT = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(PHASES) / PHASES)
NORMAL = np.array([0.0, 0.0, 1.0])
VIEW = StackGeometry(
    positions=np.array([[0.0, 0.0, 0.0]]),
    row_direction=np.array([1.0, 0, 0]),
    column_direction=np.array([0, 0, 1.0]),
    pixel_spacing=(1.0, 1.0),
    slice_thickness=6.0,
)
TIMING = Timing(np.arange(PHASES) * 75.0, 900.0, 0, PHASES // 2)


def shortening_fields(amount: float, phases: int = PHASES) -> np.ndarray:
    """Everything moves along the rows toward row 0 of the square's lower edge: u = −amount · beat · (row + half)."""
    beat = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(phases) / phases)
    axis = (np.arange(48) + 0.5) * SIDE_MM / 48 - SIDE_MM / 2
    rows = np.repeat(axis[:, None], 48, axis=1) + SIDE_MM / 2
    fields = np.zeros((phases, 2, 48, 48), np.float32)
    fields[:, 0] = -amount * beat[:, None, None] * rows
    return fields


def tracked(amount: float, column: float, phases: int = PHASES) -> LongAxisTrack:
    height = np.linspace(20.0, 100.0, 41)
    line = WallLine(np.stack([height, np.full(41, column)], axis=-1), height)
    square = Square(SIDE_MM / 2, SIDE_MM / 2, SIDE_MM)
    fields = shortening_fields(amount, phases)
    return track_line(line, VIEW, square, fields, fields, NORMAL, PHASES)


def test_a_line_shortens_and_descends_by_the_law_of_the_field():
    track = tracked(0.2, 60.0)
    assert track.length_direct.sum(axis=1) == pytest.approx(80.0 * (1 - 0.2 * BEAT), rel=1e-3)
    assert track.descent_mm[:, -1] == pytest.approx(-0.2 * BEAT * 100.0, abs=0.1)
    moved = descent([track], np.array([0.0, 50.0]))
    assert moved is not None
    assert moved[:, 1] == pytest.approx(-0.2 * BEAT * 50.0, abs=0.1)


def test_a_view_of_other_phases_is_read_at_the_phases_of_the_short_axis():
    track = tracked(0.2, 60.0, phases=24)
    assert track.length_direct.sum(axis=1) == pytest.approx(80.0 * (1 - 0.2 * BEAT), rel=1e-3)


def test_a_view_that_is_late_is_read_at_the_moments_of_the_short_axis():
    height = np.linspace(20.0, 100.0, 41)
    line = WallLine(np.stack([height, np.full(41, 60.0)], axis=-1), height)
    fields = np.roll(shortening_fields(0.2), 4, axis=0)
    track = track_line(
        line, VIEW, Square(SIDE_MM / 2, SIDE_MM / 2, SIDE_MM), fields, fields, NORMAL, PHASES, 4 / PHASES
    )
    assert track.length_direct.sum(axis=1) == pytest.approx(80.0 * (1 - 0.2 * BEAT), rel=1e-3)


def rings(stretch_of_angle: np.ndarray, delay: int = 0) -> RingTrack:
    """Six slices whose pieces of wall shorten by an angle-dependent amount."""
    beat = np.roll(BEAT, delay)
    beat = beat - beat[0]
    lengths = np.repeat((1 - stretch_of_angle[None] * beat[:, None])[:, None], 6, axis=1)
    shape = (PHASES, 6, ANGLES)
    height = np.arange(6) * 12.0
    return RingTrack(
        slices=np.arange(6),
        height_mm=height,
        length_field=np.broadcast_to(lengths, shape).copy(),
        length_contour=np.broadcast_to(lengths, shape).copy(),
        thickness_field=np.broadcast_to(2 - lengths, shape).copy(),
        thickness_contour=np.broadcast_to(2 - lengths, shape).copy(),
        area_mm2=np.ones(shape[:2]),
        rotation=np.zeros(shape[:2]),
        angles=np.repeat(ring_angles()[None], 6, axis=0),
        apex_mm=66.0,
    )


def segments() -> SegmentMap:
    reference = SegmentReference(np.pi, 1, np.zeros(3), np.zeros(3), True)
    return SegmentMap(("basal", "basal", "mid", "mid", "apical", "apical"), reference)


def test_a_wall_that_does_not_shorten_shows_in_its_segments_only():
    still = (np.cos(ring_angles()) < -0.5) * 1.0  # the third around the middle of the septum
    strain = measure_strain(rings(0.2 * (1 - still)), [], None, segments(), TIMING, VIEW, base_first=True)
    part = next(each for each in strain.segments if each.component is Component.CIRCUMFERENTIAL)
    septal = np.array([2, 3, 8, 9]) - 1
    assert part.peak_percent[septal] == pytest.approx(0, abs=1.0)
    assert part.peak_percent[[3, 4, 5, 0]] == pytest.approx(-20, abs=1.0)
    assert strain.circumferential.peak_percent == pytest.approx(-20 * 2 / 3, abs=0.5)
    assert {each.component for each in strain.segments} == {Component.CIRCUMFERENTIAL, Component.RADIAL}


def test_shortening_after_end_systole_has_an_index_and_disperses():
    strain = measure_strain(rings(np.full(ANGLES, 0.2)), [], None, segments(), TIMING, VIEW, base_first=True)
    part = strain.segments[0]
    assert part.post_systolic_index_percent == pytest.approx(0)
    assert part.dispersion_ms == pytest.approx(0)
    early = Timing(TIMING.times_ms, 900.0, 0, PHASES // 2 - 2)
    late = measure_strain(rings(np.full(ANGLES, 0.2)), [], None, segments(), early, VIEW, base_first=True).segments[0]
    assert late.post_systolic_index_percent == pytest.approx(25.0)  # beat is ¾ two phases before its peak
    assert late.time_to_peak_ms == pytest.approx(450.0)


def test_longitudinal_strain_comes_with_segments_and_a_second_way():
    lines = [tracked(0.2, 40.0), tracked(0.2, 110.0)]
    strain = measure_strain(rings(np.full(ANGLES, 0.1)), lines, None, segments(), TIMING, VIEW, base_first=True)
    assert strain.longitudinal is not None
    assert strain.longitudinal.peak_percent == pytest.approx(-20.0, abs=0.2)
    part = next(each for each in strain.segments if each.component is Component.LONGITUDINAL)
    measured = part.peak_percent[np.isfinite(part.peak_percent)]
    assert len(measured) >= 4
    assert measured == pytest.approx(-20.0, abs=0.3)
    assert strain.through_plane == "followed on the long-axis views"


def test_longitudinal_strain_is_the_mean_of_three_ways_and_as_uncertain_as_two_of_them_differ():
    """No single way decides: registration that misses half of the motion takes a third of it along."""
    lines = [tracked(0.08, 40.0), tracked(0.08, 110.0)]
    midwall, axis = (80.0 * (1 - amount * BEAT) for amount in (0.2, 0.17))
    drawn = ViewLengths(np.stack([midwall, 2 * midwall]), np.stack([axis, axis]))
    strain = measure_strain(rings(np.full(ANGLES, 0.1)), lines, drawn, segments(), TIMING, VIEW, base_first=True)
    found = strain.longitudinal
    assert found is not None
    assert found.peak_percent == pytest.approx(-15.0, abs=0.1)
    assert found.second_percent.min() == pytest.approx(-8.0, abs=0.1)
    assert found.interval.upper - found.peak_percent == pytest.approx(np.hypot(2.5, 12.0), abs=0.1)
