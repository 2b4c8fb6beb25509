"""Power cuts: whatever of the unflushed is lost, each acknowledged image is there, whole and once.

A receiver process runs under ``disk.c``, which records what it writes and flushes and what it sends. Then the power is
cut behind each of many records: of what was not flushed none, some or all survives. What is left is opened as a node
opens it. ``DICOM_NODE_POWER_CUTS`` is the number of cuts, ``DICOM_NODE_POWER_CUT_SEED`` their seed.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from interop.ports import wait_until
from network.objects import MR, data_set_bytes, encoded, mr_image, new_uid, save
from network.patient_scanner import SETTINGS
from network.running_node import NODE, SCANNER, ReceiverProcess, configuration, with_node, with_storage
from network.wire import COMMAND, DATA, LAST, P_DATA_TF, Proposal, Scripted, connected, pdu, pdv, store_request
from sqlalchemy import select, text

from dicom_node.config import Configuration, Peer
from dicom_node.network.direct import read_command
from dicom_node.network.sender import send_files
from proofs.recorded_disk import Disk, Kind, Record, after_power_cut, library, records
from storage.files import InstanceFiles
from storage.filing import file_left_segments
from storage.instances import close_abandoned_associations
from storage.journal import JOURNAL, SEGMENTS
from storage.ledger import open_ledger, utc_now
from storage.schema import InstanceRow, QuarantineRow

CUTS = int(os.environ.get("DICOM_NODE_POWER_CUTS", "24"))
SEED = int(os.environ.get("DICOM_NODE_POWER_CUT_SEED", "1"))
IMAGES = 8
"""Of each of two senders; every third comes again."""
EACH_SURVIVAL = (0.0, 0.0, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class Recording:
    """What a receiver did while it took in images, some of them by its journal, and refused some."""

    root: Path
    sent: dict[str, bytes]
    """Data sets by SOP Instance UID."""
    records: list[Record]
    configuration: Configuration


def acknowledged(record: Record) -> str | None:
    """The SOP Instance UID of which this record says Success, if it does (PS3.7 9.3.1.2)."""
    if record.kind is not Kind.SENT or len(record.one) < 12 or record.one[0] != P_DATA_TF:
        return None
    fields = read_command(record.one[12:])
    if fields.get(0x0100) != b"\x01\x80" or fields.get(0x0900) != b"\0\0":
        return None
    return fields[0x1000].rstrip(b"\0").decode()


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recording:
    root, originals = tmp_path / "node", tmp_path / "originals"
    for folder in (root, originals):
        folder.mkdir()
    node = with_node(configuration(root), receiver_processes=1)
    node = with_storage(node, database=f"sqlite:///{root}/ledger/ledger.sqlite", journal_mb=1)
    with monkeypatch.context() as environment:
        environment.setenv("LD_PRELOAD", str(library(tmp_path)))
        environment.setenv("DISK_ROOT", str(root))
        environment.setenv("DISK_RECORD", str(tmp_path / "record"))
        process = ReceiverProcess(node)
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=node.node.port)
    journal = node.storage.directory / JOURNAL
    study = new_uid()
    sent: dict[str, bytes] = {}
    try:
        for number in range(2):
            series = new_uid()
            # 2 kB to 40 kB: of one page and of several.
            paths = [
                save(mr_image(study=study, series=series, seed=seed, side=32 + 16 * seed), originals)
                for seed in range(IMAGES)
            ]
            sent |= {path.stem: data_set_bytes(path) for path in paths}
            outcomes = send_files([*paths, *paths[::3]], peer, SETTINGS)
            assert {outcome.status for outcome in outcomes} == {0x0000}, number
            # Which the second image of the first series is the first to want.
            wait_until(
                lambda: [one.stat().st_size for one in journal.glob("*")] == [500_000] * SEGMENTS,
                seconds=60,
                what="the receiver has a journal",
            )
        refuse_one(node)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.kill()
    return Recording(root, sent, list(records(tmp_path / "record")), node)


def refuse_one(node: Configuration) -> None:
    """Send an object that names another than its request: A900, kept aside."""
    with connected(node.node.port) as connection:
        peer = Scripted(connection)
        peer.associate(Proposal(3, MR), calling=SCANNER, called=NODE)
        peer.send(
            pdu(P_DATA_TF, pdv(3, COMMAND | LAST, store_request(1, MR, "1.2.3"))),
            pdu(P_DATA_TF, pdv(3, DATA | LAST, encoded(mr_image()))),
        )
        assert peer.response().status == 0xA900


def content(folder: Path) -> dict[str, str]:
    """Digest of each file but SQLite's index of its log, which is made anew after a crash; and folders."""
    return {
        str(path.relative_to(folder)): "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if not path.name.endswith("-shm")
    }


