"""The training of the networks on rings whose motion and scar are known, and what their answers become."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from synthetic_hearts import ring_clips

from pipelines.models.precision import Precision
from pipelines.models.registry import PACKAGED, ModelUnavailable, load_model
from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement import sequence
from pipelines.synthetic_enhancement.calibration import FILE, Logistic, found_calibration, logit
from pipelines.synthetic_enhancement.features import CHANNELS, SIZE, Ablation, describe, slice_inputs
from pipelines.synthetic_enhancement.load import load_networks
from pipelines.synthetic_enhancement.network import GUESS_MODEL, REFINER_MODEL, draw_samples, guess
from pipelines.synthetic_enhancement.predictors import (
    HEART_PREDICTORS,
    SLICE_PREDICTORS,
    heart_predictors,
    slice_predictors,
)
from pipelines.training import synthetic_run
from pipelines.training.enhancement_calibration import _fit, _recalibrated, calibrate, clip_stack
from pipelines.training.enhancement_scale import BLOOD, normalised_slices
from pipelines.training.scar_sequence import SequenceRecipe, train_scar_sequence
from pipelines.training.steps import Run
from pipelines.training.synthetic_batches import _drawn_heart, batch_of
from pipelines.training.synthetic_hearts import Hearts, TrainingHeart, case_name, held_out_seeds, training_heart
from pipelines.training.synthetic_networks import Continuation, _guess_loss, train_first_guess, train_refiner
from pipelines.training.synthetic_recipe import EnhancementRecipe

SMALL = EnhancementRecipe(features=(8, 8, 8, 8, 8, 8), refiner_features=(8, 8), batch=4)


@pytest.fixture(scope="module")
def hearts() -> Hearts:
    drawn = tuple(training_heart(ring_clips(seed, scarred=seed % 2 == 1)) for seed in range(4))
    return Hearts(drawn, drawn[1::2], tuple(f"ring-{seed}" for seed in range(4)), ("ring-9",))


@pytest.fixture(scope="module")
def trained(hearts: Hearts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    train_first_guess(hearts, folder / GUESS_MODEL, steps=3, recipe=SMALL)
    guesser = load_model(GUESS_MODEL, root=folder).network
    train_refiner(hearts, guesser, folder / REFINER_MODEL, steps=2, recipe=SMALL)
    train_scar_sequence(hearts, folder / sequence.MODEL, steps=2, recipe=SequenceRecipe(hidden=8, batch=16, views=1))
    return folder


def test_the_target_has_nulled_muscle_at_zero_and_scar_at_one(hearts: Hearts) -> None:
    scarred, healthy = hearts.all[1], hearts.all[0]
    muscle = scarred.crop.muscle
    assert np.median(scarred.target[muscle & ~scarred.lesion]) == pytest.approx(0, abs=0.03)
    assert np.median(scarred.target[scarred.lesion]) == pytest.approx(0.2 / (0.15 / BLOOD), abs=0.1)
    assert not healthy.lesion.any()
    motion = slice_predictors(scarred.crop)[:, 1], slice_predictors(healthy.crop)[:, 1]
    assert motion[0].max() < motion[1].min(), "the sector that stands still shows"


def test_a_stopped_training_goes_on_as_if_never_stopped(hearts: Hearts, tmp_path: Path) -> None:
    whole = train_first_guess(hearts, tmp_path / "whole", steps=4, recipe=SMALL)
    train_first_guess(hearts, tmp_path / "parts", steps=4, recipe=SMALL, run=Run(stop_after=2))
    parts = train_first_guess(hearts, tmp_path / "parts", steps=4, recipe=SMALL)
    assert parts.weights_sha256 == whole.weights_sha256
    with pytest.raises(ValueError, match="recipe"):
        train_first_guess(hearts, tmp_path / "parts", steps=4, recipe=replace(SMALL, uneven_px=0.0))
    with pytest.raises(ValueError, match="at least one of each"):
        train_first_guess(Hearts((), (), (), ()), tmp_path / "none", steps=4, recipe=SMALL)


def test_cards_name_the_hearts_and_what_was_held_out(trained: Path) -> None:
    for name, steps in ((GUESS_MODEL, 3), (REFINER_MODEL, 2), (sequence.MODEL, 2)):
        card = load_model(name, root=trained).card
        assert card.training.cases == ("ring-0", "ring-1", "ring-2", "ring-3")
        assert card.training.steps == steps
        assert card.licence == "Apache-2.0"
        assert "1 of the last seeds held out" in card.training.split
        assert any("research" in sentence for sentence in card.not_for)


def test_samples_depend_on_the_seed_alone_and_scatter(hearts: Hearts, trained: Path) -> None:
    first_model, refiner = (load_model(name, root=trained) for name in (GUESS_MODEL, REFINER_MODEL))
    inputs = slice_inputs(describe(hearts.all[1].crop))
    first, deep = guess(inputs, first_model)
    assert first.image.shape == first.logit.shape == (4, SIZE, SIZE)
    assert deep.shape == (4, 8)
    draws = [draw_samples(inputs, first, refiner, samples=3, steps=2, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (3, 4, SIZE, SIZE)
    assert draws[0].std(0).mean() > 0.01
    low = load_model(REFINER_MODEL, root=trained, precision=Precision.BFLOAT16)
    assert low.identity.precision is Precision.BFLOAT16
    drawn = draw_samples(inputs, first, low, samples=3, steps=2, seed=1)
    assert drawn.dtype == torch.float32
    assert not torch.equal(drawn, draws[0])
    assert (drawn - draws[0]).abs().mean() < 0.02


def test_batches_are_a_function_of_seed_and_step_and_keep_truth_on_the_wall(hearts: Hearts) -> None:
    first, again, other = (batch_of(replace(hearts, infarcts=()), SMALL, 5, step) for step in (1, 1, 2))
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    for step in range(8):
        batch = batch_of(replace(hearts, all=hearts.infarcts, infarcts=()), SMALL, 0, step)
        told, true = batch.inputs[:, 8], batch.muscle
        overlap = 2 * (told * true).sum() / (told.sum() + true.sum())
        assert overlap > 0.6, "the disturbed wall lies where the true one was turned and shifted to"
        assert (batch.lesion * (1 - true)).sum() == 0


@pytest.mark.parametrize(
    ("ablation", "told", "withheld"),
    [
        (
            Ablation.EVERYTHING,
            ("thickening at end systole", "image at end systole", "mean loss of area of the heart"),
            (),
        ),
        (
            Ablation.NO_MOTION,
            ("muscle", "right ventricle", "image at end systole", "height", "whole cycle"),
            ("loss of area at end systole", "loss of area of the slice above", "mean loss of area of the heart"),
        ),
        (
            Ablation.NO_IMAGE,
            ("muscle", "right ventricle", "loss of area at end systole", "mean loss of area of the heart"),
            ("image at end diastole", "image at 6/7 of the cycle"),
        ),
    ],
)
def test_an_ablation_learns_from_the_rest_and_ignores_what_is_kept_from_it(
    hearts: Hearts, tmp_path: Path, ablation: Ablation, told: tuple[str, ...], withheld: tuple[str, ...]
) -> None:
    recipe = replace(SMALL, ablation=ablation)
    named = dict(zip(CHANNELS, batch_of(hearts, recipe, 5, 1).inputs.unbind(1), strict=True))
    assert all(named[name].any() for name in told)
    assert not any(named[name].any() for name in withheld)
    train_first_guess(hearts, tmp_path / GUESS_MODEL, steps=2, recipe=recipe)
    network = load_model(GUESS_MODEL, root=tmp_path)
    assert f"ablation {ablation}" in network.card.summary
    inputs = slice_inputs(describe(hearts.all[1].crop))
    answer = guess(inputs, network)[0].logit
    for name in (*told, *withheld):
        changed = inputs.clone()
        # Not the muscle mask of guess_output: only the logits by pixel are compared.
        changed[:, CHANNELS.index(name)] += 1
        assert torch.equal(guess(changed, network)[0].logit, answer) == (name in withheld), name


def test_of_an_ablation_the_first_guess_alone_is_trained(
    hearts: Hearts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_run, "prepare_hearts", lambda *_, **__: hearts)
    recipe = replace(SMALL, ablation=Ablation.NO_IMAGE)
    (one,) = synthetic_run.train_synthetic_enhancement(tmp_path, clips=tmp_path, seeds=range(4), steps=1, recipe=recipe)
    assert one.model == GUESS_MODEL
    assert [folder.name for folder in tmp_path.iterdir()] == [GUESS_MODEL]
    assert load_model(GUESS_MODEL, root=tmp_path).card.training.command.endswith("--ablation no-image")


def test_an_ablation_does_not_go_on_from_weights_that_learnt_everything(
    hearts: Hearts, trained: Path, tmp_path: Path
) -> None:
    recipe = replace(SMALL, ablation=Ablation.NO_MOTION)
    with pytest.raises(ValueError, match="begins with new weights"):
        train_first_guess(hearts, tmp_path, steps=2, recipe=recipe, go_on=Continuation(trained))


@pytest.fixture(scope="module")
def pairs(hearts: Hearts) -> Hearts:
    """Phantoms, and a ring whose late enhancement is taken for a patient's."""
    ring = ring_clips(11, scarred=True)
    patient = training_heart(replace(ring, facts=ring.facts | {"case": "P1"}))
    cases = (*hearts.cases, case_name("P1"))
    return replace(hearts, cases=cases, held_out=(*hearts.held_out, case_name("P2")), patients=(patient,))


