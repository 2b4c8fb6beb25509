"""A SEG of this node, edited by somebody and sent back: recognised, and everything made anew from its masks."""

from __future__ import annotations

import copy
import datetime as dt
import io
import json
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from interop.tools import script
from network.objects import encoded
from network.running_node import configuration
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SegmentationStorage,
    generate_uid,
)
from result_rows import stored_results
from results.synthetic import STUDY_UID, Cine, write_cine

from dicom_node.config import ConflictAnswer, DestinationProfile, ResultSettings, Route
from dicom_node.execute.corrected import corrected_findings
from dicom_node.execute.process import ProcessedStudy, process_study
from dicom_node.network.reception import InstanceReceiver, StoreRequest
from dicom_node.network.watermarks import Watermarks
from dicom_node.results.content import Predecessor
from dicom_node.results.objects import ResultObject
from dicom_node.results.verdict import VerdictKind
from dicom_node.schedule.scheduler import StudyScheduler
from pipelines.segmentation.labels import CineSegmentation, Label
from storage.assessments import assessments, note_corrections
from storage.files import InstanceFiles
from storage.instances import close_association, open_association
from storage.jobs import Outcome, claim_job, complete_job
from storage.ledger import Ledger, open_ledger, utc_now
from storage.schema import AssessmentResult, Verdict

EDITOR = "Curie^Marie"


