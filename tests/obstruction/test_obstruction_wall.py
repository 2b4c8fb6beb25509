"""The wall model: what it reads, what it is fitted to, and when it may answer."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pydicom
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import logit
from typer.testing import CliRunner

from dicom_node.cli import app
from pipelines.evaluation.obstruction import Beside, evaluate, evaluate_studies
from pipelines.evaluation.obstruction_hearts import measured_phantom, measured_study, probability_of
from pipelines.indication import Indication
from pipelines.models.card import TrainingData, read_card, write_card
from pipelines.models.registry import PACKAGED, load_model
from pipelines.obstruction.calibration import calibrated, tells_hearts_apart
from pipelines.obstruction.findings import Obstruction
from pipelines.obstruction.network import NARROW, ObstructionNetwork
from pipelines.obstruction.wall import FEATURES, MOTIONS, WallMotion, describe_wall
from pipelines.obstruction.wall_model import WALL, WallModel
from pipelines.phantom import Disease, PhantomRecipe, simulate
from pipelines.phantom.assembled import cine_study
from pipelines.phantom.identity import recipe_key
from pipelines.phantom.law import DEFAULT_LAW
from pipelines.phantom.study import draw_heart
from pipelines.segmentation.labels import Label
from pipelines.statistics import auc, compare_aucs
from pipelines.study import analyse_study
from pipelines.training.checkpoint import save_atomically
from pipelines.training.heart_clips import Population, clip_recipe, pack_clips
from pipelines.training.labelled_studies import case_of
from pipelines.training.obstruction_wall import WallHeart, fit_wall, motion_lost, walls_of_clips

DATA = TrainingData(name="test", licence="Apache-2.0", source="test", cases=(), split="test", steps=1, command="test")
ROWS, COLUMNS = np.mgrid[:88, :88] - 43.5
ANGLE = np.arctan2(COLUMNS, ROWS)


def ring(inner: NDArray[np.float64], outer: NDArray[np.float64], row: float = 0.0) -> NDArray[np.uint8]:
    """Five equal slices of a wall with these radii by direction, pixels, shifted along the rows."""
    radius, angle = np.hypot(ROWS - row, COLUMNS), np.arctan2(COLUMNS, ROWS - row)
    bins = np.round(angle / (2 * np.pi) * 64).astype(int) % 64
    labels = np.where(radius < inner[bins], Label.LV, np.where(radius < outer[bins], Label.MYO, Label.BACKGROUND))
    return np.repeat(labels.astype(np.uint8)[None], 5, axis=0)


def contracted(standing: slice | None = None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """End diastole and end systole of a wall that contracts everywhere but in some directions."""
    inner, outer = np.full(64, 16.0), np.full(64, 22.0)
    now, rim = np.full(64, 10.0), np.full(64, 20.0)
    if standing is not None:
        now[standing], rim[standing] = 16.0, 22.0
    return ring(inner, outer), ring(now, rim)


def named(wall: WallMotion, feature: str) -> float:
    return float(wall.features[FEATURES.index(feature)])


def test_an_even_wall_has_no_worst_place() -> None:
    wall = describe_wall(*contracted())
    assert named(wall, "thickening, worst place") == pytest.approx(10 / 6 - 1, abs=0.08)
    assert named(wall, "thickening, better half") == pytest.approx(10 / 6 - 1, abs=0.08)
    assert named(wall, "mid-wall shortening about the fixed centre, better half") == pytest.approx(
        1 - 15 / 19, abs=0.02
    )


def test_a_wall_that_stands_still_is_found_where_it_is() -> None:
    wall = describe_wall(*contracted(slice(10, 26)))
    assert named(wall, "thickening, worst place") < 0.2
    assert named(wall, "thickening, better half") > 0.5
    direction = int(np.argmax(wall.deficit[2]))
    assert 13 <= direction <= 22
    assert wall.by_slice.shape == (5,)


def test_what_the_whole_heart_does_is_seen_about_the_fixed_centre_only() -> None:
    diastole, systole = contracted()
    moved = ring(np.full(64, 10.0), np.full(64, 20.0), row=4.0)
    still, shifted = describe_wall(diastole, systole), describe_wall(diastole, moved)
    lowest = "mid-wall shortening about the {} centre, lowest twentieth"
    assert named(shifted, lowest.format("moving")) == pytest.approx(named(still, lowest.format("moving")), abs=0.02)
    assert named(shifted, lowest.format("fixed")) < named(still, lowest.format("fixed")) - 0.1


def test_labels_without_a_wall_are_refused() -> None:
    nothing = np.zeros((2, 88, 88), np.uint8)
    with pytest.raises(ValueError, match="no wall"):
        describe_wall(nothing, nothing)


def heart(number: int, rng: np.random.Generator, *, tells: bool = True) -> WallHeart:
    """A drawn heart: the motion lost shows in one feature, and obstruction follows it."""
    lost = rng.uniform(0, 1)
    features = rng.normal(0, 1, len(FEATURES))
    features[FEATURES.index("thickening, worst place")] = -lost + rng.normal(0, 0.1)
    chance = 1 / (1 + np.exp(-8 * (lost - 0.5))) if tells else 0.5
    shown = bool(rng.random() < chance)
    deficit = rng.normal(0, 1, (3, 64))
    deficit[1] += 3 * shown
    wall = WallMotion(features, deficit, np.zeros((3, 2)))
    return WallHeart(f"heart-{number}", wall, shown, np.array([False, shown, False]), lost)


def test_the_score_is_fitted_to_motion_and_calibrated_to_obstruction(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hearts = [heart(number, rng) for number in range(150)]
    result = fit_wall(hearts, tmp_path / "obstruction", data=DATA)
    assert fit_wall(hearts, tmp_path / "again", data=DATA).weights_sha256 == result.weights_sha256
    model = load_model("obstruction", root=tmp_path)
    network = cast("WallModel", model.network)
    assert read_card(result.card).architecture == WALL
    unseen = [heart(number, rng) for number in range(150, 400)]
    scores = [network.score(one.wall.features) for one in unseen]
    assert np.corrcoef(scores, [one.lost for one in unseen])[0, 1] > 0.85
    outcomes = np.array([one.obstruction for one in unseen])
    assert auc(outcomes, scores) > 0.8
    assert tells_hearts_apart(network)
    for one in unseen[:5]:
        # What moved the probability adds up to how far it is from that of a heart with the mean features.
        reasons = network.contributions(one.wall.features)
        average = calibrated(network, network.score(network.usual.double().numpy())).value
        expected = logit(calibrated(network, network.score(one.wall.features)).value) - logit(average)
        assert sum(reason.logit for reason in reasons) == pytest.approx(expected, abs=1e-3)
        assert [abs(reason.logit) for reason in reasons] == sorted((abs(one.logit) for one in reasons), reverse=True)
    probabilities = np.array([calibrated(network, score).value for score in scores])
    assert probabilities.mean() == pytest.approx(outcomes.mean(), abs=0.08)
    of_slices = np.array([network.slice_probabilities(one.wall) for one in unseen])
    shown = np.array([one.slices for one in unseen])
    assert auc(shown.ravel(), of_slices.ravel()) > 0.9


def test_a_score_that_says_nothing_of_obstruction_declines(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    fit_wall([heart(number, rng, tells=False) for number in range(150)], tmp_path / "obstruction", data=DATA)
    assert not tells_hearts_apart(load_model("obstruction", root=tmp_path).network)


def test_a_site_calibrates_the_score_to_its_patients(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    fit_wall([heart(number, rng) for number in range(150)], tmp_path / "obstruction", data=DATA)
    start = cast("WallModel", load_model("obstruction", root=tmp_path).network)
    # Obstruction is rarer there, and only hearts have labels; how much motion was lost nobody knows.
    patients = [replace(heart(number, rng), slices=None, lost=float("nan")) for number in range(200)]
    patients = [one for one in patients if not one.obstruction or rng.random() < 0.4]
    with pytest.raises(ValueError, match="start from a model fitted to phantoms"):
        fit_wall(patients, tmp_path / "alone", data=DATA)
    fit_wall(patients, tmp_path / "site", data=DATA, start=start)
    network = cast("WallModel", load_model("site", root=tmp_path).network)
    assert network.coefficients.tolist() == pytest.approx(start.coefficients.tolist())
    assert np.isnan(network.slice_calibration.numpy()).all()
    share = np.mean([one.obstruction for one in patients])
    told = [calibrated(network, network.score(one.wall.features)).value for one in patients]
    assert np.mean(told) == pytest.approx(share, abs=0.05)
    assert np.mean([calibrated(start, start.score(one.wall.features)).value for one in patients]) > share + 0.1
    with pytest.raises(ValueError, match="at least 8 with and without"):
        fit_wall(patients[:10], tmp_path / "few", data=DATA, start=start)


def test_a_deep_infarct_and_a_large_one_have_lost_much_motion() -> None:
    def lost(transmurality: float, size: float = 1.0) -> float:
        law = replace(DEFAULT_LAW, obstruction_size=size, obstruction_motion=0.0)
        recipe = PhantomRecipe(
            seed=5, disease=Disease.INFARCT, acute=True, transmurality=transmurality, obstruction=True, law=law
        )
        return motion_lost(draw_heart(recipe)[1])

    assert lost(1.0) > lost(0.3) + 0.2
    assert lost(0.3, 3.0) > lost(0.3) + 0.05


def test_contours_of_packed_clips_are_drawn_once(tmp_path: Path) -> None:
    paths = pack_clips(tmp_path / "clips", [710000], Population.ACUTE_INFARCT)
    (first,) = walls_of_clips(paths, tmp_path / "contours")
    kept = next((tmp_path / "contours").iterdir())
    written = kept.stat().st_mtime_ns
    (again,) = walls_of_clips(paths, tmp_path / "contours")
    assert kept.stat().st_mtime_ns == written
    assert again.wall.features.tolist() == first.wall.features.tolist()
    assert first.slices is not None
    assert first.obstruction == first.slices.any()
    assert 0 < first.lost < 1.2
    kept.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="holds no contours"):
        walls_of_clips(paths, tmp_path / "contours")


def test_what_is_measured_for_the_evaluation_gives_what_the_node_answers() -> None:
    recipe = PhantomRecipe(
        seed=31, disease=Disease.INFARCT, slices=6, phases=14, rows=128, columns=128, spacing_mm=1.8, long_axis=False
    )
    study = cine_study(simulate(recipe, workers=1))
    context = replace(study.context, indication=Indication.ACUTE_INFARCT)
    answered = analyse_study(replace(study, context=context), [Obstruction])[Obstruction]
    assert probability_of(measured_study(study), load_model("obstruction")) == pytest.approx(answered.probability)


def test_a_phantom_is_measured_once(tmp_path: Path) -> None:
    first = measured_phantom(900000, DEFAULT_LAW, tmp_path)
    again = measured_phantom(900000, DEFAULT_LAW, tmp_path)
    assert again.facts == first.facts
    assert again.features.tolist() == first.features.tolist()
    (kept,) = tmp_path.iterdir()
    kept.rename(tmp_path / "obstruction-default-900001.npz")
    with pytest.raises(ValueError, match="of another phantom"):
        measured_phantom(900001, DEFAULT_LAW, tmp_path)


def keep_hearts(tmp_path: Path) -> None:
    """What an evaluation keeps of 40 phantoms of seeds 0 to 39, the first of them declined."""
    rng = np.random.default_rng(3)
    for seed in range(40):
        drawn = heart(seed, rng)
        recipe = replace(clip_recipe(seed, Population.ACUTE_INFARCT, DEFAULT_LAW), late_enhancement=False)
        facts = {
            "refused": "" if seed else "Too few slices.",
            "recipe": recipe_key(recipe),
            "obstruction": drawn.obstruction,
            "bleeding": drawn.obstruction and seed % 2 == 0,
            "evidence": 4 * drawn.lost,
            "lost": drawn.lost,
        }
        features = drawn.wall.features if seed else np.zeros(0)
        np.savez(
            tmp_path / f"obstruction-default-{seed}.npz",
            clips=rng.integers(0, 200, (2 if seed else 0, 30, 64, 64), dtype=np.uint8),
            features=features,
            facts=np.array(json.dumps(facts)),
        )


def keep_model(folder: Path, factor: float) -> str:
    """The model of the package with its score multiplied; the digest of its weights."""
    packaged = load_model("obstruction").network.state_dict()
    folder.mkdir(parents=True)
    save_atomically(packaged | {"coefficients": factor * packaged["coefficients"]}, folder / "weights.safetensors")
    sha256 = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    card = read_card(PACKAGED / "obstruction" / "card.yaml")
    write_card(card.model_copy(update={"weights_sha256": sha256, "name": folder.name}), folder / "card.yaml")
    return sha256


def test_an_evaluation_goes_on_from_kept_hearts_and_compares(tmp_path: Path) -> None:
    keep_hearts(tmp_path)
    # The same score upside down: what one tells, the other tells wrongly.
    sha256 = keep_model(tmp_path / "other" / "obstruction", -1.0)
    card = read_card(PACKAGED / "obstruction" / "card.yaml")
    models = tmp_path / "models"
    shutil.copytree(PACKAGED / "obstruction", models / "obstruction")
    assert evaluate(40, 0, hearts=tmp_path, models=models).second_opinion is None
    (models / "obstruction-network").mkdir()
    tiny = NARROW.model_copy(update={"stem_width": 4, "widths": (4, 4, 8, 8), "heads": 2, "feed_forward": 16})
    torch.manual_seed(0)
    save_atomically(ObstructionNetwork(tiny).state_dict(), models / "obstruction-network" / "weights.safetensors")
    told_by = hashlib.sha256((models / "obstruction-network" / "weights.safetensors").read_bytes()).hexdigest()
    network = card.model_copy(update={"name": "obstruction-network", "architecture": tiny, "weights_sha256": told_by})
    write_card(network, models / "obstruction-network" / "card.yaml")
    found = evaluate(40, 0, hearts=tmp_path, models=models, beside=Beside(against=tmp_path / "other"))
    told = found.to_json()
    second = told["second_opinion"]
    assert told_by in second["model"]
    assert len(second["probabilities"]) == 39
    assert second["difference"] == pytest.approx(second["auc"] - told["auc"], abs=2e-4)
    assert second["auc_ci"][0] <= second["auc"] <= second["auc_ci"][1]
    assert (told["refused"], told["auc"]) == (1, pytest.approx(found.auc.value, abs=1e-4))
    assert told["auc_ci"][0] < told["auc"] < told["auc_ci"][1]
    assert told["paper"]["with both"] == 0.727
    against, *_ = found.comparisons
    assert against.auc == pytest.approx(1 - found.auc.value)
    known = [(one.obstruction, one.probability) for one in found.estimates if one.probability is not None]
    outcomes, probabilities = (np.array(column) for column in zip(*known, strict=True))
    assert against.p_value == pytest.approx(compare_aucs(outcomes, -probabilities, probabilities).p_value)
    # Who recognises half of the obstructions for certain and knows how much was lost does better than who knows that.
    assert found.bayes_auc > found.motion_auc.value > 0.7
    names = [one["name"] for one in told["comparisons"]]
    assert names[1:] == ["motion truly lost", *MOTIONS]
    assert sha256[:8] in names[0]
    thickening, truly = found.comparisons[-1], found.comparisons[1]
    assert truly.auc == pytest.approx(found.motion_auc.value)
    assert thickening.auc - found.auc.value == pytest.approx(thickening.difference)
    assert 0 <= thickening.p_value <= 1


@pytest.mark.parametrize("told_apart", [True, False])
def test_a_model_that_gives_all_hearts_one_probability_is_told_as_that(tmp_path: Path, told_apart: bool) -> None:
    keep_hearts(tmp_path)
    models = tmp_path / "models"
    keep_model(models / "obstruction", 1.0 if told_apart else 0.0)
    keep_model(models / "obstruction-network", 0.0 if told_apart else 1.0)
    asked = ["--phantoms", "40", "--seed", "0", "--hearts", str(tmp_path), "--models", str(models)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = CliRunner().invoke(app, ["evaluate", "obstruction", *asked])
        told = json.loads(CliRunner().invoke(app, ["evaluate", "obstruction", *asked, "--json"]).stdout)
    assert shown.exit_code == 0, shown.output
    words = re.sub("[│ ]+", " ", shown.stdout)
    _, reported, second, _ = re.split("Obstruction, |Second opinion|Other scores", words)
    same, other = (second, reported) if told_apart else (reported, second)
    assert "one probability for" in same
    assert "0.500, no interval" in same
    # Slope and intercept of the one that tells nothing apart; the correlation of the two, whichever of them that is.
    assert same.count("not determined") == 2 + told_apart
    assert other.count("not determined") == (not told_apart)
    assert "one probability" not in other
    assert told["second_opinion"]["correlation"] is None
    constant = told["second_opinion"] if told_apart else told
    assert (constant["auc"], constant["auc_ci"], constant["calibration_slope"]) == (0.5, [None, None], None)


def test_a_sites_studies_are_evaluated_with_the_same_figures(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    studies, kept = tmp_path / "studies", tmp_path / "hearts"
    kept.mkdir()
    rows, of_uid = ["study,obstruction"], {}
    for number in range(20):
        drawn, uid = heart(number, rng), f"2.25.{1000 + number}"
        of_uid[uid] = drawn
        # What was measured of a study is kept by its UID; only its identity is read from the files then.
        header = pydicom.Dataset()
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        header.SOPClassUID, header.SOPInstanceUID = pydicom.uid.MRImageStorage, f"{uid}.1"
        header.StudyInstanceUID, header.PatientID = uid, f"P{number}"
        (studies / str(number)).mkdir(parents=True)
        header.save_as(studies / str(number) / "1.dcm", enforce_file_format=True)
        rows.append(f"{uid},{int(drawn.obstruction)}")
        np.savez(
            kept / f"obstruction-{case_of(uid)}.npz",
            clips=np.random.default_rng(number).integers(0, 200, (min(number, 1), 30, 64, 64), dtype=np.uint8),
            features=drawn.wall.features if number else np.zeros(0),
            facts=np.array(json.dumps({"refused": "" if number else "Too few slices."})),
        )
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows), encoding="utf-8")
    found = evaluate_studies(studies, table, hearts=kept)
    told = found.to_json()
    assert (told["hearts"], told["refused"]) == (20, 1)
    known = [(one.obstruction, one.probability) for one in found.estimates if one.probability is not None]
    assert found.auc.value == pytest.approx(auc(*zip(*known, strict=True)))
    assert [one.obstruction for one in found.estimates] == [of_uid[uid].obstruction for uid in sorted(of_uid)]
    # What only a simulator knows is not told of patients.
    assert told["bayes_auc"] is told["motion_auc"] is told["auc_bleeding"] is None
    assert [one["name"] for one in told["comparisons"]] == list(MOTIONS)
    assert not [uid for uid in of_uid if uid in json.dumps(told)]
    model = tmp_path / "model" / "obstruction"
    shutil.copytree(PACKAGED / "obstruction", model)
    card = read_card(model / "card.yaml")
    seen = card.training.model_copy(update={"cases": (case_of("2.25.1003"),)})
    write_card(card.model_copy(update={"training": seen}), model / "card.yaml")
    with pytest.raises(ValueError, match="1 of the studies were in the training"):
        evaluate_studies(studies, table, hearts=kept, models=model.parent)
