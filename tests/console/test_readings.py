"""Who read which study in the console stands in the audit trail: once for each time somebody sits down to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit.reading import ReadMessage, read_trail

from console.held_studies import PATIENT_ID, STUDY, analyse, name_in_the_files, receive
from console.running_console import RunningConsole, console_node, console_thread
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import AuditSettings
from dicom_node.console.access import Person
from dicom_node.console.node import Node
from dicom_node.console.readings import TOLD_AGAIN_S, StudyReadings
from storage.ledger import open_ledger
from storage.schema import AccountRole

VIEWER, OPERATOR = AccountRole.VIEWER, AccountRole.OPERATOR
READ, READ_NAMED = "read in the console", "read in the console, with pages that name the patient"


def told(console: RunningConsole) -> list[ReadMessage]:
    file = console.configuration.audit.file
    assert file is not None
    return [one for one in (read_trail(file) if file.exists() else []) if one.event == "110103"]


def words(one: ReadMessage) -> str:
    return str(one.root.findtext("EventIdentification/EventOutcomeDescription"))


def who(one: ReadMessage) -> tuple[str, str]:
    (asked,) = [each for each in one.root.findall("ActiveParticipant") if each.get("UserIsRequestor") == "true"]
    return str(asked.get("UserID")), str(asked.get("NetworkAccessPointID"))


def test_who_reads_a_study_is_told_once_and_again_for_pages_that_name_the_patient(tmp_path: Path) -> None:
    with console_thread(console_node(tmp_path, patients_for="operator")) as console:
        receive(console)
        analyse(console)
        viewer, operator = console.person(VIEWER), console.person(OPERATOR)
        for path in ("/", "/studies", "/deliveries", "/studies/1.2.999"):
            viewer.get(path)
        assert told(console) == []
        for _ in range(3):
            assert viewer.get(f"/studies/{STUDY}").status_code == 200
        (first,) = told(console)
        assert (first.action, first.outcome, words(first)) == ("R", 0, READ)
        assert who(first) == ("viewer", "127.0.0.1")
        assert (first.studies, first.patients) == ([STUDY], [PATIENT_ID])
        (page,) = operator.get(f"/api/v1/studies/{STUDY}").json()["jobs"][0]["pictures"]
        for path in (f"/studies/{STUDY}", f"/studies/{STUDY}/pages/{page['id']}.png"):
            assert operator.get(path).status_code == 200
            # Refused: it shows nothing.
            assert viewer.get(path).status_code in (200, 403)
        assert [(who(one)[0], words(one)) for one in told(console)] == [("viewer", READ), ("operator", READ_NAMED)]


def test_a_page_alone_that_names_the_patient_is_told(tmp_path: Path) -> None:
    with console_thread(console_node(tmp_path, patients_for="operator")) as console:
        receive(console)
        analyse(console)
        assert name_in_the_files(console)
        (page,) = console.person(VIEWER).get(f"/api/v1/studies/{STUDY}").json()["jobs"][0]["pictures"]
        program = console.token(OPERATOR)
        path = f"/api/v1/studies/{STUDY}/pages/{page['id']}.png"
        assert console.stranger().get(path, **program).status_code == 200
        assert [(who(one)[0], words(one)) for one in told(console)] == [("viewer", READ), ("token program", READ_NAMED)]


@pytest.mark.parametrize("patient_id", [True, False])
def test_whoever_still_reads_is_told_again_and_the_patient_only_where_the_trail_may(
    tmp_path: Path, patient_id: bool
) -> None:
    configuration = console_node(tmp_path)
    audit = AuditSettings(file=configuration.audit.file, patient_id=patient_id)
    configuration = configuration.model_copy(update={"audit": audit})
    with console_thread(configuration) as console:
        receive(console)
        ledger = open_ledger(configuration.storage.database)
        trail = AuditTrail.of(configuration, "console")
        seconds = 0.0
        node = Node(configuration, ledger, console.files, trail, readings=StudyReadings(lambda: seconds))
        ann, bob = (Person(name, VIEWER, "10.0.0.1", None) for name in ("ann", "bob"))
        for person, at, named in (
            (ann, 0, False),
            (ann, TOLD_AGAIN_S - 1, False),
            (bob, TOLD_AGAIN_S - 1, True),
            (bob, TOLD_AGAIN_S, False),
            # By when it was told, not by when it was read.
            (ann, TOLD_AGAIN_S, False),
            (ann, TOLD_AGAIN_S + 1, True),
            (ann, TOLD_AGAIN_S + 2, True),
        ):
            seconds = at
            node.readings.tell(node, person, STUDY, named=named)
        trail.close()
        ledger.close()
        assert [(who(one)[0], words(one)) for one in told(console)] == [
            ("ann", READ),
            ("bob", READ_NAMED),
            ("ann", READ),
            ("ann", READ_NAMED),
        ]
        assert {tuple(one.patients) for one in told(console)} == {(PATIENT_ID,) if patient_id else ()}
