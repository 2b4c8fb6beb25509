"""The lease of what is being sent: kept for as long as an object takes, and not for as long as a peer hangs."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.ports import free_port, wait_until
from network.objects import SECONDARY_CAPTURE
from network.running_node import configuration, destination_sections, pacs_peer
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel
from sqlalchemy import select

import dicom_node.deliver.commitments
import dicom_node.deliver.deliver
from deliver.results_due import result_objects, results_due, states
from dicom_node.config import Configuration, DeliveryPolicy, Peer
from dicom_node.deliver.commitments import CommitmentReporter
from dicom_node.deliver.deliver import Deliverer
from dicom_node.deliver.lease import RoundLease
from storage.commitments import record_commitment_request
from storage.deliveries import Delivery, claim_deliveries, extend_deliveries, release_expired_deliveries
from storage.files import InstanceFiles
from storage.ledger import Ledger, open_ledger, utc_now
from storage.schema import CommitmentTransactionRow, DeliveryRow, DeliveryState, ReportState

LEASE_S = 0.3


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (dicom_node.deliver.commitments, dicom_node.deliver.deliver):
        monkeypatch.setattr(module, "LEASE_S", LEASE_S)


def leases(ledger: Ledger) -> list[dt.datetime | None]:
    with ledger.reading() as session:
        return list(session.scalars(select(DeliveryRow.lease_until).order_by(DeliveryRow.id)))


def extend(ledger: Ledger, one: Delivery) -> None:
    extend_deliveries(ledger, "test", [one.id], utc_now(), LEASE_S)


def test_one_object_that_takes_longer_than_a_lease_keeps_it(tmp_path: Path) -> None:
    port, taking, go_on = free_port(), threading.Event(), threading.Event()

    def take(_event: evt.Event) -> int:
        taking.set()
        go_on.wait()
        return 0x0000

    pacs = AE("PACS")
    pacs.add_supported_context(SECONDARY_CAPTURE)
    server = pacs.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    node = configuration(tmp_path, **destination_sections(pacs_peer(port), storage_commitment=False))
    ledger = open_ledger(node.storage.database)
    deliverer = results_due(node, ledger, result_objects(2))
    sending = threading.Thread(target=deliverer.deliver_once, args=("pacs",))
    sending.start()
    try:
        wait_until(taking.is_set, seconds=300, what="the PACS takes the first object")
        seen: set[object] = set()

        def renewed_again_and_again() -> bool:
            seen.update(leases(ledger))
            return len(seen) > 4

        wait_until(renewed_again_and_again, seconds=300, what="the lease of both is renewed while one is on its way")
        assert len(set(leases(ledger))) == 1
    finally:
        go_on.set()
        sending.join()
        server.shutdown()
    assert states(ledger) == [DeliveryState.NOT_VERIFIED] * 2
    ledger.close()


def test_the_lease_of_what_does_not_go_on_runs_out(tmp_path: Path) -> None:
    node = configuration(tmp_path, **destination_sections(pacs_peer(free_port())))
    ledger = open_ledger(node.storage.database)
    results_due(node, ledger, result_objects(1))
    (one,) = claim_deliveries(ledger, "pacs", 1, "test", utc_now(), LEASE_S)
    # The block does not end, as that of a peer that hangs.
    with RoundLease(lambda: extend(ledger, one), 0.3, LEASE_S):
        wait_until(lambda: release_expired_deliveries(ledger, utc_now()) == 1, seconds=300, what="the lease runs out")
        assert states(ledger) == [DeliveryState.QUEUED]
    ledger.close()


def test_a_round_prolongs_no_lease_but_its_own(tmp_path: Path) -> None:
    node = configuration(tmp_path, **destination_sections(pacs_peer(free_port())))
    ledger = open_ledger(node.storage.database)
    results_due(node, ledger, result_objects(2))
    own, other = claim_deliveries(ledger, "pacs", 2, "test", utc_now(), LEASE_S)
    before = leases(ledger)
    with RoundLease(lambda: extend(ledger, own), 300, LEASE_S):
        wait_until(lambda: leases(ledger)[0] != before[0], seconds=300, what="the lease is renewed")
    assert leases(ledger)[1] == before[1]
    assert other.id != own.id
    ledger.close()


# -- reports of storage commitment -------------------------------------------------------------------------------------


@dataclasses.dataclass
class SlowScanner:
    """A scanner that takes its time to answer the first report, and notes which reports it got."""

    port: int = dataclasses.field(default_factory=free_port)
    taking: threading.Event = dataclasses.field(default_factory=threading.Event)
    go_on: threading.Event = dataclasses.field(default_factory=threading.Event)
    received: list[str] = dataclasses.field(default_factory=list)

    def take(self, event: evt.Event) -> tuple[int, None]:
        self.received.append(str(event.event_information.TransactionUID))
        self.taking.set()
        self.go_on.wait()
        return 0x0000, None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        entity = AE("MR1")
        entity.add_supported_context(StorageCommitmentPushModel, "1.2.840.10008.1.2.1", True, True)
        server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.take)]
        )
        try:
            yield
        finally:
            self.go_on.set()
            server.shutdown()


def two_reports_due(
    folder: Path, url: str, scanner: SlowScanner, response_timeout_s: float
) -> tuple[Configuration, Ledger, CommitmentReporter, CommitmentReporter]:
    """Two requests of a scanner, and the deliverers of two hosts with one ledger."""
    node = configuration(
        folder,
        peers={"scanner": Peer(ae_title="MR1", host="127.0.0.1", port=scanner.port)},
        # No pause of the policy is as long as the lease: what is held is not taken for what a wrong clock wrote down.
        delivery=DeliveryPolicy(first_delay_s=0.05, maximum_delay_s=0.1, response_timeout_s=response_timeout_s),
    )
    ledger = open_ledger(url)
    for uid in ("1.2.1", "1.2.2"):
        record_commitment_request(
            ledger,
            calling_ae_title="MR1",
            transaction_uid=uid,
            referenced=[("1.2.840.10008.5.1.4.1.1.4", "1.2.3")],
            correlation_id=None,
            due_at=utc_now(),
            now=utc_now(),
        )
    files = InstanceFiles(node.storage.directory)
    return node, ledger, CommitmentReporter(node, ledger, files), CommitmentReporter(node, ledger, files)


def times_due(ledger: Ledger) -> list[dt.datetime]:
    with ledger.reading() as session:
        return list(session.scalars(select(CommitmentTransactionRow.due_at).order_by(CommitmentTransactionRow.id)))


def reported(ledger: Ledger) -> list[ReportState]:
    with ledger.reading() as session:
        return list(session.scalars(select(CommitmentTransactionRow.state)))


def test_a_report_that_is_not_answered_at_once_goes_out_from_one_host_alone(tmp_path: Path, url: str) -> None:
    scanner = SlowScanner()
    _, ledger, reporter, other = two_reports_due(tmp_path, url, scanner, response_timeout_s=300)
    with scanner.listening():
        reporting = threading.Thread(target=reporter.report_once, args=("MR1",))
        reporting.start()
        wait_until(scanner.taking.is_set, seconds=300, what="the scanner takes the first report")
        seen: set[dt.datetime] = set()

        def renewed_again_and_again() -> bool:
            seen.update(times_due(ledger))
            return len(seen) > 4

        wait_until(renewed_again_and_again, seconds=300, what="both are kept while one is on its way")
        assert other.report_once("MR1") == 0
        scanner.go_on.set()
        reporting.join()
    assert reported(ledger) == [ReportState.REPORTED] * 2
    assert scanner.received == ["1.2.1", "1.2.2"]
    ledger.close()


def test_a_report_whose_lease_ran_out_is_not_made_by_whoever_had_it(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that stood still for longer than its lease, as a paused virtual machine does."""
    scanner = SlowScanner()
    _, ledger, reporter, other = two_reports_due(tmp_path, url, scanner, response_timeout_s=300)
    scanner.go_on.set()
    judge = dicom_node.deliver.commitments.report_due
    monkeypatch.setattr(RoundLease, "_renew", lambda _self: None)

    def while_others_take_them(*arguments: Any, **about: Any) -> Any:
        monkeypatch.setattr(dicom_node.deliver.commitments, "report_due", judge)
        wait_until(lambda: other.peers_with_work() == ("MR1",), seconds=300, what="the lease ran out")
        assert other.report_once("MR1") == 2
        return judge(*arguments, **about)

    with scanner.listening():
        monkeypatch.setattr(dicom_node.deliver.commitments, "report_due", while_others_take_them)
        reporter.report_once("MR1")
    assert scanner.received == ["1.2.1", "1.2.2"]
    assert reported(ledger) == [ReportState.REPORTED] * 2
    ledger.close()


def test_what_is_being_reported_is_not_taken_for_what_a_wrong_clock_wrote_down(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_node.deliver.commitments, "LEASE_S", 300.0)
    scanner = SlowScanner()
    node, ledger, reporter, other = two_reports_due(tmp_path, url, scanner, response_timeout_s=300)
    with scanner.listening():
        reporting = threading.Thread(target=reporter.report_once, args=("MR1",))
        reporting.start()
        wait_until(scanner.taking.is_set, seconds=300, what="the scanner takes the first report")
        Deliverer(node, ledger, other.files, "other").forget_clock_steps()
        assert other.peers_with_work() == ()
        scanner.go_on.set()
        reporting.join()
    assert scanner.received == ["1.2.1", "1.2.2"]
    ledger.close()
