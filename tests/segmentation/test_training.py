from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipelines.models.card import read_card
from pipelines.models.registry import load_model
from pipelines.segmentation.labels import Label
from pipelines.training.acdc import acdc_set
from pipelines.training.augmentation import displacement_grid, vary_appearance
from pipelines.training.checkpoint import save_atomically
from pipelines.training.phantoms import phantom_set
from pipelines.training.schedule import learning_rate, update_average
from pipelines.training.segmentation import train
from pipelines.training.steps import Progress


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_undeformed_grid_is_rotated_and_mirrored_only_about_its_centre() -> None:
    points = displacement_grid(8, 16, 160.0, generator(), scale=0.0, elastic_mm=0.0)
    assert points.shape == (8, 16, 16, 2)
    assert torch.allclose(points.mean((1, 2)), torch.zeros(8, 2), atol=1e-3)
    # Stretch and shear keep areas within their own limits; scale is off.
    first, second = points[:, 1, 0] - points[:, 0, 0], points[:, 0, 1] - points[:, 0, 0]
    area = (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).abs()
    assert torch.allclose(area, torch.full((8,), 100.0), rtol=1e-3)


def test_appearance_is_a_function_of_the_generator_and_keeps_the_range() -> None:
    images = torch.rand(32, 3, 48, 48, generator=generator(0))
    labels = (
        torch.nn.functional.one_hot(torch.randint(4, (32, 48, 48), generator=generator(1)), 4)
        .permute(0, 3, 1, 2)
        .float()
    )
    first = vary_appearance(images.clone(), labels, generator(5))
    assert torch.equal(first, vary_appearance(images.clone(), labels, generator(5)))
    assert not torch.equal(first, vary_appearance(images.clone(), labels, generator(6)))
    assert torch.isfinite(first).all()
    assert float(first.min()) >= 0.0
    assert float(first.max()) <= 1.25


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [learning_rate(step, 1000, 0.1, warm_up=100, decay=0.3) for step in range(1001)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[100] == rates[699] == 0.1
    assert rates[850] == pytest.approx(0.05)
    assert rates[1000] == pytest.approx(0.0, abs=1e-12)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[100:]))


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    assert [learning_rate(s, 1000, 0.1) for s in range(700)] == [learning_rate(s, 3000, 0.1) for s in range(700)]


def test_the_average_follows_the_closed_form() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    average = {"weight": torch.zeros(1, 1)}
    network.weight.data.fill_(1.0)
    for _ in range(50):
        update_average(average, network, step=100_000, decay=0.9)
    assert float(average["weight"]) == pytest.approx(1 - 0.9**50, rel=1e-4)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_atomically({"a": torch.ones(3)}, path)
    path.with_suffix(".partial").mkdir()
    with pytest.raises((OSError, SafetensorError)):
        save_atomically({"a": torch.zeros(3)}, path)
    assert torch.equal(load_file(path)["a"], torch.ones(3))


def test_stopping_and_resuming_changes_nothing(drawn_hearts: Path, tmp_path: Path) -> None:
    arguments = {"model": "heart-localiser", "fold": 0, "seed": 4}
    whole = train(acdc_set(drawn_hearts), tmp_path / "whole", steps=6, **arguments)
    train(acdc_set(drawn_hearts), tmp_path / "parts", steps=3, **arguments)
    resumed = train(acdc_set(drawn_hearts), tmp_path / "parts", steps=6, **arguments)
    assert len(whole.training_cases) == 4
    assert set(whole.training_cases).isdisjoint(whole.held_out_cases)
    for name, tensor in load_file(whole.weights).items():
        assert torch.allclose(tensor, load_file(resumed.weights)[name], atol=1e-6), name


def test_a_checkpoint_of_another_run_is_refused(drawn_hearts: Path, tmp_path: Path) -> None:
    train(acdc_set(drawn_hearts), tmp_path, model="heart-localiser", steps=1, seed=0)
    with pytest.raises(ValueError, match="seed"):
        train(acdc_set(drawn_hearts), tmp_path, model="heart-localiser", steps=2, seed=1)
    train(acdc_set(drawn_hearts), tmp_path, model="heart-localiser", steps=2, seed=1, resume=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_training_lowers_the_loss_and_writes_a_card(drawn_hearts: Path, tmp_path: Path) -> None:
    reports: list[Progress] = []
    result = train(
        acdc_set(drawn_hearts), tmp_path, model="heart-localiser", fold=None, steps=100, report=reports.append
    )
    assert [report.step for report in reports] == [50, 100]
    assert reports[-1].loss < 0.95 * reports[0].loss
    card = read_card(result.card)
    assert card.weights_sha256 == result.weights_sha256
    assert card.training.cases == result.training_cases
    assert len(card.training.cases) == 5
    assert card.measurements == ()


def test_phantoms_are_training_data_without_disk(tmp_path: Path) -> None:
    data = phantom_set(2, 60)
    assert set(data.groups) == {"phantom-60", "phantom-61"}
    case = data.read("phantom-60")
    assert len(case.frames) == 4
    assert case.frames[0].pixels.shape == case.frames[0].labels.shape
    assert set(np.unique(case.frames[0].labels)) == set(Label)
    again = phantom_set(1, 60).read("phantom-60")
    assert np.array_equal(case.frames[2].pixels, again.frames[2].pixels)

    result = train(data, tmp_path, model="heart-localiser", fold=None, steps=2)
    card = read_card(result.card)
    assert card.training.cases == ("phantom-60", "phantom-61")
    assert card.licence == "Apache-2.0"
    assert card.training.command.startswith("dicom-node train segmentation --phantoms 2 --phantom-seed 60 ")
    assert load_model("heart-localiser", root=_as_root(tmp_path, "heart-localiser")).card == card
    with pytest.raises(ValueError, match="0 phantoms"):
        phantom_set(0, 0)


def _as_root(folder: Path, name: str) -> Path:
    """The folder of a trained model as one that holds models by name."""
    root = folder / "root"
    root.mkdir()
    (root / name).symlink_to(folder, target_is_directory=True)
    return root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"model": "none"}, "recipe"), ({"fold": 7}, "fold 7"), ({"steps": 0}, "steps"), ({"fold": -1}, "fold -1")],
)
def test_impossible_arguments_are_refused(
    drawn_hearts: Path, tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(acdc_set(drawn_hearts), tmp_path, **arguments)  # type: ignore[arg-type]


def test_the_loss_is_finite_and_least_for_the_truth() -> None:
    from pipelines.training.segmentation import soft_label_loss

    shares = torch.softmax(torch.randn(2, 4, 8, 8, generator=generator()), dim=1)
    weights = torch.ones(4)
    best = soft_label_loss(shares.log(), shares, weights)
    for _ in range(5):
        other = soft_label_loss(shares.log() + 0.3 * torch.randn(2, 4, 8, 8), shares, weights)
        assert math.isfinite(float(other))
        assert float(other) > float(best)
