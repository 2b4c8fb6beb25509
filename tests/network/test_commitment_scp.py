"""Storage commitment that scanners ask of the node: answered at once, reported until taken, true when it leaves."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from interop.ports import free_port, wait_until
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE, N_ACTION
from pynetdicom.sop_class import StorageCommitmentPushModel
from served import served
from sqlalchemy import select

from dicom_node.config import Configuration, DeliveryPolicy, NodeSettings, Peer, PeerPermission
from dicom_node.deliver.deliver import serve_deliverer
from dicom_node.network import commitment_scp
from dicom_node.network.commitment import INSTANCE, SopReference, action_information, read_event_information
from network.objects import MR, SECONDARY_CAPTURE, encoded, mr_image, new_uid
from network.running_node import (
    NODE,
    SCANNER,
    ReceiverProcess,
    RunningReceiver,
    configuration,
    receiver_thread,
)
from storage.ledger import open_ledger, utc_now
from storage.schema import CommitmentTransactionRow, ReportState

COMMITTED, NO_SUCH_OBJECT, CONFLICT, LOST, DUPLICATE = None, 0x0112, 0x0119, 0x0110, 0x0131


@dataclass
class Reports:
    """What a scanner was told: Transaction UID, then Failure Reason or ``None`` by SOP Instance UID."""

    status: int = 0x0000
    received: list[tuple[str, dict[str, int | None]]] = field(default_factory=list)

    def take(self, event: evt.Event) -> tuple[int, Dataset | None]:
        report = read_event_information(event.event_information)
        assert event.event_type == (2 if report.failed else 1)
        verdicts: dict[str, int | None] = dict.fromkeys(report.committed)
        self.received.append((report.transaction_uid, verdicts | dict(report.failed)))
        return self.status, None

    def wait(self, count: int = 1) -> list[tuple[str, dict[str, int | None]]]:
        wait_until(lambda: len(self.received) >= count, seconds=30, what=f"{count} reports")
        return self.received


@contextlib.contextmanager
def scanner(port: int, reports: Reports, *, title: str = SCANNER) -> Iterator[Association]:
    entity = AE(title)
    entity.add_requested_context(MR, [ExplicitVRLittleEndian])
    entity.add_requested_context(StorageCommitmentPushModel, [ExplicitVRLittleEndian])
    association = entity.associate(
        "127.0.0.1", port, ae_title=NODE, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports.take)]
    )
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


@contextlib.contextmanager
def listening_scanner(port: int, reports: Reports) -> Iterator[None]:
    """A scanner that takes reports on associations that the node opens."""
    entity = AE(SCANNER)
    entity.add_supported_context(StorageCommitmentPushModel, [ExplicitVRLittleEndian], True, True)
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reports.take)]
    )
    try:
        yield
    finally:
        server.shutdown()


def ask(
    association: Association, references: list[SopReference], *, transaction_uid: str | None = None, action: int = 1
) -> tuple[int, str]:
    transaction_uid = transaction_uid or new_uid()
    response, _ = association.send_n_action(
        action_information(transaction_uid, references), action, StorageCommitmentPushModel, INSTANCE
    )
    return int(response.Status), transaction_uid


def store(association: Association, count: int = 2) -> list[SopReference]:
    study = new_uid()
    images = [mr_image(study=study, series=f"{study}.1", seed=seed) for seed in range(count)]
    assert [association.send_c_store(image).Status for image in images] == [0x0000] * count
    return [SopReference(str(image.SOPClassUID), str(image.SOPInstanceUID)) for image in images]


def committing(folder: Path, *, scanner_port: int | None = None, **changes: Any) -> Configuration:
    """A node that commits; the scanner can be reached when it has a port."""
    address: dict[str, Any] = {"host": "127.0.0.1", "port": scanner_port} if scanner_port else {}
    sections: dict[str, Any] = {
        "node": NodeSettings(ae_title=NODE, address="127.0.0.1", port=free_port(), acse_timeout_s=5, commitment=True),
        "peers": {
            "scanner": Peer(ae_title=SCANNER, **address),
            "pacs": Peer(ae_title="PACS", host="127.0.0.1", port=1, may=frozenset({PeerPermission.RECEIVE})),
        },
        "delivery": DeliveryPolicy(first_delay_s=0.05, maximum_delay_s=0.2, maximum_attempts=100, response_timeout_s=5),
    }
    return configuration(folder, **{**sections, **changes})


@contextlib.contextmanager
def deliverer_thread(node: Configuration) -> Iterator[None]:
    with served(lambda stop, ready: serve_deliverer(node, stop, ready=ready)):
        yield


def transactions(receiver: RunningReceiver) -> list[CommitmentTransactionRow]:
    with receiver.ledger.reading() as session:
        return list(session.scalars(select(CommitmentTransactionRow).order_by(CommitmentTransactionRow.id)))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningReceiver]:
    with receiver_thread(committing(tmp_path)) as running:
        yield running


def test_on_the_same_association_each_object_has_its_verdict(node: RunningReceiver) -> None:
    reports = Reports()
    with scanner(node.port, reports) as association:
        kept, other_class, lost = store(association, 3)
        (row,) = [row for row in node.instances() if row.sop_instance_uid == lost.sop_instance_uid]
        node.file_of(row).unlink()
        unknown = SopReference(MR, new_uid())
        asked = [kept, SopReference(SECONDARY_CAPTURE, other_class.sop_instance_uid), lost, unknown]
        status, transaction_uid = ask(association, asked)
        assert status == 0x0000
        assert reports.wait() == [
            (
                transaction_uid,
                {
                    kept.sop_instance_uid: COMMITTED,
                    other_class.sop_instance_uid: CONFLICT,
                    lost.sop_instance_uid: LOST,
                    unknown.sop_instance_uid: NO_SUCH_OBJECT,
                },
            )
        ]
        # The association goes on as if nothing had been.
        store(association)
    wait_until(lambda: transactions(node)[0].state is ReportState.REPORTED, seconds=30, what="the report is recorded")
    (asked_event,) = node.events("commitment asked")
    (answered,) = node.events("commitment answered")
    assert asked_event.correlation_id == answered.correlation_id == row.association_id
    assert (answered.detail["committed"], answered.detail["failed"]) == (1, 3)


def test_images_that_follow_the_request_at_once_are_not_taken_for_the_answer(
    node: RunningReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine six reports take longer, and what is left is the deliverer's, which does not run here.
    monkeypatch.setattr(commitment_scp, "PATIENCE_S", 60)
    reports, statuses = Reports(), list[tuple[str, int]]()
    images = [mr_image(seed=seed) for seed in range(6)]

    def responded(event: evt.Event) -> None:
        message = event.message
        if hasattr(message.command_set, "Status"):
            statuses.append((type(message).__name__, int(message.command_set.Status)))

    with scanner(node.port, reports) as association:
        association.bind(evt.EVT_DIMSE_RECV, responded)
        contexts = {context.abstract_syntax: context.context_id for context in association.accepted_contexts}
        # Nothing waits for anything: request, image, request, image, as fast as the network takes them.
        for number, image in enumerate(images, start=1):
            action = N_ACTION()
            action.MessageID, action.ActionTypeID = 2 * number, 1
            action.RequestedSOPClassUID, action.RequestedSOPInstanceUID = StorageCommitmentPushModel, INSTANCE
            references = [SopReference(MR, str(image.SOPInstanceUID))]
            action.ActionInformation = io.BytesIO(encoded(action_information(new_uid(), references)))
            association.dimse.send_msg(action, contexts[StorageCommitmentPushModel])
            request = C_STORE()
            request.MessageID, request.Priority = 2 * number + 1, 2
            request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = MR, image.SOPInstanceUID
            request.DataSet = io.BytesIO(encoded(image))
            association.dimse.send_msg(request, contexts[MR])
        reports.wait(len(images))
    assert sorted(statuses) == [("C_STORE_RSP", 0x0000)] * len(images) + [("N_ACTION_RSP", 0x0000)] * len(images)
    assert len(node.instances()) == len(images)


def test_a_report_after_the_release_comes_on_a_new_association(tmp_path: Path) -> None:
    reports, port = Reports(), free_port()
    node = committing(tmp_path, scanner_port=port)
    with receiver_thread(node) as receiver, deliverer_thread(node), listening_scanner(port, reports):
        with scanner(receiver.port, Reports()) as association:
            references = store(association)
            _, transaction_uid = ask(association, references)
        assert reports.wait() == [(transaction_uid, {one.sop_instance_uid: COMMITTED for one in references})]
        wait_until(lambda: transactions(receiver)[0].state is ReportState.REPORTED, seconds=30, what="recorded")
        assert transactions(receiver)[0].attempts == 0


def test_a_scanner_that_is_down_is_told_when_it_is_up_again(tmp_path: Path) -> None:
    reports, port = Reports(), free_port()
    node = committing(tmp_path, scanner_port=port)
    with receiver_thread(node) as receiver, deliverer_thread(node):
        with scanner(receiver.port, Reports()) as association:
            references = store(association)
            _, transaction_uid = ask(association, references)
        wait_until(lambda: transactions(receiver)[0].attempts >= 2, seconds=30, what="two attempts failed")
        assert "cannot be reached" in (transactions(receiver)[0].error or "")
        # Up, but not able to take it: asked again.
        reports.status = 0x0110
        with listening_scanner(port, reports):
            reports.wait(2)
        reports.status = 0x0000
        before = len(reports.received)
        with listening_scanner(port, reports):
            assert reports.wait(before + 1)[-1] == (
                transaction_uid,
                {one.sop_instance_uid: COMMITTED for one in references},
            )
        wait_until(lambda: transactions(receiver)[0].state is ReportState.REPORTED, seconds=30, what="recorded")


def test_a_request_outlives_the_node(tmp_path: Path) -> None:
    reports, port = Reports(), free_port()
    node = committing(tmp_path, scanner_port=port)
    process = ReceiverProcess(node)
    with scanner(node.node.port, Reports()) as association:
        references = store(association)
        status, transaction_uid = ask(association, references)
        assert status == 0x0000
        process.kill()
    ledger = open_ledger(node.storage.database)
    with ledger.transaction() as session:
        # What the killed receiver would have said or not is waited for; the test is not.
        session.scalars(select(CommitmentTransactionRow)).one().due_at = utc_now()
    ledger.close()
    with listening_scanner(port, reports), deliverer_thread(node):
        assert reports.wait() == [(transaction_uid, {one.sop_instance_uid: COMMITTED for one in references})]


def test_without_an_address_the_report_is_dead_and_says_why(tmp_path: Path) -> None:
    node = committing(tmp_path)
    with receiver_thread(node) as receiver, deliverer_thread(node):
        with scanner(receiver.port, Reports()) as association:
            ask(association, store(association))
        wait_until(lambda: transactions(receiver)[0].state is ReportState.DEAD, seconds=30, what="it is dead")
        assert "no host and port" in (transactions(receiver)[0].error or "")
        assert len(receiver.events("commitment report dead")) == 1


def test_a_repeated_request_is_reported_again_and_another_under_its_uid_fails(node: RunningReceiver) -> None:
    reports = Reports()
    with scanner(node.port, reports) as association:
        first, second = store(association), store(association)
        transaction_uid = new_uid()
        for number, references in enumerate((first, first[::-1], second), start=1):
            assert ask(association, references, transaction_uid=transaction_uid) == (0x0000, transaction_uid)
            reports.wait(number)
    good = {one.sop_instance_uid: COMMITTED for one in first}
    assert [verdicts for _, verdicts in reports.received] == [
        good,
        good,
        {one.sop_instance_uid: DUPLICATE for one in second},
    ]
    assert len(transactions(node)) == 2


def test_a_request_that_cannot_be_understood_is_refused(node: RunningReceiver) -> None:
    reports = Reports()
    with scanner(node.port, reports) as association:
        references = store(association)
        assert ask(association, [])[0] == 0x0115
        assert ask(association, [SopReference(MR, "not a UID")])[0] == 0x0115
        assert ask(association, references, action=2)[0] == 0x0123
        nothing, _ = association.send_n_action(None, 1, StorageCommitmentPushModel, INSTANCE)
        other, _ = association.send_n_action(
            action_information("1.2", references), 1, StorageCommitmentPushModel, "1.2"
        )
        assert (nothing.Status, other.Status) == (0x0115, 0x0112)
        store(association)
    assert (transactions(node), reports.received) == ([], [])


def test_who_may_not_send_or_is_not_offered_it_gets_no_commitment(node: RunningReceiver, tmp_path: Path) -> None:
    with scanner(node.port, Reports(), title="PACS") as association:
        assert ask(association, [SopReference(MR, "1.2.3")])[0] == 0x0124
        assert [str(context.abstract_syntax) for context in association.rejected_contexts] == [MR]
    off = NodeSettings(ae_title=NODE, address="127.0.0.1", port=free_port())
    with receiver_thread(committing(tmp_path / "off", node=off)) as receiver:
        with scanner(receiver.port, Reports()) as association:
            assert [str(context.abstract_syntax) for context in association.rejected_contexts] == [
                StorageCommitmentPushModel
            ]
        with scanner(receiver.port, Reports(), title="PACS") as association:
            assert ask(association, [SopReference(MR, "1.2.3")])[0] == 0x0124


def test_a_scanner_may_not_report_on_deliveries(node: RunningReceiver) -> None:
    with scanner(node.port, Reports()) as association:
        response, _ = association.send_n_event_report(
            action_information("2.25.1", [SopReference(MR, "1.2")]), 1, StorageCommitmentPushModel, INSTANCE
        )
        assert response.Status == 0x0124
