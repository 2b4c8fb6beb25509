"""Strain and keyframes of a study that holds two acquisitions of one long-axis view, one of them out of step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, CineStudy, View
from pipelines.function.slices import measure_slices
from pipelines.function.valve_cut import cut_by_views
from pipelines.long_axis.annulus import annulus_points, apex_points
from pipelines.long_axis.findings import LongAxisView, LongAxisViews, Valve
from pipelines.long_axis.measure import in_step_with, long_axis_stacks
from pipelines.models.registry import load_model_once
from pipelines.motion.findings import CardiacMotion
from pipelines.motion.measure import follow_study, keyframes_of, measure_motion
from pipelines.motion.network import REGISTRATION_MODEL
from pipelines.phantom.assembled import cine_study
from pipelines.phantom.recipe import PhantomRecipe
from pipelines.phantom.study import PhantomStudy, simulate
from pipelines.segmentation.labels import CineSegmentation
from pipelines.training.long_axis import true_labels

PHASES = 12


@pytest.fixture(scope="module")
def phantom() -> PhantomStudy:
    return simulate(PhantomRecipe(seed=61, slices=7, phases=PHASES, rows=128, columns=128, spacing_mm=2.0), workers=1)


def measured(phantom: PhantomStudy, study: CineStudy, truth: dict[int, NDArray[np.uint8]]) -> CardiacMotion:
    """As the package measures it, on true labels: ``truth`` by the identity of the long-axis stacks."""
    stack, cine = study.stacks[0], phantom.short_axis
    segmentation = CineSegmentation(cine.labels, np.ones(cine.labels.shape[:2], np.float32), (0, 1, 0, 1), ())
    read = [view_of(one, truth[id(one)]) for one in long_axis_stacks(study)]
    in_step, left_out = in_step_with(read, stack, segmentation)
    views = LongAxisViews(in_step, (), left_out)
    slices = cut_by_views(measure_slices(stack, segmentation), stack, views)
    model = load_model_once(REGISTRATION_MODEL, "cpu")
    motion = follow_study(study, stack, slices, views, model)
    return measure_motion(motion, keyframes_of(motion), slices, views, model)


def view_of(stack: CineStack, labels: NDArray[np.uint8]) -> LongAxisView:
    annuli = {valve: points for valve in Valve if (points := annulus_points(labels, stack.geometry, valve)) is not None}
    apex = apex_points(labels, stack.geometry, annuli[Valve.MITRAL])
    return LongAxisView(stack.view, stack, labels, np.ones(len(labels), np.float32), annuli, apex)


def test_a_good_4ch_stays_in_use_beside_one_that_is_out_of_step(phantom: PhantomStudy) -> None:
    study = cine_study(phantom)
    truth = {id(stack): true_labels(cine) for stack, cine in zip(study.stacks[1:], phantom.cines[1:], strict=True)}
    (four,) = (stack for stack in study.stacks if stack.view is View.LAX_4CH)
    order = np.arange(PHASES) * 5 % PHASES
    mixed = replace(four, pixels=four.pixels[order])
    truth[id(mixed)] = truth[id(four)][order]

    alone = measured(phantom, study, truth)
    assert alone.keyframes.of(View.LAX_4CH) is not None
    assert alone.strain.longitudinal is not None
    short, *rest = study.stacks
    for stacks in ((short, mixed, *rest), (short, *rest, mixed)):
        both = measured(phantom, replace(study, stacks=stacks), truth)
        assert both.strain.longitudinal is not None
        assert both.strain.longitudinal.percent == pytest.approx(alone.strain.longitudinal.percent)
        assert both.strain.longitudinal.second_percent == pytest.approx(alone.strain.longitudinal.second_percent)
        keyframes = both.keyframes.of(View.LAX_4CH)
        assert keyframes is not None
        assert keyframes.stack is four
