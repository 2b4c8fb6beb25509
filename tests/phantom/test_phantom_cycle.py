from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.phantom.cycle import draw_cycle

seeds = st.integers(0, 2**32)
rates = st.floats(45, 110)


@given(seeds, rates, st.booleans())
def test_contraction_is_cyclic_and_has_one_systole(seed: int, rate: float, stiff: bool) -> None:
    cycle = draw_cycle(np.random.default_rng(seed), rate, stiff=stiff)
    time = np.linspace(0, 1, 801)
    contraction = cycle.contraction(time)
    assert contraction[0] == 0
    assert abs(contraction[-1]) < 1e-9
    assert contraction.min() >= 0
    assert np.isclose(contraction.max(), 1, atol=1e-4)
    systole = time < cycle.systole_end
    assert (np.diff(contraction[systole]) >= -1e-12).all()
    assert (np.diff(contraction[~systole]) <= 1e-9).all()
    # No jump: 0.125 % of the beat changes the volume by little.
    assert np.abs(np.diff(contraction)).max() < 0.03


@given(seeds, rates, st.booleans())
def test_keyframes_are_in_order_and_where_the_rates_peak(seed: int, rate: float, stiff: bool) -> None:
    cycle = draw_cycle(np.random.default_rng(seed), rate, stiff=stiff)
    keys = cycle.key_times
    assert keys.end_diastole < keys.mid_systole < keys.end_systole < keys.peak_flow < keys.mid_diastole < 1
    time = np.linspace(0, 1, 4001)
    slope = np.gradient(cycle.contraction(time), time)
    assert abs(time[np.argmax(slope)] - keys.mid_systole) < 0.01
    early = (time > cycle.systole_end) & (time < cycle.filling_end)
    assert abs(time[early][np.argmin(slope[early])] - keys.peak_flow) < 0.01
