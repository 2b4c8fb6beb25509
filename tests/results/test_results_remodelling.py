"""Results of the remodelling package: the gate, the numbers and reasons of the report, the attribution map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.config import DestinationProfile, ResultSettings
from dicom_node.results.encode import Circumstances, EncodedStudy, encode_study
from dicom_node.results.gate import check
from dicom_node.results.objects import ResultObject
from dicom_node.results.remodelling import ATTRIBUTION, reason
from dicom_node.results.roles import REPORT, SUMMARY
from dicom_node.results.sources import SourceDatasets
from pipelines.analysis import Findings
from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStudy
from pipelines.function.findings import Interval
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.motion.findings import Keyframe
from pipelines.phantom import Disease, PhantomRecipe, simulate, write_study
from pipelines.remodelling.findings import Attribution, Contribution, InfarctEstimate, RemodellingRisk
from pipelines.remodelling.package import PACKAGE
from pipelines.segmentation.labels import CineSegmentation
from pipelines.study import PackageFindings
from results.synthetic import CREATED, MODEL, unaccepted

RECIPE = PhantomRecipe(
    seed=31,
    disease=Disease.INFARCT,
    acute=True,
    slices=5,
    phases=12,
    rows=112,
    columns=112,
    spacing_mm=2.2,
    long_axis=False,
)
KEY = 3


def risk_of(study: CineStudy, labels: np.ndarray) -> RemodellingRisk:
    stack = study.short_axis
    assert stack is not None
    heat = np.zeros(stack.pixels.shape[1:], np.float32)
    heat[2:5, 40:64, 40:64] = np.linspace(0, 1, 24, dtype=np.float32)
    return RemodellingRisk(
        stack=stack,
        probability=0.412,
        interval=Interval(0.302, 0.551),
        population_probability=0.25,
        network_probability=0.47,
        contributions=(
            Contribution("global longitudinal strain", -8.2, "%", 0.71),
            Contribution("the fusion network", -0.3, "1", 0.31),
            Contribution("left atrial reservoir strain", 31.4, "%", -0.2),
            Contribution("infarct size estimated without contrast agent", 17.6, "%", 0.01),
        ),
        features={"GLS_percent": -8.2},
        missing=("mass index",),
        infarct=InfarctEstimate(17.6, Interval(8.1, 27.1)),
        attribution=Attribution(
            Keyframe.END_SYSTOLE,
            KEY,
            (0, 1, 2, 3, 4),
            heat,
            {key: 0.6 if key is Keyframe.END_SYSTOLE else 0.1 for key in Keyframe},
            in_ventricle=0.64,
            by_chance=0.21,
        ),
        notes=("Trained on simulated hearts.", "Not measured in this study: mass index."),
        models=(MODEL,),
    )


@pytest.fixture(scope="module")
def acquired(tmp_path_factory: pytest.TempPathFactory) -> tuple[CineStudy, list[Path], SliceMeasures]:
    phantom = simulate(RECIPE, workers=1)
    paths = write_study(phantom, tmp_path_factory.mktemp("remodelling"))
    (study,) = assemble(paths)
    labels = phantom.short_axis.labels
    segmentation = CineSegmentation(labels, np.ones(labels.shape[:2], np.float32), (0, 112, 0, 112), (MODEL,))
    return study, paths, measure_slices(study.short_axis, segmentation)


def encoded(acquired, *, attribution: bool) -> tuple[CineStudy, SourceDatasets, EncodedStudy]:
    study, paths, slices = acquired
    risk = risk_of(study, slices.labels)
    risk = risk if attribution else replace(risk, attribution=None)
    sources = SourceDatasets.index(paths)
    found = PackageFindings(PACKAGE, Findings({RemodellingRisk: risk, SliceMeasures: slices}))
    circumstances = Circumstances(tuple(path.name for path in paths), "infarct", ResultSettings(), CREATED)
    made = encode_study(study, [found], sources, {"pacs": DestinationProfile(peer="pacs")}, circumstances)
    assert made.packages[0].causes == ()
    return study, sources, made


@pytest.fixture(scope="module")
def made(acquired) -> tuple[CineStudy, SourceDatasets, list[ResultObject], str]:
    study, sources, one = encoded(acquired, attribution=True)
    return study, sources, list(one.objects), one.packages[0].key_numbers[0]


def items(dataset: Dataset):
    for item in dataset.get("ContentSequence") or []:
        yield item
        yield from items(item)


def test_every_object_passes_the_gate_and_dciodvfy(made) -> None:
    _, sources, objects, _ = made
    assert [tuple(map(str, found)) for found in check(objects, sources)] == [()] * len(objects)
    for each in objects:
        assert not unaccepted(each, sources)


def test_the_report_says_probability_interval_reasons_and_for_whom(made) -> None:
    study, _, objects, key_number = made
    report = next(each.dataset for each in objects if each.role == REPORT)
    numbers = {
        item.ConceptNameCodeSequence[0].CodeValue: float(item.MeasuredValueSequence[0].NumericValue)
        for item in items(report)
        if item.ValueType == "NUM"
    }
    assert numbers["LVAR_PROB"] == 0.412
    assert numbers["INFARCT_EST"] == 17.6
    texts = {
        item.ConceptNameCodeSequence[0].CodeValue: str(item.TextValue)
        for item in items(report)
        if item.ValueType == "TEXT"
    }
    assert texts["LVAR_REASON"] == (
        "global longitudinal strain -8 % raises it most; the fusion network raises it; left "
        "atrial reservoir strain 31 % lowers it; infarct size estimated without contrast agent 18 % hardly moves it."
    )
    assert "acute, reperfused infarct" in texts["LVAR_FOR"]
    assert "simulated hearts" in " ".join(str(item.TextValue) for item in items(report) if item.ValueType == "TEXT")
    assert key_number == "Risk of adverse remodelling 41 % (30 to 55 %), by a model of simulated hearts."
    named = {
        str(reference.ReferencedSOPInstanceUID)
        for item in items(report)
        for reference in item.get("ReferencedSOPSequence") or []
    }
    stack = study.short_axis
    assert stack is not None
    capture = next(each for each in objects if each.role == ATTRIBUTION)
    assert {stack.sources[KEY][2].sop_instance_uid, capture.sop_instance_uid} <= named


def test_the_attribution_map_is_a_colour_image_of_the_key_frame(made) -> None:
    study, _, objects, _ = made
    capture = next(each for each in objects if each.role == ATTRIBUTION)
    assert capture.sop_class_uid == SecondaryCaptureImageStorage
    assert capture.dataset.BurnedInAnnotation == "NO"
    pixels = capture.dataset.pixel_array.astype(int)
    # Heat is coloured, the cine beside it is grey.
    assert (pixels.max(axis=2) - pixels.min(axis=2) > 60).sum() > 2000
    stack = study.short_axis
    assert stack is not None
    assert {source.sop_instance_uid for source in capture.sources} == {
        source.sop_instance_uid for source in stack.sources[KEY]
    }
    assert any(each.role == SUMMARY for each in objects)


def test_a_network_without_images_gives_no_map(acquired) -> None:
    _, sources, one = encoded(acquired, attribution=False)
    assert not any(each.role == ATTRIBUTION for each in one.objects)
    assert [tuple(map(str, found)) for found in check(list(one.objects), sources)] == [()] * len(one.objects)
    report = next(each.dataset for each in one.objects if each.role == REPORT)
    named = {str(item.ConceptNameCodeSequence[0].CodeValue) for item in items(report) if item.ValueType == "NUM"}
    assert {"LVAR_PROB", "INFARCT_EST"} <= named


def test_other_systems_get_the_probability_with_its_interval(acquired) -> None:
    _, _, one = encoded(acquired, attribution=False)
    told = {number.name: number for number in one.packages[0].reported}
    risk = told["remodelling_probability"]
    assert (risk.lower, risk.value, risk.upper) == (0.302, 0.412, 0.551)
    assert "simulated hearts" in risk.method
    assert told["infarct_estimate_percent"].upper == 27.1


def test_a_contribution_of_nothing_is_called_nothing() -> None:
    assert reason(Contribution("global longitudinal strain", -14.0, "%", 0.0)).endswith("hardly moves it")
