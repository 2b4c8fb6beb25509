"""The lease of what is being sent: kept for as long as an object takes, and not for as long as a peer hangs."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path

import pytest
from interop.ports import free_port, wait_until
from network.objects import SECONDARY_CAPTURE
from network.running_node import configuration, destination_sections, pacs_peer
from pynetdicom import AE, evt
from sqlalchemy import select

import dicom_node.deliver.deliver
import dicom_node.deliver.lease
from deliver.results_due import result_objects, results_due, states
from dicom_node.deliver.lease import RoundLease
from storage.deliveries import claim_deliveries, release_expired_deliveries
from storage.ledger import Ledger, open_ledger, utc_now
from storage.schema import DeliveryRow, DeliveryState

LEASE_S = 0.3


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (dicom_node.deliver.deliver, dicom_node.deliver.lease):
        monkeypatch.setattr(module, "LEASE_S", LEASE_S)


def leases(ledger: Ledger) -> list[dt.datetime | None]:
    with ledger.reading() as session:
        return list(session.scalars(select(DeliveryRow.lease_until).order_by(DeliveryRow.id)))


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
    with RoundLease(ledger, "test", [one.id], response_timeout_s=0.3):
        wait_until(lambda: release_expired_deliveries(ledger, utc_now()) == 1, seconds=300, what="the lease runs out")
        assert states(ledger) == [DeliveryState.QUEUED]
    ledger.close()


def test_a_round_prolongs_no_lease_but_its_own(tmp_path: Path) -> None:
    node = configuration(tmp_path, **destination_sections(pacs_peer(free_port())))
    ledger = open_ledger(node.storage.database)
    results_due(node, ledger, result_objects(2))
    own, other = claim_deliveries(ledger, "pacs", 2, "test", utc_now(), LEASE_S)
    before = leases(ledger)
    with RoundLease(ledger, "test", [own.id], response_timeout_s=300):
        wait_until(lambda: leases(ledger)[0] != before[0], seconds=300, what="the lease is renewed")
    assert leases(ledger)[1] == before[1]
    assert other.id != own.id
    ledger.close()
