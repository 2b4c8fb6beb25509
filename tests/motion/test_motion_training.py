"""The training of the registration on a handful of frames, and what it is shown."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.models.registry import load_model
from pipelines.motion.crop import SIDE_MM, SPACING_MM
from pipelines.motion.network import REGISTRATION_MODEL, velocity_between
from pipelines.motion.phantoms import seen_points
from pipelines.phantom.recipe import PhantomRecipe
from pipelines.phantom.study import simulate
from pipelines.phantom.truth import measure_truth
from pipelines.segmentation.grid import Square
from pipelines.training import registration as training
from pipelines.training.cine_crops import CineCrop, read_crops, write_crops
from pipelines.training.registration import (
    RegistrationRecipe,
    local_correlation,
    overlap_loss,
    point_loss,
    smoothness_loss,
    train_registration,
)


def discs(shift: float, size: int = 112) -> np.ndarray:
    axis = np.arange(size) - (size - 1) / 2
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    radius = np.hypot(rows - shift, columns)
    grey = 60 + 100 * (radius < 14) + 30 * np.cos(columns / 4) + 20 * np.cos(rows / 5)
    return np.clip(grey, 0, 250).astype(np.uint8)


@pytest.fixture(scope="module")
def crops() -> list[CineCrop]:
    images = np.stack([discs(shift) for shift in (0, 2, 4, 2)])
    labels = np.stack([(discs(shift) > 110).astype(np.uint8) for shift in (0, 2, 4, 2)])
    points = np.array([[[shift * SPACING_MM + 3, 5.0], [np.nan, np.nan]] for shift in (0, 2, 4, 2)], np.float32)
    return [CineCrop("phantom-1/SAX/0", images, labels, points), CineCrop("someone/0-SAX/0", images, None)]


def test_packed_crops_come_back_and_only_for_what_they_were_made_of(crops: list[CineCrop], tmp_path: Path) -> None:
    write_crops(crops, tmp_path / "crops.npz", "these")
    again = read_crops(tmp_path / "crops.npz", "these")
    assert again is not None
    for one, other in zip(crops, again, strict=True):
        assert one.identifier == other.identifier
        assert np.array_equal(one.images, other.images)
    assert again[0].points is not None
    assert again[1].points is None
    assert again[1].labels is None
    assert read_crops(tmp_path / "crops.npz", "others") is None
    assert read_crops(tmp_path / "absent.npz", "these") is None


def test_a_stopped_training_goes_on_to_the_same_weights(
    crops: list[CineCrop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.training.registration.packed_crops", lambda *_: crops)
    recipe = RegistrationRecipe(features=(8, 8, 8, 8, 8, 8), batch=2)
    whole = train_registration(tmp_path / "whole", phantoms=1, steps=4, recipe=recipe)
    train_registration(tmp_path / "parts", phantoms=1, steps=4, recipe=recipe, stop_after=2)
    parts = train_registration(tmp_path / "parts", phantoms=1, steps=4, recipe=recipe)
    assert whole.weights_sha256 == parts.weights_sha256
    folder = tmp_path / "models" / REGISTRATION_MODEL
    folder.parent.mkdir()
    whole.weights.parent.rename(folder)
    model = load_model(REGISTRATION_MODEL, root=folder.parent)
    with torch.inference_mode():
        velocity = velocity_between(torch.rand(3, 96, 96), torch.rand(3, 96, 96), model)
    assert velocity.shape == (3, 2, 48, 48)
    assert "20" not in model.identity.name


def test_the_loss_is_made_where_the_pairs_are(crops: list[CineCrop]) -> None:
    """A tensor that the loss makes without naming their device would lie on `meta` here, and meet none of them."""
    recipe = RegistrationRecipe(features=(8, 8, 8, 8, 8, 8), batch=2)
    pairs = training._batch(crops[:1], crops[1:], recipe, 0, 0)
    assert {getattr(pairs.to("meta"), field.name).device.type for field in fields(pairs)} == {"meta"}
    network = training._architecture(recipe).build()
    with torch.device("meta"):
        loss = training._loss(network, pairs, recipe)
    assert loss.device.type == "cpu"
    loss.backward()


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        train_registration(tmp_path, phantoms=0, steps=10)


def test_equal_images_correlate_fully_and_noise_hardly() -> None:
    generator = torch.Generator().manual_seed(0)
    image, other = (torch.rand(1, 1, 96, 96, generator=generator) for _ in range(2))
    assert float(local_correlation(image, 0.5 * image + 0.1, 9)) > 0.9
    assert float(local_correlation(image, other, 9)) < 0.1


def test_overlap_counts_labelled_pairs_and_comparable_areas_only() -> None:
    target = torch.zeros(2, 2, 48, 48)
    target[:, 0, 10:20, 10:20] = 1
    target[:, 1, 0:2, 0:4] = 1
    warped = target.clone()
    warped[:, 0] = torch.roll(warped[:, 0], 5, dims=1)
    half = overlap_loss(warped, target, torch.tensor([True, False]))
    assert float(half) == pytest.approx(0.25)  # Dice ½ of the first label, 1 of the second
    warped[:, 1] = 0
    assert float(overlap_loss(warped, target, torch.tensor([True, True]))) == pytest.approx(0.5)
    assert float(overlap_loss(warped, target, torch.tensor([False, False]))) == 0


def test_points_that_go_where_they_should_cost_nothing() -> None:
    displacement = torch.zeros(1, 2, 48, 48)
    displacement[:, 0], displacement[:, 1] = 3.0, -4.0
    places = torch.tensor([[[0.1, 0.2], [9.0, 9.0]]])
    assert float(point_loss(displacement, places, torch.tensor([[[3.0, -4.0], [0, 0]]]))) == pytest.approx(0.1)
    assert float(point_loss(displacement, places, torch.zeros(1, 2, 2))) == pytest.approx(5.0, abs=0.01)
    assert float(point_loss(displacement, torch.full((1, 2, 2), 9.0), torch.zeros(1, 2, 2))) == 0


def test_smoothness_is_the_mean_squared_gradient() -> None:
    ramp = torch.arange(48.0) * SIDE_MM / 48 * 0.2
    velocity = torch.stack([ramp[:, None].expand(48, 48), torch.zeros(48, 48)])[None]
    assert float(smoothness_loss(velocity, SIDE_MM)) == pytest.approx(0.25 * 0.04, rel=1e-4)


def test_points_seen_on_a_slice_lie_in_its_wall_at_every_phase() -> None:
    study = simulate(
        PhantomRecipe(seed=3, slices=5, phases=6, rows=96, columns=96, spacing_mm=2.0, long_axis=False), workers=1
    )
    cine, truth = study.short_axis, measure_truth(study)
    points = seen_points(truth, cine.geometry, 2, Square(95.0, 95.0, SIDE_MM), through=True)
    for phase in range(6):
        seen = points[phase][np.isfinite(points[phase]).all(axis=1)]
        assert len(seen) > 60
        rows, columns = np.rint(seen.T / 2.0 + 47.5).astype(int)
        assert (cine.labels[phase, 2, rows, columns] == 2).mean() > 0.8
