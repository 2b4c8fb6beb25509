"""Audit messages against the schema of PS3.15 A.5.1 and the tables of A.5.3."""

from __future__ import annotations

import datetime as dt

import pytest
from lxml import etree

from audit.reading import SCHEMA, ReadMessage, read_line
from dicom_node.audit.messages import (
    Access,
    AuditMessage,
    Outcome,
    Participant,
    Study,
    Transfer,
    application_activity,
    begin_transferring,
    instances_accessed,
    instances_transferred,
    node_authentication_failed,
    query,
    study_deleted,
    user_authentication,
    user_security_changed,
)
from dicom_node.audit.trail import line

MR = "1.2.840.10008.5.1.4.1.1.4"
SC = "1.2.840.10008.5.1.4.1.1.7"
AT = dt.datetime(2026, 3, 1, 7, 30, 0, 250_000, tzinfo=dt.timezone(dt.timedelta(hours=2)))
NODE = Participant("receiver-0", "DICOMNODE", "node.example")
SCANNER = Participant("MR1", "MR1", "10.0.0.20")
HOSTILE = 'A"<&>\x00\x01\n\r\t\ud800\ufffe </AuditMessage> \u00e9\U0001f4a9'


def read(message: AuditMessage) -> ReadMessage:
    written = line(message, host="node.example", process="receiver-0")
    assert written.count(b"\n") == 1
    return read_line(written.removesuffix(b"\n"))


def transfer(patient_id: str | None = "P1", instances: dict[str, int] | None = None) -> Transfer:
    study = Study("1.2.3", {MR: 3, SC: 1} if instances is None else instances, patient_id)
    return Transfer(SCANNER, NODE, study, "c0ffee")


@pytest.mark.parametrize(("started", "kind"), [(True, "110120"), (False, "110121")])
def test_application_activity(started: bool, kind: str) -> None:
    message = read(application_activity(NODE, started=started, at=AT))
    assert (message.event, message.kind, message.action, message.outcome) == ("110100", kind, "E", 0)
    (application,) = message.participants("110150")
    assert application["UserID"] == "receiver-0"
    assert application["AlternativeUserID"] == "AETITLES=DICOMNODE"


def test_times_are_utc_whatever_the_zone_they_came_in() -> None:
    assert read(application_activity(NODE, started=True, at=AT)).at == "2026-03-01T05:30:00.250000Z"


def test_instances_transferred_tell_who_sent_what_to_whom() -> None:
    message = read(instances_transferred(transfer(), NODE, at=AT, new_to_receiver=True))
    assert (message.event, message.action, message.outcome, message.priority) == ("110104", "C", 0, 85)
    (source,), (destination,) = message.participants("110153"), message.participants("110152")
    assert source["UserID"] == "MR1"
    assert source["UserIsRequestor"] == "true"
    assert (source["NetworkAccessPointID"], source["NetworkAccessPointTypeCode"]) == ("10.0.0.20", "2")
    assert (destination["NetworkAccessPointID"], destination["NetworkAccessPointTypeCode"]) == ("node.example", "1")
    (study,) = message.objects("110180")
    assert study.get("ParticipantObjectID") == "1.2.3"
    assert (study.get("ParticipantObjectTypeCode"), study.get("ParticipantObjectTypeCodeRole")) == ("2", "3")
    assert message.instances() == {MR: 3, SC: 1}
    assert message.detail("Association") == "c0ffee"
    (patient,) = message.objects("2")
    assert patient.get("ParticipantObjectID") == "P1"
    assert (patient.get("ParticipantObjectTypeCode"), patient.get("ParticipantObjectTypeCodeRole")) == ("1", "1")
    assert not patient.findtext("ParticipantObjectName")


def test_what_a_person_did_to_a_study_is_told_with_the_reason() -> None:
    person, study = Participant("ada", "", "node.example"), Study("1.2.3", {}, "P1")
    accessed = instances_accessed(person, NODE, study, access=Access.UPDATE, reason="mixed up", at=AT)
    deleted = study_deleted(person, NODE, study, reason="mixed up", at=AT)
    for message, event, action in ((read(accessed), "110103", "U"), (read(deleted), "110105", "D")):
        assert (message.event, message.action, message.outcome) == (event, action, 0)
        assert message.root.findtext("EventIdentification/EventOutcomeDescription") == "mixed up"
        participants = message.root.findall("ActiveParticipant")
        assert [(one.get("UserID"), one.get("UserIsRequestor")) for one in participants] == [
            ("ada", "true"),
            ("receiver-0", "false"),
        ]
        (told,), (patient,) = message.objects("110180"), message.objects("2")
        assert (told.get("ParticipantObjectID"), patient.get("ParticipantObjectID")) == ("1.2.3", "P1")


def test_a_transfer_that_broke_off_is_a_minor_failure_and_a_warning() -> None:
    message = read(instances_transferred(transfer(), NODE, at=AT, new_to_receiver=True, failure="receiver died"))
    assert (message.outcome, message.priority) == (4, 84)
    assert message.root.findtext("EventIdentification/EventOutcomeDescription") == "receiver died"


