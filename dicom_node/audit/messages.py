"""Audit messages as PS3.15 A.5 defines them: pure functions from what happened to one line of XML.

The XML is ASCII, other characters as references, so that it fits one line of a file and one syslog message as it is.
Patients appear by Patient ID at most, never by name.
"""

from __future__ import annotations

import base64
import datetime as dt
import enum
import ipaddress
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "Access",
    "AuditMessage",
    "Outcome",
    "Participant",
    "Study",
    "Transfer",
    "application_activity",
    "begin_transferring",
    "configuration_changed",
    "instances_accessed",
    "instances_transferred",
    "log_used",
    "node_authentication_failed",
    "query",
    "study_deleted",
    "timestamp",
    "user_authentication",
    "user_security_changed",
]

Code = tuple[str, str, str]
"""Value, scheme and meaning (PS3.16 CID 400 to 405)."""


class Access(enum.StrEnum):
    """EventActionCode (PS3.15 A.5.1.1) of what a person did to instances."""

    READ = "R"
    CREATE = "C"
    UPDATE = "U"
    DELETE = "D"


class Outcome(enum.IntEnum):
    """EventOutcomeIndicator (PS3.15 A.5.1.1)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


APPLICATION_ACTIVITY = ("110100", "DCM", "Application Activity")
AUDIT_LOG_USED = ("110101", "DCM", "Audit Log Used")
INSTANCES_ACCESSED = ("110103", "DCM", "DICOM Instances Accessed")
STUDY_DELETED = ("110105", "DCM", "DICOM Study Deleted")
BEGIN_TRANSFERRING = ("110102", "DCM", "Begin Transferring DICOM Instances")
INSTANCES_TRANSFERRED = ("110104", "DCM", "DICOM Instances Transferred")
QUERY = ("110112", "DCM", "Query")
SECURITY_ALERT = ("110113", "DCM", "Security Alert")
APPLICATION_START = ("110120", "DCM", "Application Start")
APPLICATION_STOP = ("110121", "DCM", "Application Stop")
USER_AUTHENTICATION = ("110114", "DCM", "User Authentication")
LOG_IN = ("110122", "DCM", "Login")
LOG_OUT = ("110123", "DCM", "Logout")
USER_SECURITY_CHANGED = ("110137", "DCM", "User Security Attributes Changed")
SOFTWARE_CONFIGURATION = ("110131", "DCM", "Software Configuration")
NODE_AUTHENTICATION = ("110126", "DCM", "Node Authentication")
APPLICATION = ("110150", "DCM", "Application")
DESTINATION = ("110152", "DCM", "Destination Role ID")
SOURCE = ("110153", "DCM", "Source Role ID")
STUDY_INSTANCE_UID = ("110180", "DCM", "Study Instance UID")
SOP_CLASS_UID = ("110181", "DCM", "SOP Class UID")
NODE_ID = ("110182", "DCM", "Node ID")
URI = ("12", "RFC-3881", "URI")
PATIENT_NUMBER = ("2", "RFC-3881", "Patient Number")

_NOT_XML = re.compile(r"[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 does not allow (2.2), and white space other than a space."""
_APPLICATION_SERVER = "4"
_PERSON, _SYSTEM = "1", "2"
_PATIENT, _REPORT, _SECURITY_RESOURCE = "1", "3", "13"
_MACHINE_NAME, _IP_ADDRESS = "1", "2"


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """One message, ready to be written."""

    event: str
    """EventID in words."""
    at: dt.datetime
    outcome: Outcome
    xml: str
    """AuditMessage element, ASCII, one line."""


@dataclass(frozen=True, slots=True)
class Participant:
    """An application that took part (PS3.15 A.5.2)."""

    user_id: str
    """Of this node the process as its log names it, of a peer its AE title or else its address."""
    ae_title: str
    """Empty where it is not known."""
    host: str
    """Name or address."""


