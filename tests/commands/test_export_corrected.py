"""Corrected cases as a training folder: what MONAI reads of it is what the person drew, where it was drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import structlog
import yaml
from audit.reading import read_trail
from execute.test_corrected import eroded, of_role, processed, read, roles, written
from ledger_rows import DELIVERED, claim, receive_and_schedule
from monai.data import load_decathlon_datalist
from monai.transforms import LoadImage
from network.running_node import configuration
from result_rows import stored_results
from results.synthetic import STUDY_UID, Cine, write_cine

from dicom_node import cli
from dicom_node.config import AuditSettings
from dicom_node.execute.process import ProcessedStudy
from dicom_node.results.verdict import VerdictKind
from pipelines.segmentation.labels import CineSegmentation, Label
from storage.assessments import assess
from storage.files import InstanceFiles
from storage.identity import bind
from storage.jobs import complete_job
from storage.ledger import Ledger, open_ledger, utc_now
from storage.schema import AssessmentResult


class Node:
    """A ledger and files with the results of one study, before and after somebody corrected a SEG."""

    def __init__(self, folder: Path) -> None:
        self.configuration = configuration(folder, audit=AuditSettings(file=folder / "audit.log"))
        self.ledger: Ledger = open_ledger(self.configuration.storage.database)
        self.files = InstanceFiles(self.configuration.storage.directory)
        self.files.make_folders()
        bind(self.ledger, self.files, now=utc_now())
        self.file = folder / "config.yaml"
        told = self.configuration.model_dump(mode="json", exclude_defaults=True)
        self.file.write_text(yaml.safe_dump(told), encoding="utf-8")

    def analysed(self, done: ProcessedStudy) -> None:
        """Keep what a job made of the study, and that somebody corrected it."""
        (job,) = receive_and_schedule(self.ledger, STUDY_UID)
        claimed = claim(self.ledger)
        records = stored_results(self.files, done.objects, delivered=False)
        assert complete_job(self.ledger, claimed, records, DELIVERED, now=utc_now())
        assess(self.ledger, job, AssessmentResult.CORRECTED, comment="base cut", by="curie", now=utc_now())


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Cine:
    # A scanner that has decimals in its spacing, and a rescale slope.
    return write_cine(tmp_path_factory.mktemp("cine"), phases=12, slices=6, size=96, slope=1.5, intercept=-20)


@pytest.fixture(scope="module")
def before(cine: Cine) -> ProcessedStudy:
    return processed(cine, cine.paths)


@pytest.fixture(scope="module")
def after(cine: Cine, before: ProcessedStudy, tmp_path_factory: pytest.TempPathFactory) -> ProcessedStudy:
    edited = eroded(read(of_role(before, "segmentation-ed")[0]), 1, keep=0.9)
    path = written(edited, tmp_path_factory.mktemp("edited") / "edited.dcm")
    done = processed(cine, [*cine.paths, path], own_results=roles(before))
    assert done.verdicts[0].kind is VerdictKind.DELIVERED, done.verdicts[0].sentences
    return done


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def exported(
    node: Node, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *more: str
) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["dicom-node", "export-corrected", str(folder), "--config", str(node.file), *more])
    code = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    structlog.reset_defaults()
    told = capsys.readouterr()
    return code, " ".join((told.out + told.err).split())


def test_a_corrected_phase_is_a_case_that_monai_reads(
    node: Node,
    cine: Cine,
    after: ProcessedStudy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node.analysed(after)
    folder = tmp_path / "training"
    code, told = exported(node, folder, capsys, monkeypatch, "--reason", "the next network")
    assert told.startswith("1 cases of 1 studies: "), told
    assert code == 0
    (case,) = load_decathlon_datalist(folder / "dataset.json", is_segmentation=True, data_list_key="training")
    assert case["phase"] == "ED"
    image, label = (LoadImage(image_only=True)(case[key]) for key in ("image", "label"))
    drawn = after.findings[CineSegmentation]
    (correction,) = drawn.corrections
    grey = cine.study.short_axis
    assert grey is not None
    expected = drawn.labels[correction.phase].transpose(2, 1, 0)
    assert np.array_equal(np.asarray(label), expected)
    assert not np.array_equal(expected, cine.segmentation.labels[correction.phase].transpose(2, 1, 0))
    assert np.allclose(np.asarray(image), grey.pixels[correction.phase].transpose(2, 1, 0), atol=1.0)
    # Voxel to patient: RAS, where DICOM has LPS.
    for index in ((0, 0, 0), (95, 3, 5)):
        column, row, at = index
        geometry = grey.geometry
        lps = (
            geometry.positions[at] + column * 1.5625 * geometry.row_direction + row * 1.5625 * geometry.column_direction
        )
        ras = np.asarray(label.affine) @ [*index, 1.0]
        assert ras[:3] == pytest.approx(lps * [-1, -1, 1], abs=1e-3)
    # The volume in millilitres is that of the masks.
    voxel_ml = abs(np.linalg.det(np.asarray(label.affine)[:3, :3])) / 1000
    assert float((np.asarray(label) == Label.LV).sum() * voxel_ml) == pytest.approx(
        float((drawn.labels[correction.phase] == Label.LV).sum() * 1.5625**2 * 8 / 1000)
    )
    # Nothing tells who it was.
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for name in (STUDY_UID, "P-1", "A123", "Curie", "ller"):
            assert name not in str(path.relative_to(folder))
            assert name.encode() not in content
    (message,) = read_trail(tmp_path / "audit.log")
    assert (message.event, message.action) == ("110103", "R")
    assert STUDY_UID in str([one.get("ParticipantObjectID") for one in message.objects("110180")])


def test_names_of_cases_are_those_of_one_node(
    node: Node,
    after: ProcessedStudy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = []
    second = tmp_path / "other"
    second.mkdir()
    for other in (node, Node(second)):
        other.analysed(after)
        for number in range(2):
            folder = other.file.parent / f"training{number}"
            exported(other, folder, capsys, monkeypatch, "--reason", "x")
            names.append(json.loads((folder / "dataset.json").read_text())["training"][0]["study"])
    assert names[0] == names[1] != names[2] == names[3]


def test_what_is_not_held_any_more_is_told(
    node: Node,
    before: ProcessedStudy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Corrected by a button, and not by a SEG.
    node.analysed(before)
    _, told = exported(node, tmp_path / "training", capsys, monkeypatch, "--reason", "x")
    assert told.startswith("0 cases of 0 studies")
    assert f"Study {STUDY_UID} is left out: no SEG with corrected segments is held" in told


@pytest.mark.parametrize("full", [True, False])
def test_a_folder_that_holds_something_and_an_empty_reason_are_refused(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    folder = tmp_path / "training"
    folder.mkdir()
    if full:
        (folder / "mine").touch()
    code, told = exported(node, folder, capsys, monkeypatch, *(["--reason", "x"] if full else []))
    assert code != 0
    assert ("the folder is not empty" if full else "say why") in told
