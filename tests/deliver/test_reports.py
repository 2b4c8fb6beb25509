"""Storage commitment results on associations that the PACS opens: always answered, counted once."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from interop.ports import free_port, wait_until
from network.objects import SECONDARY_CAPTURE
from network.running_node import (
    NODE,
    SCANNER,
    RunningReceiver,
    configuration,
    destination_sections,
    pacs_peer,
    receiver_thread,
)
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

import storage.ledger
from deliver.results_due import overview, result_objects, results_due, states
from dicom_node.errors import CannotUnderstandError
from dicom_node.network.commitment import (
    INSTANCE,
    SopReference,
    action_information,
    event_information,
    read_action_information,
    read_event_information,
)
from storage.deliveries import claim_deliveries, delivery_sent
from storage.ledger import utc_now
from storage.schema import DeliveryState

TRANSACTION = "2.25.777"


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[RunningReceiver]:
    """A receiver whose ledger has two deliveries that wait for commitment in one transaction."""
    node = configuration(tmp_path, **destination_sections(pacs_peer(free_port())))
    with receiver_thread(node) as receiver:
        results_due(node, receiver.ledger, result_objects(2))
        claimed = claim_deliveries(receiver.ledger, "pacs", 10, "test", utc_now(), 60)
        delivery_sent(receiver.ledger, [one.id for one in claimed], TRANSACTION, utc_now(), now=utc_now())
        yield receiver


def references(receiver: RunningReceiver) -> list[SopReference]:
    return [SopReference(one.sop_class_uid, one.sop_instance_uid) for one in overview(receiver.ledger)]


@contextmanager
def pacs_association(receiver: RunningReceiver, *, title: str = "PACS", role: bool = True) -> Iterator[Association]:
    entity = AE(title)
    entity.add_requested_context(StorageCommitmentPushModel, [ExplicitVRLittleEndian])
    entity.add_requested_context("1.2.840.10008.1.1")
    negotiation = []
    if role:
        as_scp = SCP_SCU_RoleSelectionNegotiation()
        as_scp.sop_class_uid, as_scp.scu_role, as_scp.scp_role = StorageCommitmentPushModel, False, True
        negotiation.append(as_scp)
    association = entity.associate("127.0.0.1", receiver.port, ae_title=NODE, ext_neg=negotiation)
    assert association.is_established
    yield association
    association.release()


def report(association: Association, information: Dataset, event_type: int) -> int:
    response, _ = association.send_n_event_report(information, event_type, StorageCommitmentPushModel, INSTANCE)
    return int(response.Status)


def test_all_committed(waiting: RunningReceiver) -> None:
    with pacs_association(waiting) as association:
        assert report(association, event_information(TRANSACTION, references(waiting), {}), 1) == 0x0000
    assert states(waiting.ledger) == [DeliveryState.COMMITTED] * 2


def test_failures_are_answered_and_put_back(waiting: RunningReceiver) -> None:
    kept, lost = references(waiting)
    with pacs_association(waiting) as association:
        information = event_information(TRANSACTION, [kept], {lost: 0x0112})
        # Twice, as by a PACS that missed the first answer.
        assert [report(association, information, 2) for _ in range(2)] == [0x0000, 0x0000]
    first, second = overview(waiting.ledger)
    assert (first.state, second.state) == (DeliveryState.COMMITTED, DeliveryState.QUEUED)
    assert (second.failed_attempts, second.error) == (1, "the destination did not commit it: no such object instance")


def test_an_unknown_transaction_is_answered_and_changes_nothing(waiting: RunningReceiver) -> None:
    with pacs_association(waiting) as association:
        assert report(association, event_information("2.25.1", references(waiting), {}), 1) == 0x0000
    assert states(waiting.ledger) == [DeliveryState.AWAITING_COMMITMENT] * 2


def test_a_report_of_a_peer_that_is_not_the_destination_changes_nothing(tmp_path: Path) -> None:
    sections = destination_sections(pacs_peer(free_port()))
    sections["peers"] = {**sections["peers"], "other": pacs_peer(free_port(), "OTHER")}  # type: ignore[dict-item]
    node = configuration(tmp_path, **sections)
    with receiver_thread(node) as receiver:
        results_due(node, receiver.ledger, result_objects(2))
        claimed = claim_deliveries(receiver.ledger, "pacs", 10, "test", utc_now(), 60)
        delivery_sent(receiver.ledger, [one.id for one in claimed], TRANSACTION, utc_now(), now=utc_now())
        with pacs_association(receiver, title="OTHER") as association:
            assert report(association, event_information(TRANSACTION, references(receiver), {}), 1) == 0x0000
        assert states(receiver.ledger) == [DeliveryState.AWAITING_COMMITMENT] * 2
        with pacs_association(receiver) as association:
            assert report(association, event_information(TRANSACTION, references(receiver), {}), 1) == 0x0000
        assert states(receiver.ledger) == [DeliveryState.COMMITTED] * 2


def test_a_malformed_report_is_answered_with_invalid_argument(waiting: RunningReceiver) -> None:
    information = event_information(TRANSACTION, references(waiting), {})
    del information.TransactionUID
    with pacs_association(waiting) as association:
        assert report(association, information, 1) == 0x0115
    assert states(waiting.ledger) == [DeliveryState.AWAITING_COMMITMENT] * 2


def test_a_report_that_cannot_be_parsed_is_answered_with_invalid_argument(waiting: RunningReceiver) -> None:
    request = N_EVENT_REPORT()
    request.MessageID, request.EventTypeID = 1, 1
    request.AffectedSOPClassUID = StorageCommitmentPushModel
    request.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
    # The sequence has no items and no end.
    unended = b"\x08\x00\x95\x11UI\x06\x001.2.3\0\x08\x00\x99\x11SQ\0\0\xff\xff\xff\xff"
    request.EventInformation = io.BytesIO(unended)
    with pacs_association(waiting) as association:
        association._reactor_checkpoint.clear()
        wait_until(lambda: association._is_paused, seconds=5, what="the reactor pauses")
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, response = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert response.Status == 0x0115
    assert states(waiting.ledger) == [DeliveryState.AWAITING_COMMITMENT] * 2


def test_a_report_that_cannot_be_recorded_is_not_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.ledger, "BUSY_TIMEOUT_S", 0.3)
    node = configuration(tmp_path, **destination_sections(pacs_peer(free_port())))
    with receiver_thread(node) as receiver, pacs_association(receiver) as association:
        other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        information = event_information(TRANSACTION, [SopReference(SECONDARY_CAPTURE, "1.2")], {})
        assert report(association, information, 1) == 0x0110
        other.execute("ROLLBACK")
        other.close()
        assert report(association, information, 1) == 0x0000


def test_a_scanner_may_not_report_commitment(waiting: RunningReceiver) -> None:
    with pacs_association(waiting, title=SCANNER) as association:
        assert [str(context.abstract_syntax) for context in association.rejected_contexts] == [
            StorageCommitmentPushModel
        ]


def test_a_pacs_that_negotiates_no_role_is_let_in(waiting: RunningReceiver) -> None:
    with pacs_association(waiting, role=False) as association:
        assert association.rejected_contexts == []


def test_information_reads_back_as_it_was_written() -> None:
    a, b = SopReference("1.2", "1.3"), SopReference("1.2", "1.4")
    assert read_action_information(action_information("2.25.1", [a, b])) == ("2.25.1", (a, b))
    found = read_event_information(event_information("2.25.1", [a], {b: 0x0119}))
    assert (found.transaction_uid, found.committed, found.failed) == ("2.25.1", {"1.3"}, {"1.4": 0x0119})
    with pytest.raises(CannotUnderstandError):
        read_action_information(action_information("2.25.1", []))
    with pytest.raises(CannotUnderstandError):
        read_event_information(event_information("", [a], {}))
