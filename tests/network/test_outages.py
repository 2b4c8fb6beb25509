"""Disk and ledger fail under a node at work: each has its status, and it recovers without a person."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sqlite3
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from absence import absent
from interop.ports import wait_until
from postgresql_server import MISSING, PostgresqlServer, is_installed, running_postgresql_server

import dicom_node.network.receiver
import storage.group_commit
import storage.ledger
from dicom_node.config import ExecutionSettings, Peer
from dicom_node.network.sender import send_files
from dicom_node.schedule.scheduler import StudyScheduler
from network.objects import MR, data_set_bytes, encoded, mr_image, new_uid, save
from network.patient_scanner import SETTINGS, PatientScanner
from network.running_node import (
    NODE,
    SCANNER,
    ReceiverProcess,
    RunningReceiver,
    configuration,
    left_behind,
    receiver_thread,
    with_node,
    with_storage,
)
from network.wire import (
    COMMAND,
    DATA,
    LAST,
    P_DATA_TF,
    Proposal,
    Scripted,
    connected,
    pdu,
    pdv,
    read_elements,
    store_request,
)
from storage.jobs import studies_to_consider

CLASSIC = Proposal(3, MR)
SENDERS = 4
LARGE_MB = int(os.environ.get("DICOM_NODE_LARGE_MB", "200"))
"""Of the object that memory is measured with."""


def node_peer(receiver: RunningReceiver) -> Peer:
    return Peer(ae_title=NODE, host="127.0.0.1", port=receiver.port)


def send(receiver: RunningReceiver, *paths: Path) -> list[int | None]:
    return [outcome.status for outcome in send_files(paths, node_peer(receiver), SETTINGS)]


def queues(folder: Path, each: int, *, side: int = 64) -> list[list[Path]]:
    """Images of one study, for each of several senders a series."""
    study = new_uid()
    return [
        [save(mr_image(study=study, series=series, seed=seed, side=side), folder) for seed in range(each)]
        for series in (new_uid() for _ in range(SENDERS))
    ]


@contextlib.contextmanager
def four_senders(receiver: RunningReceiver, folder: Path, each: int) -> Iterator[Sequence[PatientScanner]]:
    """Senders at work; in the end each has got rid of every image, and every image is held byte for byte."""
    paths = queues(folder, each)
    # Tests on PostgreSQL share a ledger.
    before = len(receiver.quarantine())
    scanners = [
        PatientScanner(node_peer(receiver), queue, seed=number, patience_s=90) for number, queue in enumerate(paths)
    ]
    for scanner in scanners:
        scanner.start()
    wait_until(lambda: sum(len(one.acknowledged) for one in scanners) >= 4, seconds=30, what="images are acknowledged")
    yield scanners
    for scanner in scanners:
        scanner.join(120)
        assert scanner.waiting == []
    held = {row.sop_instance_uid: row for row in receiver.instances()}
    sent = [path for queue in paths for path in queue]
    assert held.keys() == {path.stem for path in sent}
    for path in sent:
        assert data_set_bytes(receiver.file_of(held[path.stem])) == data_set_bytes(path)
    assert [row.reason for row in receiver.quarantine()[before:]] == []
    wait_until(lambda: left_behind(receiver) == [], seconds=30, what="nothing is left behind")
    # A transaction that fails after the file has its name leaves the file; the image comes again and takes it.
    assert len(list(receiver.configuration.storage.directory.glob("instances/*/*.dcm"))) == len(sent)


def refused_for_now(scanners: Sequence[PatientScanner]) -> bool:
    """Whether each sender has been told to try again."""
    return all(0xA700 in scanner.statuses or not scanner.waiting for scanner in scanners) and any(
        0xA700 in scanner.statuses for scanner in scanners
    )


def only_success_or_try_again(scanners: Sequence[PatientScanner]) -> None:
    assert {status for scanner in scanners for status in scanner.statuses} <= {0x0000, 0xA700, None}


# The ledger


def test_a_ledger_that_is_locked_while_four_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.ledger, "BUSY_TIMEOUT_S", 0.3)
    with receiver_thread(configuration(tmp_path)) as receiver, four_senders(receiver, tmp_path, 20) as scanners:
        other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None, timeout=30)
        other.execute("BEGIN IMMEDIATE")
        held = len(receiver.instances())
        wait_until(lambda: refused_for_now(scanners), seconds=30, what="all are told to try again")
        assert len(receiver.instances()) == held
        other.execute("ROLLBACK")
        other.close()
    only_success_or_try_again(scanners)


def test_a_ledger_without_room_while_four_send(tiny_disk: Path, tmp_path: Path) -> None:
    node = with_storage(configuration(tmp_path), database=f"sqlite:///{tiny_disk}/ledger.sqlite")
    with receiver_thread(node) as receiver, four_senders(receiver, tmp_path, 20) as scanners:
        filler = tiny_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        wait_until(lambda: refused_for_now(scanners), seconds=60, what="all are told to try again")
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=32m", str(tiny_disk)], check=True)
    only_success_or_try_again(scanners)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    if not is_installed():
        absent(MISSING)
    with running_postgresql_server(fsync=True) as running:
        yield running


def test_a_postgresql_ledger_that_stops_and_starts_while_four_send(server: PostgresqlServer, tmp_path: Path) -> None:
    node = with_storage(configuration(tmp_path), database=server.url)
    with receiver_thread(node) as receiver, four_senders(receiver, tmp_path, 12) as scanners:
        server.stop()
        wait_until(lambda: refused_for_now(scanners), seconds=30, what="all are told to try again")
        server.start()
    only_success_or_try_again(scanners)


def test_a_postgresql_ledger_takes_the_quarantine_of_any_name(server: PostgresqlServer, tmp_path: Path) -> None:
    node = with_storage(configuration(tmp_path), database=server.url)
    names = ["1.2\0.3", "1." * 31 + "12", "a\x01b\\c", "\xe4\xf6"]
    data = encoded(mr_image())
    with receiver_thread(node) as receiver, connected(receiver.port) as connection:
        before = len(receiver.quarantine())
        peer = Scripted(connection)
        peer.associate(CLASSIC, calling=SCANNER, called=NODE)
        for name in names:
            peer.send(
                pdu(P_DATA_TF, pdv(3, COMMAND | LAST, store_request(1, MR, name))),
                pdu(P_DATA_TF, pdv(3, DATA | LAST, data)),
            )
            kind, body = peer.receive()
            assert kind == P_DATA_TF
            assert int.from_bytes(read_elements(body[6:])[0x0900], "little") == 0xA900
        rows = receiver.quarantine()[before:]
        assert [row.sop_instance_uid for row in rows] == ["1.2.3", *names[1:]]
        assert all(data_set_bytes(receiver.file_of(row)) == data for row in rows)


# The disk


def large_object(image_bytes: bytes, size: int) -> Iterator[bytes]:
    """A data set whose pixels are ``size`` bytes, in parts."""
    yield image_bytes + bytes.fromhex("e07f1000") + b"OW\0\0" + struct.pack("<L", size)
    part = bytes(range(256)) * 64
    for _ in range(size // len(part)):
        yield part


def send_large(receiver: RunningReceiver, size: int, look: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Status of one object, and its UID; ``look`` is called now and then."""
    image = mr_image()
    del image.PixelData
    with connected(receiver.port, timeout_s=120) as connection:
        peer = Scripted(connection)
        peer.associate(CLASSIC, calling=SCANNER, called=NODE)
        peer.send(pdu(P_DATA_TF, pdv(3, COMMAND | LAST, store_request(1, MR, image.SOPInstanceUID))))
        for number, part in enumerate(large_object(encoded(image), size)):
            peer.send(pdu(P_DATA_TF, pdv(3, DATA, part)))
            if number % 400 == 0:
                look()
        peer.send(pdu(P_DATA_TF, pdv(3, DATA | LAST, b"")))
        look()
        status = peer.response().status
        look()
        peer.release()
    return status, image.SOPInstanceUID


