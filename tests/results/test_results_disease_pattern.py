"""Results of the disease pattern: the gate, the numbers and words of the report, the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_node.config import DestinationProfile, ResultSettings
from dicom_node.results.disease_pattern import NO_DIAGNOSIS
from dicom_node.results.encode import Circumstances, EncodedStudy, encode_study
from dicom_node.results.gate import check
from dicom_node.results.roles import REPORT, SUMMARY
from dicom_node.results.sources import SourceDatasets
from pipelines.analysis import Findings
from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStudy
from pipelines.disease_pattern.features import FEATURES
from pipelines.disease_pattern.findings import DiseasePattern, Pattern
from pipelines.disease_pattern.measure import classify_pattern
from pipelines.disease_pattern.network import PATTERN_MODEL, LogisticNetwork
from pipelines.disease_pattern.package import PACKAGE
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Keyframes
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.models.registry import load_model
from pipelines.phantom import Disease, PhantomRecipe, simulate, write_study
from pipelines.segmentation.labels import CineSegmentation
from pipelines.study import PackageFindings
from results.synthetic import CREATED, MODEL, unaccepted

RECIPE = PhantomRecipe(
    seed=31, disease=Disease.DCM, slices=5, phases=12, rows=96, columns=96, spacing_mm=2.2, coils=1, long_axis=False
)
CODES = {
    "PAT_NORMAL": Pattern.NORMAL,
    "PAT_DILATED": Pattern.DILATED,
    "PAT_HYPER": Pattern.HYPERTROPHIC,
    "PAT_INFARCT": Pattern.OLD_INFARCT,
    "PAT_RV": Pattern.ABNORMAL_RV,
}


def dilated() -> DiseasePattern:
    """What the classifier that ships says of a large weak left ventricle whose other features are average."""
    model = load_model(PATTERN_MODEL)
    assert isinstance(model.network, LogisticNetwork)
    features = model.network.means.numpy().copy()
    for name, value in (("LVEDVI, ml/m2", 180.0), ("LVESVI, ml/m2", 140.0), ("LVEF, %", 20.0)):
        features[FEATURES.index(name)] = value
    return classify_pattern(features, True, model)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[CineStudy, SourceDatasets, DiseasePattern, EncodedStudy]:
    phantom = simulate(RECIPE, workers=1)
    paths: list[Path] = write_study(phantom, tmp_path_factory.mktemp("pattern"))
    (study,) = assemble(paths)
    labels = phantom.short_axis.labels
    whole = CineSegmentation(labels, phantom.short_axis.trigger_times * 0 + 1, (0, 96, 0, 96), (MODEL,))
    slices = measure_slices(study.short_axis, whole)
    found = dilated()
    findings = Findings(
        {DiseasePattern: found, SliceMeasures: slices, Keyframes: find_keyframes(study.short_axis, slices.lv_ml)}
    )
    sources = SourceDatasets.index(paths)
    circumstances = Circumstances(tuple(path.name for path in paths), "cine", ResultSettings(), CREATED)
    profiles = {"pacs": DestinationProfile(peer="pacs")}
    encoded = encode_study(study, [PackageFindings(PACKAGE, findings)], sources, profiles, circumstances)
    assert encoded.packages[0].causes == ()
    return study, sources, found, encoded


def items(dataset: Dataset):
    for item in dataset.get("ContentSequence") or []:
        yield item
        yield from items(item)


def test_every_object_passes_the_gate_and_dciodvfy(made) -> None:
    _, sources, _, encoded = made
    objects = list(encoded.objects)
    assert {each.role for each in objects} >= {REPORT, SUMMARY}
    assert [tuple(map(str, found)) for found in check(objects, sources)] == [()] * len(objects)
    for each in objects:
        assert not unaccepted(each, sources)


def test_the_report_says_every_probability_and_that_it_is_no_diagnosis(made) -> None:
    _, _, found, encoded = made
    report = next(each.dataset for each in encoded.objects if each.role == REPORT)
    numbers = {
        CODES[item.ConceptNameCodeSequence[0].CodeValue]: float(item.MeasuredValueSequence[0].NumericValue)
        for item in items(report)
        if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeValue in CODES
    }
    assert numbers == {pattern: round(value, 3) for pattern, value in found.probabilities.items()}
    assert sum(numbers.values()) == pytest.approx(1, abs=0.003)
    assert max(numbers, key=numbers.__getitem__) is Pattern.DILATED
    texts = [str(item.TextValue) for item in items(report) if item.ValueType == "TEXT"]
    assert NO_DIAGNOSIS in texts
    assert any("speaks for it" in text and "dilated left ventricle" in text for text in texts)
    assert any("Height or weight" in text for text in texts)


def test_the_front_page_and_other_systems_get_the_same_with_the_same_words(made) -> None:
    _, _, found, encoded = made
    (sentence,) = encoded.packages[0].key_numbers
    assert sentence.startswith("Pattern, not a diagnosis: the heart resembles most the group “dilated left ventricle”")
    described = {one.name: one for one in encoded.packages[0].reported}
    assert {name: one.value for name, one in described.items()} == {
        f"pattern_{pattern}_probability": value for pattern, value in found.probabilities.items()
    }
    assert all("not a diagnosis" in one.method for one in described.values())
