"""Training: from packed phantoms, and fine-tuning on the DICOM of a site with a table of labels."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pydicom
import pytest
import torch
from safetensors.torch import load_file

from pipelines.evaluation.obstruction import ablate
from pipelines.models.card import TrainingData, read_card
from pipelines.models.registry import load_model
from pipelines.obstruction.architecture import Pooling
from pipelines.obstruction.calibration import tells_hearts_apart
from pipelines.obstruction.network import FULL, NARROW, ObstructionNetwork
from pipelines.phantom import Disease, PhantomRecipe, simulate, write_study
from pipelines.segmentation.labels import Label
from pipelines.statistics import auc
from pipelines.training.labelled_studies import (
    LabelTableError,
    StudyFiles,
    StudyLabel,
    case_of,
    files_of_studies,
    labelled_studies,
    read_labels,
)
from pipelines.training.obstruction_batches import sampler_of
from pipelines.training.obstruction_calibration import platt
from pipelines.training.obstruction_hearts import LabelledHeart, hearts_of_studies, split
from pipelines.training.obstruction_network import _of_bags, _rate_of, pretrain, train_obstruction, validate
from pipelines.training.obstruction_recipe import FULL_RATE, FULL_STEPS, ObstructionRecipe, Target
from pipelines.training.obstruction_runs import Prepared, fine_tune
from pipelines.training.obstruction_targets import infarct_depth, retained_area
from pipelines.training.schedule import polynomial_rate
from pipelines.training.steps import Run

TINY = NARROW.model_copy(update={"stem_width": 4, "widths": (4, 4, 8, 8), "heads": 2, "feed_forward": 16})


def heart(number: int, *, obstruction_shown: bool) -> LabelledHeart:
    """A heart whose obstruction is a dark square of one of its two slices."""
    rng = np.random.default_rng(number)
    clips = rng.integers(120, 160, (2, 30, 88, 88), dtype=np.uint8)
    places = np.zeros((2, 88, 88), bool)
    if obstruction_shown:
        places[1, 36:52, 36:52] = True
        clips[1, :, 36:52, 36:52] = 0
    depth, retained = places.mean(axis=(1, 2), dtype=np.float64) * 10, places.astype(np.float16) / 2
    return LabelledHeart(f"heart-{number:02d}", clips, obstruction_shown, places, places.copy(), depth, retained)


@pytest.fixture(scope="module")
def hearts() -> list[LabelledHeart]:
    return [heart(number, obstruction_shown=number % 2 == 1) for number in range(10)]


@pytest.fixture
def card_data() -> TrainingData:
    return TrainingData(
        name="test", licence="Apache-2.0", source="test", cases=(), split="test", steps=1, command="test"
    )


def test_no_heart_is_on_both_sides_and_each_side_has_both_outcomes(hearts: list[LabelledHeart]) -> None:
    training, held_out = split(hearts)
    assert len(training) + len(held_out) == len(hearts)
    assert not {one.name for one in training} & {one.name for one in held_out}
    for side in (training, held_out):
        assert {one.obstruction for one in side} == {True, False}


def test_places_move_with_their_images(hearts: list[LabelledHeart]) -> None:
    batch = sampler_of(hearts, 3).draw(7)
    assert batch.shares is not None
    assert batch.shares.shape == (16, 1, 64, 64)
    for clip, share, label in zip(batch.clips, batch.shares[:, 0], batch.labels, strict=True):
        assert bool(share.any()) == bool(label)
        if label:
            frame = clip[0, 0]
            assert frame[share > 0.9].mean() < 0.3
            assert frame[share == 0].mean() > 0.4
    again = sampler_of(hearts, 3).draw(7)
    assert torch.equal(batch.clips, again.clips)


def test_depth_is_the_share_of_the_wall_that_is_scar() -> None:
    rows, columns = np.mgrid[:88, :88] - 43.5
    radius = np.hypot(rows, columns)
    labels = np.where(radius < 16, Label.LV, np.where(radius < 24, Label.MYO, Label.BACKGROUND)).astype(np.uint8)
    inner_half = (radius >= 16) & (radius < 20) & (columns > 8)
    found = infarct_depth(np.stack([labels] * 3), np.stack([inner_half, labels == Label.MYO, radius < 0]))
    assert found == pytest.approx([0.5, 1.0, 0.0], abs=0.06)


def test_a_network_that_learns_depth_is_given_the_depth_of_each_slice(hearts: list[LabelledHeart]) -> None:
    deep = [replace(one, depth=np.array([0.0, 0.25 + 0.05 * number])) for number, one in enumerate(hearts)]
    batch = sampler_of(deep, 3, Target.DEPTH).draw(7)
    told = set(np.round(batch.labels.numpy().astype(float), 4))
    assert told <= {0.0, *np.round([0.25 + 0.05 * number for number in range(10)], 4)}
    assert len(told) > 2
    assert batch.shares is not None
    scar, retained = batch.shares.unbind(1)
    assert torch.allclose(retained, scar / 2), "both move with the clip"
    with pytest.raises(ValueError, match="motion of the wall"):
        sampler_of([replace(one, retained=None) for one in hearts], 3, Target.DEPTH)


def test_a_wall_that_stands_still_retains_its_cavity_and_one_that_contracts_does_not() -> None:
    rows, columns = np.mgrid[:88, :88] - 43.5
    radius = np.hypot(rows, columns)

    def drawn(cavity: np.ndarray) -> np.ndarray:
        wall = np.where(radius < 24, Label.MYO, Label.BACKGROUND)
        return np.where(cavity, Label.LV, wall).astype(np.uint8)

    diastole = drawn(radius < 16)
    # To the right the wall has moved inward by half of the radius, to the left not at all.
    found = retained_area(np.stack([diastole]), np.stack([drawn(radius < np.where(columns > 0, 8, 16))]))[0]
    assert found[diastole != Label.MYO].max() == 0
    assert found[43, 43 + 20] == pytest.approx(0.25, abs=0.04)
    assert found[43, 43 - 20] == pytest.approx(1.0, abs=0.04)
    assert 0.3 < found[43 - 20, 43] < 0.9


def test_the_last_hearts_are_kept_out_where_a_number_is_asked_for(hearts: list[LabelledHeart]) -> None:
    training, held_out = split(hearts[::-1], 3)
    assert [one.name for one in held_out] == ["heart-07", "heart-08", "heart-09"]
    assert [one.name for one in training] == [f"heart-{number:02d}" for number in range(7)]


def test_a_network_learns_depth_and_is_calibrated_to_obstruction(
    hearts: list[LabelledHeart], card_data: TrainingData, tmp_path: Path
) -> None:
    many = [heart(number, obstruction_shown=number % 2 == 1) for number in range(10, 18)]
    mean = TINY.model_copy(update={"pooling": "mean"})
    # Fewer steps learn it by chance, on one processor and not on another.
    recipe = ObstructionRecipe(mean, Target.DEPTH, steps=80, peak_rate=5e-3)
    result = train_obstruction([*hearts, *many], tmp_path / "network", recipe, data=card_data, kept_out=8)
    assert result.held_out_cases == tuple(one.name for one in many)
    model = load_model("network", root=tmp_path)
    assert model.card.name == "obstruction-network"
    assert model.card.architecture == mean
    assert float(model.network.get_buffer("held_out_auc")[0]) > 0.9
    # Weights of another target are not gone on with.
    other = ObstructionRecipe(mean, steps=16, peak_rate=1e-2)
    with pytest.raises(ValueError, match="checkpoint"):
        train_obstruction([*hearts, *many], tmp_path / "network", other, data=card_data, kept_out=8)


@pytest.mark.parametrize("pooling", ["largest", "mean"])
def test_slices_of_a_heart_with_one_label_bear_it_together(pooling: Pooling) -> None:
    logits, bags = torch.tensor([0.0, 2.0, -1.0, -1.0]), torch.tensor([0, 0, 1, 1])
    told = _of_bags(logits, bags, 2, pooling)
    first = 2.0 if pooling == "largest" else float(torch.logit(logits[:2].sigmoid().mean()))
    assert told.tolist() == pytest.approx([first, -1.0], abs=1e-5)


def test_hearts_with_labels_alone_are_drawn_whole(hearts: list[LabelledHeart]) -> None:
    bare = [LabelledHeart(one.name, one.clips, one.obstruction) for one in hearts]
    batch = sampler_of(bare, 0).draw(0)
    assert batch.shares is None
    assert batch.bags.tolist() == [0, 0, 1, 1]
    assert batch.labels.tolist() == [1, 0]


def test_training_learns_what_can_be_learned_and_goes_on_where_it_stopped(
    hearts: list[LabelledHeart], card_data: TrainingData, tmp_path: Path
) -> None:
    recipe = ObstructionRecipe(TINY, steps=16, pretraining_steps=6, peak_rate=1e-2)
    start = pretrain(hearts, tmp_path / "scar", recipe)
    train = partial(train_obstruction, hearts, recipe=recipe, start=start, data=card_data)
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", run=Run(stop_after=7))
    parts = train(tmp_path / "parts")
    assert parts.weights_sha256 == whole.weights_sha256
    card = read_card(whole.card)
    assert card.architecture == TINY
    assert set(card.training.cases) == {one.name for one in split(hearts)[0]}
    model = load_model("whole", root=tmp_path)
    found = validate(cast("ObstructionNetwork", model.network), split(hearts)[1])
    assert auc(found.outcomes, found.hearts) == 1.0
    assert not any(name.startswith("branch") for name in load_file(whole.weights))
    assert model.identity.weights_sha256 == whole.weights_sha256
    spread = cast("torch.Tensor", model.network.heart_covariance).diagonal()
    assert bool(torch.isfinite(spread).all())
    assert float(spread.min()) >= 0, "hearts that are told apart without error leave no uncertainty of the fit"
    # One heart with and one without, told apart without an error, prove nothing.
    assert not tells_hearts_apart(model.network)


def test_a_logit_that_misleads_gives_all_hearts_the_frequency() -> None:
    outcomes = np.array([True, True, False, False, False, False])
    slope, intercept = platt(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), outcomes)
    assert slope == 0
    assert 1 / (1 + np.exp(-intercept)) == pytest.approx(1 / 3)
    slope, _ = platt(np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0]), outcomes)
    assert slope > 0


def test_every_variant_of_the_ablation_trains(hearts: list[LabelledHeart], tmp_path: Path) -> None:
    ready = Prepared(hearts, ObstructionRecipe(TINY, steps=1), None)
    rows = ablate(ready, tmp_path, names=["neither", "both, grid 32"])
    assert [row.name for row in rows] == ["neither", "both, grid 32"]
    assert rows[0].parameters < rows[1].parameters
    assert rows[0].hearts == len(split(hearts)[1])
    # Two hearts are too few for a test.
    assert math.isnan(rows[0].p_value)
    assert rows[0].node_auc is None
    with pytest.raises(ValueError, match="no variant is named 'nothing'"):
        ablate(ready, tmp_path, names=["nothing"])


def test_variants_are_told_on_hearts_that_the_node_has_measured(hearts: list[LabelledHeart], tmp_path: Path) -> None:
    measured = tmp_path / "measured"
    measured.mkdir()
    ready = Prepared(hearts, ObstructionRecipe(TINY, steps=1), None)
    with pytest.raises(ValueError, match="holds no measured hearts"):
        ablate(ready, tmp_path, names=["neither"], measured=measured)
    for number in range(7):
        other = heart(100 + number, obstruction_shown=number % 2 == 1)
        facts = {"refused": "" if number else "Too few slices.", "obstruction": other.obstruction}
        np.savez(
            measured / f"obstruction-default-{number}.npz",
            clips=other.clips[..., 12:76, 12:76],
            features=np.zeros(20),
            facts=np.array(json.dumps(facts)),
        )
    first, second = ablate(ready, tmp_path, names=["neither", "mask 16"], measured=measured)
    assert (first.node_hearts, first.node_events) == (6, 3)
    assert first.node_auc is not None
    assert 0 <= first.node_auc.value <= 1
    assert second.node_p_value is not None
    assert 0 <= second.node_p_value <= 1
    # The model of the package sees the same wall in all of them, and tells nothing apart.
    assert first.node_less_package == pytest.approx(first.node_auc.value - 0.5)


def test_hearts_of_one_outcome_teach_nothing(card_data: TrainingData, tmp_path: Path) -> None:
    same = [heart(number, obstruction_shown=True) for number in range(3)]
    with pytest.raises(ValueError, match="same label"):
        train_obstruction(same, tmp_path, ObstructionRecipe(steps=1), data=card_data)


def test_the_rate_rises_and_falls_to_nothing() -> None:
    rates = [polynomial_rate(step, 1000, 2.0) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == rates[99] == 2.0
    assert np.all(np.diff(rates[100:]) < 0)
    assert rates[-1] < 0.003
    assert polynomial_rate(0, 5, 1.0) == 1.0
    # The network of the paper's size has its schedule, its ablations too.
    whole = _rate_of(FULL.model_copy(update={"transformer": False}))
    rates = [whole(step, FULL_STEPS, FULL_RATE) for step in range(FULL_STEPS)]
    assert int(np.argmax(rates)) in (1499, 1500)
    assert max(rates) == pytest.approx(1e-4)
    assert _rate_of(NARROW)(49, 500, 1.0) == 1.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """DICOM of six simulated patients and a table of labels, three of them with obstruction."""
    folder = tmp_path_factory.mktemp("site")
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["study", "obstruction"])
        for number in range(6):
            recipe = PhantomRecipe(
                seed=60 + number,
                disease=Disease.INFARCT,
                obstruction=number % 2 == 1,
                slices=3,
                phases=12,
                rows=96,
                columns=96,
                spacing_mm=2.0,
                long_axis=False,
            )
            write_study(simulate(recipe), folder / "studies" / f"patient-{number}")
            rows.writerow([f"patient-{number}", number % 2])
    return folder / "studies", folder / "labels.csv"


def files_of(site: tuple[Path, Path]) -> dict[str, StudyFiles]:
    studies, labels = site
    return files_of_studies(studies, read_labels(labels, "obstruction"))


def test_a_patient_stands_once_in_a_table(site: tuple[Path, Path], tmp_path: Path) -> None:
    _, labels = site
    known = read_labels(labels, "obstruction")
    studies = tmp_path / "studies"
    for name, files in files_of(site).items():
        for number, path in enumerate(files.paths[:2]):
            header = pydicom.dcmread(path)
            # The third and the fifth are of one patient, and the others have no number at all.
            header.PatientID = "4711" if name in ("patient-2", "patient-4") else ""
            (studies / name).mkdir(parents=True, exist_ok=True)
            header.save_as(studies / name / f"{number}.dcm")
    with pytest.raises(LabelTableError, match="patient-2 and patient-4 are of one patient"):
        files_of_studies(studies, known)
    assert len(files_of_studies(studies, {name: known[name] for name in known if name != "patient-4"})) == 5
    table = tmp_path / "labels.csv"
    table.write_text("study,obstruction,patient\npatient-2,0,first\npatient-4,0,second\n", encoding="utf-8")
    assert len(files_of_studies(studies, read_labels(table, "obstruction"))) == 2
    table.write_text("study,obstruction,patient\npatient-0,0,first\npatient-1,1,first\n", encoding="utf-8")
    with pytest.raises(LabelTableError, match="patient-0 and patient-1 are of one patient"):
        files_of_studies(studies, read_labels(table, "obstruction"))


def test_a_site_fine_tunes_on_its_own_studies(
    site: tuple[Path, Path], hearts: list[LabelledHeart], card_data: TrainingData, tmp_path: Path
) -> None:
    studies, labels = site
    told: list[tuple[int, int]] = []
    start = tmp_path / "start"
    train_obstruction(hearts, start, ObstructionRecipe(TINY, steps=1), data=card_data)
    result = fine_tune(
        studies, labels, tmp_path / "tuned", start=start, steps=2, prepared=lambda *counts: told.append(counts)
    )
    assert told[-1] == (6, 6)
    card = read_card(result.card)
    assert card.training.name.startswith("6 studies of a site")
    told_apart = {case_of(files.uid): number for number, files in enumerate(files_of(site).values())}
    assert {told_apart[case] % 2 for case in result.held_out_cases} == {0, 1}
    assert sorted((*result.held_out_cases, *card.training.cases)) == sorted(told_apart)
    # The card is passed on: it names neither folders nor UIDs of patients.
    text = result.card.read_text(encoding="utf-8")
    assert not [uid for uid in (files.uid for files in files_of(site).values()) if uid in text]
    assert "patient-" not in text
    model = load_model("tuned", root=tmp_path)
    assert model.identity.weights_sha256 == result.weights_sha256
    # Six studies are too few to calibrate the wall model of the package to.
    with pytest.raises(ValueError, match="at least 8 with and without"):
        fine_tune(studies, labels, tmp_path / "wall", steps=1)


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("\ufeffstudy,remodelling,infarct_percent\n1.2,yes,\n1.3,0,12.5\n", encoding="utf-8")
    first, second = read_labels(table, "remodelling", "infarct_percent").values()
    assert first.positive
    assert np.isnan(first.percent)
    assert (second.positive, second.percent) == (False, 12.5)


def test_a_table_names_each_study_once_and_only_what_is_there(site: tuple[Path, Path], tmp_path: Path) -> None:
    studies, labels = site
    read = {name: label.positive for name, label in read_labels(labels, "obstruction").items()}
    assert read == {f"patient-{number}": number % 2 == 1 for number in range(6)}
    with pytest.raises(LabelTableError, match="1 studies of the table are not there, such as patient-9"):
        list(labelled_studies(studies, dict.fromkeys(("patient-0", "patient-9"), StudyLabel(True))))
    for text, says in (
        ("study\na\n", "no column obstruction"),
        ("study,obstruction\na,perhaps\n", "line 2: obstruction is 'perhaps'"),
        ("study,obstruction\na,1\na,0\n", "line 3: this study is named twice"),
        ("study,obstruction\n", "names no study"),
        ("study,obstruction,percent\na,1,140\n", "line 2: percent is 140, which is not in 0 … 100"),
        ("study,obstruction,percent\na,1,nan\n", "not in 0 … 100"),
        ("study,obstruction,percent\na,1,much\n", "line 2: percent is 'much', which is no number"),
    ):
        table = tmp_path / "table.csv"
        table.write_text(text, encoding="utf-8")
        with pytest.raises(LabelTableError, match=says):
            read_labels(table, "obstruction", "percent")
    with pytest.raises(LabelTableError, match="not there"):
        hearts_of_studies(tmp_path, labels)