def processed(cine: Cine, paths: list[Path], **changes: object) -> ProcessedStudy:
    arguments: dict[str, object] = {
        "study_instance_uid": STUDY_UID,
        "inputs": [path.name for path in paths],
        "created": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        "route_name": "cine",
        "route": Route(destinations=("pacs",)),
        "results": ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs")}),
        "package": "ventricular_function",
        # In place of the networks.
        "known": {CineSegmentation: cine.segmentation},
    }
    return process_study(paths, **{**arguments, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Cine:
    return write_cine(tmp_path_factory.mktemp("cine"), phases=12, slices=6, size=96)


@pytest.fixture(scope="module")
def before(cine: Cine) -> ProcessedStudy:
    done = processed(cine, cine.paths)
    assert done.verdicts[0].kind is VerdictKind.DELIVERED
    return done


def of_role(done: ProcessedStudy, role: str) -> list[ResultObject]:
    return [one for one in done.objects if one.role.value == role]


def roles(done: ProcessedStudy) -> dict[str, str]:
    return {one.sop_instance_uid: one.role.value for one in done.objects}


def read(one: ResultObject) -> Dataset:
    return dcmread(io.BytesIO(one.content))


def eroded(seg: Dataset, number: int, *, keep: float = 0.5) -> Dataset:
    """The SEG as somebody sends it who took away the lower half of one segment, or left more of it."""
    edited = copy.deepcopy(seg)
    masks = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    shape = (int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns))
    masks = masks[: int(np.prod(shape))].reshape(shape).copy()
    for index, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            rows = np.flatnonzero(masks[index].any(axis=1))
            if len(rows):
                masks[index, rows[int(len(rows) * keep)] :] = 0
    edited.PixelData = np.packbits(masks.ravel(), bitorder="little").tobytes()
    edited.SOPInstanceUID = edited.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    edited.SeriesInstanceUID = generate_uid(prefix=None)
    edited.ContentCreatorName = EDITOR
    edited.ManufacturerModelName, edited.Manufacturer = "Editor", "ACME"
    return edited


def written(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def volume_ml(cine: Cine, labels: np.ndarray, label: Label) -> float:
    return float((labels == label).sum() * 1.5625 * 1.5625 * 8.0 / 1000)


def edited_by_dcmqi(seg: bytes, images: list[bytes], folder: Path) -> Path:
    """Read by segimage2itkimage, a part of the cavity taken away, written by itkimage2segimage.

    Parameters
    ----------
    seg, images
        Files: the SEG, and the images that its frames are of.
    """
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index, image in enumerate(images):
        (folder / "images" / f"{index}.dcm").write_bytes(image)
    (folder / "seg.dcm").write_bytes(seg)

    def run(program: str, *arguments: object) -> None:
        done = subprocess.run(
            [script(program), *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    out = folder / "masks"
    run("segimage2itkimage", "--inputDICOM", folder / "seg.dcm", "--outputDirectory", out, "--outputType", "nii")
    files = sorted(out.glob("*.nii.gz"), key=lambda path: int(path.name.split(".")[0].split("-")[-1]))
    described = json.loads(next(out.glob("*.json")).read_text(encoding="utf-8"))
    for segments, file in zip(described["segmentAttributes"], files, strict=True):
        if segments[0]["SegmentLabel"] != "LV blood pool":
            continue
        image = nibabel.load(file)
        voxels = np.asarray(image.dataobj).copy()
        filled = np.flatnonzero(voxels.any(axis=(0, 2)))
        voxels[:, filled[len(filled) * 7 // 8] :] = 0
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), file)
    described |= {"ContentCreatorName": EDITOR, "SeriesDescription": "corrected", "SeriesNumber": "77"}
    (folder / "meta.json").write_text(json.dumps(described), encoding="utf-8")
    run(
        "itkimage2segimage",
        "--inputImageList",
        ",".join(map(str, files)),
        "--inputDICOMDirectory",
        folder / "images",
        "--inputMetadata",
        folder / "meta.json",
        "--outputDICOM",
        folder / "corrected.dcm",
    )
    return folder / "corrected.dcm"


def corrected(cine: Cine, before: ProcessedStudy, path: Path) -> CineSegmentation:
    """The segmentation that the analyses get."""
    known = {CineSegmentation: cine.segmentation}
    found = corrected_findings(cine.study, [dcmread(path)], roles(before), known, "cpu")
    assert found.refusal is None
    segmentation = found.known[CineSegmentation]
    assert isinstance(segmentation, CineSegmentation)
    return segmentation


def test_masks_edited_by_dcmqi_give_a_new_report_that_names_the_old_one_and_the_editor(
    cine: Cine, before: ProcessedStudy, tmp_path: Path
) -> None:
    (first,) = of_role(before, "report")
    (own,) = of_role(before, "segmentation-ed")
    path = edited_by_dcmqi(own.content, [one.content for one in of_role(before, "key-phase-ed")], tmp_path)
    sent = dcmread(path)
    assert sent.Manufacturer != "dicom-node"
    predecessor = Predecessor(STUDY_UID, first.series_instance_uid, first.sop_class_uid, first.sop_instance_uid)
    done = processed(
        cine, [*cine.paths, path], own_results=roles(before), predecessors=[predecessor], package="ventricular_function"
    )
    assert done.verdicts[0].kind is VerdictKind.DELIVERED
    assert done.rejected == ()
    drawn = done.findings[CineSegmentation]
    (one,) = drawn.corrections
    assert (one.by, one.when, one.sop_instance_uid) == (EDITOR, "end diastole", sent.SOPInstanceUID)
    # The cavity at end diastole is what the person left of it; other phases and structures are as they were.
    ed = one.phase
    assert not np.any((drawn.labels[ed] == Label.LV) & (cine.segmentation.labels[ed] != Label.LV))
    left = volume_ml(cine, drawn.labels[ed], Label.LV) / volume_ml(cine, cine.segmentation.labels[ed], Label.LV)
    assert 0.8 < left < 0.98
    assert np.array_equal(np.delete(drawn.labels, ed, 0), np.delete(cine.segmentation.labels, ed, 0))
    assert np.array_equal(drawn.labels[ed] == Label.MYO, cine.segmentation.labels[ed] == Label.MYO)
    old, new = (run.numbers["ventricular_function"] for run in (before, done))
    assert new["LVEDV_ml"] / old["LVEDV_ml"] == pytest.approx(left, abs=0.03)
    assert new["LVESV_ml"] == pytest.approx(old["LVESV_ml"])
    (report,) = of_role(done, "report")
    dataset = read(report)
    reference = dataset.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == first.sop_instance_uid
    assert report.sop_instance_uid != first.sop_instance_uid
    observers = [str(item.PersonName) for item in dataset.ContentSequence if item.ValueType == "PNAME"]
    assert observers == [EDITOR]
    assert f"corrected by Curie Marie (SEG {sent.SOPInstanceUID})".encode() in report.content
    assert any("corrected by Curie Marie" in sentence for sentence in done.verdicts[0].key_numbers)
    (seg,) = (read(one) for one in of_role(done, "segmentation-ed"))
    assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert str(seg.ContentCreatorName) == EDITOR
    (other,) = (read(one) for one in of_role(done, "segmentation-es"))
    assert {item.SegmentAlgorithmType for item in other.SegmentSequence} == {"AUTOMATIC"}


def test_a_seg_that_was_edited_in_place_and_on_a_turned_grid_is_read_where_it_lies(
    cine: Cine, before: ProcessedStudy, tmp_path: Path
) -> None:
    edited = eroded(read(of_role(before, "segmentation-es")[0]), 1)
    straight = corrected(cine, before, written(edited, tmp_path / "straight.dcm"))
    # The same object with its rows upside down, and said so.
    shape = (int(edited.NumberOfFrames), int(edited.Rows), int(edited.Columns))
    masks = np.unpackbits(np.frombuffer(edited.PixelData, np.uint8), bitorder="little", count=int(np.prod(shape)))
    edited.PixelData = np.packbits(masks.reshape(shape)[:, ::-1].ravel(), bitorder="little").tobytes()
    (shared,) = edited.SharedFunctionalGroupsSequence
    orientation = shared.PlaneOrientationSequence[0]
    direction = np.asarray(orientation.ImageOrientationPatient, float)
    height = (shape[1] - 1) * float(shared.PixelMeasuresSequence[0].PixelSpacing[0])
    orientation.ImageOrientationPatient = [f"{v:.10g}" for v in (*direction[:3], *-direction[3:])]
    for frame in edited.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        moved = np.asarray(place.ImagePositionPatient, float) + direction[3:] * height
        place.ImagePositionPatient = [f"{v:.10g}" for v in moved]
    turned = corrected(cine, before, written(edited, tmp_path / "turned.dcm"))
    assert np.array_equal(straight.labels, turned.labels)
    left, drawn = (labels[straight.corrections[0].phase] for labels in (straight.labels, cine.segmentation.labels))
    assert volume_ml(cine, left, Label.LV) < volume_ml(cine, drawn, Label.LV)
    assert straight.corrections[0].when == "end systole"


def test_what_this_node_made_itself_corrects_nothing(cine: Cine, before: ProcessedStudy, tmp_path: Path) -> None:
    (tmp_path / "own.dcm").write_bytes(of_role(before, "segmentation-ed")[0].content)
    assert corrected(cine, before, tmp_path / "own.dcm") is cine.segmentation


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ({"PixelData": b"\0" * 8}, "its pixel data have another size than it says"),
        ({"PerFrameFunctionalGroupsSequence": []}, "it refers to no image"),
        ({"SegmentSequence": []}, "none of its segments is the cavity"),
    ],
    ids=["short", "no frames", "no segments"],
)
def test_a_seg_that_cannot_be_used_is_told_and_never_passed_over(
    cine: Cine, before: ProcessedStudy, tmp_path: Path, damage: dict[str, object], sentence: str
) -> None:
    edited = eroded(read(of_role(before, "segmentation-ed")[0]), 1)
    if "PerFrameFunctionalGroupsSequence" in damage:
        del edited.ReferencedSeriesSequence
    for keyword, value in damage.items():
        setattr(edited, keyword, value)
    done = processed(cine, [*cine.paths, written(edited, tmp_path / "seg.dcm")], own_results=roles(before))
    (verdict,) = done.verdicts
    assert verdict.kind is VerdictKind.DECLINED
    assert sentence in verdict.sentences[0]


# -- in the ledger -----------------------------------------------------------------------------------------------------


class _Node:
    """Receiver, scheduler and worker as far as the ledger sees them."""

    def __init__(self, folder: Path) -> None:
        self.configuration = replace_routes(configuration(folder))
        self.ledger: Ledger = open_ledger(self.configuration.storage.database)
        self.files = InstanceFiles(self.configuration.storage.directory)
        self.files.make_folders()
        self.scheduler = StudyScheduler(self.ledger, self.configuration)

    def receive(self, datasets: list[Dataset]) -> None:
        watermarks = Watermarks(self.files.free_bytes, low_watermark_mb=0, high_watermark_mb=0)
        receiver = InstanceReceiver(self.ledger, self.files, watermarks, lambda _sender: ConflictAnswer.ACCEPT)
        association = open_association(
            self.ledger, calling_ae_title="MR1", called_ae_title="N", address="10.0.0.9", at=utc_now(), receiver="n/r"
        )
        for one in datasets:
            syntax = str(one.file_meta.TransferSyntaxUID)
            request = StoreRequest(str(one.SOPClassUID), str(one.SOPInstanceUID), syntax, association, "MR1")
            assert receiver.receive(request, (encoded(one),)).status == 0
        receiver.commit.close()
        close_association(self.ledger, association, outcome="released", at=utc_now())

    def schedule(self) -> tuple[int, ...]:
        return self.scheduler.consider(utc_now() + dt.timedelta(hours=1))

    def analysed(self, done: ProcessedStudy) -> None:
        """Keep what the one job that waits came to."""
        job = claim_job(self.ledger, "w", utc_now() + dt.timedelta(hours=1))
        assert job is not None
        records = stored_results(self.files, done.objects, delivered=False)
        assert complete_job(self.ledger, job, records, Outcome(Verdict.DELIVERED), now=utc_now())


def replace_routes(settings):
    return settings.model_copy(update={"routes": {"cine": Route(destinations=())}})


def rejection(results: list[ResultObject], title: str, *, own: bool = False) -> Dataset:
    """A Key Object Selection document of a workstation, or of this node, that names results."""
    note = Dataset()
    note.SOPClassUID, note.SOPInstanceUID = KeyObjectSelectionDocumentStorage, generate_uid(prefix=None)
    note.StudyInstanceUID, note.SeriesInstanceUID = STUDY_UID, generate_uid(prefix=None)
    note.Modality, note.PatientID = "KO", "P-1"
    note.Manufacturer = read(results[0]).Manufacturer if own else "ACME"
    note.ManufacturerModelName = read(results[0]).ManufacturerModelName if own else "Workstation"
    concept = Dataset()
    concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning = title, "DCM", "as it is"
    note.ConceptNameCodeSequence = [concept]
    series, study = Dataset(), Dataset()
    series.ReferencedSOPSequence = []
    for one in results:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
        series.ReferencedSOPSequence.append(reference)
    series.SeriesInstanceUID, study.StudyInstanceUID = results[0].series_instance_uid, STUDY_UID
    study.ReferencedSeriesSequence = [series]
    note.CurrentRequestedProcedureEvidenceSequence = [study]
    note.file_meta = FileMetaDataset()
    note.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return note


def test_a_rejection_note_of_a_workstation_is_a_verdict(cine: Cine, before: ProcessedStudy, tmp_path: Path) -> None:
    node = _Node(tmp_path)
    try:
        node.receive([dcmread(path) for path in cine.paths])
        assert len(node.schedule()) == 1
        node.analysed(before)
        report = of_role(before, "report")
        # What says nothing of how good the results are, what this node sent itself, and what names other objects.
        node.receive([rejection(report, "113039"), rejection(report, "113037", own=True)])
        stranger = rejection(report, "113001")
        (series,) = stranger.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"
        damaged = rejection(report, "113001")
        damaged.ConceptNameCodeSequence = []
        node.receive([stranger, damaged])
        assert node.schedule() == ()
        assert assessments(node.ledger) == ()
        note = rejection(of_role(before, "segmentation-ed") + report, "113001")
        for _ in range(2):
            node.receive([note])
            # Nothing is analysed again for it.
            assert node.schedule() == ()
        (given,) = assessments(node.ledger)
        assert (given.result, given.by, given.package) == (AssessmentResult.REJECTED, "MR1", "ventricular_function")
        assert given.comment == f"rejection note {note.SOPInstanceUID}: Rejected for Quality Reasons"
    finally:
        node.ledger.close()


def test_a_corrected_seg_that_comes_in_makes_new_jobs_and_is_a_verdict_on_the_old_ones(
    cine: Cine, before: ProcessedStudy, tmp_path: Path
) -> None:
    node = _Node(tmp_path)
    try:
        node.receive([dcmread(path) for path in cine.paths])
        assert len(node.schedule()) == 1
        node.analysed(before)
        own = read(of_role(before, "segmentation-ed")[0])
        # Sent back by a PACS: nothing is analysed again.
        node.receive([own])
        assert node.schedule() == ()
        # Of something else on the same images: left alone.
        other = eroded(own, 1)
        for item in other.SegmentSequence:
            item.SegmentedPropertyTypeCodeSequence[0].CodeValue = "1234"
        node.receive([other])
        assert node.schedule() == ()
        edited = eroded(own, 1)
        node.receive([edited])
        (again,) = node.schedule()
        while (
            claimed := claim_job(node.ledger, "w", utc_now() + dt.timedelta(hours=1))
        ) is not None and claimed.id != again:
            assert complete_job(node.ledger, claimed, [], Outcome(Verdict.DELIVERED), now=utc_now())
        assert claimed is not None
        held = [dcmread(node.files.absolute(path), stop_before_pixels=True) for path in claimed.paths]
        segs = {one.SOPInstanceUID for one in held if one.SOPClassUID == SegmentationStorage}
        assert segs == {edited.SOPInstanceUID}
        assert len(held) == len(cine.paths) + 1
        (report,) = of_role(before, "report")
        assert report.sop_instance_uid in {one.sop_instance_uid for one in claimed.predecessors}
        for _ in range(2):
            note_corrections(node.ledger, again, [(EDITOR, str(edited.SOPInstanceUID))], now=utc_now())
        (given,) = assessments(node.ledger)
        assert (given.result, given.by, given.study_version) == (AssessmentResult.CORRECTED, EDITOR, 1)
        assert given.comment == f"corrected SEG {edited.SOPInstanceUID}"
    finally:
        node.ledger.close()
