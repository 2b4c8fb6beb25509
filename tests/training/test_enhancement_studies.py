"""Synthetic enhancement learns from a site's own studies: cine and the late enhancement that was acquired with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from synthetic_hearts import ring_clips

from pipelines.evaluation.enhancement_studies import evaluate_studies
from pipelines.models.card import read_card, write_card
from pipelines.models.registry import PACKAGED
from pipelines.phantom import Disease, PhantomRecipe, simulate, write_study
from pipelines.synthetic_enhancement import sequence
from pipelines.synthetic_enhancement.features import describe
from pipelines.synthetic_enhancement.network import GUESS_MODEL, REFINER_MODEL
from pipelines.training.contour_errors import disturbed_plan
from pipelines.training.enhancement_studies import hearts_of_studies, split_of_studies, with_studies
from pipelines.training.synthetic_batches import batch_of
from pipelines.training.synthetic_hearts import Hearts, training_heart
from pipelines.training.synthetic_networks import Continuation
from pipelines.training.synthetic_recipe import EnhancementRecipe
from pipelines.training.synthetic_run import train_synthetic_enhancement


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DICOM of two patients with a large infarct, cine and late enhancement."""
    folder = tmp_path_factory.mktemp("site")
    for seed in (930001, 930003):
        recipe = PhantomRecipe(
            seed=seed,
            disease=Disease.INFARCT,
            acute=True,
            slices=5,
            phases=12,
            rows=112,
            columns=112,
            spacing_mm=2.0,
            long_axis=False,
            late_enhancement=True,
        )
        write_study(simulate(recipe, workers=1), folder / str(seed))
    return folder


def named(folder: Path, uid: str, patient: str, issuer: str = "") -> None:
    """Write the header of one image of a study."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = MRImageStorage, f"{uid}.1"
    header.StudyInstanceUID, header.PatientID, header.IssuerOfPatientID = uid, patient, issuer
    folder.mkdir(exist_ok=True)
    header.save_as(folder / f"{uid}.dcm", enforce_file_format=True)


def test_studies_of_a_patient_stay_on_one_side(tmp_path: Path) -> None:
    for number in range(30):
        named(tmp_path, f"2.25.{number}", f"P{number // 3}")
    training, held_out = split_of_studies(tmp_path)
    of = [{int(one.uid.removeprefix("2.25.")) // 3 for one in part} for part in (training, held_out)]
    assert not of[0] & of[1]
    assert (len(of[0]), len(of[1])) == (8, 2)
    assert (len(training), len(held_out)) == (24, 6)
    assert split_of_studies(tmp_path) == (training, held_out)
    one = tmp_path / "one"
    named(one, "2.25.1", "P1")
    named(one, "2.25.2", "P1")
    with pytest.raises(ValueError, match="studies of 1 patients"):
        split_of_studies(one)
    # The same number of another issuer is another patient.
    named(one, "2.25.3", "P1", "other")
    assert [len(part) for part in split_of_studies(one)] in ([1, 2], [2, 1])


def test_a_site_trains_on_the_late_enhancement_that_it_acquired(site: Path, tmp_path: Path) -> None:
    found = hearts_of_studies(site)
    assert not found.declined
    (heart,) = found.hearts
    assert len(found.held_out) == 1
    assert heart.own_contours
    assert heart.taught is not None
    taught = list(heart.taught)
    assert len(taught) >= 3
    muscle, lesion = heart.crop.muscle[taught], heart.lesion[taught]
    assert not (lesion & ~muscle).any()
    target = heart.target[taught].astype(np.float32)
    # Nulled muscle is dark and the scar bright on the image that was acquired, where the cine has them.
    healthy = float(target[muscle & ~lesion].mean())
    assert abs(healthy) < 0.3
    assert target[lesion].mean() > healthy + 0.2
    hearts = with_studies(Hearts((), (), (), ()), found)
    assert hearts.cases == (heart.case,)
    assert hearts.held_out == found.held_out
    batch = batch_of(hearts, EnhancementRecipe(), 0, 0)
    assert bool(batch.real.all())
    (first, second) = train_synthetic_enhancement(
        tmp_path / "run",
        clips=tmp_path / "clips",
        seeds=(),
        studies=site,
        go_on=Continuation(PACKAGED),
        steps=1,
        refiner_steps=1,
        calibrated=False,
    )
    for result in (first, second):
        training = read_card(result.card).training
        assert heart.case in training.cases
        assert found.held_out[0] not in training.cases
        assert "1 studies of a site" in training.name
        assert result.held_out_cases == found.held_out


def test_studies_that_weights_were_fitted_to_are_left_out(site: Path, tmp_path: Path) -> None:
    training, held_out = split_of_studies(site)
    for name in (GUESS_MODEL, REFINER_MODEL, sequence.MODEL):
        shutil.copytree(PACKAGED / name, tmp_path / name)
    card = read_card(tmp_path / GUESS_MODEL / "card.yaml")
    cases = (*card.training.cases, training[0].case)
    write_card(
        card.model_copy(update={"training": card.training.model_copy(update={"cases": cases})}),
        tmp_path / GUESS_MODEL / "card.yaml",
    )
    told = evaluate_studies(site, models=tmp_path).to_json()
    assert (told["studies"], told["seen_in_training"], told["declined"]) == (2, 1, 0)
    (compared,) = told["results"]
    assert compared["case"] == held_out[0].case
    assert compared["acquired_percent"] > 0
    assert told["enhanced"] == (compared["acquired_percent"] >= 1)
    # One study has nothing to tell it from.
    assert told["auc"] is told["extent"]["r"] is None


def test_contours_of_a_segmentation_get_no_errors_of_one_on_top() -> None:
    plan = describe(training_heart(ring_clips(3, scarred=True)).crop)
    count = len(plan.centre)
    recipe = EnhancementRecipe(inner_px=(3.0, 3.0), uneven_px=2.0)
    moved = {}
    for exact in (True, False):
        rng = np.random.default_rng(4)
        other = disturbed_plan(plan, rng, recipe, np.full(count, exact))
        there = plan.inner > 0.5
        moved[exact] = float(np.abs(other.inner - plan.inner)[there].mean())
    assert moved[False] < 0.5 < moved[True]
