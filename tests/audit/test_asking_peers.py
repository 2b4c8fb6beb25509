"""Queries and retrievals of real peers in the audit trail, and those that are turned away."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from interop import dcmtk as peer
from interop.ports import free_port
from network.certificates import Authority
from network.objects import MR, mr_image, save
from network.running_node import NODE, SCANNER, RunningReceiver, configuration, receiver_thread
from pydicom import dcmread
from web.running_web import CALLER, web_node, web_thread

from audit.reading import ReadMessage, read_trail
from dicom_node.audit.received import tell_what_was_received
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import AuditSettings, NodeSettings, Peer, PeerPermission
from dicom_node.network.sender import ScuSettings, send_files
from storage.files import InstanceFiles
from storage.ledger import open_ledger

pytestmark = pytest.mark.peers
STUDY = "1.2.3.4"


@pytest.fixture
def node(tmp_path: Path, dcmtk: None) -> Iterator[RunningReceiver]:
    """A node that holds two images and writes an audit trail; a workstation may query it."""
    workstation = Peer(ae_title="WS1", host="127.0.0.1", port=free_port(), may=frozenset({PeerPermission.QUERY}))
    settings = configuration(
        tmp_path / "node",
        peers={"scanner": Peer(ae_title=SCANNER), "workstation": workstation},
        audit=AuditSettings(file=tmp_path / "trail.log"),
    )
    with receiver_thread(settings, name="receiver-0") as running:
        paths = [save(mr_image(study=STUDY, series="1.2.3.4.1", seed=seed), tmp_path) for seed in range(2)]
        there = Peer(ae_title=NODE, host="127.0.0.1", port=running.port)
        assert [one.status for one in send_files(paths, there, ScuSettings(SCANNER))] == [0, 0]
        yield running


def trail(node: RunningReceiver) -> list[ReadMessage]:
    file = node.configuration.audit.file
    assert file is not None
    return read_trail(file)


def test_a_query_is_told_without_the_name_that_it_asks_for(node: RunningReceiver, tmp_path: Path) -> None:
    keys = ("QueryRetrieveLevel=STUDY", "PatientName=DOE*", "PatientID=P1", f"StudyInstanceUID={STUDY}")
    peer.findscu(tmp_path / "found", keys, port=node.port, called=NODE, calling="WS1")
    (message,) = trail(node)
    assert (message.event, message.action, message.outcome, message.process) == ("110112", "E", 0, "receiver-0")
    (asking,) = message.participants("110153")
    assert (asking["UserID"], asking["UserIsRequestor"], asking["NetworkAccessPointID"]) == ("WS1", "true", "127.0.0.1")
    (queried,) = message.objects("110181")
    assert queried.get("ParticipantObjectID") == "1.2.840.10008.5.1.4.1.2.2.1"
    asked = dcmread(io.BytesIO(base64.b64decode(queried.findtext("ParticipantObjectQuery"))), force=True)
    assert (asked.PatientID, asked.StudyInstanceUID, asked.PatientName) == ("P1", STUDY, "")


def check_transfer(messages: list[ReadMessage], requestors: list[str], outcome: int = 0) -> None:
    begun, ended = messages
    assert [one.event for one in messages] == ["110102", "110104"]
    for one in messages:
        assert (one.studies, one.patients, one.instances()) == ([STUDY], ["P1"], {MR: 2})
        assert one.participants("110153")[0]["UserID"] == "receiver-0"
        assert one.participants("110152")[0]["UserID"] == "WS1"
        asked = [part.get("UserID") for part in one.root.findall("ActiveParticipant[@UserIsRequestor='true']")]
        assert asked == requestors
    assert (begun.outcome, ended.outcome) == (0, outcome)


def test_what_is_got_is_told(node: RunningReceiver, tmp_path: Path) -> None:
    keys = ("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={STUDY}")
    assert peer.getscu(tmp_path / "got", keys, port=node.port, called=NODE, calling="WS1").returncode == 0
    check_transfer(trail(node), ["WS1"])


def test_what_is_moved_is_told_whether_it_arrives_or_not(node: RunningReceiver, tmp_path: Path) -> None:
    keys = ("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={STUDY}")
    port = node.configuration.peers["workstation"].port
    assert port is not None
    with peer.storescp(tmp_path / "moved", port=port):
        peer.movescu(keys, port=node.port, called=NODE, calling="WS1", destination="WS1")
    peer.movescu(keys, port=node.port, called=NODE, calling="WS1", destination="WS1")
    messages = trail(node)
    check_transfer(messages[:2], ["WS1"])
    check_transfer(messages[2:], ["WS1"], outcome=4)


@pytest.mark.parametrize(("trusted", "told"), [(False, "TLS handshake failed"), (True, "certificate")])
def test_certificates_that_do_not_do_are_security_alerts(tmp_path: Path, dcmtk: None, trusted: bool, told: str) -> None:
    """A certificate that nobody here signed; and one of another peer."""
    hospital, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    tls = hospital.settings(hospital.signs("node"))
    settings = configuration(
        tmp_path / "node",
        node=NodeSettings(ae_title=NODE, address="127.0.0.1", port=free_port(), tls=tls),
        peers={"scanner": Peer(ae_title=SCANNER, tls=True, certificate="scanner")},
        audit=AuditSettings(file=tmp_path / "trail.log"),
    )
    shown = (hospital if trusted else stranger).signs("other")
    options = ("+tls", str(shown.key), str(shown.certificate), "+cf", str(hospital.certificate))
    with receiver_thread(settings, name="receiver-0") as running:
        assert peer.echoscu(port=running.port, called=NODE, calling=SCANNER, arguments=options).returncode != 0
    (message,) = trail(running)
    assert (message.event, message.kind, message.outcome) == ("110113", "110126", 8)
    assert [one.get("ParticipantObjectID") for one in message.objects("110182")] == ["127.0.0.1"]
    assert told in message.detail("Alert Description")


def test_web_requests_without_a_token_are_security_alerts_and_stored_ones_are_told(tmp_path: Path) -> None:
    settings = web_node(tmp_path).model_copy(update={"audit": AuditSettings(file=tmp_path / "trail.log")})
    with web_thread(settings) as running:
        assert requests.post(running.studies, timeout=30).status_code == 401
        running.client().store_instances([mr_image(study=STUDY)])
    files = InstanceFiles(settings.storage.directory)
    ledger = open_ledger(settings.storage.database)
    assert tell_what_was_received(ledger, files, AuditTrail.of(settings, "auditor")) == 1
    ledger.close()
    alert, received = trail(running)
    assert (alert.event, alert.process) == ("110113", "web")
    assert "bearer token" in alert.detail("Alert Description")
    assert (received.event, received.studies, received.patients, received.outcome) == ("110104", [STUDY], ["P1"], 0)
    assert received.participants("110153")[0]["UserID"] == CALLER
    assert received.participants("110152")[0]["UserID"] == "web"
