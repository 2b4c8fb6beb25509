"""The disk is full, broken or read-only at each call in turn that an image needs: it is refused or kept, never half.

A receiver process runs over ``disk.c``. For each number n, the nth opening, write, flush or naming since an image began
to come fails, alone or with all that follow; the image is sent, the disk heals, the image is sent again.
``DICOM_NODE_DISK_STEP`` is the distance from one n to the next: 1 leaves no call out.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

import pytest
from interop.ports import wait_until
from network.objects import data_set_bytes, encoded, mr_image, new_uid, save
from network.patient_scanner import SETTINGS, patient_requestor
from network.running_node import NODE, RunningReceiver, configuration, left_behind, with_node, with_storage

from dicom_node.config import Peer
from dicom_node.network.sender import send_files
from proofs.failing_disk import FOREVER, receiver_on_failing_disk
from storage.ledger import open_ledger

STEP = int(os.environ.get("DICOM_NODE_DISK_STEP", "3"))
FAILURES = ((errno.ENOSPC, FOREVER), (errno.ENOSPC, 1), (errno.EIO, 1))
MOST_CALLS = 200
"""An image with its association needs a quarter of them."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_disk_that_fails_at_each_call_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node").mkdir()
    node = with_node(configuration(tmp_path / "node"), receiver_processes=1)
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=node.node.port)
    study, series = new_uid(), new_uid()
    sent: dict[str, Path] = {}
    told: Counter[tuple[str, int | None]] = Counter()
    with receiver_on_failing_disk(node, tmp_path, monkeypatch) as (process, disk):
        ledger = open_ledger(node.storage.database)
        running = RunningReceiver(node, ledger)

        def send(path: Path) -> int | None:
            (outcome,) = send_files([path], peer, SETTINGS)
            return outcome.status

        def all_closed() -> bool:
            return all(row.closed_at is not None for row in running.associations())

        try:
            for first, (error, calls) in enumerate(FAILURES):
                for at in range(1 + first % STEP, MOST_CALLS, STEP):
                    path = save(mr_image(study=study, series=series, seed=len(sent), side=64), tmp_path)
                    sent[path.stem] = path
                    disk.fail(error, at=at, calls=calls)
                    status = send(path)
                    failed = disk.heal()
                    name = f"{errno.errorcode[error]} {'once' if calls == 1 else 'from then on'}"
                    told[name, status] += 1
                    assert status in (0x0000, 0xA700), (name, at, status)
                    if status == 0x0000:
                        assert path.stem in {row.sop_instance_uid for row in running.instances()}, (name, at)
                    assert send(path) == 0x0000, (name, at)
                    wait_until(all_closed, seconds=30, what="associations are closed in the ledger")
                    if not failed:
                        break
                else:
                    pytest.fail("an image needs more calls than were tried")
            assert process.is_alive()
            held = {row.sop_instance_uid: row for row in running.instances()}
            assert held.keys() == sent.keys()
            for uid, path in sent.items():
                assert data_set_bytes(running.file_of(held[uid])) == data_set_bytes(path)
            assert running.quarantine() == []
            wait_until(lambda: left_behind(running) == [], seconds=30, what="nothing is left behind")
            # A file whose name could not be flushed stays where it is, and the image that comes again takes it.
            assert len(list(node.storage.directory.glob("instances/*/*.dcm"))) == len(sent)
        finally:
            ledger.close()
    print(f"\n{len(sent)} images: { ({f'{name}: {status:04X}': number for (name, status), number in told.items()}) }")
    assert {status for _, status in told} == {0x0000, 0xA700}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_journal_on_a_disk_that_fails_at_each_call_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node").mkdir()
    node = with_node(configuration(tmp_path / "node"), receiver_processes=1)
    node = with_storage(node, journal_mb=2)
    entity = patient_requestor()
    study, series = new_uid(), new_uid()
    sent: dict[str, bytes] = {}
    told: Counter[int] = Counter()
    journalled = 0
    with receiver_on_failing_disk(node, tmp_path, monkeypatch) as (process, disk):
        ledger = open_ledger(node.storage.database)
        running = RunningReceiver(node, ledger)

        def uids() -> set[str]:
            return {row.sop_instance_uid for row in running.instances()}

        def send() -> bool:
            """Send an image; whether it is acknowledged and not in the ledger."""
            image = mr_image(study=study, series=series, seed=sum(told.values()) % 8, side=64)
            answer = association.send_c_store(image)
            assert "Status" in answer, f"no answer; the receiver's log ends with {process.log.read_text()[-3000:]}"
            status = int(answer.Status)
            told[status] += 1
            assert status in (0x0000, 0xA700)
            if status == 0x0000:
                sent[str(image.SOPInstanceUID)] = encoded(image)
            return status == 0x0000 and str(image.SOPInstanceUID) not in uids()

        try:
            # A flush that failed leaves the process without a journal: three lives, each with failures of its own.
            for life, (error, calls) in enumerate(FAILURES):
                association = entity.associate("127.0.0.1", node.node.port, ae_title=NODE)
                wait_until(send, seconds=60, what="an image is acknowledged by the journal", every=0.01)
                for at in range(1 + life % STEP, 24, STEP):
                    disk.fail(error, at=at, calls=calls)
                    journalled += sum(send() for _ in range(4))
                    disk.heal()
                process.kill()
                association.abort()
                process.start()
                assert sent.keys() <= uids()
            held = {row.sop_instance_uid: row for row in running.instances()}
            for uid, data in sent.items():
                assert data_set_bytes(running.file_of(held[uid])) == data
            assert running.quarantine() == []
        finally:
            ledger.close()
    print(f"\n{dict(told)}, {journalled} by the journal while the disk failed")
    assert set(told) == {0x0000, 0xA700}


@pytest.mark.timeout(300)
def test_a_ledger_that_turns_read_only_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node").mkdir()
    node = with_node(configuration(tmp_path / "node"), receiver_processes=1)
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=node.node.port)
    paths = [save(mr_image(study="1.2.3", series="1.2.3.4", seed=seed), tmp_path) for seed in range(4)]
    with receiver_on_failing_disk(node, tmp_path, monkeypatch) as (_, disk):
        ledger = open_ledger(node.storage.database)
        running = RunningReceiver(node, ledger)
        try:
            assert [one.status for one in send_files(paths[:1], peer, SETTINGS)] == [0x0000]
            wait_until(lambda: running.associations()[0].closed_at is not None, seconds=30, what="it is closed")
            for error in (errno.EROFS, errno.EACCES):
                disk.fail(error, at=1, ledger_only=True)
                assert [one.status for one in send_files(paths[1:3], peer, SETTINGS)] == [0xA700] * 2
                assert disk.heal() > 0
                assert {row.sop_instance_uid for row in running.instances()} == {paths[0].stem}
            assert [one.status for one in send_files(paths, peer, SETTINGS)] == [0x0000] * 4
            assert [row.sop_instance_uid for row in running.instances()] == [path.stem for path in paths]
            assert left_behind(running) == []
        finally:
            ledger.close()