def test_slices_that_were_scaled_each_by_themselves_come_back_to_one_scale() -> None:
    ring = ring_clips(5, scarred=True)
    image = ring.enhancement.astype(np.float32)
    plain = normalised_slices(image, ring.labels[0], ring.lesions)
    muscle, scar = ring.labels[0] == Label.MYO, ring.lesions > 0
    assert np.median(plain[muscle & ~scar]) == pytest.approx(0, abs=0.05)
    assert np.percentile(plain[scar], 90) == pytest.approx(1, abs=0.1)
    gain, offset = np.array([0.6, 1.6, 1.0, 2.0])[:, None, None], np.array([0.6, -0.2, 0.1, 0.5])[:, None, None]
    stretched = normalised_slices((gain * image + offset).astype(np.float32), ring.labels[0], ring.lesions)
    assert np.allclose(stretched, plain, atol=1e-3)


def test_a_slice_that_is_all_scar_takes_its_zero_from_its_blood() -> None:
    ring = ring_clips(5, scarred=True)
    image = ring.enhancement.astype(np.float32)
    lesions = ring.lesions.copy()
    lesions[1] = ring.labels[0, 1] == Label.MYO
    image[1][lesions[1] > 0] = image[2][ring.lesions[2] > 0].mean()
    found = normalised_slices(image, ring.labels[0], lesions)
    assert np.median(found[1][lesions[1] > 0]) == pytest.approx(1, abs=0.15)


