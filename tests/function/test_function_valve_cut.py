"""Volumes cut at the valve planes, against phantoms whose volumes are known: true labels, planes found on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.function.findings import Chamber
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.function.valve_cut import cut_by_views
from pipelines.long_axis.annulus import annulus_points, apex_points
from pipelines.long_axis.findings import LongAxisView, LongAxisViews, Valve
from pipelines.phantom import Disease, Fault, PhantomRecipe, PhantomStudy, simulate
from pipelines.phantom.assembled import cine_stack
from pipelines.phantom.study import CineAcquisition
from pipelines.segmentation.labels import CineSegmentation
from pipelines.training.long_axis import true_labels

PHASES = 16


def view_of(cine: CineAcquisition) -> LongAxisView:
    labels = true_labels(cine)
    annuli = {valve: points for valve in Valve if (points := annulus_points(labels, cine.geometry, valve)) is not None}
    apex = apex_points(labels, cine.geometry, annuli[Valve.MITRAL])
    return LongAxisView(cine.view, cine_stack(cine), labels, np.ones(len(labels), np.float32), annuli, apex)


def measured(study: PhantomStudy) -> tuple[SliceMeasures, SliceMeasures]:
    """By the short axis alone, and cut at the valve planes."""
    stack, cine = cine_stack(study.short_axis), study.short_axis
    agreement = np.ones(cine.labels.shape[:2], np.float32)
    alone = measure_slices(stack, CineSegmentation(cine.labels, agreement, (0, 1, 0, 1), ()))
    views = LongAxisViews(tuple(view_of(one) for one in study.cines[1:]), ())
    return alone, cut_by_views(alone, stack, views)


def ejection_fraction(ml: np.ndarray) -> float:
    return float(100 * (1 - ml.min() / ml.max()))


@pytest.fixture(scope="module", params=[(900, Disease.NORMAL), (901, Disease.DCM), (903, Disease.INFARCT)])
def study(request: pytest.FixtureRequest) -> PhantomStudy:
    seed, disease = request.param
    faults = frozenset({Fault.BREATHING}) if seed % 2 else frozenset()
    return simulate(
        PhantomRecipe(
            seed=seed, disease=disease, slices=10, phases=PHASES, rows=160, columns=160, spacing_mm=1.6, faults=faults
        )
    )


def test_volumes_cut_at_the_planes_are_those_of_the_ventricle(study: PhantomStudy) -> None:
    alone, cut = measured(study)
    truth = np.array([state.lv_volume_ml for state in study.states])
    assert cut.cut == {Chamber.LV}
    # The outflow tract lies above the tricuspid plane.
    assert np.array_equal(cut.rv_mm2, alone.rv_mm2)
    assert cut.base_views == ("2CH", "3CH", "4CH")
    assert abs(cut.lv_ml.max() - truth.max()) < 0.05 * truth.max()
    assert abs(cut.lv_ml.min() - truth.min()) < 0.06 * truth.max()
    error = abs(ejection_fraction(cut.lv_ml) - ejection_fraction(truth))
    assert error < 3.0
    assert error <= abs(ejection_fraction(alone.lv_ml) - ejection_fraction(truth)) + 0.5


def test_labels_lose_what_lies_above_the_plane_and_nothing_else(study: PhantomStudy) -> None:
    alone, cut = measured(study)
    changed = alone.labels != cut.labels
    assert (cut.lv_mm2 < alone.lv_mm2 - 1.0).any()
    assert (cut.labels[changed] == 0).all()
    assert (cut.lv_mm2 <= alone.lv_mm2 + 1e-6).all()


def test_views_that_lie_far_from_the_base_are_not_believed(study: PhantomStudy) -> None:
    stack = cine_stack(study.short_axis)
    alone, _ = measured(study)
    views = []
    for one in study.cines[1:]:
        view = view_of(one)
        away = 60.0 * study.heart.axes[2]
        views.append(replace(view, annuli={valve: points + away for valve, points in view.annuli.items()}))
    same = cut_by_views(alone, stack, LongAxisViews(tuple(views), ()))
    assert same is alone
