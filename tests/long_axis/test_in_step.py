"""Long-axis views that begin at another moment of the cycle than the short axis."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from long_axis.test_long_axis_geometry import PHASES, stack_of, valve_rows, view_of
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, View
from pipelines.long_axis.findings import LongAxisLabel, LongAxisView, LongAxisViews, Valve
from pipelines.long_axis.in_step import delay_behind, phase_at, resample_phases
from pipelines.long_axis.measure import in_step_with, measure_long_axis, told_apart
from pipelines.long_axis.valve_plane import valve_planes
from pipelines.segmentation.labels import CineSegmentation, Label


def volume(phases: int, delay: float = 0.0) -> NDArray[np.float64]:
    """A volume that is smallest at 35 % of the cycle and fills in two waves, as a ventricle does."""
    time = (np.arange(phases) / phases - delay) % 1
    return 100 + 30 * np.cos(2 * np.pi * (time - 0.85)) + 10 * np.cos(4 * np.pi * (time - 0.85))


@given(st.integers(8, 40), st.integers(8, 40), st.floats(-0.5, 0.5), st.integers(0, 10**6))
def test_the_delay_of_a_noisy_curve_is_found_to_a_phase(phases: int, own: int, delay: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 1, own)
    found, correlation = delay_behind(volume(phases), 0.4 * volume(own, delay) + noise)
    apart = abs(found - delay) % 1
    exact = 1.0 / phases + 0.5 / own
    assert min(apart, 1 - apart) <= exact or (found == 0 and abs(delay) < 0.1 + exact)
    assert abs(found) >= 0.1 or found == 0
    assert correlation > 0.8


def test_noise_moves_no_view() -> None:
    noise = np.random.default_rng(1).normal(0, 3, (200, 25))
    assert {delay_behind(volume(25), volume(25) + one)[0] for one in noise} == {0.0}


def test_a_cavity_that_does_not_change_has_no_delay() -> None:
    assert delay_behind(volume(20), np.full(20, 7.0)) == (0.0, 0.0)
    assert delay_behind(np.full(20, 7.0), volume(20)) == (0.0, 0.0)


@given(st.integers(8, 40), st.integers(-20, 20))
def test_values_that_are_late_by_whole_phases_are_turned_back_exactly(phases: int, late: int) -> None:
    values = np.random.default_rng(phases).normal(size=(phases, 2))
    assert (resample_phases(np.roll(values, late, axis=0), phases, late / phases) == values).all()
    assert [phase_at(phase, phases, phases, late / phases) for phase in range(phases)] == [
        (phase + late) % phases for phase in range(phases)
    ]


def late_view(by: int, kind: View = View.LAX_2CH) -> LongAxisView:
    view = view_of(kind)
    labels = np.roll(view.labels, by, axis=0)
    annuli = {valve: np.roll(points, by, axis=0) for valve, points in view.annuli.items()}
    return dataclasses.replace(
        view, stack=stack_of(labels, kind), labels=labels, annuli=annuli, apex=np.roll(view.apex, by, axis=0)
    )


def short_axis_of(cavity: NDArray[np.float64]) -> CineSegmentation:
    """One slice whose cavity has this many pixels at each phase."""
    labels = np.zeros((len(cavity), 1, 200, 200), np.uint8)
    for phase, pixels in enumerate(cavity):
        labels[phase].reshape(-1)[: int(pixels)] = Label.LV
    return CineSegmentation(labels, np.ones((len(cavity), 1)), (0, 200, 0, 200), ())


def test_a_late_view_is_read_at_the_moments_of_the_short_axis_and_one_out_of_step_is_left_out() -> None:
    cavity = (view_of().labels == LongAxisLabel.LV).sum(axis=(1, 2))
    segmentation = short_axis_of(cavity / 4)
    short_axis = stack_of(segmentation.labels[:, 0], View.SAX)
    # Every image of the last one is of some other moment.
    mixed = late_view(0, View.LAX_4CH)
    order = np.random.default_rng(3).permutation(PHASES)
    mixed = dataclasses.replace(mixed, labels=mixed.labels[order])
    views, left_out = in_step_with([late_view(0), late_view(-7, View.LAX_3CH), mixed], short_axis, segmentation)
    assert [view.delay for view in views] == [0.0, pytest.approx(-7 / PHASES)]
    assert left_out == (mixed,)

    axis = np.array([0.0, 0.0, 1.0])
    planes = valve_planes(views, Valve.MITRAL, axis, PHASES)
    alone = valve_planes([view_of()], Valve.MITRAL, axis, PHASES)
    assert planes is not None
    assert alone is not None
    assert planes.points == pytest.approx(alone.points, abs=1e-6)


def test_the_annulus_descends_as_far_on_late_views() -> None:
    late = dataclasses.replace(late_view(9), delay=9 / PHASES)
    descent = measure_long_axis(_views(view_of(), late)).excursion_mm[Valve.MITRAL]
    truth = (valve_rows() - valve_rows()[0]) * 1.25
    assert np.abs(descent - truth).max() < 1.5
    unaware = measure_long_axis(_views(view_of(), late_view(9))).excursion_mm[Valve.MITRAL]
    assert unaware.max() - unaware.min() < 0.5 * truth.max()


def _views(*views: LongAxisView) -> LongAxisViews:
    return LongAxisViews(views, ())


def test_without_a_short_axis_or_with_few_phases_views_stay_as_they_are() -> None:
    view = late_view(5)
    assert in_step_with([view], None, None) == ((view,), ())
    few = short_axis_of(np.array([100.0, 60.0]))
    assert in_step_with([view], stack_of(few.labels[:, 0], View.SAX), few) == ((view,), ())


def test_acquisitions_of_one_view_are_told_apart_by_series_or_by_order() -> None:
    def stack(kind: View, number: int | None) -> CineStack:
        plain = view_of(kind).stack
        source = dataclasses.replace(plain.sources[0][0], series_number=number)
        return dataclasses.replace(plain, sources=((source,),) * plain.phases)

    two, three, four = View.LAX_2CH, View.LAX_3CH, View.LAX_4CH
    stacks = [stack(two, 4), stack(four, 7), stack(four, 12), stack(three, 5), stack(three, 5), stack(three, None)]
    assert told_apart(stacks) == ("", "series 7", "series 12", "1 of 3", "2 of 3", "3 of 3")
