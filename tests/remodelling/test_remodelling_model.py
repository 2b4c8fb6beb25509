"""Features, keyframe volume, combined model and attribution of remodelling, each on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cine.stack import CineStack, FrameSource, StackGeometry, View
from pipelines.remodelling.architecture import FusionArchitecture
from pipelines.remodelling.attribution import guided_grad_cam
from pipelines.remodelling.combined import PREDICTORS, SUBSETS, CombinedModel, subset_of
from pipelines.remodelling.features import FEATURES, Feature, as_vector, of_segments, sphericity
from pipelines.remodelling.network import RemodellingNetwork
from pipelines.remodelling.volume import DEPTH, KEYFRAMES, SIZE, SPACING_MM, keyframe_volume, on_stack, to_depth
from pipelines.segmentation.labels import Label

NAN = float("nan")
ARCHITECTURE = FusionArchitecture(features=(4, 4, 8, 8), hidden=4, bootstrap=3)
FLAT = np.zeros((2, 1 + len(FEATURES)))


def model(coefficients: np.ndarray | None = None) -> CombinedModel:
    rows = np.zeros((4, 5)) if coefficients is None else coefficients
    return CombinedModel(
        coefficients=rows,
        bootstrap=np.repeat(rows[:, None], 3, axis=1) + np.array([-0.5, 0.0, 0.5])[None, :, None] * np.eye(5)[0],
        means=np.array([0.0, -14.0, 30.0, 12.0]),
        prevalence=0.25,
        infarct_coefficients=FLAT,
        infarct_residual=np.array([4.0, 6.0]),
    )


# -- features ----------------------------------------------------------------------------------------------------------


def test_segments_are_summed_up_whatever_wall_is_hurt() -> None:
    strain = np.full(16, -20.0)
    strain[4:8] = -4.0
    found = of_segments(
        thickness_mm=np.arange(16.0), thickening_percent=np.full(16, 30.0), circumferential_percent=strain
    )
    assert found[Feature.SEGMENTS_WORST] == -4
    assert found[Feature.SEGMENTS_BEST] == -20
    assert found[Feature.THICKNESS_LOWEST] == pytest.approx(1.5)
    assert found[Feature.THICKENING_SPREAD] == 0
    turned = of_segments(
        thickness_mm=np.arange(16.0),
        thickening_percent=np.full(16, 30.0),
        circumferential_percent=np.roll(strain, 5),
    )
    assert turned == found


def test_segments_that_were_hardly_measured_give_no_feature() -> None:
    few = np.where(np.arange(16) < 5, np.nan, 10.0)
    assert of_segments(thickness_mm=few, thickening_percent=few, circumferential_percent=few) == {}


def test_a_sphere_is_wholly_spherical() -> None:
    assert sphericity(np.pi / 6 * 50**3 / 1000, 50) == pytest.approx(100)
    assert sphericity(100, 0) is None


def test_what_is_missing_is_no_number() -> None:
    vector = as_vector({Feature.GLS: -12.0})
    assert vector[FEATURES.index(Feature.GLS)] == -12
    assert np.isnan(vector).sum() == len(FEATURES) - 1


# -- combined model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predictors", "used"),
    [
        ([0.1, -12.0, 28.0, 10.0], {0, 1, 2, 3}),
        ([0.1, NAN, 28.0, 10.0], {0, 2, 3}),
        ([0.1, -12.0, NAN, 10.0], {0, 1, 3}),
        ([0.1, NAN, NAN, 10.0], {0, 3}),
    ],
)
def test_a_study_gets_the_model_of_what_it_has(predictors: list[float], used: set[int]) -> None:
    values = np.array(predictors)
    assert SUBSETS[subset_of(values)] == used
    coefficients = np.zeros((4, 5))
    for subset, columns in enumerate(SUBSETS):
        coefficients[subset, [0, *(1 + column for column in columns)]] = 0.1 + subset
    risk = model(coefficients).risk(values)
    assert {one.name for one in risk.contributions} == {PREDICTORS[index][0] for index in used}
    expected = (0.1 + subset_of(values)) * (1 + sum(values[index] for index in used))
    assert risk.probability == pytest.approx(1 / (1 + np.exp(-expected)))


@given(st.floats(-3, 3), st.floats(-25, -3), st.floats(5, 45), st.floats(0, 40))
@settings(deadline=None)
def test_the_interval_holds_the_probability_and_reasons_add_up(
    logit: float, gls: float, reservoir: float, infarct: float
) -> None:
    coefficients = np.tile([0.3, 0.9, 0.2, -0.05, 0.08], (4, 1))
    combined = model(coefficients)
    risk = combined.risk(np.array([logit, gls, reservoir, infarct]))
    assert risk.interval.lower <= risk.probability <= risk.interval.upper
    mean = combined.risk(combined.means)
    moved = sum(one.logit for one in risk.contributions)
    assert np.log(risk.probability / (1 - risk.probability)) == pytest.approx(
        np.log(mean.probability / (1 - mean.probability)) + moved, abs=1e-6
    )
    strengths = [abs(one.logit) for one in risk.contributions]
    assert strengths == sorted(strengths, reverse=True)


def test_infarct_size_falls_back_to_what_is_there() -> None:
    weights = np.zeros((2, 1 + len(FEATURES)))
    weights[0, 0], weights[1, 0] = 9.0, 5.0
    combined = CombinedModel(np.zeros((4, 5)), np.zeros((4, 3, 5)), np.zeros(4), 0.25, weights, np.array([4.0, 6.0]))
    whole = dict.fromkeys(FEATURES, 1.0)
    assert combined.infarct(whole).percent == 9
    few = {Feature.EJECTION_FRACTION: 40.0, Feature.GCS: -12.0}
    assert combined.infarct(few).percent == 5
    assert combined.infarct(few).interval.lower == 0
    with pytest.raises(ValueError, match="ejection fraction"):
        combined.infarct({Feature.GCS: -12.0})


# -- keyframe volume ---------------------------------------------------------------------------------------------------


def heart_stack(slices: int = 5, phases: int = 10) -> tuple[CineStack, np.ndarray]:
    """A ring whose brightness tells the slice, on images of 2 mm."""
    rows = columns = 96
    row, column = np.mgrid[:rows, :columns]
    away = np.hypot(row - 50, column - 44)
    labels = np.where(away < 12, Label.LV, np.where(away < 17, Label.MYO, Label.BACKGROUND)).astype(np.uint8)
    pixels = np.where(away < 17, 1.0, 0.2)[None, None] * (1 + np.arange(slices))[None, :, None, None]
    geometry = StackGeometry(
        positions=np.stack([np.zeros(slices), np.zeros(slices), 10.0 * np.arange(slices)], axis=1),
        row_direction=np.array([1.0, 0, 0]),
        column_direction=np.array([0, 1.0, 0]),
        pixel_spacing=(2.0, 2.0),
        slice_thickness=8.0,
    )
    source = FrameSource("", "", "", None, None, None)
    stack = CineStack(
        view=View.SAX,
        pixels=np.repeat(pixels, phases, axis=0).astype(np.float32),
        geometry=geometry,
        sources=((source,) * slices,) * phases,
        trigger_times=np.zeros((phases, slices)),
        rr_intervals=np.full(slices, 900.0),
        frame_of_reference_uid="2.25.1",
    )
    return stack, np.broadcast_to(labels, stack.pixels.shape).copy()


PHASES = {name: 2 * number for number, name in enumerate(KEYFRAMES)}


def test_the_volume_runs_from_apex_to_base_whichever_way_the_stack_does() -> None:
    stack, labels = heart_stack()
    apex_first = keyframe_volume(stack, labels, PHASES, base_first=False)
    base_first = keyframe_volume(stack, labels, PHASES, base_first=True)
    assert apex_first is not None
    assert base_first is not None
    assert apex_first.images.shape == (5, DEPTH, SIZE, SIZE)
    middle = apex_first.images[0, :, SIZE // 2, SIZE // 2]
    assert (np.diff(middle) >= 0).all()
    assert np.allclose(apex_first.images, base_first.images[:, ::-1], atol=1e-5)
    assert list(base_first.slices) == [4, 3, 2, 1, 0]
    # The ring has a radius of 34 mm.
    assert apex_first.ventricle.sum(axis=(2, 3)) == pytest.approx(np.pi * (17 * 2 / SPACING_MM) ** 2, rel=0.06)
    assert np.array_equal(apex_first.ventricle, base_first.ventricle)


def test_values_return_to_where_they_came_from() -> None:
    stack, labels = heart_stack(slices=DEPTH)
    volume = keyframe_volume(stack, labels, PHASES, base_first=False)
    assert volume is not None
    back = on_stack(torch.from_numpy(volume.images[0]), volume, stack)
    ring = labels[0] == Label.LV
    core = np.zeros_like(ring)
    core[:, 45:55, 39:49] = True
    low, high = np.percentile(back[core], (1, 99))
    assert high > low
    inside = np.argwhere(back[2] > 0)
    extent = (inside.max(axis=0) - inside.min(axis=0)) * 2.0
    assert (np.abs(extent - SIZE * SPACING_MM) < 6).all()
    assert (back[2][core[2]] > back[2][~ring[2] & (back[2] > 0)].mean()).all()


def test_slices_are_interpolated_between_the_first_and_the_last() -> None:
    slices = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((3, 2, 2), np.float32)
    assert np.allclose(to_depth(slices, 5)[:, 0, 0], [0, 0.5, 1, 1.5, 2])
    assert np.allclose(to_depth(slices[:1], 4), 0)


def test_without_muscle_there_is_no_volume() -> None:
    stack, labels = heart_stack()
    assert keyframe_volume(stack, np.zeros_like(labels), PHASES, base_first=True) is None


# -- network and attribution -------------------------------------------------------------------------------------------


@pytest.fixture
def network() -> RemodellingNetwork:
    torch.manual_seed(3)
    return RemodellingNetwork(ARCHITECTURE).eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(1, 5, DEPTH, 32, 32, generator=generator), torch.zeros(1, len(FEATURES))


def test_attribution_is_nothing_for_a_keyframe_that_is_not_looked_at(network: RemodellingNetwork) -> None:
    volume, features = inputs()
    first = network.encoder.layers[0][0]
    with torch.no_grad():
        first.weight[:, 2] = 0
    found = guided_grad_cam(network, volume, features)
    assert found.shape == volume.shape[1:]
    assert float(found.max()) == pytest.approx(1)
    assert float(found.min()) >= 0
    assert float(found[2].abs().max()) == 0


def test_attribution_is_nothing_where_nothing_raises_the_logit(network: RemodellingNetwork) -> None:
    volume, features = inputs()
    with torch.no_grad():
        network.fused_head[-1].weight.zero_()
    assert float(guided_grad_cam(network, volume, features).abs().max()) == 0


def test_attribution_leaves_the_network_as_it_was(network: RemodellingNetwork) -> None:
    volume, features = inputs()
    before = network(volume, features).fused.item()
    first, second = (guided_grad_cam(network, volume, features) for _ in range(2))
    assert torch.equal(first, second)
    assert network(volume, features).fused.item() == before
    assert not any(module._backward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_missing_feature_is_no_zero(network: RemodellingNetwork) -> None:
    volume, features = inputs()
    without = features.clone()
    without[0, FEATURES.index(Feature.GLS)] = NAN
    with torch.no_grad():
        network.substitute.fill_(0.7)
        zero, missing = network(volume, features), network(volume, without)
    assert zero.motion.item() != missing.motion.item()
    assert zero.morphology.item() == missing.morphology.item()
    assert np.isfinite(missing.fused.item())
