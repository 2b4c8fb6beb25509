"""The log as files: one for each process, JSON lines, renamed when it is full; what the console searches.

Within a file the times of the lines never go back, so that a line of a certain time is found by halving, however large
the file is. A process whose clock was set back begins a new file.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.config import Configuration
from dicom_node.errors import OutOfResourcesError
from dicom_node.hosts import host_name

__all__ = ["LONGEST_LINE", "SUFFIX", "LogFile", "LogFolder", "check_log_folder", "last_time", "process_name", "time_of"]

SUFFIX = ".log"
LONGEST_LINE = 16 << 10
"""Bytes of one line; of a longer one only what, who and when is kept."""
SMALL_STEP = dt.timedelta(seconds=1)
"""Threads write in another order than they looked at the clock: so much is no clock that was set back."""
_OF_EVERY_LINE = ("timestamp", "level", "event", "host", "role", "pid")


@dataclass(frozen=True, slots=True)
class LogFolder:
    """Where the processes of this host keep their log, and how much of it."""

    directory: Path
    host: str
    maximum_bytes: int
    """Of one file."""
    kept_files: int
    """Full ones of each process; the oldest is removed for the next."""

    @classmethod
    def of(cls, configuration: Configuration) -> LogFolder | None:
        """As configured; None where the log goes to standard error alone."""
        settings = configuration.log
        if settings.directory is None:
            return None
        return cls(settings.directory, host_name(configuration), settings.maximum_mb << 20, settings.kept_files)

    def file(self, process: str) -> Path:
        """Of a process, by its name (:func:`process_name`)."""
        return self.directory / f"{_in_a_name(self.host)}.{process}{SUFFIX}"


class LogFile:
    """The log of this process in a folder; safe to use from all its threads.

    Parameters
    ----------
    folder
        Where it lies.
    role
        Name of this process, as its line on standard error tells it.
    """

    def __init__(self, folder: LogFolder, role: str) -> None:
        self._folder, self._process = folder, process_name(role)
        self._path = folder.file(self._process)
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._last: dt.datetime | None = None
        self._bytes = -1
        """Of the file, when its last line was looked at."""

    def write(self, event: Mapping[str, Any]) -> None:
        """Append an event with its ``timestamp`` (ISO 8601, UTC) as one line.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        line = {**event, "host": self._folder.host, "role": self._process, "pid": os.getpid()}
        at = dt.datetime.fromisoformat(str(event["timestamp"]))
        with self._lock:
            try:
                while True:
                    descriptor = self._locked()
                    set_back = self._last is not None and at < self._last - SMALL_STEP
                    said = at if self._last is None or set_back else max(at, self._last)
                    line["timestamp"] = event["timestamp"] if said == at else _written(said)
                    data = _encoded(line)
                    size = os.fstat(descriptor).st_size
                    if size == 0 or not (set_back or size + len(data) > self._folder.maximum_bytes):
                        break
                    # Another process may be the first to write to the new file: it is looked at anew.
                    self._rename()
                    self._close()
                _append(descriptor, data)
                self._last, self._bytes = said, os.fstat(descriptor).st_size
            finally:
                if self._descriptor is not None:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _locked(self) -> int:
        """The file that has the name now, whoever renames it, held against other processes of the name."""
        while True:
            if self._descriptor is None:
                self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o640)
                self._bytes = -1
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                status = os.fstat(self._descriptor)
                if os.path.samestat(self._path.stat(), status):
                    if status.st_size != self._bytes:
                        # Another process of the name has written since.
                        self._last = last_time(self._descriptor)
                    return self._descriptor
            except FileNotFoundError:
                pass
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _rename(self) -> None:
        """Make room for a new file: the full ones are named by age, and the oldest goes."""
        for number in range(self._folder.kept_files, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            if newer.exists():
                newer.replace(older)


def process_name(role: str) -> str:
    """Name of a process on its host, as names of files and lines in them tell it: of the worker
    ``front-1:11112/cpu/0`` it is ``cpu-0``."""
    return _in_a_name(role.partition("/")[2] or role).replace(".", "-")


def check_log_folder(folder: LogFolder) -> None:
    """Find out whether this host can keep its log there.

    Raises
    ------
    OutOfResourcesError
        It cannot.
    """
    try:
        folder.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        if not os.access(folder.directory, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(folder.directory))
    except OSError as error:
        raise OutOfResourcesError(
            f"cannot be written: {error.strerror}",
            subject=f"log.directory {folder.directory}",
            remedy="give the node write access, or choose another folder",
        ) from error


def time_of(line: bytes) -> dt.datetime | None:
    """When a line says that it was written, aware; None for what is no line of a log."""
    try:
        at = dt.datetime.fromisoformat(json.loads(line)["timestamp"])
    except (ValueError, TypeError, KeyError):
        return None
    return at if at.tzinfo is not None else None


def last_time(descriptor: int) -> dt.datetime | None:
    """When the last whole line of an open file was written; None where it holds none."""
    size = os.fstat(descriptor).st_size
    for length in (LONGEST_LINE // 8, 2 * LONGEST_LINE):
        tail = os.pread(descriptor, length, max(0, size - length))
        for line in reversed(tail[: tail.rfind(b"\n") + 1].splitlines()):
            at = time_of(line)
            if at is not None:
                return at
    return None


def _append(descriptor: int, data: bytes) -> None:
    """Append a line, whole or not at all; after a power cut the end of the file may be half of one."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        data = b"\n" + data
    if os.write(descriptor, data) < len(data):
        os.ftruncate(descriptor, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _encoded(line: dict[str, Any]) -> bytes:
    data = f"{json.dumps(line, default=repr)}\n".encode()
    if len(data) > LONGEST_LINE:
        short = {name: str(line[name])[:400] for name in _OF_EVERY_LINE if name in line}
        data = f"{json.dumps({**short, 'left_out_bytes': len(data)})}\n".encode()
    return data


def _written(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _in_a_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", text) or "-"