def test_of_a_real_image_only_the_left_ventricle_is_learnt(pairs: Hearts) -> None:
    """What lies beside it is the patient's on one side and the simulator's on the other."""
    outlines = ~np.isin(ring_clips(11, scarred=True).labels[0], (Label.MYO, Label.LV))
    away = outlines & ~ndimage.binary_dilation(~outlines, np.ones((1, 13, 13), bool))
    (patient,) = pairs.patients

    def loss(heart: TrainingHeart) -> float:
        group = Hearts((), (), pairs.cases, (), (heart,))
        torch.manual_seed(0)
        network = load_model(GUESS_MODEL).card.architecture.build().eval()
        with torch.inference_mode():
            return float(_guess_loss(network, batch_of(group, SMALL, 3, 0), SMALL))

    changed = replace(patient, target=np.where(away, np.float16(1.5), patient.target))
    assert loss(changed) == pytest.approx(loss(patient), abs=1e-6)
    assert loss(replace(changed, case="")) > loss(replace(patient, case="")) + 0.01


def test_patients_are_drawn_as_often_as_the_recipe_says(pairs: Hearts) -> None:
    rng = np.random.default_rng(0)
    drawn = [_drawn_heart(pairs, replace(SMALL, patient_share=0.25), rng).case for _ in range(2000)]
    assert np.mean([case == "P1" for case in drawn]) == pytest.approx(0.25, abs=0.03)
    assert not any(_drawn_heart(pairs, replace(SMALL, patient_share=0.0), rng).case for _ in range(50))


