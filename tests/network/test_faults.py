"""Faults of disk, ledger, peers and the process itself: what is acknowledged stays, and recovery needs no person."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from interop.dcmtk import storescu
from interop.ports import wait_until
from pynetdicom import AE
from pynetdicom.association import Association

import storage.ledger
from dicom_node.config import Configuration, ConflictAnswer, Peer
from dicom_node.network.places import Places, PlaceTable
from dicom_node.network.receiver import _AssociationRecord, _AssociationRecords
from dicom_node.network.reception import InstanceReceiver
from dicom_node.network.sender import ScuSettings, echo, send_files
from dicom_node.network.watermarks import Watermarks
from network.objects import MR, data_set_bytes, mr_image, save
from network.running_node import (
    NODE,
    SCANNER,
    RunningReceiver,
    configuration,
    left_behind,
    receiver_thread,
    shared_receivers,
    with_node,
    with_storage,
)
from network.wire import ASSOCIATE_AC, associate_request, connected
from storage.files import InstanceFiles
from storage.instances import open_receptions
from storage.ledger import open_ledger

SETTINGS = ScuSettings(SCANNER, acse_timeout_s=10, response_timeout_s=60)


def node_peer(configuration: Configuration) -> Peer:
    return Peer(ae_title=NODE, host="127.0.0.1", port=configuration.node.port)


def send(receiver: RunningReceiver, *paths: Path) -> list[int | None]:
    return [outcome.status for outcome in send_files(paths, node_peer(receiver.configuration), SETTINGS)]


def test_below_the_low_watermark_is_a700_with_nothing_written(dcmtk: None, tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    more_than_there_is = free.f_bavail * free.f_frsize // 1_000_000 + 1_000_000
    full = with_storage(
        configuration(tmp_path), low_watermark_mb=more_than_there_is, high_watermark_mb=more_than_there_is
    )
    with receiver_thread(full) as receiver:
        refused = storescu([save(mr_image(), tmp_path)], port=receiver.port, called=NODE)
        assert "Refused: OutOfResources" in refused.stderr
        assert receiver.instances() == []
        assert left_behind(receiver) == []
        # Testing the connection is still possible.
        assert echo(node_peer(full), SETTINGS).reachable


def test_watermarks_do_not_flap() -> None:
    free = [100_000_000, 20_000_000, 10_500_000, 10_400_000, 15_000_000, 19_999_999, 20_000_000, 12_000_000]
    coming = iter(free)
    watermarks = Watermarks(lambda: next(coming), low_watermark_mb=10, high_watermark_mb=20)
    assert [watermarks.admits(500_000) for _ in free] == [True, True, True, False, False, False, True, True]


def test_an_object_that_would_fill_the_disk_is_refused_before_it_is_written() -> None:
    watermarks = Watermarks(lambda: 30_000_000, low_watermark_mb=10, high_watermark_mb=20)
    assert watermarks.admits(20_000_000)
    assert not watermarks.admits(20_000_001)


def test_a_full_disk_is_a700_without_a_partial_file_and_recovers(tiny_disk: Path, tmp_path: Path) -> None:
    node = with_storage(configuration(tmp_path), directory=tiny_disk / "instances")
    paths = [save(mr_image(seed=seed, side=256), tmp_path) for seed in range(24)]
    with receiver_thread(node) as receiver:
        first = send(receiver, *paths)
        assert 0 < first.count(0x0000) < 24
        assert set(first) == {0x0000, 0xA700}
        assert left_behind(receiver) == []
        assert len(receiver.instances()) == first.count(0x0000)
        for row in receiver.instances():
            assert receiver.file_of(row).stat().st_size == row.size
        subprocess.run(["mount", "-o", "remount,size=32m", str(tiny_disk)], check=True)
        assert send(receiver, *paths) == [0x0000] * 24
        assert {data_set_bytes(receiver.file_of(row)) for row in receiver.instances()} == {
            data_set_bytes(path) for path in paths
        }


def test_storage_that_vanished_is_a700_and_recovers_when_it_is_back(tmp_path: Path) -> None:
    with receiver_thread(configuration(tmp_path)) as receiver:
        path = save(mr_image(), tmp_path)
        directory = receiver.configuration.storage.directory
        directory.rename(tmp_path / "elsewhere")
        assert send(receiver, path) == [0xA700]
        (tmp_path / "elsewhere").rename(directory)
        assert send(receiver, path) == [0x0000]
        assert len(receiver.instances()) == 1


def test_a_locked_ledger_is_a700_and_recovers_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.ledger, "BUSY_TIMEOUT_S", 0.3)
    paths = [save(mr_image(seed=seed), tmp_path) for seed in range(2)]
    with receiver_thread(configuration(tmp_path)) as receiver:
        other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert send(receiver, *paths) == [0xA700, 0xA700]
        assert receiver.instances() == []
        other.execute("ROLLBACK")
        other.close()
        assert send(receiver, *paths) == [0x0000, 0x0000]
        assert len(receiver.instances()) == 2
        wait_until(
            lambda: all(row.closed_at for row in receiver.associations()), seconds=30, what="associations are closed"
        )


def test_the_end_of_an_association_is_recorded_when_the_ledger_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.ledger, "BUSY_TIMEOUT_S", 0.3)
    with receiver_thread(configuration(tmp_path)) as receiver:
        other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)

        def lock_after_the_last_image(_outcome: object) -> None:
            other.execute("BEGIN IMMEDIATE")

        send_files(
            [save(mr_image(), tmp_path)],
            node_peer(receiver.configuration),
            SETTINGS,
            progress=lock_after_the_last_image,
        )
        time.sleep(0.6)
        assert receiver.associations()[0].closed_at is None
        other.execute("ROLLBACK")
        other.close()
        wait_until(lambda: receiver.associations()[0].closed_at is not None, seconds=30, what="association closed")
        assert receiver.associations()[0].outcome == "released"


def test_receiver_processes_share_the_port_and_each_closes_only_its_own(tmp_path: Path) -> None:
    node = with_node(configuration(tmp_path), receiver_processes=2)
    paths = [save(mr_image(seed=seed), tmp_path) for seed in range(4)]
    ledger = open_ledger(node.storage.database)
    with shared_receivers(node) as (one, other):
        running = RunningReceiver(node, ledger)
        for path in paths:
            assert send(running, path) == [0x0000]
        other.kill()
        # The port stays open while one of them is left.
        assert send(running, *paths) == [0x0000] * 4
        one.kill()
        assert len(running.instances()) == 4
        assert {row.receiver.rpartition("/")[2] for row in running.associations()} <= {"receiver-0", "receiver-1"}
    ledger.close()


def test_a_killed_receiver_loses_no_connection_that_waits(tmp_path: Path) -> None:
    node = with_node(configuration(tmp_path), receiver_processes=2)
    with shared_receivers(node) as (one, other):
        one.kill()
        other.kill()
        waiting = [connected(node.node.port) for _ in range(20)]
        for connection in waiting:
            connection.sendall(associate_request(SCANNER.encode(), NODE.encode()))
        one.start()
        for connection in waiting:
            assert connection.recv(1) == ASSOCIATE_AC
            connection.close()


def test_the_reject_pdu_says_result_source_and_reason(tmp_path: Path) -> None:
    with receiver_thread(configuration(tmp_path)) as receiver:
        for calling, called, expected in (
            (b"NOBODY", NODE.encode(), b"\x01\x01\x03"),
            (SCANNER.encode(), b"OTHER", b"\x01\x01\x07"),
        ):
            with socket.create_connection(("127.0.0.1", receiver.port), timeout=20) as connection:
                connection.sendall(associate_request(calling, called))
                # PS3.8 table 9-21: type 03, length 4, reserved, result, source, reason.
                assert connection.recv(100) == b"\x03\x00\x00\x00\x00\x04\x00" + expected


@pytest.mark.parametrize("module", ["dicom_node.network.receiver", "dicom_node.deliver.deliver"])
def test_nothing_heavy_is_imported(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "from dicom_node.network.capabilities import storage_contexts\n"
        "storage_contexts()\n"
        "print(sorted({'torch', 'monai', 'scipy', 'highdicom', 'matplotlib', 'skimage'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_an_abort_is_the_end_of_an_association_and_no_fault(
    receiver: RunningReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    entity = AE(SCANNER)
    entity.add_requested_context(MR)
    association = entity.associate("127.0.0.1", receiver.port, ae_title=NODE)
    assert association.send_c_store(mr_image()).Status == 0x0000
    association.abort()
    wait_until(lambda: receiver.associations()[0].outcome == "aborted", seconds=30, what="the abort is recorded")
    assert "broken off" not in capsys.readouterr().out


class Starting(threading.Thread):
    """A thread that has its identifier and does not count as alive yet."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.has_identifier, self.go_on = threading.Event(), threading.Event()

    def _set_tstate_lock(self) -> None:
        self.has_identifier.set()
        self.go_on.wait(30)
        super()._set_tstate_lock()  # type: ignore[misc]

    def run(self) -> None:
        self.go_on.clear()
        self.go_on.wait(30)


