from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.phantom.scanner import Reconstruction, acquire
from pipelines.phantom.tissue import (
    EnhancementTiming,
    Relaxation,
    SteadyState,
    Tissue,
    bssfp,
    enhancement_signal,
    myocardial_null_ms,
    relaxation,
)

PROTOCOL = SteadyState(3.0, 1.5, 60.0, 1.5)


def test_on_resonance_signal_is_the_closed_form() -> None:
    for tissue in relaxation(1.5).values():
        alpha = math.radians(PROTOCOL.flip_deg)
        e1, e2 = (math.exp(-PROTOCOL.repetition_ms / t) for t in (tissue.t1, tissue.t2))
        expected = tissue.density * math.sin(alpha) * (1 - e1) * math.exp(-PROTOCOL.echo_ms / tissue.t2)
        expected /= 1 - (e1 - e2) * math.cos(alpha) - e1 * e2
        assert float(bssfp(tissue, PROTOCOL, np.zeros(1))[0]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_bands_are_half_a_repetition_away_and_the_sign_alternates() -> None:
    blood = relaxation(1.5)[Tissue.BLOOD]
    band = 1000 / (2 * PROTOCOL.repetition_ms)
    signal = bssfp(blood, PROTOCOL, np.array([0.0, band, 2 * band]))
    assert abs(signal[1]) < 0.05 * signal[0]
    assert signal[2] == pytest.approx(-signal[0])


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_blood_is_about_three_times_as_bright_as_muscle(field: float) -> None:
    table = relaxation(field)
    protocol = SteadyState(3.0, 1.5, 60.0 if field < 2 else 50.0, field)
    blood, muscle = (float(bssfp(table[t], protocol, np.zeros(1))[0]) for t in (Tissue.BLOOD, Tissue.MYOCARDIUM))
    assert 2.4 < blood / muscle < 3.6


def test_late_enhancement_nulls_muscle_and_orders_the_tissues() -> None:
    repetition = 1800.0
    timing = EnhancementTiming(myocardial_null_ms(repetition), repetition)
    muscle, infarct, core, blood = (
        enhancement_signal(tissue, timing, 1.0)
        for tissue in (Tissue.MYOCARDIUM, Tissue.INFARCT, Tissue.OBSTRUCTION, Tissue.BLOOD)
    )
    assert abs(muscle) < 1e-9
    assert infarct > blood > muscle > core


def test_relaxation_of_an_acute_infarct_is_longer() -> None:
    acute, native = relaxation(1.5, acute=True)[Tissue.INFARCT], relaxation(1.5)[Tissue.MYOCARDIUM]
    assert isinstance(acute, Relaxation)
    assert acute.t2 == 65
    assert acute.t2 > native.t2


def test_noise_has_the_stated_ratio_and_is_rician() -> None:
    sharp = Reconstruction(1.0, 1.0, 1.0, 0.0, 0.0, 20.0)
    signal = np.zeros((4, 64, 64), np.float32)
    signal[:, 16:48, 16:48] = 2.0
    image = acquire(signal, np.ones((64, 64), np.float32), sharp, 2.0, np.random.default_rng(0))
    assert image[:, 18:46, 18:46].std() == pytest.approx(2.0 / 20 / math.sqrt(2), rel=0.05)
    background = image[:, :10, :10]
    assert background.mean() == pytest.approx(2.0 / 20 / math.sqrt(2) * math.sqrt(math.pi / 2), rel=0.05)


def test_lower_resolution_blurs_along_its_own_direction() -> None:
    coarse = Reconstruction(0.4, 1.0, 1.0, 0.0, 0.0, 1e6)
    signal = np.zeros((1, 64, 64), np.float32)
    signal[0, 32, 32] = 1.0
    image = acquire(signal, np.ones((64, 64), np.float32), coarse, 1.0, np.random.default_rng(0))[0]
    assert image[33, 32] > 0.5 * image[32, 32]
    assert image[32, 33] < 0.1 * image[32, 32]