@dataclass(frozen=True, slots=True)
class Study:
    """The study that instances belong to."""

    study_instance_uid: str
    instances: Mapping[str, int]
    """SOP Class UID to number of instances; empty where that is not known."""
    patient_id: str | None
    """None leaves the patient out of the message."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Instances of one study on their way from one application to another."""

    source: Participant
    destination: Participant
    study: Study
    association: str
    """Correlation id of what it belongs to, as in the log; empty where it has none."""
    requestor: Participant | None = None
    """Who asked for it, where that is not the source."""


def timestamp(at: dt.datetime) -> str:
    """Date and time as both xsd:dateTime and RFC 5424 write them."""
    return at.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def application_activity(node: Participant, *, started: bool, at: dt.datetime) -> AuditMessage:
    """The node started or stopped (PS3.15 A.5.3.1)."""
    root = _event(APPLICATION_ACTIVITY, "E", at, kind=APPLICATION_START if started else APPLICATION_STOP)
    _participant(root, node, APPLICATION)
    _audit_source(root, node)
    return _message(APPLICATION_ACTIVITY, at, Outcome.SUCCESS, root)


def begin_transferring(transfer: Transfer, node: Participant, *, at: dt.datetime) -> AuditMessage:
    """This node begins to send instances of a study (PS3.15 A.5.3.3)."""
    root = _event(BEGIN_TRANSFERRING, "E", at)
    _transfer(root, transfer, node)
    return _message(BEGIN_TRANSFERRING, at, Outcome.SUCCESS, root)


def instances_transferred(
    transfer: Transfer, node: Participant, *, at: dt.datetime, new_to_receiver: bool, failure: str = ""
) -> AuditMessage:
    """Instances of a study were sent, by this node or to it (PS3.15 A.5.3.7).

    Parameters
    ----------
    at
        When the transfer was completed.
    new_to_receiver
        Whether the receiver held none of them before; false also where that is not known.
    failure
        Why the transfer ended before its end; the instances told are those transferred until then.
    """
    outcome = Outcome.MINOR_FAILURE if failure else Outcome.SUCCESS
    root = _event(INSTANCES_TRANSFERRED, "C" if new_to_receiver else "R", at, outcome=outcome, failure=failure)
    _transfer(root, transfer, node)
    return _message(INSTANCES_TRANSFERRED, at, outcome, root)


def instances_accessed(
    person: Participant, node: Participant, study: Study, *, access: Access, reason: str, at: dt.datetime
) -> AuditMessage:
    """A person read a study, or had instances of it taken in, replaced or removed (PS3.15 A.5.3.6)."""
    root = _event(INSTANCES_ACCESSED, access.value, at, failure=reason)
    _participant(root, person, None, requestor=True)
    _participant(root, node, None)
    _audit_source(root, node)
    _study(root, study)
    return _message(INSTANCES_ACCESSED, at, Outcome.SUCCESS, root)


def study_deleted(
    person: Participant, node: Participant, study: Study, *, reason: str, at: dt.datetime
) -> AuditMessage:
    """A person had a study deleted from this node (PS3.15 A.5.3.8)."""
    root = _event(STUDY_DELETED, Access.DELETE.value, at, failure=reason)
    _participant(root, person, None, requestor=True)
    _participant(root, node, None)
    _audit_source(root, node)
    _study(root, study)
    return _message(STUDY_DELETED, at, Outcome.SUCCESS, root)


def query(
    source: Participant,
    node: Participant,
    *,
    sop_class_uid: str,
    transfer_syntax_uid: str,
    identifier: bytes,
    at: dt.datetime,
) -> AuditMessage:
    """A peer queried this node (PS3.15 A.5.3.10).

    Parameters
    ----------
    identifier
        Data set of the query, encoded in ``transfer_syntax_uid``; without names.
    """
    root = _event(QUERY, "E", at)
    _participant(root, source, SOURCE, requestor=True)
    _participant(root, node, DESTINATION)
    _audit_source(root, node)
    queried = _object(root, SOP_CLASS_UID, sop_class_uid, _SYSTEM, _REPORT)
    ET.SubElement(queried, "ParticipantObjectQuery").text = _base64(identifier)
    _detail(queried, "TransferSyntax", transfer_syntax_uid)
    return _message(QUERY, at, Outcome.SUCCESS, root)