def test_an_object_larger_than_the_disk_is_a700_and_nothing_is_left(tiny_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", str(tiny_disk)], check=True)
    node = with_storage(configuration(tmp_path), directory=tiny_disk / "instances")
    with receiver_thread(node) as receiver:
        status, _ = send_large(receiver, 24 << 20)
        assert status == 0xA700
        assert left_behind(receiver) == []
        assert receiver.instances() == []
        path = save(mr_image(), tmp_path)
        assert send(receiver, path) == [0x0000]
        subprocess.run(["mount", "-o", "remount,size=64m", str(tiny_disk)], check=True)
        status, _ = send_large(receiver, 24 << 20)
        assert status == 0x0000
        assert len(receiver.instances()) == 2


def test_storage_that_turns_read_only_while_four_send(tiny_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(tiny_disk)], check=True)
    node = with_storage(configuration(tmp_path), directory=tiny_disk / "instances")

    def remounted(how: str) -> bool:
        # Refused as long as a file on it is open for writing.
        command = ["mount", "-o", f"remount,{how}", str(tiny_disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    with receiver_thread(node) as receiver, four_senders(receiver, tmp_path, 25) as scanners:
        wait_until(lambda: remounted("ro"), seconds=30, what="read-only", every=0.001)
        wait_until(lambda: refused_for_now(scanners), seconds=30, what="all are told to try again")
        assert remounted("rw")
    only_success_or_try_again(scanners)


# The clock


def test_a_clock_that_jumps_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = [dt.timedelta(0)]

    def jumping() -> dt.datetime:
        return storage.ledger.utc_now() + jumps[-1]

    for module in (storage.group_commit, dicom_node.network.receiver):
        monkeypatch.setattr(module, "utc_now", jumping)
    study = new_uid()
    node = configuration(tmp_path, execution=ExecutionSettings(quiet_time_s=20, complete_quiet_time_s=20))
    with receiver_thread(node) as receiver:
        sent = []
        for days in (0, 400, -400, 0, -0.5):
            jumps.append(dt.timedelta(days=days))
            paths = [save(mr_image(study=study, series=f"{study}.1", seed=seed), tmp_path) for seed in range(3)]
            assert send(receiver, *paths) == [0x0000] * 3
            # What was there before the jump is still known.
            assert send(receiver, *sent[-2:]) == [0x0000] * len(sent[-2:])
            sent += paths
        held = {row.sop_instance_uid: row for row in receiver.instances()}
        assert held.keys() == {path.stem for path in sent}
        assert all(data_set_bytes(receiver.file_of(held[path.stem])) == data_set_bytes(path) for path in sent)
        wait_until(lambda: all(row.closed_at for row in receiver.associations()), seconds=30, what="all are closed")
        assert {row.outcome for row in receiver.associations()} == {"released"}
        # The study came in 400 days from now, and is nevertheless taken when it has been quiet for 20 seconds.
        scheduler, now = StudyScheduler(receiver.ledger, node), storage.ledger.utc_now()
        for seconds, waits in ((0, True), (15, True), (21, False)):
            scheduler.consider(now + dt.timedelta(seconds=seconds))
            assert bool(studies_to_consider(receiver.ledger)) is waits


# Memory


@pytest.mark.slow
def test_memory_stays_flat_in_the_size_of_an_object(tmp_path: Path) -> None:
    node = with_node(configuration(tmp_path), receiver_processes=1)
    process = ReceiverProcess(node)
    ledger = storage.ledger.open_ledger(node.storage.database)
    try:
        running = RunningReceiver(node, ledger)
        assert send_large(running, 1 << 20)[0] == 0x0000
        receiver = psutil.Process(process.pid)
        before, most = receiver.memory_info().rss, 0

        def look() -> None:
            nonlocal most
            most = max(most, receiver.memory_info().rss)

        status, uid = send_large(running, LARGE_MB << 20, look)
        assert status == 0x0000
        (row,) = [row for row in running.instances() if row.sop_instance_uid == uid]
        assert row.size > LARGE_MB << 20
        print(f"\n{before >> 20} MB before, {most >> 20} MB at most")
        assert most - before < 30 << 20
    finally:
        ledger.close()
        process.kill()


def test_senders_that_are_interrupted_resume_and_repeat(tmp_path: Path) -> None:
    """Associations are cut anywhere; what was acknowledged is not asked for again, the rest is sent again."""
    images = [mr_image(study="1.2.3.4", series="1.2.3.4.5", seed=seed, side=80) for seed in range(12)]
    with receiver_thread(configuration(tmp_path)) as receiver:
        acknowledged: set[str] = set()
        for cut in range(40):
            waiting = [image for image in images[::-1] if image.SOPInstanceUID not in acknowledged]
            again = [image for image in images if image.SOPInstanceUID in acknowledged][:1]
            if not waiting:
                break
            with connected(receiver.port) as connection:
                peer = Scripted(connection)
                peer.associate(CLASSIC, calling=SCANNER, called=NODE)
                for number, image in enumerate([*again, *waiting][: 1 + cut % 3]):
                    data = encoded(image)
                    peer.send(
                        pdu(P_DATA_TF, pdv(3, COMMAND | LAST, store_request(number, MR, image.SOPInstanceUID))),
                        pdu(P_DATA_TF, pdv(3, DATA | LAST, data)),
                    )
                    assert peer.response().status == 0x0000
                    acknowledged.add(image.SOPInstanceUID)
                data = encoded(waiting[-1])
                peer.send(
                    pdu(P_DATA_TF, pdv(3, COMMAND | LAST, store_request(99, MR, waiting[-1].SOPInstanceUID))),
                    pdu(P_DATA_TF, pdv(3, DATA, data[: len(data) * (cut % 5) // 5])),
                )
        held = {row.sop_instance_uid: row for row in receiver.instances()}
        assert held.keys() == {image.SOPInstanceUID for image in images} == acknowledged
        for image in images:
            assert data_set_bytes(receiver.file_of(held[image.SOPInstanceUID])) == encoded(image)
        wait_until(lambda: left_behind(receiver) == [], seconds=30, what="nothing is left behind")
        assert [row.reason for row in receiver.quarantine()] == []
