"""What has reached the disk when an instance counts as kept: judged by the flushes made, not by a later read."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from network.objects import MR, encoded, mr_image
from sqlalchemy import text

from dicom_node.config import ConflictAnswer
from dicom_node.network.file_meta import digest_of_file, encode_file_meta
from dicom_node.network.reception import InstanceReceiver, StoreRequest
from dicom_node.network.watermarks import Watermarks
from storage.backup import back_up
from storage.files import IDENTITY, QUARANTINE, UNEXPLAINED, InstanceFiles
from storage.identity import bind
from storage.instances import QuarantinedObject, open_association, record_quarantine
from storage.ledger import open_ledger, utc_now

META = b"\0" * 128 + b"DICM"
SYNTAX = "1.2.840.10008.1.2.1"


@dataclass
class Disk:
    """What a power cut would leave: the bytes of each file and the names in each directory at their last flush."""

    bytes_flushed: dict[int, int] = field(default_factory=dict)
    """Size of a file, by inode, when it was flushed last."""
    names_flushed: dict[str, set[str]] = field(default_factory=dict)
    """Names in a directory when it was flushed last."""

    def written(self, descriptor: int) -> None:
        self.bytes_flushed.pop(os.fstat(descriptor).st_ino, None)

    def flushed(self, descriptor: int) -> None:
        path, seen = Path(f"/proc/self/fd/{descriptor}").readlink(), os.fstat(descriptor)
        if path.is_dir():
            self.names_flushed[str(path)] = {one.name for one in path.iterdir()}
        else:
            self.bytes_flushed[seen.st_ino] = seen.st_size

    def survives(self, file: Path, root: Path) -> bool:
        """Whether all bytes of a file, its name, and the name of each directory on the way to it were flushed."""
        seen = file.stat()
        whole = self.bytes_flushed.get(seen.st_ino) == seen.st_size
        on_the_way = [file, *list(file.parents)[: len(file.relative_to(root).parts) - 1]]
        named = all(one.name in self.names_flushed.get(str(one.parent), set()) for one in on_the_way)
        return whole and named


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    recorded, flush, write, write_parts = Disk(), os.fsync, os.write, os.writev

    def flushing(descriptor: int) -> None:
        flush(descriptor)
        recorded.flushed(descriptor)

    def writing(descriptor: int, part: bytes) -> int:
        recorded.written(descriptor)
        return write(descriptor, part)

    def writing_parts(descriptor: int, parts: Sequence[bytes]) -> int:
        recorded.written(descriptor)
        return write_parts(descriptor, parts)

    for name, recording in (("fsync", flushing), ("write", writing), ("writev", writing_parts)):
        monkeypatch.setattr(os, name, recording)
    return recorded


def test_the_recorder_sees_what_was_written_after_the_flush(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"first")
    os.fsync(descriptor)
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    assert disk.survives(path, tmp_path)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"other")
    assert not disk.survives(path, tmp_path)
    os.close(folder)
    os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_what_is_kept_survives_a_power_cut(tmp_path: Path, disk: Disk, size: int) -> None:
    files = InstanceFiles(tmp_path)
    kept = files.store(b"x" * size, file_meta=META, transfer_syntax_uid=SYNTAX)
    assert disk.survives(files.absolute(kept.path), tmp_path)


def test_the_second_file_of_a_folder_survives_too(tmp_path: Path, disk: Disk) -> None:
    files = InstanceFiles(tmp_path)
    for number in range(600):
        kept = files.store(b"%d" % number, file_meta=META, transfer_syntax_uid=SYNTAX)
        assert disk.survives(files.absolute(kept.path), tmp_path), number


def test_folders_made_ahead_survive_too(tmp_path: Path, disk: Disk) -> None:
    files = InstanceFiles(tmp_path)
    files.make_folders()
    kept = files.store(b"image", file_meta=META, transfer_syntax_uid=SYNTAX)
    assert disk.survives(files.absolute(kept.path), tmp_path)


def test_folders_above_the_storage_directory_survive_too(tmp_path: Path, disk: Disk) -> None:
    files = InstanceFiles(tmp_path / "var" / "node" / "instances")
    kept = files.store(b"image", file_meta=META, transfer_syntax_uid=SYNTAX)
    assert disk.survives(files.absolute(kept.path), tmp_path)


def test_a_copy_in_quarantine_survives_too(tmp_path: Path, disk: Disk) -> None:
    files = InstanceFiles(tmp_path)
    kept = files.store(b"image", file_meta=META, transfer_syntax_uid=SYNTAX)
    for stored in (files.copy_to_quarantine(kept), kept):
        assert disk.survives(files.absolute(stored.path), tmp_path)


def test_what_is_set_aside_keeps_its_old_name_until_the_new_one_survives(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = InstanceFiles(tmp_path)
    kept = files.store(b"image", file_meta=META, transfer_syntax_uid=SYNTAX)
    old, new = files.absolute(kept.path), files.absolute(UNEXPLAINED) / kept.path
    flush, survived = os.fsync, []

    def looking_on(descriptor: int) -> None:
        flush(descriptor)
        named = old.name in disk.names_flushed[str(old.parent)]
        survived.append(named or disk.survives(new, tmp_path))

    monkeypatch.setattr(os, "fsync", looking_on)
    assert files.set_aside_if_older(kept.path, utc_now() + dt.timedelta(hours=1))
    assert all(survived)
    assert disk.survives(new, tmp_path)
    assert old.name not in disk.names_flushed[str(old.parent)]


def test_the_identity_survives(tmp_path: Path, disk: Disk) -> None:
    files = InstanceFiles(tmp_path)
    files.propose_identity("0123")
    files.take_identity()
    assert disk.survives(tmp_path / IDENTITY, tmp_path)


@pytest.mark.parametrize("link", [True, False])
def test_all_that_a_backup_holds_survives(tmp_path: Path, disk: Disk, link: bool) -> None:
    files = InstanceFiles(tmp_path / "files")
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")) as ledger:
        bind(ledger, files, now=utc_now())
        meta = encode_file_meta(MR, "1.2.3", SYNTAX)
        kept = files.store(b"image", file_meta=meta, transfer_syntax_uid=SYNTAX, folder=QUARANTINE)
        thing = QuarantinedObject(digest=kept.digest, path=kept.path, reason="test", sop_instance_uid="1.2.3")
        record_quarantine(ledger, thing, at=utc_now())
        back_up(
            ledger,
            files,
            tmp_path / "kept" / "backup",
            digest_of=digest_of_file,
            software="0",
            clock=utc_now,
            link=link,
        )
    held = [one for one in (tmp_path / "kept").rglob("*") if one.is_file()]
    assert {one.name for one in held} >= {"ledger.sqlite", Path(kept.path).name}
    for one in held:
        assert disk.survives(one, tmp_path), one


def test_success_comes_after_the_flush_of_file_name_and_ledger(tmp_path: Path, disk: Disk) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    files = InstanceFiles(tmp_path / "files")
    watermarks = Watermarks(files.free_bytes, low_watermark_mb=0, high_watermark_mb=0)
    receiver = InstanceReceiver(ledger, files, watermarks, lambda _title: ConflictAnswer.ACCEPT)
    association = open_association(
        ledger, calling_ae_title="MR1", called_ae_title="N", address="10.0.0.9", at=utc_now(), receiver="n/r"
    )
    image = mr_image(side=64)
    request = StoreRequest(MR, str(image.SOPInstanceUID), SYNTAX, association, "MR1")
    assert receiver.receive(request, (encoded(image),)).status == 0
    receiver.commit.close()
    (path,) = files.stored_paths()
    assert disk.survives(files.absolute(path), tmp_path / "files")
    with ledger.reading() as session:
        # FULL: SQLite flushes its log at every commit, within the driver, where no recorder sees it.
        assert session.execute(text("PRAGMA synchronous")).scalar() == 2
    ledger.close()


def test_a_benchmark_without_durability_is_told_apart(tmp_path: Path, disk: Disk) -> None:
    files = InstanceFiles(tmp_path, durable=False)
    kept = files.store(b"x", file_meta=META, transfer_syntax_uid=SYNTAX)
    assert not disk.survives(files.absolute(kept.path), tmp_path)
