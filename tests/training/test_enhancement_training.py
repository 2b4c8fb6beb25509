"""Training of late enhancement: the layout of EMIDEC, folds, stopping and going on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from pipelines.late_enhancement.labels import Tissue
from pipelines.models.architecture import UNetArchitecture
from pipelines.models.card import read_card
from pipelines.training import enhancement, steps
from pipelines.training.emidec import (
    ASSUMED_SPACING_MM,
    EmidecCase,
    EmidecLayoutError,
    aspect,
    find_cases,
    read_case,
    to_stack,
)
from pipelines.training.enhancement import AddedPhantoms, emidec_folds, train_enhancement
from pipelines.training.enhancement_phantoms import read_phantom

SIZE = 64


def drawn(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIZE, SIZE))
    radius = np.hypot(rows - 32 - rng.integers(-4, 4), columns - 30)
    labels = np.zeros((SIZE, SIZE), dtype=np.uint8)
    labels[radius < 16] = Tissue.MYO
    labels[radius < 9] = Tissue.LV
    if kind != "normal":
        labels[(labels == Tissue.MYO) & (columns > 38)] = Tissue.INFARCT
    if kind == "obstruction":
        labels[(labels == Tissue.INFARCT) & (np.abs(rows - 32) < 3) & (np.abs(radius - 12) < 2)] = Tissue.OBSTRUCTION
    grey = np.array([60, 150, 30, 220, 40])[labels] + rng.integers(0, 12, labels.shape)
    return grey.astype(np.uint8), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen cases of two slices in the layout of EMIDEC."""
    root = tmp_path_factory.mktemp("emidec")
    for name in ("images", "labels"):
        (root / name).mkdir()
    for number in range(15):
        kind = ("normal", "infarct", "obstruction")[number % 3]
        for index in range(2):
            image, labels = drawn(kind, 10 * number + index)
            name = f"Case_{number:03d}_slice{index:03d}.png"
            Image.fromarray(image).save(root / "images" / name)
            Image.fromarray(labels).save(root / "labels" / name)
    return root


def test_cases_are_read_whole_and_in_order(folder: Path) -> None:
    cases = find_cases(folder)
    assert len(cases) == 15
    case = read_case(cases["Case_002"])
    assert case.group == "obstruction"
    assert case.pixels.shape == case.labels.shape == (2, SIZE, SIZE)
    image, labels = drawn("obstruction", 21)
    assert np.array_equal(case.pixels[1], image)
    assert np.array_equal(case.labels[1], labels)
    stack = to_stack(case)
    assert stack.slices == 2
    assert stack.geometry.pitch == 10.0


def test_the_stretch_of_a_case_is_taken_back_by_its_spacing(folder: Path) -> None:
    case = read_case(find_cases(folder)["Case_002"])
    rows_mm, columns_mm = case.pixel_spacing
    assert rows_mm * columns_mm == pytest.approx(ASSUMED_SPACING_MM**2)
    assert columns_mm / rows_mm == pytest.approx(1.0, abs=0.02), "the ventricle is drawn round"
    tall = EmidecCase("tall", case.pixels.repeat(3, axis=1), case.labels.repeat(3, axis=1))
    assert aspect(tall.labels) == pytest.approx(3 * aspect(case.labels), rel=0.02)
    assert to_stack(tall).geometry.pixel_spacing == tall.pixel_spacing
    # What the network is shown of both is the same heart.
    recipe = dataclasses.replace(enhancement.RECIPES["enhancement-segmentation"], straight=True)
    shown = []
    for one in (case, tall):
        volume = enhancement._volume(one, recipe)
        axis = (torch.arange(40) - 19.5) * volume.field_mm / 40
        mm = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1) + volume.centre
        shown.append(enhancement._sampled(volume, volume.shares[0].float() / 255, mm)[1:].sum(0) > 0.5)
    assert (shown[0] != shown[1]).float().mean() < 0.03
    assert 0.2 < shown[0].float().mean() < 0.5


def test_a_case_without_a_ventricle_is_taken_as_it_is() -> None:
    assert aspect(np.zeros((2, 8, 8), np.uint8)) == 1.0


def test_what_is_not_emidec_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EmidecLayoutError, match="holds no images"):
        find_cases(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    name = "Case_000_slice000.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / name)
    with pytest.raises(EmidecLayoutError, match="labels"):
        read_case(find_cases(tmp_path)["Case_000"])
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "labels" / name)
    with pytest.raises(EmidecLayoutError, match="holds 7"):
        read_case(find_cases(tmp_path)["Case_000"])
    (tmp_path / "labels" / name).write_bytes(b"no image")
    with pytest.raises(EmidecLayoutError, match="cannot be read"):
        read_case(find_cases(tmp_path)["Case_000"])
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / "wrong.png")
    with pytest.raises(EmidecLayoutError, match=r"wrong\.png"):
        find_cases(tmp_path)


