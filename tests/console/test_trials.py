"""Destinations tested in full, against archives and receivers that run."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from interop.ports import free_port
from pydicom import dcmread
from pydicom.uid import KeyObjectSelectionDocumentStorage, SecondaryCaptureImageStorage

from console.browser import DESKTOP, PHONE, browse
from console.running_console import RunningConsole
from console.test_browser import cookie_of, without_problems
from console.test_pages import words
from dicom_node.config import DestinationProfile, FhirDestination, Hl7Destination, Peer
from dicom_node.deliver.trial import RESULT_CLASSES
from dicom_node.network.pacs import CommitmentAnswer, Pacs, PacsSettings
from dicom_node.results.connection_test import TEST_PATIENT_ID
from storage.ledger import utc_now
from storage.schema import AccountRole
from storage.trials import begin_trial, last_trials

OPERATOR = AccountRole.OPERATOR


@contextlib.contextmanager
def pacs(console: RunningConsole, folder: Path, **settings: object) -> Iterator[Pacs]:
    """The PACS that the console knows."""
    peer = console.configuration.peers["pacs"]
    assert peer.port is not None
    given = {"commitment": CommitmentAnswer.SAME_ASSOCIATION, **settings}
    with Pacs(PacsSettings(folder / "pacs", peer.port, **given)) as running:  # type: ignore[arg-type]
        yield running


def test_a_pacs_is_tested_with_an_object_that_is_committed_and_rejected(
    console: RunningConsole, tmp_path: Path
) -> None:
    person = console.person(OPERATOR)
    with pacs(console, tmp_path) as running:
        assert person.do("try-destination", destination="pacs").startswith("done: pacs did all that was asked")
        objects = [dcmread(path) for path in running.held().values()]
    image = next(one for one in objects if one.SOPClassUID == SecondaryCaptureImageStorage)
    note = next(one for one in objects if one.SOPClassUID == KeyObjectSelectionDocumentStorage)
    assert len(objects) == 2
    assert (image.PatientID, image.BurnedInAnnotation) == (TEST_PATIENT_ID, "NO")
    assert "TEST" in image.StudyDescription
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    told = words(person.get("/deliveries").text)
    assert "Last test of pacs in full: well" in told
    assert "Commitment report well committed" in told
    assert "Found there well the test object is listed" in told
    assert "Segmentation Storage Explicit VR Little Endian, Implicit VR Little Endian nothing" in told
    trial = last_trials(console.ledger)["pacs"]
    assert (trial.by, trial.report, trial.sop_instance_uid) == ("operator", "committed", image.SOPInstanceUID)
    listed = requests.get(f"{console.root}/api/v1/deliveries", headers=console.token(OPERATOR), timeout=60).json()
    assert len(listed["tests"]["pacs"]["findings"]["negotiated"]) == len(RESULT_CLASSES)


def test_the_page_is_there_while_a_test_is_under_way_or_was_broken_off(console: RunningConsole) -> None:
    begin_trial(console.ledger, "pacs", "2.25.1", "2.25.2", by="operator", now=utc_now())
    answer = console.person(OPERATOR).get("/deliveries")
    assert answer.status_code == 200
    assert "Last test of pacs in full: broken off, or under way" in words(answer.text)


def test_what_a_pacs_does_not_do_is_told_in_words(console: RunningConsole, tmp_path: Path) -> None:
    person = console.person(OPERATOR)
    assert person.do("try-destination", destination="pacs").startswith("problem: pacs: C-ECHO: PACS@127.0.0.1")
    with pacs(console, tmp_path, commitment=CommitmentAnswer.NOT_OFFERED):
        assert "Storage commitment: not offered: enable it there" in person.do("try-destination", destination="pacs")
    with pacs(console, tmp_path) as running:
        running.maximum_objects = 0
        assert "Test object: " in person.do("try-destination", destination="pacs")
    told = words(person.get("/deliveries").text)
    assert "Last test of pacs in full: not well" in told
    assert "A700" in told
    assert "Rejected again" not in told
    assert person.do("try-destination", destination="elsewhere").startswith("problem: elsewhere: no such destination")


def test_a_report_that_does_not_come_is_told_with_what_to_check(
    console: RunningConsole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.deliver.trial.REPORT_S", 1.0)
    with pacs(console, tmp_path, commitment=CommitmentAnswer.NEVER):
        said = console.person(OPERATOR).do("try-destination", destination="pacs")
    assert "Commitment report: none within 1 s: check that PACS knows NODE by the address" in said


def test_receivers_of_messages_are_reached_and_told_nothing(console: RunningConsole) -> None:
    port = free_port()
    results = console.configuration.results
    destinations = {
        **results.destinations,
        "ris": DestinationProfile(hl7=Hl7Destination(host="127.0.0.1", port=port)),
        "records": DestinationProfile(fhir=FhirDestination(url=f"http://127.0.0.1:{free_port()}/fhir")),
    }
    held = console.configuration
    changed = held.model_copy(update={"results": results.model_copy(update={"destinations": destinations})})
    assert isinstance(changed.peers["pacs"], Peer)
    person = console.person(OPERATOR)
    with console.working_by(changed):
        told = words(person.get("/deliveries").text)
        assert f"ris HL7, 127.0.0.1:{port}" in told
        assert "records FHIR, http://127.0.0.1" in told
        assert person.do("test-destination", destination="ris").startswith("problem: ris: takes messages")
        assert "cannot be reached" in person.do("try-destination", destination="ris")
        assert "cannot be reached" in person.do("try-destination", destination="records")
        with socket.create_server(("127.0.0.1", port)) as receiver:
            assert person.do("try-destination", destination="ris") == "done: ris did all that was asked: 1 step."
            connection, _ = receiver.accept()
            connection.settimeout(60)
            assert connection.recv(1) == b""
            connection.close()


@pytest.mark.peers
@pytest.mark.parametrize(
    ("scheme", "width"), [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE)], ids=["light", "dark", "phone"]
)
def test_the_test_in_full_is_pressed_and_read(console: RunningConsole, tmp_path: Path, scheme: str, width: int) -> None:
    cookie = cookie_of(console.person(OPERATOR))
    steps = [
        ("go", "/deliveries"),
        ("press", "Test in full"),
        ("see", "pacs did all that was asked"),
        ("open", "Last test of pacs in full"),
        ("see", "takes all 8 kinds of results"),
        ("wide", "tested"),
        ("picture", "tested"),
        ("axe", "tested"),
    ]
    with pacs(console, tmp_path):
        visit = browse(console.root, steps, tmp_path, cookie=cookie, scheme=scheme, width=width)
    without_problems(visit, steps)
    assert visit.serious == []
    assert visit.values == {"tested": 0}
