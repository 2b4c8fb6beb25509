"""Training and evaluation towards scanners and hearts that the training data lack."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from dicom_node.cli import app
from pipelines.evaluation.fairness import Trait, gap, habitus, trait_groups
from pipelines.evaluation.foreign_style import ForeignStyle, restyle
from pipelines.evaluation.segmentation import evaluate
from pipelines.models.card import read_card
from pipelines.models.registry import PACKAGED
from pipelines.phantom.population import draw_subject
from pipelines.phantom.recipe import Disease, PhantomRecipe, RecipeError
from pipelines.phantom.study import draw_heart
from pipelines.segmentation.labels import Label
from pipelines.training.acdc import acdc_set, find_patients, read_patient
from pipelines.training.augmentation import bend_wall, redraw_tissues, vary_acquisition
from pipelines.training.phantoms import severe_recipe
from pipelines.training.segmentation import Continuation, train


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def heart(count: int = 12, size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (N, 3, …), label shares and shares of the heart: a bright LV in a dark ring, an RV, liver and fat."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    labels = torch.zeros(size, size, dtype=torch.int64)
    labels[(row - 32) ** 2 + (column - 20) ** 2 < 150] = Label.RV
    labels[(row - 32) ** 2 + (column - 36) ** 2 < 200] = Label.MYO
    labels[(row - 32) ** 2 + (column - 36) ** 2 < 90] = Label.LV
    grey = torch.tensor([0.1, 0.85, 0.3, 0.8])[labels]
    grey[50:] = 0.4
    grey[:8] = 1.0
    images = (grey + 0.01 * torch.randn(count, 3, size, size, generator=generator(9))).clamp(0, 1.25)
    shares = torch.nn.functional.one_hot(labels, 4).permute(2, 0, 1).float().expand(count, -1, -1, -1).clone()
    return images, shares, (1 - shares[:, :1]).expand(-1, 3, -1, -1).clone()


def test_redrawn_tissues_keep_the_order_of_blood_and_muscle_and_change_their_contrast() -> None:
    images, shares, inside = heart()
    drawn = redraw_tissues(images.clone(), shares, inside, generator())
    blood = (drawn[:, 1] * shares[:, Label.LV]).sum((1, 2)) / shares[:, Label.LV].sum((1, 2))
    muscle = (drawn[:, 1] * shares[:, Label.MYO]).sum((1, 2)) / shares[:, Label.MYO].sum((1, 2))
    ratio = muscle / blood
    assert bool((ratio < 0.85).all())
    assert float(ratio.max() - ratio.min()) > 0.2
    # Liver is darker than blood in the original: among twelve draws it is also brighter.
    liver = drawn[:, 1, 52:].mean((1, 2)) / blood
    assert float(liver.min()) < 0.6
    assert float(liver.max()) > 0.9
    assert torch.equal(drawn, redraw_tissues(images.clone(), shares, inside, generator()))


def test_acquisition_of_other_vendors_keeps_the_range() -> None:
    images, shares, _ = heart(32)
    varied = vary_acquisition(images.clone(), shares, generator())
    assert torch.isfinite(varied).all()
    assert float(varied.min()) >= 0.0
    assert float(varied.max()) <= 1.25
    assert not torch.equal(varied, images)


def test_a_bent_wall_moves_the_cavity_and_leaves_what_is_far_away() -> None:
    axis = torch.arange(80.0)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    centre = torch.tensor([40.0, 40.0])
    areas = []
    for seed in range(12):
        bent = bend_wall(points, centre, 15.0, generator(seed))
        far = (points - centre).square().sum(-1).sqrt() > 38
        assert float((bent - points)[far].abs().max()) < 0.05
        # No fold: every step along a row stays a step forwards.
        assert float((bent[1:, :, 0] - bent[:-1, :, 0]).min()) > 0
        areas.append(int(((bent - centre).square().sum(-1) < 81).sum()))
    plain = int(((points - centre).square().sum(-1) < 81).sum())
    assert min(areas) < 0.6 * plain
    assert max(areas) > plain


def test_severe_hearts_are_thicker_or_wider_than_common_ones() -> None:
    def mean_of(disease: Disease, severe: bool, name: str) -> float:
        recipes = [PhantomRecipe(seed, disease=disease, severe=severe) for seed in range(20)]
        return float(
            np.mean([getattr(draw_subject(recipe, np.random.default_rng(recipe.seed)), name) for recipe in recipes])
        )

    assert mean_of(Disease.HCM, True, "lv_mass_g") > 1.3 * mean_of(Disease.HCM, False, "lv_mass_g")
    assert mean_of(Disease.RV_OVERLOAD, True, "rv_edv_ml") > 1.1 * mean_of(Disease.RV_OVERLOAD, False, "rv_edv_ml")
    # A severe person differs in the heart only, and earlier recipes give what they gave.
    common, severe = (PhantomRecipe(4, disease=Disease.HCM, severe=value) for value in (False, True))
    assert draw_heart(common)[0].body == draw_heart(severe)[0].body
    with pytest.raises(RecipeError, match="severe needs"):
        PhantomRecipe(1, disease=Disease.NORMAL, severe=True)


def test_the_severe_set_covers_pitch_spacing_and_diseases() -> None:
    recipes = [severe_recipe(seed) for seed in range(60)]
    severe = [recipe.disease for recipe in recipes if recipe.severe]
    assert 25 < len(severe) < 48
    assert set(severe) == {Disease.HCM, Disease.RV_OVERLOAD}
    assert min(recipe.spacing_mm for recipe in recipes) < 1.1
    assert max(recipe.spacing_mm for recipe in recipes) > 2.0
    assert max(recipe.pitch_mm or 0 for recipe in recipes) > 13


def test_the_share_of_faults_changes_nothing_else_of_the_severe_set() -> None:
    for seed in range(12):
        usual, all_faulty, none = (severe_recipe(seed, rate) for rate in (0.25, 1.0, 0.0))
        assert len(all_faulty.faults) == 1
        assert not none.faults
        assert replace(all_faulty, faults=usual.faults) == usual == replace(none, faults=usual.faults)


def test_training_goes_on_from_weights_and_says_so(drawn_hearts: Path, tmp_path: Path) -> None:
    data = acdc_set(drawn_hearts)
    first = train(data, tmp_path / "ventricle-segmentation", fold=0, steps=1, coarse_steps=1)
    go_on = Continuation(first.weights.parent, phantoms=1, first_seed=11, peak_rate=1e-6)
    result = train(data, tmp_path / "more", fold=0, steps=1, go_on=go_on)
    before, after = load_file(first.weights), load_file(result.weights)
    for name, tensor in before.items():
        if name.endswith("weight"):
            assert torch.allclose(tensor, after[name], atol=1e-4), name
    training = read_card(result.card).training
    assert first.weights_sha256 in training.split
    assert "1 phantoms, seeds 11 to 11" in training.name
    assert "--from-model MODEL --add-phantoms 1 --add-phantom-seed 11" in training.command
    assert "--phantom-faults 0.25" in training.command
    with pytest.raises(ValueError, match="go on"):
        train(data, tmp_path / "more", fold=0, steps=2, go_on=replace(go_on, peak_rate=2e-6))


def test_weights_that_saw_the_fold_kept_out_are_no_start(drawn_hearts: Path, tmp_path: Path) -> None:
    data = acdc_set(drawn_hearts)
    first = train(data, tmp_path / "ventricle-segmentation", fold=None, steps=1, coarse_steps=1)
    go_on = Continuation(first.weights.parent, phantoms=0)
    with pytest.raises(ValueError, match="has seen 1 of the cases kept out"):
        train(data, tmp_path / "more", fold=0, steps=1, go_on=go_on)
    with pytest.raises(ValueError, match="it holds heart-localiser"):
        train(data, tmp_path / "more", fold=0, steps=1, go_on=Continuation(PACKAGED / "heart-localiser", phantoms=0))
    with pytest.raises(ValueError, match="cannot go on from"):
        train(data, tmp_path / "more", fold=0, steps=1, go_on=Continuation(tmp_path / "none", phantoms=0))


@pytest.mark.parametrize("style", list(ForeignStyle))
def test_a_foreign_style_changes_grey_values_and_nothing_else(drawn_hearts: Path, style: ForeignStyle) -> None:
    patient = read_patient(find_patients(drawn_hearts)[0])
    shown = restyle(patient, style)
    for frame, own in zip(shown.frames, patient.frames, strict=True):
        assert np.array_equal(frame.labels, own.labels)
        assert frame.pixels.shape == own.pixels.shape
        assert np.isfinite(frame.pixels).all()
        assert abs(np.corrcoef(frame.pixels.ravel(), own.pixels.ravel())[0, 1]) < 0.999
        blood, wall = (float(frame.pixels[frame.labels == label].mean()) for label in (Label.LV, Label.MYO))
        assert blood > wall
    assert np.array_equal(shown.ed.pixels, restyle(patient, style).ed.pixels)


def test_the_gap_is_between_groups_large_enough_to_say_something() -> None:
    cases = [({Trait.VENDOR: "A"}, 0.9, 2.0)] * 3 + [({Trait.VENDOR: "B"}, 0.8, 4.0)] * 3
    cases += [({Trait.VENDOR: "C"}, 0.1, None), ({Trait.VENDOR: "B"}, None, None)]
    groups = trait_groups(cases)
    assert [(group.value, group.cases, group.refused) for group in groups] == [("A", 3, 0), ("B", 4, 1), ("C", 1, 0)]
    assert gap(groups, Trait.VENDOR) == pytest.approx(0.1)
    assert groups[1].lvef_error == pytest.approx(4.0)
    assert np.isnan(gap(groups, Trait.SEX))
    assert [habitus(1.8, weight) for weight in (70, 90, 100)] == ["BMI below 25", "BMI 25 to 30", "BMI 30 and more"]


def test_the_evaluation_says_whose_style_it_was_and_groups_patients(drawn_hearts: Path) -> None:
    evaluation = evaluate(drawn_hearts, cases=["patient001"], style=ForeignStyle.VIDA)
    assert evaluation.style is ForeignStyle.VIDA
    assert {(group.trait, group.value) for group in evaluation.fairness} == {
        (Trait.DISEASE, "NOR"),
        (Trait.HABITUS, "BMI below 25"),
    }
    assert evaluation.to_json()["style"] == "vida"


def test_the_command_refuses_what_does_not_belong_together(drawn_hearts: Path) -> None:
    runner = CliRunner()
    for arguments, said in (
        ([], "either --data or --phantoms"),
        (["--phantoms", "1", "--fold", "0"], "need --data"),
        (["--data", str(drawn_hearts), "--foreign-style", "canon"], "there is no style"),
    ):
        result = runner.invoke(app, ["evaluate", "segmentation", *arguments])
        assert result.exit_code != 0
        assert said in str(result.exception) + result.output


def test_the_command_evaluates_phantoms_with_all_their_traits() -> None:
    result = CliRunner().invoke(app, ["evaluate", "segmentation", "--phantoms", "1", "--seed", "950000", "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert {group["trait"] for group in answer["fairness"]} == {str(trait) for trait in Trait}
    assert answer["seen_in_training"] == []
