"""The conformance statement of a node: what it says is negotiated is what a peer gets when it asks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from network.running_node import NODE, configuration, receiver_thread
from pydicom.uid import JPEG2000, UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import AE
from pynetdicom.presentation import StoragePresentationContexts, build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_node import cli
from dicom_node.config import (
    Configuration,
    DestinationProfile,
    Hl7Destination,
    OrderSettings,
    Peer,
    PeerPermission,
    ResultSettings,
    Route,
    WebDestination,
)
from dicom_node.conformance import conformance_statement

ROW = re.compile(r"^\| [^|]+ \| ([0-9.]+) \| ([^|]+) \| ([^|]+) \|$", re.M)


@pytest.fixture
def node(tmp_path: Path) -> Configuration:
    return configuration(
        tmp_path,
        peers={
            "scanner": Peer(ae_title="SCANNER"),
            "pacs": Peer(ae_title="PACS", host="pacs.example", port=104, may=frozenset({PeerPermission.RECEIVE})),
        },
        routes={"cine": Route(destinations=("pacs", "archive", "ris"))},
        results=ResultSettings(
            destinations={
                "pacs": DestinationProfile(peer="pacs"),
                "archive": DestinationProfile(
                    web=WebDestination(url="https://archive.example/dicom"), rejection_notes=False
                ),
                "ris": DestinationProfile(hl7=Hl7Destination(host="ris.example", port=2575)),
            }
        ),
    )


def section(statement: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", statement, re.M | re.S)
    assert found is not None, statement
    return found[1]


def test_a_sender_gets_the_contexts_that_the_statement_says(node: Configuration) -> None:
    told = section(conformance_statement(node), "Presentation contexts accepted from SCANNER")
    stated = {uid: set(syntaxes.split("; ")) for uid, syntaxes, _role in ROW.findall(told)}
    offered = {one.abstract_syntax for one in StoragePresentationContexts} | {Verification, StorageCommitmentPushModel}
    tried = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000, JPEGBaseline8Bit]
    accepted: dict[str, set[str]] = {}
    with receiver_thread(node) as receiver:
        every = sorted(offered | {UID(one) for one in stated})
        for begin in range(0, len(every), 30):
            entity = AE("SCANNER")
            # One context a transfer syntax: each is answered by itself. An association without any is none.
            entity.requested_contexts = [build_context(uid, one) for uid in every[begin : begin + 30] for one in tried]
            entity.add_requested_context(Verification)
            association = entity.associate("127.0.0.1", receiver.port, ae_title=NODE)
            assert association.is_established
            for context in association.accepted_contexts:
                accepted.setdefault(str(context.abstract_syntax), set()).add(context.transfer_syntax[0].name)
            association.release()
    assert set(accepted) == set(stated)
    names = {one.name for one in tried}
    assert accepted == {uid: syntaxes & names for uid, syntaxes in stated.items()}


def test_destinations_are_told_as_they_are_configured(node: Configuration) -> None:
    told = section(conformance_statement(node), "Destinations of results")
    assert "| pacs | PACS, pacs.example:104 | C-STORE | Storage Commitment Push Model | by rejection notes" in told
    assert "| archive | https://archive.example/dicom | STOW-RS | QIDO-RS | no |" in told
    assert "| ris | ris.example:2575 | HL7 v2.5.1 ORU^R01 over MLLP | its answer | no |" in told
    assert "1.2.840.10008.5.1.4.1.1.66.4" in told


def test_the_command_prints_the_statement(
    node: Configuration, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        yaml.safe_dump(node.model_dump(mode="json", exclude_defaults=True), sort_keys=False), encoding="utf-8"
    )
    monkeypatch.setattr("sys.argv", ["dicom-node", "conformance", "--config", str(file)])
    cli.app(standalone_mode=False)
    told = capsys.readouterr().out
    assert told.startswith(f"# DICOM conformance of {node.node.ae_title}\n")
    assert told == conformance_statement(node) + "\n"
    # Who may not call is not named with what others may.
    assert "Presentation contexts accepted from PACS" in told


def test_what_is_taken_of_an_information_system_is_stated_where_orders_are(node: Configuration) -> None:
    assert "Orders" not in conformance_statement(node)
    orders = OrderSettings(port=2575, senders=("10.0.0.40", "10.0.1.0/24"))
    told = section(conformance_statement(node.model_copy(update={"orders": orders})), "Orders (HL7 v2 over MLLP)")
    assert "| From | 10.0.0.40/32, 10.0.1.0/24 |" in told
    assert "| Accession number | the first that is there of IPC-1, OBR-18, OBR-3, ORC-3 |" in told
    assert "| TLS | none |" in told