def test_a_run_on_pairs_goes_on_from_trained_weights_and_its_card_says_so(
    pairs: Hearts, trained: Path, tmp_path: Path
) -> None:
    go_on = Continuation(trained, 1e-6)
    train_first_guess(pairs, tmp_path / GUESS_MODEL, steps=2, recipe=SMALL, go_on=go_on)
    before, after = (load_model(GUESS_MODEL, root=root) for root in (trained, tmp_path))
    moved = max(
        float((new - old).detach().abs().max())
        for old, new in zip(before.network.parameters(), after.network.parameters(), strict=True)
    )
    assert 0 < moved < 1e-4, "at this rate two steps hardly move a weight"
    assert after.card.training.cases == ("ring-0", "ring-1", "ring-2", "ring-3", "emidec-P1")
    assert "4 simulated hearts, 1 patients of EMIDEC" in after.card.training.name
    assert before.card.weights_sha256 in after.card.training.split
    assert after.card.licence == "CC-BY-NC-SA-4.0"
    assert any("Commercial" in sentence for sentence in after.card.not_for)
    whole = train_first_guess(pairs, tmp_path / "whole", steps=4, recipe=SMALL, go_on=go_on)
    train_first_guess(pairs, tmp_path / "parts", steps=4, recipe=SMALL, go_on=go_on, run=Run(stop_after=2))
    parts = train_first_guess(pairs, tmp_path / "parts", steps=4, recipe=SMALL, go_on=go_on)
    assert parts.weights_sha256 == whole.weights_sha256
    with pytest.raises(ValueError, match="another rate"):
        train_first_guess(pairs, tmp_path / "parts", steps=4, recipe=SMALL, go_on=Continuation(trained, 1e-3))


def test_weights_that_cannot_be_gone_on_from_are_refused(pairs: Hearts, trained: Path, tmp_path: Path) -> None:
    seen = replace(pairs, held_out=("ring-2",))
    with pytest.raises(ValueError, match="it has seen 1 of the hearts kept out, such as ring-2"):
        train_first_guess(seen, tmp_path, steps=2, recipe=SMALL, go_on=Continuation(trained))
    wider = replace(SMALL, features=(16, 8, 8, 8, 8, 8))
    with pytest.raises(ValueError, match="other layers"):
        train_first_guess(pairs, tmp_path, steps=2, recipe=wider, go_on=Continuation(trained))
    with pytest.raises(ValueError, match="cannot go on from"):
        train_first_guess(pairs, tmp_path, steps=2, recipe=SMALL, go_on=Continuation(tmp_path / "nothing"))