def test_an_association_that_is_just_starting_is_not_swept_away(tmp_path: Path) -> None:
    node = configuration(tmp_path)
    ledger = open_ledger(node.storage.database)
    records = _AssociationRecords(ledger, "receiver", Places(PlaceTable(1, node.peers), 0), lambda _association: None)
    record = _AssociationRecord(SCANNER, NODE, "127.0.0.1", (), frozenset())
    association = Starting()
    records.begin(association, record)
    threading.Thread(target=association.start, daemon=True).start()
    assert association.has_identifier.wait(10)
    assert association.ident is not None
    assert not association.is_alive()
    records.sweep()
    assert records.of(association) is record
    association.go_on.set()
    wait_until(association.is_alive, seconds=30, what="it has started")
    records.sweep()
    assert records.of(association) is record
    association.go_on.set()
    association.join(10)
    records.sweep()
    with pytest.raises(KeyError):
        records.of(association)
    ledger.close()


def test_an_association_that_ends_while_its_first_object_comes_is_not_left_open(tmp_path: Path) -> None:
    """Its study was never complete: the ledger had it as open until the process was started again."""
    node = configuration(tmp_path)
    with contextlib.closing(open_ledger(node.storage.database)) as ledger:
        files = InstanceFiles(node.storage.directory)
        watermarks = Watermarks(files.free_bytes, low_watermark_mb=0, high_watermark_mb=0)
        instances = InstanceReceiver(ledger, files, watermarks, lambda _sender: ConflictAnswer.ACCEPT)
        records = _AssociationRecords(ledger, "node/receiver-0", Places(PlaceTable(1, node.peers), 0), instances)
        record = _AssociationRecord(SCANNER, NODE, "127.0.0.1", (), frozenset())
        association = Association(AE(), "acceptor")
        records.begin(association, record)
        database = node.storage.database.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            first_object = threading.Thread(target=records.correlation_id, args=(record,))
            first_object.start()
            wait_until(record.lock.locked, seconds=30, what="it is on its way into the ledger")
            ending = threading.Thread(target=records.end, args=(association, "aborted"))
            ending.start()
            wait_until(lambda: _is_gone(records, association), seconds=30, what="its end has begun")
            # Without waiting for the object it would be over now.
            ending.join(0.5)
            other.execute("ROLLBACK")
        first_object.join(60)
        ending.join(60)
        assert record.ledger_id is not None
        assert open_receptions(ledger) == {}
        # What comes after the end is refused, and opens nothing.
        late = _AssociationRecord(SCANNER, NODE, "127.0.0.1", (), frozenset(), outcome="aborted")
        with pytest.raises(KeyError):
            records.correlation_id(late)
        assert open_receptions(ledger) == {}
        instances.commit.close()


def _is_gone(records: _AssociationRecords, association: Association) -> bool:
    try:
        records.of(association)
    except KeyError:
        return True
    return False