def test_each_fold_holds_every_kind_of_heart(folder: Path) -> None:
    split = emidec_folds(folder)
    assert sorted(name for part in split for name in part) == sorted(find_cases(folder))
    for part in split:
        assert {int(name[-3:]) % 3 for name in part} == {0, 1, 2}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe with six steps and small batches in place of thousands: every part of it is passed through."""
    recipe = dataclasses.replace(
        enhancement.RECIPES["enhancement-segmentation"],
        size=32,
        batch=2,
        steps=6,
        features=(8, 8, 8, 8, 8, 8),
        mild_from=2,
        calibration_steps=4,
    )
    monkeypatch.setitem(enhancement.RECIPES, recipe.name, recipe)
    monkeypatch.setattr(steps, "_STEPS_OF_A_CHECKPOINT", 2)


@pytest.mark.usefixtures("short")
def test_a_stopped_training_goes_on_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    straight = train_enhancement(folder, tmp_path / "straight", model="enhancement-segmentation")
    train_enhancement(folder, tmp_path / "stopped", model="enhancement-segmentation", stop_after=4)
    stopped = train_enhancement(folder, tmp_path / "stopped", model="enhancement-segmentation")
    assert straight.weights_sha256 == stopped.weights_sha256
    card = read_card(straight.card)
    assert card.licence == "CC-BY-NC-SA-4.0"
    assert set(card.training.cases) == set(find_cases(folder)) - set(straight.held_out_cases)
    assert set(straight.held_out_cases) == set(emidec_folds(folder)[0])


@pytest.mark.usefixtures("short")
def test_the_weights_for_calibration_have_not_seen_the_calibration_fold(folder: Path, tmp_path: Path) -> None:
    result = train_enhancement(folder, tmp_path, model="enhancement-segmentation", fold=0)
    kept = tmp_path / "calibration" / "enhancement-segmentation"
    card = read_card(kept / "card.yaml")
    unseen = emidec_folds(folder)
    assert not set(card.training.cases) & {*unseen[0], *unseen[1]}
    assert set(unseen[1]) <= set(result.training_cases)
    assert card.training.steps == 4
    early = safetensors.torch.load_file(kept / "weights.safetensors")
    late = safetensors.torch.load_file(result.weights)
    assert any(not torch.equal(early[name], late[name]) for name in early)


@pytest.mark.usefixtures("short")
def test_a_network_begins_with_the_layers_of_another_where_they_fit(folder: Path, tmp_path: Path) -> None:
    model = "enhancement-segmentation"
    other = train_enhancement(folder, tmp_path / model, model=model, stop_after=2)
    fit = enhancement._architecture(enhancement.RECIPES[model]).build()
    assert enhancement._begin_with(fit, tmp_path / model).startswith(f"{model} 0.1.0, SHA-256 {other.weights_sha256}")
    trained = safetensors.torch.load_file(other.weights)
    assert all(torch.equal(trained[name], tensor) for name, tensor in fit.state_dict().items())
    narrower = UNetArchitecture(in_channels=3, out_channels=2, features=(8, 8, 8, 8, 8, 8)).build()
    enhancement._begin_with(narrower, tmp_path / model)
    same = [torch.equal(trained[name], tensor) for name, tensor in narrower.state_dict().items() if name in trained]
    assert sum(same) >= len(same) - 2, "all but weight and bias of the last layer"
    begun = train_enhancement(folder, tmp_path / "begun", model=model, first_layers=tmp_path / model, stop_after=2)
    assert "began with layers of enhancement-segmentation 0.1.0" in read_card(begun.card).training.split
    assert "--first-layers MODEL" in read_card(begun.card).training.command
    with pytest.raises(ValueError, match="checkpoint"):
        train_enhancement(folder, tmp_path / "begun", model=model, stop_after=4)


@pytest.mark.usefixtures("short")
def test_phantoms_are_a_share_of_the_batches_and_named_in_the_card(folder: Path, tmp_path: Path) -> None:
    model = "enhancement-segmentation"
    added = AddedPhantoms(2, 810000, 1.0)
    recipe = enhancement.RECIPES[model]
    simulated = enhancement._simulated(added, recipe)
    assert sum(map(len, simulated.groups.values())) == 2
    patients = {"normal": [enhancement._volume(read_case(find_cases(folder)["Case_000"]), recipe)]}
    alone, _ = enhancement._batch(patients, recipe, 0, 0)
    with_all, _ = enhancement._batch(patients, recipe, 0, 0, simulated)
    with_none, _ = enhancement._batch(patients, recipe, 0, 0, dataclasses.replace(simulated, share=0.0))
    assert alone.shape == with_all.shape == with_none.shape
    assert not torch.equal(alone, with_all)
    card = read_card(train_enhancement(folder, tmp_path, model=model, added=added, stop_after=2).card)
    assert card.training.name.endswith("2 phantoms, seeds 810000 to 810001")
    assert "--add-phantoms 2 --add-phantom-seed 810000 --phantom-share 1" in card.training.command


def test_phantoms_hold_an_infarct_or_no_enhancement() -> None:
    with_one, without = read_phantom(810000), read_phantom(810004)
    assert with_one.group in ("infarct", "obstruction")
    assert without.group == "normal"
    for case in (with_one, without):
        assert case.pixels.shape == case.labels.shape
        assert (case.labels == Tissue.MYO).any()
        assert (case.labels == Tissue.LV).any()


def test_a_fold_or_model_that_there_is_not_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recipe"):
        train_enhancement(folder, tmp_path, model="other")
    with pytest.raises(ValueError, match="no fold 5"):
        train_enhancement(folder, tmp_path, model="enhancement-localiser", fold=5)


@pytest.mark.parametrize("model", sorted(enhancement.RECIPES))
def test_batches_show_the_ventricle_and_labels_that_fit(folder: Path, model: str) -> None:
    recipe = dataclasses.replace(enhancement.RECIPES[model], batch=4)
    read = [read_case(images) for images in find_cases(folder).values()]
    groups = {case.group: [enhancement._volume(case, recipe)] for case in read}
    images, shares = enhancement._batch(groups, recipe, 0, 0)
    again, _ = enhancement._batch(groups, recipe, 0, 0)
    assert torch.equal(images, again), "a function of seed and step"
    assert images.shape == (4, 3, recipe.size, recipe.size)
    assert shares.shape == (4, len(recipe.outputs), recipe.size, recipe.size)
    assert torch.allclose(shares.sum(1), torch.ones(4, recipe.size, recipe.size), atol=0.02)
    assert (shares[:, 1:].sum(1) > 0.5).any(), "a ventricle is in view"