def cuts(recording: Recording, generator: random.Random) -> Iterator[tuple[int, float]]:
    """After how many records the power is cut, in their order: half of them right after a Success was sent."""
    told = [number + 1 for number, record in enumerate(recording.records) if acknowledged(record)]
    anywhere = range(len(recording.records) + 1)
    chosen = [generator.choice(told) if generator.random() < 0.5 else generator.choice(anywhere) for _ in range(CUTS)]
    for number in sorted(chosen):
        yield number, generator.choice(EACH_SURVIVAL)


@pytest.mark.slow
@pytest.mark.timeout(600 + 5 * CUTS)
def test_each_acknowledged_image_is_there_after_a_power_cut(recording: Recording, tmp_path: Path) -> None:
    generator = random.Random(SEED)
    everything = Disk(str(recording.root))
    for record in recording.records:
        everything.play(record)
    after_power_cut(everything, fresh(tmp_path), generator, survival=1.0)
    # Else something was written past the recorder, and the cuts would prove nothing.
    assert content(tmp_path / "left") == content(recording.root)

    with pytest.raises(FileNotFoundError):
        # Names of instances that are never flushed are noticed: what follows can fail.
        cut_without(recording, fresh(tmp_path), "/instances/instances/")

    disk, played, told, seen = Disk(str(recording.root)), 0, set[str](), Counter[str]()
    for number, survival in cuts(recording, generator):
        for record in recording.records[played:number]:
            disk.play(record)
            if uid := acknowledged(record):
                told.add(uid)
        played = number
        left = fresh(tmp_path)
        after_power_cut(disk, left, generator, survival)
        try:
            check(recording, left, told, seen)
        except Exception as error:
            raise AssertionError(f"cut after record {number}, survival {survival}, seed {SEED}: {error}") from error
        seen["with acknowledged images"] += bool(told)
    assert told | {""} > {""}
    print(f"\n{CUTS} cuts in {len(recording.records)} records, seed {SEED}: {dict(seen)}")
    assert seen["with acknowledged images"] > CUTS / 3
    assert seen["images out of the journal"] > 0


def cut_without(recording: Recording, left: Path, flushes_of: str) -> None:
    """Cut at the end, as if nothing below some path had ever been flushed."""
    disk = Disk(str(recording.root))
    for record in recording.records:
        spared = record.kind is Kind.FLUSHED and flushes_of not in record.one.decode()
        if spared or record.kind not in (Kind.FLUSHED, Kind.FLUSHED_ALL):
            disk.play(record)
    after_power_cut(disk, left, random.Random(SEED), survival=0.0)
    check(recording, left, set(filter(None, map(acknowledged, recording.records))), Counter())


def fresh(folder: Path) -> Path:
    left = folder / "left"
    shutil.rmtree(left, ignore_errors=True)
    left.mkdir()
    return left


def check(recording: Recording, left: Path, told: set[str], seen: Counter[str]) -> None:
    """Start up on what is left, as a receiver does, and look for all that was acknowledged."""
    ledger = open_ledger(f"sqlite:///{left}/ledger/ledger.sqlite")
    try:
        files = InstanceFiles(left / recording.configuration.storage.directory.relative_to(recording.root))
        files.make_folders()
        name = f"{recording.configuration.node.ae_title}:{recording.configuration.node.port}/"
        seen["images out of the journal"] += file_left_segments(ledger, files, f"{name}start")
        close_abandoned_associations(ledger, name, at=utc_now())
        with ledger.reading() as session:
            assert session.execute(text("PRAGMA integrity_check")).scalars().all() == ["ok"]
            assert session.execute(text("PRAGMA foreign_key_check")).all() == []
            held = list(session.scalars(select(InstanceRow)))
            aside = list(session.scalars(select(QuarantineRow)))
        assert len(held) == len({row.sop_instance_uid for row in held})
        assert {row.sop_instance_uid for row in held} >= told
        for row in held:
            assert data_set_bytes(files.absolute(row.path)) == recording.sent[row.sop_instance_uid]
        for row in aside:
            assert files.absolute(row.path).stat().st_size > 0
        named = {row.path for row in [*held, *aside]}
        seen["files without a row"] += sum(path.as_posix() not in named for path in files.stored_paths())
        seen["files that were not whole"] += len(list(files.incoming_paths()))
        seen["rows"] += len(held)
    finally:
        ledger.close()