def test_what_the_receiver_held_already_is_a_read() -> None:
    message = read(instances_transferred(transfer(instances={}), NODE, at=AT, new_to_receiver=False))
    assert message.action == "R"
    assert message.instances() == {}


def test_the_patient_can_be_left_out() -> None:
    assert read(begin_transferring(transfer(patient_id=None), NODE, at=AT)).patients == []
    assert read(begin_transferring(transfer(patient_id=""), NODE, at=AT)).patients == [""]


def test_begin_transferring() -> None:
    message = read(begin_transferring(transfer(), NODE, at=AT))
    assert (message.event, message.action, message.outcome) == ("110102", "E", 0)
    assert len(message.participants("110153")) == len(message.participants("110152")) == 1


def test_query_carries_the_query() -> None:
    message = read(
        query(
            SCANNER,
            NODE,
            sop_class_uid="1.2.840.10008.5.1.4.1.2.2.1",
            transfer_syntax_uid="1.2",
            identifier=b"q",
            at=AT,
        )
    )
    assert (message.event, message.action) == ("110112", "E")
    (queried,) = message.objects("110181")
    assert queried.findtext("ParticipantObjectQuery") == "cQ=="
    assert message.detail("TransferSyntax") == "1.2"


def test_a_peer_turned_away_is_a_security_alert() -> None:
    message = read(node_authentication_failed(NODE, address="192.0.2.7", description="no such peer", at=AT))
    assert (message.event, message.kind, message.outcome) == ("110113", "110126", int(Outcome.SERIOUS_FAILURE))
    (subject,) = message.objects("110182")
    assert (subject.get("ParticipantObjectID"), subject.get("ParticipantObjectTypeCodeRole")) == ("192.0.2.7", "13")
    assert message.detail("Alert Description") == "no such peer"


def test_whatever_a_peer_sends_stays_one_line_of_valid_xml() -> None:
    hostile = Participant(HOSTILE, HOSTILE, HOSTILE)
    for message in (
        application_activity(hostile, started=True, at=AT),
        instances_transferred(
            Transfer(hostile, NODE, Study(HOSTILE, {HOSTILE: 1}, HOSTILE), HOSTILE),
            NODE,
            at=AT,
            new_to_receiver=True,
            failure=HOSTILE,
        ),
        node_authentication_failed(NODE, address=HOSTILE, description=HOSTILE, at=AT),
    ):
        assert b"\xc3" not in message.xml.encode("ascii")
        assert len(read(message).root.findall("ActiveParticipant")) >= 1


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (' originalText="Application Activity"', ""),
        ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"'),
        ("<AuditSourceIdentification", "<Audit/><AuditSourceIdentification"),
    ],
)
def test_the_schema_refuses_what_is_wrong(right: str, wrong: str) -> None:
    xml = application_activity(NODE, started=True, at=AT).xml
    assert SCHEMA.validate(etree.fromstring(xml))
    assert not SCHEMA.validate(etree.fromstring(xml.replace(right, wrong)))


@pytest.mark.parametrize(
    ("logged_in", "failure", "kind", "outcome"),
    [(True, "", "110122", 0), (True, "wrong name or password", "110122", 4), (False, "", "110123", 0)],
)
def test_a_person_logs_in_and_out(logged_in: bool, failure: str, kind: str, outcome: int) -> None:
    person = Participant("ann", "", "192.0.2.7")
    message = read(user_authentication(person, NODE, logged_in=logged_in, failure=failure, at=AT))
    assert (message.event, message.kind, message.action, message.outcome) == ("110114", kind, "E", outcome)
    who = message.root.find("ActiveParticipant")
    assert (who.get("UserID"), who.get("UserIsRequestor")) == ("ann", "true")
    assert (who.get("NetworkAccessPointID"), who.get("NetworkAccessPointTypeCode")) == ("192.0.2.7", "2")
    assert (message.root.findtext("EventIdentification/EventOutcomeDescription") or "") == failure


def test_a_change_of_rights_tells_who_changed_whose() -> None:
    person = Participant("ann", "", "192.0.2.7")
    message = read(user_security_changed(person, NODE, account="ben", description="is operator", at=AT))
    assert (message.event, message.kind, message.outcome) == ("110113", "110137", 0)
    (account,) = message.objects("12")
    assert account.get("ParticipantObjectID") == "acct:ben@node.example"
    assert message.detail("Alert Description") == "is operator"


def test_hostile_names_of_accounts_stay_within_the_schema() -> None:
    read(user_authentication(Participant(HOSTILE, "", HOSTILE), NODE, logged_in=True, failure=HOSTILE, at=AT))
    read(user_security_changed(Participant(HOSTILE, "", ""), NODE, account=HOSTILE, description=HOSTILE, at=AT))
