"""Smoothing, keyframes and rates on curves with known answers."""

from __future__ import annotations

import hearts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import AnalysisRefused
from pipelines.function.body import body_surface_area
from pipelines.function.curves import find_keyframes, rates, smooth, volume_curve
from pipelines.function.findings import BsaFormula

EDV, STROKE = 150.0, 90.0


def volumes(phases: int) -> np.ndarray:
    return EDV - STROKE * hearts.contraction(phases)


def stack(phases: int, rr: float = 900.0, **kwargs):
    grid = hearts.geometry(slices=3, size=(4, 4))
    return hearts.stack_of(np.ones((phases, 3, 4, 4), dtype=np.uint8), grid, rr=rr, **kwargs)


def test_smoothing_keeps_a_parabola_and_a_constant() -> None:
    t = np.arange(20.0)
    inner = slice(4, -4)
    parabola = 3 + 0.4 * (t - 9) ** 2
    assert smooth(parabola, cyclic=False).values[inner] == pytest.approx(parabola[inner])
    assert smooth(np.full(20, 80.0)).values == pytest.approx(80.0)


@pytest.mark.parametrize("phases", [12, 20, 25, 30, 40, 50])
def test_smoothing_keeps_the_extremes(phases: int) -> None:
    smoothed = smooth(volumes(phases))
    assert not smoothed.outliers.any()
    assert smoothed.values.max() == pytest.approx(EDV, abs=0.05 * STROKE)
    assert smoothed.values.min() == pytest.approx(EDV - STROKE, abs=0.05 * STROKE)


@pytest.mark.parametrize("phases", [20, 30])
@pytest.mark.parametrize("at", [0, 3, 7, 12, 19])
@pytest.mark.parametrize("error", [-70.0, 70.0])
def test_one_bad_phase_moves_neither_keyframe(phases: int, at: int, error: float) -> None:
    clean = find_keyframes(stack(phases), volumes(phases))
    spoilt = volumes(phases)
    spoilt[at] += error
    found = find_keyframes(stack(phases), spoilt)
    assert smooth(spoilt).outliers[at]
    for moved, where in ((found.end_diastole, clean.end_diastole), (found.end_systole, clean.end_systole)):
        distance = abs(moved - where)
        assert min(distance, phases - distance) <= 1


def test_keyframes_have_times() -> None:
    found = find_keyframes(stack(25, rr=1000.0), volumes(25))
    assert found.end_diastole_ms == pytest.approx(found.end_diastole * 40.0)
    assert found.end_systole_ms == pytest.approx(found.end_systole * 40.0)


def test_times_are_averaged_over_slices_as_fractions_of_their_rr() -> None:
    two = stack(20, rr=1000.0)
    two.rr_intervals[:] = [800.0, 1000.0, 1200.0]
    two.trigger_times[:] = np.arange(20)[:, None] / 20 * two.rr_intervals
    curve = volume_curve(two, volumes(20))
    assert curve.rr_ms == pytest.approx(1000.0)
    assert curve.times_ms == pytest.approx(np.arange(20) * 50.0)


def test_single_phase_is_refused() -> None:
    with pytest.raises(AnalysisRefused, match="single cardiac phase"):
        find_keyframes(stack(1), np.array([100.0]))


@settings(max_examples=50, deadline=None)
@given(phases=st.integers(8, 50), shift=st.integers(0, 49), noise=st.integers(0, 2**31))
def test_cyclic_shift_of_the_phases_shifts_the_keyframes_only(phases: int, shift: int, noise: int) -> None:
    ml = volumes(phases) + np.random.default_rng(noise).normal(0, 1.5, phases)
    before = find_keyframes(stack(phases), ml)
    after = find_keyframes(stack(phases), np.roll(ml, shift))
    assert after.end_diastole == (before.end_diastole + shift) % phases
    assert after.end_systole == (before.end_systole + shift) % phases


@pytest.mark.parametrize("phases", [16, 25, 40])
def test_rates_of_a_sine(phases: int) -> None:
    rr = 800.0
    ml = 100.0 + 40.0 * np.cos(2 * np.pi * np.arange(phases) / phases)
    peak = rates(volume_curve(stack(phases, rr), ml))
    true = 40.0 * 2 * np.pi / (rr / 1000)
    # The quadratic filter over five phases damps a sine a little where there are few.
    assert peak.ejection_ml_s == pytest.approx(true, rel=0.05 if phases < 20 else 0.02)
    assert peak.filling_ml_s == pytest.approx(peak.ejection_ml_s, rel=1e-3)
    assert peak.ejection_ms == pytest.approx(rr / 4, abs=10)
    assert peak.filling_ms == pytest.approx(3 * rr / 4, abs=10)


@settings(max_examples=30, deadline=None)
@given(shift=st.integers(0, 24))
def test_rates_do_not_hang_on_where_the_cycle_starts(shift: int) -> None:
    ml = volumes(25)
    before, after = (rates(volume_curve(stack(25), np.roll(ml, s))) for s in (0, shift))
    assert after.ejection_ml_s == pytest.approx(before.ejection_ml_s, rel=1e-3)
    assert after.filling_ml_s == pytest.approx(before.filling_ml_s, rel=1e-3)


def test_rates_need_phases_a_period_and_ascending_times() -> None:
    assert rates(volume_curve(stack(8), volumes(8))) is None
    unknown = stack(20)
    unknown.rr_intervals[:] = np.nan
    assert rates(volume_curve(unknown, volumes(20))) is None
    frozen = stack(20)
    frozen.trigger_times[:] = 0.0
    assert rates(volume_curve(frozen, volumes(20))) is None


def test_prospective_curve_is_not_closed() -> None:
    part = stack(20, retrospective=False)
    # A curve that falls for ever: closed, it would jump back up and fake a filling rate.
    falling = np.linspace(150, 60, 20)
    peak = rates(volume_curve(part, falling), cyclic=False)
    assert peak.filling_ml_s == pytest.approx(0.0, abs=1e-6)
    assert peak.ejection_ml_s == pytest.approx(90 / (0.75 * 0.9 * 19 / 20), rel=1e-6)
    assert find_keyframes(part, falling).end_diastole == 0
    assert find_keyframes(part, falling).end_systole == 19


@pytest.mark.parametrize(
    ("height", "weight", "formula", "expected"),
    [
        (1.80, 80.0, BsaFormula.MOSTELLER, 2.0),
        (1.80, 80.0, BsaFormula.DU_BOIS, 1.996),
        (1.60, 55.0, BsaFormula.MOSTELLER, 1.563),
        (1.60, 55.0, BsaFormula.DU_BOIS, 1.564),
        (0.75, 9.0, BsaFormula.MOSTELLER, 0.433),
    ],
)
def test_body_surface_area(height: float, weight: float, formula: BsaFormula, expected: float) -> None:
    assert body_surface_area(height, weight, formula) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("height", "weight"),
    [(None, 80.0), (1.8, None), (180.0, 80.0), (1.8, 0.0), (0.0, 80.0), (1.8, 8.0), (1.0, 200.0), (float("nan"), 80.0)],
)
def test_implausible_body_gives_no_index(height: float | None, weight: float | None) -> None:
    assert body_surface_area(height, weight) is None
