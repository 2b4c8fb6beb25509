"""Corrections, deletions and losses, as an administrator meets them: what is held, what is told, what stays."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from deliver.results_due import overview
from ledger_rows import DELIVERED, close_versions, route
from network.objects import MR, encoded, mr_image
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import delete, select, update

from dicom_node import cli
from dicom_node.commands.terminal import console
from dicom_node.config import Configuration
from dicom_node.config_file import load_configuration
from dicom_node.deliver.rejection import reject_superseded
from dicom_node.network import query_scp
from dicom_node.network.file_meta import encode_file_meta
from dicom_node.network.reception import InstanceReceiver, StoreRequest
from dicom_node.network.watermarks import Watermarks
from dicom_node.results.iod import iod_findings
from storage.assessments import assess
from storage.closing import FRONT_PAGE
from storage.deliveries import (
    Selection,
    claim_deliveries,
    delivery_failed,
    delivery_sent,
    release_expired_deliveries,
    requeue_deliveries,
)
from storage.files import RESULTS, InstanceFiles
from storage.holdings import held_studies
from storage.identity import bind
from storage.instances import close_association, open_association
from storage.jobs import (
    ResultRecord,
    add_jobs,
    claim_job,
    complete_job,
    create_jobs,
    studies_to_consider,
    study_contents,
)
from storage.ledger import Ledger, open_ledger, record_event, utc_now
from storage.overview import quarantine_overviews, study_overviews
from storage.retention import expire_studies, sweep_files
from storage.schema import (
    AssessmentResult,
    AssessmentRow,
    DeliveryRow,
    DeliveryState,
    EventRow,
    InstanceRow,
    JobRow,
    JobState,
    ResultRow,
    Verdict,
)
from storage.set_aside import set_study_aside, why_set_aside

STUDY, SERIES = "1.2.3", "1.2.3.1"
CONFIGURATION = """
node: {ae_title: NODE, port: 11119}
peers:
  scanner: {ae_title: MR1, conflicts: replace}
  other: {ae_title: MR2}
  pacs: {ae_title: PACS, host: 127.0.0.1, port: 11118, may: [receive]}
routes: {cine: {destinations: [pacs, plain]}}
storage: {low_watermark_mb: 0, high_watermark_mb: 0}
results:
  destinations:
    pacs: {peer: pacs}
    plain: {peer: pacs, rejection_notes: false}
audit: {file: audit.log}
"""


class Node:
    """A node that does not run: its configuration, ledger and files."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config.yaml"
        self.config.write_text(CONFIGURATION)
        self.configuration: Configuration = load_configuration(self.config)
        self.ledger: Ledger = open_ledger(self.configuration.storage.database)
        self.files = InstanceFiles(self.configuration.storage.directory)
        bind(self.ledger, self.files, now=utc_now())

    def receive(self, *images: Dataset, sender: str = "MR1", close: bool = True) -> list[int]:
        watermarks = Watermarks(self.files.free_bytes, low_watermark_mb=0, high_watermark_mb=0)
        receiver = InstanceReceiver(self.ledger, self.files, watermarks, self.configuration.conflict_answer)
        association = open_association(
            self.ledger,
            calling_ae_title=sender,
            called_ae_title="NODE",
            address="10.0.0.9",
            at=utc_now(),
            receiver="n/r",
        )
        statuses = [
            receiver.receive(
                StoreRequest(MR, str(one.SOPInstanceUID), str(one.file_meta.TransferSyntaxUID), association, sender),
                (encoded(one),),
            ).status
            for one in images
        ]
        receiver.commit.close()
        if close:
            close_association(self.ledger, association, outcome="released", at=utc_now())
        return statuses

    def analyse(self, *, study: str = STUDY, deliver: bool = True, close: bool = True, late: str = "") -> None:
        """Close a version, make one result of it, and deliver that to both destinations.

        Parameters
        ----------
        late
            A route that analyses a version that is closed, instead.
        """
        contents, routed = study_contents(self.ledger, study), [route(late or "cine", (f"{study}.1",))]
        if late:
            created = add_jobs(self.ledger, contents, routed, reason="test", by="test", now=utc_now())
        else:
            created = create_jobs(self.ledger, contents, routed, reason="test", now=utc_now()) or ()
        assert created
        job = claim_job(self.ledger, "w", utc_now())
        assert job is not None
        source = dcmread(self.files.absolute(job.paths[0]))
        result = mr_image(study=study, series=f"{study}.900", seed=job.id)
        for keyword in ("PatientID", "PatientName", "StudyDate", "StudyTime"):
            setattr(result, keyword, source.get(keyword))
        syntax = str(result.file_meta.TransferSyntaxUID)
        meta = encode_file_meta(MR, str(result.SOPInstanceUID), syntax)
        stored = self.files.store(encoded(result), file_meta=meta, transfer_syntax_uid=syntax, folder=RESULTS)
        record = ResultRecord(
            role="report",
            sop_class_uid=MR,
            sop_instance_uid=str(result.SOPInstanceUID),
            series_instance_uid=f"{study}.900",
            series_description="report",
            path=stored.path,
            digest=stored.digest,
            size=stored.size,
            destinations=("pacs", "plain"),
        )
        assert complete_job(self.ledger, job, [record], DELIVERED, now=utc_now())
        if close:
            close_versions(self.ledger, utc_now())
        if deliver:
            self.deliver()

    def deliver(self) -> None:
        for destination in ("pacs", "plain"):
            claimed = claim_deliveries(self.ledger, destination, 99, "d", utc_now(), 60)
            delivery_sent(self.ledger, [one.id for one in claimed], None, None, now=utc_now())

    def patient_ids(self) -> set[str]:
        with self.ledger.reading() as session:
            paths = session.scalars(select(InstanceRow.path).where(InstanceRow.removed_at.is_(None))).all()
        return {str(dcmread(self.files.absolute(path)).PatientID) for path in paths}

    def events(self, kind: str) -> list[EventRow]:
        with self.ledger.reading() as session:
            return list(session.scalars(select(EventRow).where(EventRow.kind == kind)))

    def notes(self) -> list[Dataset]:
        with self.ledger.reading() as session:
            notes = select(ResultRow.path).where(ResultRow.role == "rejection-note").order_by(ResultRow.path)
            return [dcmread(self.files.absolute(path)) for path in session.scalars(notes)]

    def audit(self) -> str:
        log = self.config.parent / "audit.log"
        return log.read_text() if log.exists() else ""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    one = Node(tmp_path)
    yield one
    one.ledger.close()


