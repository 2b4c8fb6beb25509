"""Keyframes of motion whose moments are known."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.motion.keyframes import find_keyframes, motion_descriptor
from pipelines.phantom.cycle import CardiacCycle

SIDE = 96.0
CYCLE = CardiacCycle(
    rr_ms=900.0,
    ejection_start=0.05,
    systole_end=0.36,
    filling_start=0.44,
    filling_end=0.64,
    atrial_start=0.85,
    atrial_end=0.995,
    early_fraction=0.66,
    diastasis_fraction=0.06,
)


def radial_fields(phases: int, centre=(4.0, -6.0), slices: int = 3, size: int = 32) -> np.ndarray:
    """Fields between consecutive frames of a disc that scales about a centre by the volume law of a phantom."""
    times = np.arange(phases + 1) / phases
    scale = 1 - 0.25 * CYCLE.contraction(times)
    axis = ((np.arange(size) + 0.5) / size - 0.5) * SIDE
    away = np.stack(np.meshgrid(axis, axis, indexing="ij")) - np.array(centre)[:, None, None]
    away = away * (np.hypot(*away) < 30)
    rates = scale[1:] / scale[:-1] - 1
    return np.broadcast_to(rates[:, None, None, None, None] * away, (phases, slices, 2, size, size)).copy()


def distance(first: float, second: float, phases: int) -> float:
    apart = abs(first - second) % phases
    return min(apart, phases - apart)


def test_the_descriptor_is_negative_in_systole_and_positive_in_filling():
    descriptor = motion_descriptor(radial_fields(30), SIDE)
    assert descriptor.direction[3:9].max() < -0.8
    assert descriptor.direction[15:18].min() > 0.8
    assert descriptor.focus_mm == pytest.approx([4.0, -6.0], abs=4.0)


@pytest.mark.parametrize("phases", [20, 25, 30, 40])
def test_keyframes_of_a_disc_that_fills_like_a_heart(phases: int):
    descriptor = motion_descriptor(radial_fields(phases), SIDE)
    found = find_keyframes(descriptor.direction, descriptor.speed_mm)
    assert found is not None
    for name, time in asdict(CYCLE.key_times).items():
        # The slow filling of diastasis has the same direction as the atrial wave: its beginning shows less sharply.
        tolerance = 0.1 * phases if name == "mid_diastole" else 1.0
        assert distance(getattr(found, name), time * phases, phases) <= tolerance, name


def test_the_published_rules_take_the_middle_of_the_rest_and_the_peak_of_the_atrial_wave():
    phases = 40
    curve = motion_descriptor(radial_fields(phases), SIDE).speed_mm
    found = find_keyframes(curve, rest_share=0.0, onset_share=1.0)
    assert found is not None
    assert CYCLE.systole_end * phases < found.end_systole < CYCLE.filling_start * phases
    atrial_peak = (CYCLE.atrial_start + CYCLE.atrial_end) / 2 * phases
    assert distance(found.mid_diastole, atrial_peak, phases) <= 1.0


@settings(max_examples=50, deadline=None)
@given(shift=st.integers(0, 29))
def test_keyframes_turn_with_the_first_frame(shift: int):
    descriptor = motion_descriptor(radial_fields(30), SIDE)
    curve, speed = descriptor.direction, descriptor.speed_mm
    first, second = find_keyframes(curve, speed), find_keyframes(np.roll(curve, shift), np.roll(speed, shift))
    assert first is not None
    assert second is not None
    for name, value in asdict(first).items():
        assert distance(value + shift, asdict(second)[name], 30) < 1e-6


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=8, max_size=50))
def test_any_curve_gives_moments_of_the_cycle_or_nothing(values: list[float]):
    curve = np.array(values)
    found = find_keyframes(curve, curve[::-1].copy())
    if curve.min() < 0 < curve.max():
        assert found is not None
        assert all(0 <= value < len(curve) for value in asdict(found).values())
        assert all(0 <= frame < len(curve) for frame in found.frames(len(curve)).values())
    else:
        assert found is None


def test_too_few_frames_have_no_keyframes():
    assert find_keyframes(np.array([-1.0, 1.0, -1.0, 1.0])) is None
