"""Training of the remodelling classifier: hearts on disk, tables of outcomes, a run that goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from pipelines.cine.assemble import assemble
from pipelines.evaluation.remodelling import (
    Beside,
    compare_with_outcomes,
    evaluate_held_out,
    evaluate_studies,
    predicted,
)
from pipelines.models.card import read_card
from pipelines.models.registry import load_model
from pipelines.phantom import Disease, PhantomRecipe, simulate, write_study
from pipelines.phantom.law import DEFAULT_LAW
from pipelines.phantom.truth import remodelling_truth
from pipelines.remodelling.features import FEATURES, Feature
from pipelines.remodelling.measure import combined_model
from pipelines.training.heart_clips import Population, clip_recipe, pack_clips
from pipelines.training.labelled_studies import case_of
from pipelines.training.remodelling import RemodellingRecipe, train_remodelling
from pipelines.training.remodelling_hearts import (
    VERSION,
    ExactFeatures,
    RemodellingHeart,
    clip_hearts,
    hearts_of_studies,
    read_heart,
    write_heart,
)

RECIPE = RemodellingRecipe(features=(4, 4, 4, 4), hidden=4, bootstrap=4, folds=2, steps=2, batch=4, images=True)


def heart(number: int, *, exact: bool = True) -> RemodellingHeart:
    """A heart whose strain is worse, and whose muscle is brighter, where it remodels."""
    rng = np.random.default_rng(number)
    outcome = number % 3 == 0
    gls = (-8.0 if outcome else -16.0) + rng.normal(0, 0.5)
    infarct = (25 if outcome else 9) + rng.normal(0, 3)
    features = ExactFeatures(
        edv_index=90 + rng.normal(0, 8),
        mass_index=60,
        ejection_fraction=45 + gls,
        sphericity_percent=40,
        gls=gls,
        gcs=gls - 1,
        la_reservoir=30 + rng.normal(0, 4),
        dispersion_ms=20,
        thickness_mm=rng.normal(7, 1, 16),
        thickening_percent=rng.normal(30, 9, 16),
        circumferential_percent=rng.normal(gls, 4, 16),
    )
    return RemodellingHeart(
        identifier=f"heart-{number}",
        volume=rng.integers(0, 120 if outcome else 60, (5, 8, 88, 88)).astype(np.uint8),
        ventricle=np.hypot(*np.mgrid[-44:44, -44:44]) < np.full((5, 8, 1, 1), 14),
        outcome=outcome,
        probability=0.8 if outcome else 0.2,
        auxiliary=(infarct, gls, gls - 1, 45 + gls) if exact else (float("nan"),) * 4,
        measured={} if exact else features.as_measured(rng),
        exact=features if exact else None,
        seconds=3.0,
    )


HEARTS = [heart(number) for number in range(30)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    output = tmp_path_factory.mktemp("runs") / "remodelling"
    return output, train_remodelling(HEARTS, output, command="train", source="drawn", recipe=RECIPE)


def test_hearts_are_read_back(tmp_path: Path) -> None:
    for one in (heart(1), heart(2, exact=False)):
        path = tmp_path / f"{one.identifier}.npz"
        write_heart(one, path)
        back = read_heart(path)
        assert np.array_equal(back.volume, one.volume)
        assert np.array_equal(back.ventricle, one.ventricle)
        assert back.outcome == one.outcome
        assert back.measured == one.measured
        same = [one.features(np.random.default_rng(3)), back.features(np.random.default_rng(3))]
        assert np.array_equal(*same)
    (tmp_path / "other.npz").write_text("nothing")
    with pytest.raises(ValueError, match=r"other\.npz"):
        read_heart(tmp_path / "other.npz")


def test_a_simulated_heart_is_measured_with_other_errors_each_time() -> None:
    one, rng = heart(1), np.random.default_rng(0)
    drawn = np.stack([one.features(rng) for _ in range(200)])
    exact = one.exact
    assert exact is not None
    gls = drawn[:, FEATURES.index(Feature.GLS)]
    assert gls.std() == pytest.approx(2.5, rel=0.2)
    assert gls.mean() == pytest.approx(exact.gls, abs=0.6)
    spread = drawn[:, FEATURES.index(Feature.SEGMENTS_SPREAD)]
    assert spread.mean() < exact.circumferential_percent.std() * 1.05


def test_clips_become_hearts_with_the_outcome_of_the_law(tmp_path: Path) -> None:
    files = pack_clips(tmp_path / "clips", [710000], Population.ACUTE_INFARCT)
    (made,) = clip_hearts(files, tmp_path / "hearts")
    truth = remodelling_truth(clip_recipe(710000, Population.ACUTE_INFARCT))
    assert (made.outcome, made.probability) == (truth.remodelling, pytest.approx(truth.probability))
    assert made.volume.shape == (5, 8, 88, 88)
    assert made.auxiliary[0] == pytest.approx(truth.infarct_percent)
    # End systole is the third keyframe: the cavity is smaller, so the square is darker than at end diastole.
    middle = made.volume[:, 4, 34:54, 34:54].astype(float).mean(axis=(1, 2))
    assert middle[2] < middle[0]
    assert made.ventricle[2].sum() < made.ventricle[0].sum()
    assert made.ventricle[:, 4, 44, 44].all()


def test_hearts_of_a_law_without_a_name_are_refused(tmp_path: Path) -> None:
    law = replace(DEFAULT_LAW, obstruction_size=1.0)
    files = pack_clips(tmp_path / "clips", [710001], Population.ACUTE_INFARCT, law)
    with pytest.raises(ValueError, match="no acute infarct of today's law"):
        clip_hearts(files, tmp_path / "hearts")


def test_a_run_gives_a_model_that_the_registry_loads(trained) -> None:
    output, result = trained
    model = load_model("remodelling", root=output.parent)
    assert model.identity.weights_sha256 == result.weights_sha256
    card = read_card(result.card)
    assert "30 hearts after an acute infarct, 10 with adverse remodelling" in card.training.name
    combined = combined_model(model.network)
    assert combined.prevalence == pytest.approx(1 / 3)
    assert combined.bootstrap.shape == (4, 4, 5)
    # Every subset does without what it has not.
    assert combined.coefficients[1, 2] == combined.coefficients[3, 2] == combined.coefficients[2, 3] == 0
    assert np.abs(combined.coefficients[0, 1:]).min() > 0
    names = {Feature.EJECTION_FRACTION: 37.0, Feature.GCS: -9.0}
    hurt = combined.infarct({**names})
    assert combined.infarct({**names, Feature.EJECTION_FRACTION: 29.0, Feature.GCS: -17.0}).percent < hurt.percent


def test_a_stopped_run_goes_on_to_the_same_weights(trained, tmp_path: Path) -> None:
    output, result = trained
    again = train_remodelling(HEARTS, output, command="train", source="drawn", recipe=RECIPE)
    assert again.weights_sha256 == result.weights_sha256
    other = [replace(HEARTS[0], outcome=not HEARTS[0].outcome), *HEARTS[1:]]
    with pytest.raises(ValueError, match="hearts"):
        train_remodelling(other, output, command="train", source="drawn", recipe=RECIPE)


def test_a_model_is_tuned_on_hearts_without_infarct_sizes(trained, tmp_path: Path) -> None:
    output, _ = trained
    own = [heart(number, exact=False) for number in range(100, 130)]
    with pytest.raises(ValueError, match="infarct size"):
        train_remodelling(own, tmp_path / "alone", command="train", source="drawn", recipe=RECIPE)
    tuned = train_remodelling(
        own, tmp_path / "tuned", command="train", source="drawn", recipe=RECIPE, tuned_from=output.parent
    )
    before = safetensors.torch.load_file(output / "weights.safetensors")
    after = safetensors.torch.load_file(tuned.weights)
    assert np.array_equal(before["infarct_coefficients"], after["infarct_coefficients"])
    assert not np.array_equal(before["combined_coefficients"], after["combined_coefficients"])


def test_each_heart_is_told_by_a_network_that_has_not_seen_it(trained) -> None:
    output, _ = trained
    found = evaluate_held_out(output)
    assert (found.hearts, found.events) == (30, 10)
    assert "fitted to these hearts" in found.caution
    assert found.to_json()["seconds"] is None
    assert {row.model for row in found.ablation} == {"image", "morphology", "motion", "all", "combined"}
    with pytest.raises(ValueError, match="finished training"):
        evaluate_held_out(output / "all")


def test_the_image_branch_learns_what_images_tell(tmp_path: Path) -> None:
    # Muscle that is brighter where the heart remodels: a schedule that hardly moves the weights tells nothing of it.
    recipe = replace(RECIPE, steps=60, batch=8, folds=2)
    train_remodelling(HEARTS, tmp_path, command="train", source="drawn", recipe=recipe)
    areas = {row.model: row.auc for row in evaluate_held_out(tmp_path).ablation}
    assert areas["image"] > 0.8


def test_a_network_without_images_has_no_branch_of_them(trained, tmp_path: Path) -> None:
    output = tmp_path / "remodelling"
    train_remodelling(HEARTS, output, command="train", source="drawn", recipe=replace(RECIPE, images=False))
    with_images = evaluate_held_out(trained[0])
    found = evaluate_held_out(output, trained[0])
    assert found.against is not None
    assert found.against.auc == with_images.auc
    assert found.against.difference == pytest.approx(with_images.auc - found.auc)
    assert 0 <= found.against.p_value <= 1
    other = tmp_path / "other"
    train_remodelling([*HEARTS, heart(30)], other, command="train", source="drawn", recipe=RECIPE)
    with pytest.raises(ValueError, match="other hearts"):
        evaluate_held_out(output, other)
    assert [row.model for row in found.ablation] == ["morphology", "motion", "all", "combined"]
    network = load_model("remodelling", root=tmp_path).network
    assert not any(name.startswith("encoder") for name in network.state_dict())
    probability, scores = predicted(HEARTS, network)
    assert np.isfinite(probability).all()
    assert np.isnan(scores["image"]).all()
    # Tuning takes the network as it is.
    own = [heart(number, exact=False) for number in range(100, 130)]
    tuned = train_remodelling(
        own, tmp_path / "tuned", command="train", source="drawn", recipe=RECIPE, tuned_from=tmp_path
    )
    assert not any(name.startswith("encoder") for name in safetensors.torch.load_file(tuned.weights))


def test_too_few_events_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 8"):
        train_remodelling(HEARTS[:20], tmp_path, command="train", source="drawn", recipe=RECIPE)


def test_figures_of_a_model_that_tells_events_apart(trained) -> None:
    output, _ = trained
    network = load_model("remodelling", root=output.parent).network
    unseen = [heart(number, exact=False) for number in range(200, 230)]
    figures = compare_with_outcomes(unseen, network)
    assert figures["events"] == 10
    # Strain alone tells the outcome of these hearts.
    assert figures["auc"] > 0.95
    assert figures["bayes_auc"] == 1
    assert [row.model for row in figures["ablation"]] == ["image", "morphology", "motion", "all", "combined"]
    assert np.isnan(figures["ablation"][-1].p_value)
    assert 0 < figures["brier"] < 0.2
    probability, _ = predicted(unseen, network)
    assert probability.shape == (30,)


def test_another_model_and_patients_without_an_infarct_stand_beside_the_figures(trained, tmp_path: Path) -> None:
    output, _ = trained
    studies, real, kept = tmp_path / "studies", tmp_path / "real", tmp_path / "hearts"
    kept.mkdir()
    rows = ["study,remodelling"]
    for number in range(200, 226):
        uid, folder = f"2.25.{number}", (studies if number < 224 else real)
        # What was measured is kept by UID, so of the files only their identity is read.
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.SOPClassUID, header.SOPInstanceUID = MRImageStorage, f"{uid}.1"
        header.StudyInstanceUID, header.PatientID = uid, f"P{number}"
        folder.mkdir(exist_ok=True)
        header.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        measured = replace(heart(number, exact=False), identifier=case_of(uid))
        write_heart(measured, kept / f"remodelling-v{VERSION}-{case_of(uid)}.npz")
        if number < 224:
            rows.append(f"{uid},{int(measured.outcome)}")
    table = tmp_path / "outcomes.csv"
    table.write_text("\n".join(rows), encoding="utf-8")
    beside = Beside((real,), output.parent)
    found = evaluate_studies(studies, table, hearts=kept, models=output.parent, beside=beside)
    assert (found.hearts, found.events) == (24, 8)
    assert found.against is not None
    assert (found.against.auc, found.against.p_value) == (found.auc, 1)
    network = load_model("remodelling", root=output.parent).network
    alone = [float(predicted([heart(number, exact=False)], network)[0][0]) for number in (224, 225)]
    assert (found.real["real"].patients, found.real["real"].highest) == (2, pytest.approx(max(alone)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no DICOM study"):
        evaluate_studies(studies, table, hearts=kept, models=output.parent, beside=Beside((tmp_path / "empty",)))


def test_a_sites_study_is_measured_once_from_its_dicom(tmp_path: Path) -> None:
    recipe = PhantomRecipe(
        seed=62,
        disease=Disease.INFARCT,
        acute=True,
        slices=6,
        phases=10,
        rows=112,
        columns=112,
        spacing_mm=2.0,
        long_axis=False,
    )
    studies = tmp_path / "studies"
    paths = write_study(simulate(recipe, workers=1), studies)
    (study,) = assemble(paths)
    uid = study.context.study_instance_uid
    table = tmp_path / "outcomes.csv"
    table.write_text(f"study,remodelling,infarct_percent\n{uid},1,17.5\n2.25.404,0,\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"not there, such as 2\.25\.404"):
        hearts_of_studies(studies, table, tmp_path / "hearts")
    table.write_text(f"study,remodelling,infarct_percent\n{uid},1,17.5\n", encoding="utf-8")
    hearts, declined = hearts_of_studies(studies, table, tmp_path / "hearts")
    assert not declined
    (found,) = hearts
    assert found.outcome
    assert found.auxiliary[0] == 17.5
    assert uid not in found.identifier
    assert found.volume.shape == (5, 8, 88, 88)
    # Without a long axis there is neither longitudinal nor atrial strain, and nothing stands in for them.
    assert not {Feature.GLS, Feature.LA_RESERVOIR} & set(found.measured)
    assert {Feature.EJECTION_FRACTION, Feature.GCS, Feature.EDVI} <= set(found.measured)
    table.write_text(f"study,remodelling\n{uid},0\n", encoding="utf-8")
    (again,), _ = hearts_of_studies(studies, table, tmp_path / "hearts")
    assert not again.outcome
    assert again.measured == found.measured
    assert again.seconds == found.seconds
    # Another site has a study in a folder of that name.
    other = tmp_path / "other" / "patient-1"
    other.mkdir(parents=True)
    for number, path in enumerate(paths[:2]):
        image = dcmread(path)
        image.StudyInstanceUID = "2.25.405"
        image.save_as(other / f"{number}.dcm")
    (tmp_path / "site").mkdir()
    studies.rename(tmp_path / "site" / "patient-1")
    table.write_text("study,remodelling\npatient-1,1\n", encoding="utf-8")
    (by_folder,), _ = hearts_of_studies(tmp_path / "site", table, tmp_path / "hearts")
    assert by_folder.seconds == found.seconds
    foreign, declined = hearts_of_studies(tmp_path / "other", table, tmp_path / "hearts")
    assert not foreign
    assert set(declined) == {"patient-1"}