@pytest.fixture
def run(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    def ran(*arguments: object, status: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["dicom-node", *map(str, arguments), "--config", str(node.config)])
        monkeypatch.setattr(console, "_width", 200)
        monkeypatch.setattr(console, "_height", 100)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        assert int(stopped.value.code or 0) == status, out + err
        return out + err

    yield ran
    structlog.reset_defaults()


def _images(count: int = 3) -> list[Dataset]:
    return [mr_image(study=STUDY, series=SERIES, seed=seed) for seed in range(count)]


def _corrected(images: list[Dataset], patient_id: str = "P2") -> list[Dataset]:
    corrected = []
    for one in images:
        other = mr_image(study=STUDY, series=SERIES)
        other.update(one)
        other.file_meta = one.file_meta
        other.PatientID = patient_id
        corrected.append(other)
    return corrected


def test_a_corrected_patient_replaces_the_wrong_one_and_the_first_results_are_rejected(node: Node) -> None:
    images = _images()
    node.receive(*images)
    node.analyse()
    assert node.receive(*_corrected(images)) == [0x0000] * 3
    assert node.patient_ids() == {"P2"}
    assert [one.reason for one in quarantine_overviews(node.ledger)] == [
        "replaced by other bytes under the same SOP Instance UID"
    ] * 3
    (study,) = study_overviews(node.ledger)
    assert (study.instances, study.instances_waiting) == (3, 3)
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 0
    node.analyse()
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 1
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 0
    (note,) = node.notes()
    first = overview(node.ledger)[0]
    # Filed where the rejected results are: under the patient that was wrong.
    assert (note.PatientID, note.StudyInstanceUID) == ("P1", STUDY)
    assert note.ConceptNameCodeSequence[0].CodeValue == "113037"
    (series,) = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [first.sop_instance_uid]
    assert "version 2" in note.ContentSequence[0].TextValue
    due = [one for one in overview(node.ledger) if one.role == "rejection-note"]
    assert [(one.destination, one.state) for one in due] == [("pacs", DeliveryState.QUEUED)]


def test_a_study_that_is_corrected_while_its_header_is_read_is_not_described_as_the_patient_before(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries and orders then took it for the wrong patient's, until its files were removed."""
    images = _images()
    node.receive(*images)
    read = query_scp._header

    def while_it_is_corrected(*arguments: Any) -> Any:
        monkeypatch.setattr(query_scp, "_header", read)
        header = read(*arguments)
        node.receive(*_corrected(images))
        return header

    monkeypatch.setattr(query_scp, "_header", while_it_is_corrected)
    query_scp.describe_new_studies(node.ledger, node.files, STUDY)
    (study,) = held_studies(node.ledger)
    assert study.attributes["PatientID"] == "P2"
    assert held_studies(node.ledger, patient_id="P1") == ()


def routes_of(node: Node, **changes: object) -> Configuration:
    """As the node's, but that its route stands back for another of the same destinations."""
    cine = node.configuration.routes["cine"]
    infarct = cine.model_copy(update=changes)
    cine = cine.model_copy(update={"leaves_to": frozenset({"infarct"})})
    return node.configuration.model_copy(update={"routes": {"cine": cine, "infarct": infarct}})


def test_what_another_route_has_analysed_since_is_rejected_where_the_first_would_have_stood_back(node: Node) -> None:
    settings = routes_of(node)
    node.receive(*_images())
    node.analyse()
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 0
    node.analyse(late="infarct", close=False)
    # Its front page is still to come.
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 0
    close_versions(node.ledger, utc_now())
    # Nothing of a route that stands back for none, nor of one whose destinations would be left with less.
    for other in (node.configuration, routes_of(node, destinations=("plain",))):
        assert reject_superseded(node.ledger, node.files, other, utc_now()) == 0
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 1
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 0
    (note,) = node.notes()
    first, *_ = overview(node.ledger)
    (series,) = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [first.sop_instance_uid]
    assert "analysed again, with more analyses" in note.ContentSequence[0].TextValue
    due = [one for one in overview(node.ledger) if one.role == "rejection-note"]
    assert [(one.destination, one.state) for one in due] == [("pacs", DeliveryState.QUEUED)]


def test_what_a_radiologist_has_judged_stays_beside_what_another_route_has_made_since(node: Node) -> None:
    node.receive(*_images())
    node.analyse()
    (judged,) = {one.job_id for one in overview(node.ledger)}
    node.analyse(late="infarct", close=False)
    close_versions(node.ledger, utc_now())
    assess(node.ledger, judged, AssessmentResult.ACCEPTED, comment="", by="ann", now=utc_now())
    assert reject_superseded(node.ledger, node.files, routes_of(node), utc_now()) == 0


def test_a_version_that_another_route_took_over_leaves_nothing_of_the_one_before(node: Node) -> None:
    images = _images(6)
    node.receive(*images[:3])
    node.analyse()
    node.receive(*images[3:])
    contents = study_contents(node.ledger, STUDY)
    assert create_jobs(node.ledger, contents, [route("infarct", (SERIES,))], reason="test", now=utc_now())
    job = claim_job(node.ledger, "w", utc_now())
    assert job is not None
    # What the first route found and this one did not stays.
    assert complete_job(node.ledger, job, [], dataclasses.replace(DELIVERED, verdict=Verdict.DECLINED), now=utc_now())
    close_versions(node.ledger, utc_now())
    assert reject_superseded(node.ledger, node.files, routes_of(node), utc_now()) == 0
    with node.ledger.transaction() as session:
        session.get_one(JobRow, job.id).verdict = Verdict.DELIVERED
    assert reject_superseded(node.ledger, node.files, routes_of(node), utc_now()) == 1


def _left(node: Node, package: str = "ventricular_function", *, by: str = "scheduler") -> Configuration:
    """An order let one route analyse the first version; the second, without it, is that of the one that stands back."""
    images = _images(6)
    node.receive(*images[:3])
    node.analyse()  # takes the first version for the node
    with node.ledger.transaction() as session:
        session.execute(update(JobRow).values(route="infarct"))
        session.execute(update(JobRow).where(JobRow.package != FRONT_PAGE).values(package=package))
        record_event(session, "route run", STUDY, at=utc_now(), study_id=1, routes=["infarct"], by=by)
    node.receive(*images[3:])
    return routes_of(node)


def test_what_an_order_had_asked_for_goes_once_a_later_version_is_analysed_without_it(node: Node) -> None:
    settings = _left(node, "obstruction")
    node.analyse(close=False)
    # The front page of the later version is still to come.
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 0
    close_versions(node.ledger, utc_now())
    for other in (node.configuration, routes_of(node, destinations=("pacs", "plain", "other"))):
        assert reject_superseded(node.ledger, node.files, other, utc_now()) == 0
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 1
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 0
    (note,) = node.notes()
    first, *_ = overview(node.ledger)
    (series,) = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [first.sop_instance_uid]
    assert "version 2 of this study" in note.ContentSequence[0].TextValue
    assert "an order that was cancelled" in note.ContentSequence[0].TextValue


def test_what_the_later_version_did_not_find_again_and_what_a_person_asked_for_stays(node: Node) -> None:
    settings = _left(node)
    node.analyse()
    with node.ledger.transaction() as session:
        later = session.scalars(select(JobRow).where(JobRow.route == "cine", JobRow.package != FRONT_PAGE)).one()
        later.verdict = Verdict.DECLINED
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 0
    with node.ledger.transaction() as session:
        session.get_one(JobRow, later.id).verdict = Verdict.DELIVERED
        by_hand = {"routes": ["infarct"], "by": "ann"}
        session.execute(update(EventRow).where(EventRow.kind == "route run").values(detail=by_hand))
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 0
    with node.ledger.transaction() as session:
        session.execute(
            update(EventRow).where(EventRow.kind == "route run").values(detail=by_hand | {"routes": ["cine"]})
        )
    judged, *_ = (one.job_id for one in overview(node.ledger))
    assess(node.ledger, judged, AssessmentResult.ACCEPTED, comment="", by="ann", now=utc_now())
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 0
    with node.ledger.transaction() as session:
        session.execute(delete(AssessmentRow))
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 1


def test_a_version_that_both_routes_analysed_leaves_nothing_behind(node: Node) -> None:
    settings = _left(node, "obstruction")
    node.analyse()
    # An order came again, and what it asks for is to come.
    contents = study_contents(node.ledger, STUDY)
    routed = [route("infarct", (SERIES,), package="obstruction")]
    assert add_jobs(node.ledger, contents, routed, reason="an order came", by="scheduler", now=utc_now())
    assert reject_superseded(node.ledger, node.files, settings, utc_now()) == 0


def test_what_a_corrected_study_had_is_rejected_though_no_route_takes_it_any_more(node: Node) -> None:
    images = _images()
    node.receive(*images)
    node.analyse()
    (judged,) = {one.job_id for one in overview(node.ledger)}
    assess(node.ledger, judged, AssessmentResult.ACCEPTED, comment="", by="ann", now=utc_now())
    node.receive(*_corrected(images))
    # A route may still take it.
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 0
    assert create_jobs(node.ledger, study_contents(node.ledger, STUDY), [], reason="test", now=utc_now()) == ()
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 1
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 0
    (note,) = node.notes()
    first, *_ = overview(node.ledger)
    # Filed where the rejected results are: under the patient that was wrong.
    assert (note.PatientID, note.ConceptNameCodeSequence[0].CodeValue) == ("P1", "113037")
    (series,) = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [first.sop_instance_uid]
    assert "was corrected" in note.ContentSequence[0].TextValue
    assert [one.detail["by"] for one in node.events("results rejected")] == ["scheduler"]


def test_what_was_not_sent_of_a_corrected_study_that_no_route_takes_is_not_sent(node: Node) -> None:
    images = _images()
    node.receive(*images)
    node.analyse(deliver=False)
    node.receive(*_corrected(images[:1]))
    assert create_jobs(node.ledger, study_contents(node.ledger, STUDY), [], reason="test", now=utc_now()) == ()
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 1
    assert {one.state for one in overview(node.ledger)} == {DeliveryState.DISMISSED}
    assert node.notes() == []


def test_what_no_route_takes_because_of_images_that_came_late_stays(node: Node) -> None:
    images = _images(6)
    node.receive(*images[:3])
    # Corrected before it was analysed.
    node.receive(*_corrected(images[:3]))
    node.analyse()
    node.receive(*images[3:])
    assert create_jobs(node.ledger, study_contents(node.ledger, STUDY), [], reason="test", now=utc_now()) == ()
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 0


def test_what_was_made_of_images_that_a_correction_left_alone_stays(node: Node) -> None:
    images = _images()
    others = [mr_image(study=STUDY, series=f"{STUDY}.2", seed=seed) for seed in range(10, 12)]
    node.receive(*images, *others)
    node.analyse()
    node.receive(*_corrected(others, "P1 "))
    # Taken, and no job is made of what has been analysed already.
    contents = study_contents(node.ledger, STUDY)
    assert create_jobs(node.ledger, contents, [route("cine", (SERIES,))], reason="test", now=utc_now()) == ()
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 0
    # Later, images come that a rule of the route does not want, and nothing is corrected.
    node.receive(mr_image(study=STUDY, series=f"{STUDY}.3", seed=20))
    assert create_jobs(node.ledger, study_contents(node.ledger, STUDY), [], reason="test", now=utc_now()) == ()
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 0


def test_a_note_is_what_its_iod_says(node: Node, tmp_path: Path) -> None:
    images = _images()
    node.receive(*images)
    node.analyse()
    node.receive(*_corrected(images))
    node.analyse()
    reject_superseded(node.ledger, node.files, node.configuration, utc_now())
    (path,) = (one for one in node.files.root.glob("results/*/*.dcm") if dcmread(one).get("Modality") == "KO")
    findings = iod_findings(dcmread(path))
    assert [one for one in findings if one.error] == []


def test_results_of_an_earlier_version_that_were_not_sent_are_not_sent_any_more(node: Node) -> None:
    images = _images(6)
    node.receive(*images[:3])
    node.analyse(deliver=False)
    node.receive(*images[3:])
    node.analyse(deliver=False)
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 1
    states = [one.state for one in overview(node.ledger)]
    assert states == [DeliveryState.DISMISSED] * 2 + [DeliveryState.QUEUED] * 2
    # A later version made them void: they are not among what is sent again, whoever asks.
    void = (DeliveryState.DISMISSED,)
    assert requeue_deliveries(node.ledger, Selection(study_instance_uid=STUDY), now=utc_now(), states=void) == 0
    assert node.notes() == []


def test_results_under_way_are_rejected_once_it_is_known_what_became_of_them(node: Node) -> None:
    images = _images(6)
    node.receive(*images[:3])
    node.analyse(deliver=False)
    (sending,) = claim_deliveries(node.ledger, "pacs", 99, "d", utc_now(), 60)
    node.receive(*images[3:])
    node.analyse(deliver=False)
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 0
    delivery_sent(node.ledger, [sending.id], None, None, now=utc_now())
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 1
    assert len(node.notes()) == 1


def test_what_arrived_after_its_lease_had_run_out_is_rejected_as_well(node: Node) -> None:
    images = _images(6)
    node.receive(*images[:3])
    node.analyse(deliver=False)
    (sending,) = claim_deliveries(node.ledger, "pacs", 99, "d", utc_now(), 0)
    assert release_expired_deliveries(node.ledger, utc_now() + dt.timedelta(seconds=1)) == 1
    delivery_sent(node.ledger, [sending.id], None, None, now=utc_now())
    node.receive(*images[3:])
    node.analyse(deliver=False)
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 1
    assert len(node.notes()) == 1


def test_a_study_whose_results_are_under_way_leaves_no_note_behind_that_nothing_names(
    node: Node, run: Callable[..., str]
) -> None:
    node.receive(*_images())
    node.analyse(deliver=False)
    assert claim_deliveries(node.ledger, "pacs", 99, "d", utc_now(), 60)
    node.deliver()
    with node.ledger.transaction() as session:
        session.execute(
            update(DeliveryRow).where(DeliveryRow.destination == "plain").values(state=DeliveryState.NOT_VERIFIED)
        )
        row = session.scalars(select(DeliveryRow).where(DeliveryRow.destination == "pacs")).one()
        row.state, row.sent_at = DeliveryState.SENDING, utc_now()
    assert "on their way" in run("delete", STUDY, "--yes", "--reason", "wrong patient", status=1)
    later = utc_now() + dt.timedelta(days=1)
    assert sweep_files(node.ledger, node.files, grace=dt.timedelta(0), now=later).set_aside == 0


def test_what_was_stored_and_never_committed_is_rejected_as_well(node: Node) -> None:
    images = _images(6)
    node.receive(*images[:3])
    node.analyse(deliver=False)
    for one in claim_deliveries(node.ledger, "pacs", 99, "d", utc_now(), 60):
        delivery_sent(node.ledger, [one.id], "2.25.7", utc_now(), now=utc_now())
        delivery_failed(node.ledger, one.id, "storage commitment did not come in time", utc_now(), now=utc_now())
    node.receive(*images[3:])
    node.analyse(deliver=False)
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 1
    (note,) = node.notes()
    assert note.ConceptNameCodeSequence[0].CodeValue == "113037"


def _without_study(content: bytes) -> bytes:
    damaged = dcmread(io.BytesIO(content))
    del damaged.StudyInstanceUID
    written = io.BytesIO()
    damaged.save_as(written)
    return written.getvalue()


@pytest.mark.parametrize("damage", [lambda content: content[:142], lambda content: b"", _without_study])
def test_a_damaged_result_holds_up_no_rejection(node: Node, damage: Callable[[bytes], bytes]) -> None:
    """What pydicom raises on a damaged file ended every look at all studies."""
    for study in (STUDY, "1.2.4"):
        images = [mr_image(study=study, series=f"{study}.1", seed=seed) for seed in range(4)]
        node.receive(*images[:2])
        node.analyse(study=study)
        node.receive(*images[2:])
        node.analyse(study=study)
    with node.ledger.reading() as session:
        path = node.files.absolute(session.scalars(select(ResultRow.path).order_by(ResultRow.id)).first() or "")
    path.chmod(0o600)
    path.write_bytes(damage(path.read_bytes()))
    reject_superseded(node.ledger, node.files, node.configuration, utc_now())
    # The images that the damaged one was made of tell whose it is.
    assert {(note.StudyInstanceUID, note.PatientID) for note in node.notes()} == {(STUDY, "P1"), ("1.2.4", "P1")}


def _without_result_files(node: Node) -> None:
    for path in node.files.root.glob("results/*/*.dcm"):
        path.unlink()


@pytest.mark.parametrize("kept_aside", [True, False])
def test_results_whose_files_are_gone_are_rejected_under_the_patient_of_the_images_they_were_made_of(
    node: Node, kept_aside: bool
) -> None:
    """Nobody was told of them, though quarantine has the images as they were before the correction."""
    images = _images()
    node.receive(*images)
    node.analyse()
    first, *_ = overview(node.ledger)
    _without_result_files(node)
    node.receive(*_corrected(images[:2]))
    node.receive(*_corrected(images, "P3"))
    node.analyse()
    if not kept_aside:
        for path in node.files.root.glob("quarantine/*/*"):
            path.unlink()
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 1
    (rejected,) = node.events("results rejected")
    if not kept_aside:
        # The ledger names no patient, and the images that are held now are of another.
        assert (rejected.detail["not_told"], node.notes()) == (["pacs"], [])
        return
    assert "not_told" not in rejected.detail
    (note,) = node.notes()
    assert (note.PatientID, note.StudyInstanceUID, note.Manufacturer) == ("P1", STUDY, "dicom-node")
    (series,) = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [first.sop_instance_uid]
    assert [one for one in iod_findings(note) if one.error] == []


def test_what_comes_again_after_retention_has_its_earlier_results_rejected(node: Node) -> None:
    images = _images()
    node.receive(*images)
    node.analyse()
    first, *_ = overview(node.ledger)
    later = utc_now() + dt.timedelta(days=99)
    assert expire_studies(node.ledger, retention=dt.timedelta(days=14), now=later) == (STUDY,)
    sweep_files(node.ledger, node.files, grace=dt.timedelta(0), now=later)
    assert list(node.files.root.glob("results/*/*.dcm")) == []
    # All of it, and more.
    node.receive(*images, mr_image(study=STUDY, series=SERIES, seed=9))
    node.analyse()
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 1
    (note,) = node.notes()
    assert (note.PatientID, note.StudyInstanceUID) == ("P1", STUDY)
    (series,) = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [first.sop_instance_uid]


def test_results_are_rejected_once_the_storage_that_was_away_is_back(node: Node) -> None:
    images = _images()
    node.receive(*images)
    node.analyse()
    node.receive(*_corrected(images))
    node.analyse()
    directory = node.files.root
    away = directory.rename(directory.with_name("away"))
    directory.mkdir()
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 0
    assert node.events("results rejected") == []
    directory.rmdir()
    away.rename(directory)
    assert reject_superseded(node.ledger, node.files, node.configuration, utc_now()) == 1
    assert len(node.notes()) == 1


def test_a_study_that_was_set_aside_is_looked_at_again_when_an_image_of_it_is_replaced(node: Node) -> None:
    """As many images wait as before; the study was passed over for a day."""
    images = _images()
    node.receive(*images)
    (waiting,) = studies_to_consider(node.ledger)
    set_study_aside(node.ledger, waiting, "what it holds cannot be read (KeyError)", now=utc_now())
    assert why_set_aside(node.ledger, waiting) is not None
    assert node.receive(*_corrected(images[:1])) == [0x0000]
    (again,) = studies_to_consider(node.ledger)
    assert why_set_aside(node.ledger, again) is None


def test_who_may_not_replace_is_quarantined_and_an_operator_decides(node: Node, run: Callable[..., str]) -> None:
    images = _images(1)
    node.receive(*images)
    assert node.receive(*_corrected(images), sender="MR2") == [0x0000]
    assert node.patient_ids() == {"P1"}
    (aside,) = json.loads(run("quarantine", "list", "--json"))
    assert "other bytes are held" in aside["reason"]
    assert "--reason" in run("quarantine", "accept", aside["id"], "--yes", status=2)
    assert node.patient_ids() == {"P1"}
    run("quarantine", "accept", aside["id"], "--yes", "--reason", "patient mixed up at the console")
    assert node.patient_ids() == {"P2"}
    (event,) = node.events("quarantined object accepted")
    assert event.detail["reason"] == "patient mixed up at the console"
    assert 'originalText="DICOM Instances Accessed"' in node.audit()
    (first,) = json.loads(run("quarantine", "list", "--json"))
    assert first["reason"] == "replaced by other bytes under the same SOP Instance UID"
    run("quarantine", "drop", first["id"], "--yes", "--reason", "the wrong patient")
    assert json.loads(run("quarantine", "list", "--json")) == []
    sweep_files(node.ledger, node.files, grace=dt.timedelta(0), now=utc_now() + dt.timedelta(seconds=1))
    assert len(list(node.files.stored_paths())) == 1
    assert list(node.files.unexplained_paths()) == []


def test_many_objects_are_taken_in_or_dropped_at_once_or_none_of_them(node: Node, run: Callable[..., str]) -> None:
    images = _images(3)
    node.receive(*images)
    node.receive(*_corrected(images), sender="MR2")
    aside = [one.id for one in quarantine_overviews(node.ledger)]
    assert "no object 99 in quarantine" in run("quarantine", "accept", *aside, "99", "--yes", "--reason", "x", status=1)
    assert node.patient_ids() == {"P1"}
    run("quarantine", "accept", *aside, "--yes", "--reason", "patient mixed up at the console")
    assert node.patient_ids() == {"P2"}
    replaced = [one.id for one in quarantine_overviews(node.ledger)]
    assert len(replaced) == 3
    run("quarantine", "drop", *replaced, replaced[0], "--yes", "--reason", "the wrong patient")
    assert quarantine_overviews(node.ledger) == ()


def test_an_object_whose_file_is_gone_is_not_taken_in_and_can_be_dropped(node: Node, run: Callable[..., str]) -> None:
    images = _images(1)
    node.receive(*images)
    node.receive(*_corrected(images), sender="MR2")
    (one,) = quarantine_overviews(node.ledger)
    node.files.absolute(one.path).unlink()
    run("quarantine", "accept", one.id, "--yes", "--reason", "x", status=1)
    assert node.patient_ids() == {"P1"}
    run("quarantine", "drop", one.id, "--yes", "--reason", "its file is gone")
    assert quarantine_overviews(node.ledger) == ()


def test_an_instance_does_not_move_to_another_study(node: Node) -> None:
    (image,) = _images(1)
    node.receive(image)
    (moved,) = _corrected([image])
    moved.StudyInstanceUID = "1.2.9"
    assert node.receive(moved) == [0x0000]
    assert node.patient_ids() == {"P1"}
    assert len(quarantine_overviews(node.ledger)) == 1


def test_a_deleted_study_is_gone_and_rejected_and_comes_again_as_new(node: Node, run: Callable[..., str]) -> None:
    images = _images()
    node.receive(*images)
    node.analyse()
    assert "--reason" in run("delete", STUDY, "--yes", status=2)
    run("delete", STUDY, "--yes", "--reason", "sent to the wrong node", "--reject", "retention")
    assert node.patient_ids() == set()
    (event,) = node.events("study deleted")
    assert event.detail["reason"] == "sent to the wrong node"
    assert 'originalText="DICOM Study Deleted"' in node.audit()
    explained = run("explain", STUDY)
    assert "no image of it is held any more" in explained
    assert "left alone" not in explained
    (note,) = node.notes()
    assert note.ConceptNameCodeSequence[0].CodeValue == "113039"
    sweep_files(node.ledger, node.files, grace=dt.timedelta(0), now=utc_now() + dt.timedelta(seconds=1))
    assert [path.parts[0] for path in node.files.stored_paths()] == [RESULTS]  # the note, until it is delivered
    assert list(node.files.unexplained_paths()) == []
    assert node.receive(*_corrected(images), sender="MR2") == [0x0000] * 3
    assert node.patient_ids() == {"P2"}
    assert quarantine_overviews(node.ledger) == ()
    node.analyse()
    (study,) = study_overviews(node.ledger)
    assert study.jobs[JobState.SUCCEEDED] == 4


def test_a_study_is_deleted_by_what_people_have_at_hand_if_that_is_one_study_only(
    node: Node, run: Callable[..., str]
) -> None:
    node.receive(*_images())
    node.receive(mr_image(study=f"{STUDY}.7", series=f"{STUDY}.7.1"), sender="MR2")
    for text, said in ((STUDY[:-1], "names several studies"), ("P1", "names several studies"), ("P9", "no study P9")):
        assert said in run("delete", text, "--yes", "--reason", "sent to the wrong node", status=1)
    assert len(study_overviews(node.ledger)) == 2
    assert f"study {STUDY}.7: 1 instances" in run("delete", "MR2", "--yes", "--reason", "sent to the wrong node")
    (event,) = node.events("study deleted")
    assert event.detail["reason"] == "sent to the wrong node"
    # Now there is one that it can be.
    assert "3 instances" in run("delete", "MR1", "--yes", "--reason", "sent to the wrong node")
    assert {one.instances for one in study_overviews(node.ledger)} == {0}


def test_deliveries_of_a_study_are_chosen_by_what_people_have_at_hand(node: Node, run: Callable[..., str]) -> None:
    node.receive(*_images())
    node.analyse()
    wanted = json.loads(run("deliveries", "list", "--all", "--study", STUDY, "--json"))["total"]
    assert wanted
    assert json.loads(run("deliveries", "list", "--all", "--study", "P1", "--json"))["total"] == wanted
    assert "no study P9" in run("deliveries", "requeue", "--study", "P9", status=1)
    assert "say which deliveries" in run("deliveries", "requeue", status=2)
    assert "say which deliveries" in run("deliveries", "requeue", "--all", "--study", "P1", status=2)


def test_a_study_that_is_being_received_keeps_its_results_when_it_cannot_be_deleted(
    node: Node, run: Callable[..., str]
) -> None:
    """They were rejected at the destinations before the deletion was refused."""
    images = _images(4)
    node.receive(*images[:3])
    node.analyse()
    node.receive(images[3], close=False)
    said = run("delete", STUDY, "--yes", "--reason", "sent to the wrong node", status=1)
    assert "is being received" in said
    assert node.notes() == []
    assert node.events("results rejected") == []
    assert "DICOM Study Deleted" not in node.audit()


def test_deleting_asks_first(node: Node, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    node.receive(*_images())
    monkeypatch.setattr("typer.confirm", lambda *_args, **_kwargs: False)
    run("delete", STUDY, "--reason", "by mistake", status=1)
    assert node.patient_ids() == {"P1"}


def test_a_lost_ledger_is_refused_and_the_files_are_read_into_a_new_one(
    node: Node, run: Callable[..., str], tmp_path: Path
) -> None:
    node.receive(*_images(4))
    node.analyse()
    node.ledger.close()
    for name in ("", "-wal", "-shm"):
        (tmp_path / f"var/ledger.sqlite{name}").unlink(missing_ok=True)
    assert "belongs to another ledger" in run("serve", status=2)
    before = {path.name: path.read_bytes() for path in node.files.root.glob("instances/*/*.dcm")}
    assert len(before) == 4
    (damaged,) = [*node.files.root.glob("instances/*/*.dcm")][:1]
    damaged.write_bytes(damaged.read_bytes()[:-2])
    out = json.loads(run("adopt", "--yes", "--reason", "the ledger's disk failed", "--json", status=1))
    assert (out["taken"], len(out["left"]), out["in_quarantine"]) == (3, 1, [])
    node.ledger = open_ledger(node.configuration.storage.database)
    bind(node.ledger, node.files, now=utc_now())
    assert node.patient_ids() == {"P1"}
    (study,) = study_overviews(node.ledger)
    assert (study.study_instance_uid, study.instances_waiting) == (STUDY, 3)
    with node.ledger.reading() as session:
        assert set(session.scalars(select(InstanceRow.digest))) == {path.split(".")[0] for path in before} - {
            damaged.stem
        }
    node.analyse()


@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("replaced", [True, False])
def test_what_lay_in_quarantine_is_not_read_into_a_new_ledger(
    node: Node, run: Callable[..., str], tmp_path: Path, replaced: bool, swept: bool
) -> None:
    """Files of both patients lie among the instances for some hours, and whichever came first was believed."""
    images = _images(4)
    node.receive(*images)
    node.receive(*_corrected(images), sender="MR1" if replaced else "MR2")
    believed, aside = ("P2", "P1") if replaced else ("P1", "P2")
    node.ledger.close()
    for name in ("", "-wal", "-shm"):
        (tmp_path / f"var/ledger.sqlite{name}").unlink(missing_ok=True)
    if swept:
        # As the sweep of a ledger does that does not know them.
        for path in list(node.files.stored_paths()):
            node.files.set_aside_if_older(path, utc_now() + dt.timedelta(days=1))
    out = json.loads(run("adopt", "--yes", "--reason", "the ledger's disk failed", "--json"))
    assert (out["taken"], len(out["in_quarantine"])) == (4, 4)
    node.ledger = open_ledger(node.configuration.storage.database)
    assert node.patient_ids() == {believed}
    kept = quarantine_overviews(node.ledger)
    assert len(kept) == 4
    assert {str(dcmread(node.files.absolute(one.path)).PatientID) for one in kept} == {aside}
    assert {one.sop_instance_uid for one in kept} == {str(one.SOPInstanceUID) for one in images}


def test_files_that_were_set_aside_are_read_in_again(node: Node, run: Callable[..., str]) -> None:
    node.receive(*_images(2))
    with node.ledger.transaction() as session:
        # As in a ledger that was restored from before the second image.
        session.delete(session.scalars(select(InstanceRow).order_by(InstanceRow.id.desc())).first())
    swept = sweep_files(node.ledger, node.files, grace=dt.timedelta(0), now=utc_now() + dt.timedelta(seconds=1))
    assert (swept.removed, swept.set_aside) == (0, 1)
    assert "1 of 1 files read" in run("adopt", "--yes", "--reason", "restored from Monday")
    assert list(node.files.unexplained_paths()) == []
    assert len(list(node.files.stored_paths())) == 2
    with node.ledger.reading() as session:
        assert len(session.scalars(select(InstanceRow.id)).all()) == 2


def test_dead_letters_are_counted_requeued_and_dismissed(node: Node, run: Callable[..., str]) -> None:
    node.receive(*_images())
    node.analyse(deliver=False)
    for destination in ("pacs", "plain"):
        for one in claim_deliveries(node.ledger, destination, 99, "d", utc_now(), 60):
            delivery_failed(node.ledger, one.id, "refused", None, now=utc_now())
    listed = json.loads(run("deliveries", "list", "--limit", "1", "--json"))
    assert (len(listed["deliveries"]), listed["total"]) == (1, 2)
    assert "1 more" in run("jobs", "--limit", "1")
    assert "say which" in run("deliveries", "requeue", status=2)
    assert "1 deliveries queued" in run("deliveries", "requeue", "--destination", "pacs")
    assert "--reason" in run("deliveries", "dismiss", "--all", "--yes", status=2)
    assert "1 deliveries dismissed" in run("deliveries", "dismiss", "--all", "--yes", "--reason", "never wanted there")
    states = [one.state for one in overview(node.ledger)]
    assert states == [DeliveryState.QUEUED, DeliveryState.DISMISSED]
    assert "by job or by study only" in run("deliveries", "requeue", "--all", "--given-up", status=2)
    assert "1 deliveries queued" in run("deliveries", "requeue", "--study", STUDY, "--given-up")
    assert {one.state for one in overview(node.ledger)} == {DeliveryState.QUEUED}
    assert "deliveries dismissed: never wanted there" in node.audit()