def node_authentication_failed(node: Participant, *, address: str, description: str, at: dt.datetime) -> AuditMessage:
    """A peer was turned away: its AE title, host or certificate is not one that may call (PS3.15 A.5.3.11).

    Parameters
    ----------
    address
        Of the peer's end of the connection.
    description
        What was wrong, with the AE title that it called itself if it came to that.
    """
    root = _event(SECURITY_ALERT, "E", at, kind=NODE_AUTHENTICATION, outcome=Outcome.SERIOUS_FAILURE)
    _participant(root, node, APPLICATION)
    _participant(root, Participant(address, "", address), None)
    _audit_source(root, node)
    subject = _object(root, NODE_ID, address, _SYSTEM, _SECURITY_RESOURCE)
    ET.SubElement(subject, "ParticipantObjectName")
    _detail(subject, "Alert Description", description)
    return _message(SECURITY_ALERT, at, Outcome.SERIOUS_FAILURE, root)


def user_authentication(
    person: Participant, node: Participant, *, logged_in: bool, failure: str = "", at: dt.datetime
) -> AuditMessage:
    """A person logged in, tried to, or logged out (PS3.15 A.5.3.12).

    Parameters
    ----------
    person
        Who it is, or claims to be.
    logged_in
        False for the end of a session.
    failure
        Why the log-in was refused; empty where it was not.
    """
    outcome = Outcome.MINOR_FAILURE if failure else Outcome.SUCCESS
    root = _event(USER_AUTHENTICATION, "E", at, kind=LOG_IN if logged_in else LOG_OUT, outcome=outcome, failure=failure)
    _participant(root, person, None, requestor=True)
    _participant(root, node, APPLICATION)
    _audit_source(root, node)
    return _message(USER_AUTHENTICATION, at, outcome, root)


def user_security_changed(
    person: Participant, node: Participant, *, account: str, description: str, at: dt.datetime
) -> AuditMessage:
    """A person changed who may do what (PS3.15 A.5.3.11): an account, an invitation, the token of a program.

    Parameters
    ----------
    account
        Whose rights were changed.
    description
        How.
    """
    # RFC 7565: the account that the alert is about.
    return _changed(person, node, USER_SECURITY_CHANGED, f"acct:{account}@{node.host}", description, at)


def configuration_changed(person: Participant, node: Participant, *, description: str, at: dt.datetime) -> AuditMessage:
    """A person changed how this node works (PS3.15 A.5.3.11, Software Configuration).

    Parameters
    ----------
    description
        What, and why.
    """
    return _changed(person, node, SOFTWARE_CONFIGURATION, f"file://{node.host}/config.yaml", description, at)


def _changed(
    person: Participant, node: Participant, kind: Code, uri: str, description: str, at: dt.datetime
) -> AuditMessage:
    """A security alert of what a person changed: the resource of a URI, and how."""
    root = _event(SECURITY_ALERT, "E", at, kind=kind)
    _participant(root, person, None, requestor=True)
    _participant(root, node, APPLICATION)
    _audit_source(root, node)
    subject = _object(root, URI, uri, _SYSTEM, _SECURITY_RESOURCE)
    ET.SubElement(subject, "ParticipantObjectName")
    _detail(subject, "Alert Description", description)
    return _message(SECURITY_ALERT, at, Outcome.SUCCESS, root)


def log_used(person: Participant, node: Participant, *, uri: str, name: str, at: dt.datetime) -> AuditMessage:
    """A person or a program read a log of this node (PS3.15 A.5.3.2).

    Parameters
    ----------
    uri
        Of the log.
    name
        Which log it is; of the audit trail the standard wants "Security Audit Log".
    """
    root = _event(AUDIT_LOG_USED, Access.READ.value, at)
    _participant(root, person, None, requestor=True)
    _audit_source(root, node)
    log = _object(root, URI, uri, _SYSTEM, _SECURITY_RESOURCE)
    ET.SubElement(log, "ParticipantObjectName").text = _token(name)
    return _message(AUDIT_LOG_USED, at, Outcome.SUCCESS, root)


