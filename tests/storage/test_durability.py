"""What has reached the disk when an instance counts as kept: judged by the flushes made, not by a later read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from network.objects import MR, encoded, mr_image
from sqlalchemy import text

from dicom_node.config import ConflictAnswer
from dicom_node.network.reception import InstanceReceiver, StoreRequest
from dicom_node.network.watermarks import Watermarks
from storage.files import InstanceFiles
from storage.instances import open_association
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
    recorded, flush = Disk(), os.fsync

    def recording(descriptor: int) -> None:
        flush(descriptor)
        recorded.flushed(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    return recorded


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
