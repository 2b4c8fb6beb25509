"""The closing job tells numbers in a paragraph, compared with the patient's last examination, and sends them on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from crash_parts import encoded, write_cine
from ledger_rows import DELIVERED, claim, route
from network.running_node import SCANNER, configuration, receiver_thread
from pydicom import dcmread
from sqlalchemy import select

from dicom_node.config import (
    DestinationProfile,
    ExecutionSettings,
    Hl7Destination,
    Peer,
    ResultSettings,
    Route,
)
from dicom_node.execute.lanes import lanes
from dicom_node.execute.worker import Worker
from dicom_node.network.sender import ScuSettings, send_files
from dicom_node.results.numbers import ReportedNumber, numbers_record
from storage.closing import FRONT_PAGE
from storage.files import InstanceFiles
from storage.identity import bind
from storage.jobs import complete_job, create_jobs, requeue_job, study_contents
from storage.ledger import Ledger, open_ledger, utc_now
from storage.overview import delivery_overviews
from storage.schema import JobRow, JobState, Verdict

PEER = Peer(ae_title="PACS", host="127.0.0.1", port=1, may=frozenset({"receive"}))


def examination(folder: Path, name: str, date: str, patient: str) -> tuple[str, list[Path]]:
    paths = write_cine(folder / name, name)
    for path in paths:
        image = dcmread(path)
        image.PatientID, image.StudyDate, image.PatientBirthDate, image.PatientSex = patient, date, "19500101", "F"
        path.write_bytes(encoded(image))
    return str(dcmread(paths[0]).StudyInstanceUID), paths


def measured(ledger: Ledger, worker: Worker, study: str, ef: float) -> JobRow:
    """Let the one package of a study have measured, and run its closing job."""
    series = tuple(one.series_instance_uid for one in study_contents(ledger, study).series)
    assert create_jobs(ledger, study_contents(ledger, study), [route(series=series)], reason="test", now=utc_now())
    number = ReportedNumber("LVEF_percent", ef, "%", "", "ventricular_function 1.0.0", ef - 3, ef + 3)
    outcome = replace(DELIVERED, summary={"reported": numbers_record([number])})
    assert complete_job(ledger, claim(ledger, at=utc_now()), [], outcome, now=utc_now())
    assert worker.work_once()
    with ledger.reading() as session:
        return session.scalars(
            select(JobRow).where(JobRow.package == FRONT_PAGE).order_by(JobRow.id.desc()).limit(1)
        ).one()


def test_a_front_page_of_several_destinations_that_an_operator_runs_again_is_the_same(tmp_path: Path) -> None:
    """It named its own manifest as its predecessor, and ended as a conflict with itself."""
    profiles = {name: DestinationProfile(peer="pacs") for name in ("pacs", "archive")}
    node = configuration(
        tmp_path,
        peers={"scanner": Peer(ae_title=SCANNER), "pacs": PEER},
        routes={"cine": Route(destinations=tuple(profiles))},
        execution=ExecutionSettings(background_slots=0),
        results=ResultSettings(destinations=profiles),
    )
    study, paths = examination(tmp_path, "now", "20260301", "P-1")
    with receiver_thread(node) as receiver:
        here = Peer(ae_title="NODE", host="127.0.0.1", port=receiver.port)
        assert all(one.error is None for one in send_files(paths, here, ScuSettings(SCANNER)))
    ledger = open_ledger(node.storage.database)
    files = InstanceFiles(node.storage.directory)
    bind(ledger, files, now=utc_now())
    worker = Worker(ledger, files, node, "w", lanes(node.execution)[0], never)  # type: ignore[arg-type]
    try:
        series = tuple(one.series_instance_uid for one in study_contents(ledger, study).series)
        assert create_jobs(ledger, study_contents(ledger, study), [route(series=series)], reason="test", now=utc_now())
        outcome = replace(DELIVERED, summary={"withheld": {"archive": "It is not of this manufacturer."}})
        assert complete_job(ledger, claim(ledger, at=utc_now()), [], outcome, now=utc_now())
        assert worker.work_once()
        delivered = {(one.sop_instance_uid, one.destination) for one in delivery_overviews(ledger)}
        assert {destination for _, destination in delivered} == set(profiles)
        for _ in range(2):
            with ledger.reading() as session:
                job = session.scalars(select(JobRow).where(JobRow.package == FRONT_PAGE)).one().id
            requeue_job(ledger, job, now=utc_now())
            assert worker.work_once()
            with ledger.reading() as session:
                row = session.scalars(select(JobRow).where(JobRow.package == FRONT_PAGE)).one()
                assert (row.state, row.error) == (JobState.SUCCEEDED, None)
            assert {(one.sop_instance_uid, one.destination) for one in delivery_overviews(ledger)} == delivered
    finally:
        ledger.close()


def never(*_: object, **__: object) -> None:
    raise AssertionError("only closing jobs are run here")


def test_the_front_page_compares_with_the_last_examination_and_goes_to_the_report_system(tmp_path: Path) -> None:
    node = configuration(
        tmp_path,
        peers={"scanner": Peer(ae_title=SCANNER), "pacs": PEER},
        routes={"cine": Route(destinations=("pacs", "ris"))},
        execution=ExecutionSettings(background_slots=0),
        results=ResultSettings(
            destinations={
                "pacs": DestinationProfile(peer="pacs"),
                "ris": DestinationProfile(hl7=Hl7Destination(host="127.0.0.1", port=1)),
            }
        ),
    )
    studies = {
        name: examination(tmp_path, name, date, patient)
        for name, date, patient in (
            ("before", "20230301", "P-1"), ("other", "20240301", "P-2"), ("now", "20260301", "P-1")
        )
    }  # fmt: skip
    with receiver_thread(node) as receiver:
        for _, paths in studies.values():
            here = Peer(ae_title="NODE", host="127.0.0.1", port=receiver.port)
            assert all(one.error is None for one in send_files(paths, here, ScuSettings(SCANNER)))
    ledger = open_ledger(node.storage.database)
    files = InstanceFiles(node.storage.directory)
    bind(ledger, files, now=utc_now())

    worker = Worker(ledger, files, node, "w", lanes(node.execution)[0], never)  # type: ignore[arg-type]
    try:
        paragraphs = {}
        for name, ef in (("before", 52.0), ("other", 60.0), ("now", 46.0)):
            job = measured(ledger, worker, studies[name][0], ef)
            assert job.verdict is Verdict.DELIVERED, job.error
            assert job.summary is not None
            (told,) = job.summary["told"].values()
            paragraphs[name] = told["paragraph"]
        assert "Compared" not in paragraphs["before"]
        assert "Compared" not in paragraphs["other"]
        assert "Compared with 2023-03-01: LVEF 52 → 46 %: beyond repeatability" in paragraphs["now"]
        to_ris = [one for one in delivery_overviews(ledger) if one.destination == "ris"]
        assert [one.role for one in to_ris] == ["front-page"] * 3
        assert {one.role for one in delivery_overviews(ledger) if one.destination == "pacs"} > {"front-page"}
    finally:
        ledger.close()
