"""Results of the obstruction package: who gets one, the report, the attribution map, the gate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.dataset import Dataset
from results.synthetic import CREATED
from safetensors.torch import load_file, save_file

import pipelines.models
from dicom_node.config import DestinationProfile, ResultSettings, Route
from dicom_node.execute.process import ProcessedStudy, process_study
from dicom_node.results.obstruction import ATTRIBUTION
from dicom_node.results.roles import REFUSAL, REPORT, SUMMARY
from dicom_node.results.verdict import VerdictKind
from pipelines.indication import Indication
from pipelines.models.card import read_card, write_card
from pipelines.models.registry import PACKAGED, load_model_once
from pipelines.obstruction.findings import Obstruction
from pipelines.phantom import Disease, PhantomRecipe, simulate, write_study


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    recipe = PhantomRecipe(
        seed=31,
        disease=Disease.INFARCT,
        obstruction=True,
        slices=6,
        phases=14,
        rows=128,
        columns=128,
        spacing_mm=1.8,
        long_axis=False,
    )
    return write_study(simulate(recipe), tmp_path_factory.mktemp("infarct"))


def processed(paths: list[Path], indication: Indication | None) -> ProcessedStudy:
    uid = str(dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)
    return process_study(
        paths,
        study_instance_uid=uid,
        inputs=[path.name for path in paths],
        created=CREATED,
        route_name="infarct",
        route=Route(destinations=("pacs",), analyses=("obstruction",), indication=indication),
        results=ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs")}),
    )


@contextmanager
def installed(root: Path, slope: float) -> Iterator[None]:
    """The network of the package with a calibration of this slope, found before it."""
    folder = root / "obstruction"
    folder.mkdir()
    tensors = load_file(PACKAGED / "obstruction" / "weights.safetensors")
    tensors["heart_calibration"] = torch.tensor([slope, -0.5])
    save_file(tensors, folder / "weights.safetensors")
    card = read_card(PACKAGED / "obstruction" / "card.yaml")
    sha256 = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    write_card(card.model_copy(update={"weights_sha256": sha256}), folder / "card.yaml")
    load_model_once.cache_clear()
    pipelines.models.__path__.insert(0, str(root))
    try:
        yield
    finally:
        pipelines.models.__path__.remove(str(root))
        load_model_once.cache_clear()


@pytest.fixture(scope="module")
def done(paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> ProcessedStudy:
    with installed(tmp_path_factory.mktemp("models"), 1.0):
        return processed(paths, Indication.ACUTE_INFARCT)


def texts(report: Dataset) -> list[str]:
    found = []
    for item in report.get("ContentSequence") or []:
        if item.get("ValueType") == "TEXT":
            found.append(str(item.TextValue))
        found += texts(item)
    return found


def test_an_acute_infarct_gets_an_estimate_that_passes_the_gate(done: ProcessedStudy) -> None:
    assert done.rejected == ()
    (verdict,) = done.verdicts
    assert verdict.kind is VerdictKind.DELIVERED
    assert "simulated hearts" in verdict.key_numbers[0]
    numbers = done.numbers["obstruction"]
    found = done.findings[Obstruction]
    assert numbers["obstruction_probability_percent"] == pytest.approx(100 * found.probability)
    assert 0 <= found.interval.lower <= found.probability <= found.interval.upper <= 1


def test_the_report_says_for_whom_and_that_it_learned_from_simulations(done: ProcessedStudy) -> None:
    (report,) = (one.dataset for one in done.objects if one.role is REPORT)
    said = " ".join(texts(report))
    assert "acute, reperfused myocardial infarct" in said
    assert "simulated hearts only" in said
    assert "Research use only" in said
    found = done.findings[Obstruction]
    assert f"{found.key.index + 1}: {100 * found.key.probability:.0f} %" in said


def test_the_attribution_map_stands_with_its_key_frames(done: ProcessedStudy) -> None:
    (made,) = (one for one in done.objects if one.role is ATTRIBUTION)
    found = done.findings[Obstruction]
    assert made.dataset.BurnedInAnnotation == "NO"
    named = [item.ReferencedSOPInstanceUID for item in made.dataset.SourceImageSequence]
    stack = found.stack
    assert named == [stack.sources[one.phase][one.index].sop_instance_uid for one in found.slices]
    assert any(one.role is SUMMARY for one in done.objects)


def test_attribution_lies_within_the_muscle(done: ProcessedStudy) -> None:
    from pipelines.segmentation.labels import CineSegmentation, Label

    found = done.findings[Obstruction]
    labels = done.findings[CineSegmentation].labels
    assert max(float(one.attribution.max()) for one in found.slices) == pytest.approx(1)
    spacing = found.stack.geometry.pixel_spacing
    for one in found.slices:
        places = np.argwhere(one.attribution > 0)
        rows = np.rint((found.square.row_mm + (places[:, 0] - 31.5) * 1.75) / spacing[0]).astype(int)
        columns = np.rint((found.square.column_mm + (places[:, 1] - 31.5) * 1.75) / spacing[1]).astype(int)
        if len(places):
            assert (labels[one.phase, one.index][rows, columns] == Label.MYO).mean() > 0.85


def test_a_network_that_tells_nothing_is_not_asked(paths: list[Path], tmp_path: Path) -> None:
    with installed(tmp_path, 0.0):
        (verdict,) = processed(paths, Indication.ACUTE_INFARCT).verdicts
    assert verdict.kind is VerdictKind.DECLINED
    assert "did not tell hearts with obstruction" in verdict.sentences[0]


def test_without_the_indication_the_analysis_declines(paths: list[Path], done: ProcessedStudy) -> None:
    refused = processed(paths, None)
    (verdict,) = refused.verdicts
    assert verdict.kind is VerdictKind.DECLINED
    assert "the route states no indication" in verdict.sentences[0]
    assert next(one.role for one in refused.objects) is REFUSAL
    assert not {one.sop_instance_uid for one in refused.objects} & {one.sop_instance_uid for one in done.objects}
