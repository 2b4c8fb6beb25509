"""The pattern of a heart: the classifier, the package on a phantom, its results, and the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.analysis import Findings
from pipelines.cine.stack import CineStudy, StudyContext
from pipelines.disease_pattern.features import FEATURES, pattern_features
from pipelines.disease_pattern.findings import DiseasePattern, Pattern
from pipelines.disease_pattern.measure import classify_pattern
from pipelines.disease_pattern.network import PATTERN_MODEL, LogisticNetwork
from pipelines.errors import AnalysisRefused
from pipelines.evaluation.disease_pattern import evaluate_patterns
from pipelines.function.findings import Keyframes, VentricularFunction
from pipelines.function.slices import SliceMeasures
from pipelines.models.registry import LoadedModel, load_model
from pipelines.phantom.assembled import cine_study
from pipelines.phantom.recipe import Disease, PhantomRecipe
from pipelines.phantom.study import simulate
from pipelines.study import analyse_study
from pipelines.synthetic_enhancement.features import Circumstances
from pipelines.synthetic_enhancement.measure import heart_of
from pipelines.training.disease_pattern import Patients, train_pattern
from pipelines.ventricular_function.steps import ShortAxis

RECIPE = PhantomRecipe(
    seed=5, disease=Disease.DCM, slices=7, phases=8, rows=104, columns=104, spacing_mm=1.9, coils=1, long_axis=False
)
CONTEXT = StudyContext(study_instance_uid="2.25.1", height_m=1.75, weight_kg=76.0)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(PATTERN_MODEL)


@pytest.fixture(scope="module")
def study() -> CineStudy:
    return replace(cine_study(simulate(RECIPE, workers=1)), context=CONTEXT)


@pytest.fixture(scope="module")
def findings(study: CineStudy) -> Findings:
    return analyse_study(study, [DiseasePattern, ShortAxis, SliceMeasures, Keyframes, VentricularFunction])


def _means(model: LoadedModel) -> np.ndarray:
    assert isinstance(model.network, LogisticNetwork)
    return np.asarray(model.network.means.numpy()).copy()


def test_a_heart_with_a_large_weak_left_ventricle_resembles_the_dilated_ones(model: LoadedModel) -> None:
    features = _means(model)
    for name, value in (("LVEDVI, ml/m2", 180.0), ("LVESVI, ml/m2", 140.0), ("LVEF, %", 20.0)):
        features[FEATURES.index(name)] = value
    found = classify_pattern(features, False, model)
    assert found.ranked[0][0] is Pattern.DILATED
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert not found.assumed_size
    assert found.features["LVEF, %"] == 20.0
    # What is told to have moved the pattern is what was changed.
    assert {one.name for one in found.contributions[:3]} <= {"LVEDVI, ml/m2", "LVESVI, ml/m2", "LVEF, %"}
    assert all(one.logit > 0 for one in found.contributions[:2])
    assert any("not a diagnosis" in note for note in found.notes)


def test_a_heart_of_average_features_is_moved_by_none(model: LoadedModel) -> None:
    found = classify_pattern(_means(model), True, model)
    assert max(abs(one.logit) for one in found.contributions) == pytest.approx(0, abs=1e-9)
    assert any("Height or weight" in note for note in found.notes)


def test_a_heart_unlike_all_that_were_learnt_is_declined(model: LoadedModel) -> None:
    with pytest.raises(AnalysisRefused, match="unlike the patients"):
        classify_pattern(_means(model) + 1000, False, model)


def test_without_a_right_ventricle_nothing_is_told(findings: Findings) -> None:
    circumstances = Circumstances(None, None)
    heart = heart_of(findings[ShortAxis], findings[SliceMeasures], findings[Keyframes], circumstances)
    with pytest.raises(AnalysisRefused, match="right ventricle"):
        pattern_features(replace(findings[VentricularFunction], rv=None), heart.crop)


def test_the_package_answers_or_declines_with_a_reason(findings: Findings) -> None:
    """A simulated heart is no patient of the training; the step must end one of these two ways."""
    found = findings.get(DiseasePattern)
    if found is None:
        assert any("unlike" in refusal.sentence for refusal in findings.refusals)
        return
    assert set(found.probabilities) == set(Pattern)
    assert found.features["LVEF, %"] == pytest.approx(findings[VentricularFunction].lv.ejection_fraction_percent)
    assert [one.name for one in found.models] == [PATTERN_MODEL]


def _patients(spread: float) -> Patients:
    rng = np.random.default_rng(2)
    patterns = np.repeat(np.arange(len(Pattern)), 8)
    features = rng.normal(0, spread, (len(patterns), len(FEATURES)))
    features[np.arange(len(patterns)), patterns] += 9
    return Patients(np.array([f"p{number}" for number in range(len(patterns))]), features, patterns, {})


def test_the_training_finds_what_separates_groups_and_writes_a_model_that_loads(tmp_path: Path) -> None:
    patients = _patients(1.0)
    trained = train_pattern(patients, tmp_path, "a test")
    loaded = load_model(PATTERN_MODEL, root=tmp_path)
    assert loaded.identity.weights_sha256 == trained.weights_sha256
    chosen = [classify_pattern(row, False, loaded).ranked[0][0] for row in patients.features]
    assert np.mean([list(Pattern).index(one) for one in chosen] == patients.patterns) > 0.9
    figures = evaluate_patterns(patients, ["p0"], draws=0)
    assert figures.accuracy["share"] > 0.8
    assert figures.unseen["patients"] == len(patients.names) - 1
    assert sum(sum(row.values()) for row in figures.confusion.values()) == len(patients.names)


def test_the_training_needs_some_patients_of_each_group(tmp_path: Path) -> None:
    patients = _patients(1.0)
    few = patients.patterns != 3
    with pytest.raises(ValueError, match="0 patients of one pattern"):
        train_pattern(Patients(patients.names[few], patients.features[few], patients.patterns[few], {}), tmp_path, "t")


def test_the_evaluation_needs_a_patient_of_each_group_in_every_fold() -> None:
    patients = _patients(1.0)
    kept = np.concatenate([np.flatnonzero(patients.patterns == pattern)[:4] for pattern in range(len(Pattern))])
    few = Patients(patients.names[kept], patients.features[kept], patients.patterns[kept], {})
    with pytest.raises(ValueError, match="4 patients of one pattern: 5 of each"):
        evaluate_patterns(few, [])