def _message(event: Code, at: dt.datetime, outcome: Outcome, root: ET.Element) -> AuditMessage:
    return AuditMessage(event[2], at, outcome, ET.tostring(root, encoding="us-ascii", xml_declaration=False).decode())


def _event(
    event: Code,
    action: str,
    at: dt.datetime,
    *,
    kind: Code | None = None,
    outcome: Outcome = Outcome.SUCCESS,
    failure: str = "",
) -> ET.Element:
    """The root; ``failure``, or what else is to be said of the outcome, becomes EventOutcomeDescription."""
    root = ET.Element("AuditMessage")
    identification = ET.SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=timestamp(at),
        EventOutcomeIndicator=str(outcome.value),
    )
    _code(identification, "EventID", event)
    if kind is not None:
        _code(identification, "EventTypeCode", kind)
    if failure:
        ET.SubElement(identification, "EventOutcomeDescription").text = _token(failure)
    return root


def _participant(root: ET.Element, one: Participant, role: Code | None, *, requestor: bool = False) -> None:
    title = _token(one.ae_title)
    element = ET.SubElement(
        root,
        "ActiveParticipant",
        UserID=_token(one.user_id),
        UserIsRequestor="true" if requestor else "false",
        NetworkAccessPointID=_token(one.host),
        NetworkAccessPointTypeCode=_IP_ADDRESS if _is_address(one.host) else _MACHINE_NAME,
    )
    if title:
        element.set("AlternativeUserID", f"AETITLES={title}")
    if role is not None:
        _code(element, "RoleIDCode", role)


def _audit_source(root: ET.Element, node: Participant) -> None:
    source = ET.SubElement(root, "AuditSourceIdentification", AuditSourceID=_token(f"{node.ae_title}@{node.host}"))
    # The schema's own value set (A.5.1.2.1): no scheme, no meaning.
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})


def _transfer(root: ET.Element, transfer: Transfer, node: Participant) -> None:
    asked = transfer.requestor or transfer.source
    _participant(root, transfer.source, SOURCE, requestor=transfer.source == asked)
    _participant(root, transfer.destination, DESTINATION, requestor=transfer.destination == asked)
    if asked not in (transfer.source, transfer.destination):
        _participant(root, asked, None, requestor=True)
    _audit_source(root, node)
    _study(root, transfer.study, association=transfer.association)


def _study(root: ET.Element, study: Study, *, association: str = "") -> None:
    sent = _object(root, STUDY_INSTANCE_UID, study.study_instance_uid, _SYSTEM, _REPORT)
    # The schema wants a name or a query in every object; a study has neither.
    ET.SubElement(sent, "ParticipantObjectName")
    if association:
        _detail(sent, "Association", association)
    if study.instances:
        description = ET.SubElement(sent, "ParticipantObjectDescription")
        for uid, count in sorted(study.instances.items()):
            ET.SubElement(description, "SOPClass", UID=_token(uid), NumberOfInstances=str(count))
    if study.patient_id is not None:
        patient = _object(root, PATIENT_NUMBER, study.patient_id, _PERSON, _PATIENT)
        ET.SubElement(patient, "ParticipantObjectName")


def _object(root: ET.Element, id_type: Code, value: str, kind: str, role: str) -> ET.Element:
    element = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_token(value),
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _code(element, "ParticipantObjectIDTypeCode", id_type)
    return element


def _detail(element: ET.Element, kind: str, value: str) -> None:
    ET.SubElement(element, "ParticipantObjectDetail", type=kind, value=_base64(value.encode("utf-8", "replace")))


def _code(element: ET.Element, tag: str, code: Code) -> None:
    value, scheme, meaning = code
    ET.SubElement(element, tag, {"csd-code": value, "codeSystemName": scheme, "originalText": meaning})


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _token(value: str) -> str:
    """What peers send may hold anything; XML allows less, and an xsd:token has no outer or double spaces."""
    return " ".join(_NOT_XML.sub(" ", value).split())


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