def test_a_run_that_goes_on_keeps_the_reader_of_sequences_and_can_be_calibrated(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: Hearts
) -> None:
    models, output = tmp_path / "models", tmp_path / "runs"
    shutil.copytree(trained, models)
    packaged = load_model(GUESS_MODEL).card
    shutil.copyfile(PACKAGED / GUESS_MODEL / FILE, models / GUESS_MODEL / FILE)
    monkeypatch.setattr(synthetic_run, "prepare_hearts", lambda *_, **__: pairs)
    results = synthetic_run.train_synthetic_enhancement(
        output, clips=tmp_path, seeds=range(4), steps=1, refiner_steps=1, recipe=SMALL, go_on=Continuation(models),
        calibrated=False,
    )  # fmt: skip
    assert [one.model for one in results] == [GUESS_MODEL, REFINER_MODEL]
    third = (root / sequence.MODEL / "weights.safetensors" for root in (models, output))
    assert len({path.read_bytes() for path in third}) == 1
    assert found_calibration(output / GUESS_MODEL).weights_sha256 == packaged.weights_sha256
    with pytest.raises(ModelUnavailable, match="calibrate again"):
        load_networks(root=output)
    assert "--from-model" in load_model(GUESS_MODEL, root=output).card.training.command


def test_the_last_seeds_are_held_out() -> None:
    assert held_out_seeds(range(100, 120)) == (117, 118, 119)


def test_networks_without_a_calibration_are_unavailable(trained: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"calibration\.yaml cannot be read"):
        load_networks(root=trained)


def test_calibration_needs_held_out_hearts_of_both_kinds(hearts: Hearts, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 held-out hearts: eight are needed"):
        calibrate(trained, tmp_path, [], hearts)


def test_a_logistic_model_is_refitted_to_its_own_odds() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 2)) * [2, 5] + [1, -3]
    truth = rng.random(400) < 1 / (1 + np.exp(-(values[:, 0] - 1)))
    model = _fit(values, truth, ("first", "second"))
    assert model.weights[0] == pytest.approx(2, abs=0.5), "a standard deviation of 2"
    wrong = model.model_copy(update={"intercept": model.intercept + 2})
    odds = logit(wrong.probability(values))[:, None]
    again = _recalibrated(wrong, _fit(odds, truth, ("odds",)))
    assert again.probability(values).mean() == pytest.approx(truth.mean(), abs=0.01)
    assert again.probability(np.array([1.0, -3.0])) == pytest.approx(model.probability(np.array([1.0, -3.0])), abs=0.05)
    flat = Logistic(predictors=("x",), means=(0.0,), scales=(1.0,), weights=(0.0,), intercept=0.0)
    assert flat.probability(np.array([[3.0]])) == pytest.approx(0.5)


def test_predictors_of_a_heart_have_their_names(hearts: Hearts) -> None:
    of_slices = slice_predictors(hearts.all[1].crop)
    assert of_slices.shape == (4, len(SLICE_PREDICTORS))
    assert np.isfinite(of_slices).all()
    of_heart = dict(zip(HEART_PREDICTORS, heart_predictors(of_slices), strict=True))
    assert of_heart["grey level, mean"] == pytest.approx(60 / 200, abs=0.02)
    assert of_heart["least loss of area, extreme"] <= of_heart["least loss of area, mean"]


def test_texture_of_even_muscle_in_closed_form(hearts: Hearts) -> None:
    heart = hearts.all[0].crop
    even = replace(heart, images=np.full_like(heart.images, 90))
    named = dict(zip(SLICE_PREDICTORS, slice_predictors(even)[0], strict=True))
    assert named["entropy"] == 0
    assert named["joint entropy"] == 0
    assert named["contrast"] == 0
    assert named["inverse difference"] == pytest.approx(1)


def test_a_clip_as_a_cine() -> None:
    clips = ring_clips(1, scarred=True, phases=20)
    stack = clip_stack(clips)
    assert stack.pixels.shape == (8, 4, 88, 88)
    assert np.array_equal(stack.pixels[3], clips.images[8])
    assert stack.geometry.pitch == pytest.approx(10)
    assert (clips.labels[0] == Label.MYO).any()
