"""A disk that fails when it is told to: the other end of ``DISK_CONTROL`` of ``disk.c``."""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from network.running_node import ReceiverProcess

from dicom_node.config import Configuration
from proofs.recorded_disk import library

_numbers = struct.Struct("<5q")
FOREVER = 1 << 40


@dataclass
class FailingDisk:
    """Lets calls of another process fail."""

    control: mmap.mmap

    def fail(self, error: int, *, at: int, calls: int = FOREVER, ledger_only: bool = False) -> None:
        """Let the call after ``at - 1`` others fail, and those behind it: whatever changes the disk."""
        self.control[: _numbers.size] = _numbers.pack(0, calls, error, 0, ledger_only)
        self.control[:8] = struct.pack("<q", at)

    def heal(self) -> int:
        """Let no call fail any more; returns how many did."""
        self.control[:8] = bytes(8)
        return int(_numbers.unpack(self.control[: _numbers.size])[3])


@contextlib.contextmanager
def receiver_on_failing_disk(
    node: Configuration, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ReceiverProcess, FailingDisk]]:
    """A receiver process whose disk is that of a node with one receiver below ``folder / "node"``."""
    file = folder / "control"
    file.write_bytes(bytes(_numbers.size))
    with monkeypatch.context() as environment:
        environment.setenv("LD_PRELOAD", str(library(folder)))
        environment.setenv("DISK_ROOT", str(folder / "node"))
        environment.setenv("DISK_CONTROL", str(file))
        process = ReceiverProcess(node)
    try:
        with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as control:
            yield process, FailingDisk(control)
    finally:
        process.kill()
