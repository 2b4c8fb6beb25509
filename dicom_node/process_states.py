"""How the processes of a node are, written by those who start them and read by ``dicom-node status``.

The supervisor and the executor of each host keep one small JSON file beside the instance files, rewritten when a
process starts, becomes ready or dies. Whether a host runs at all is told by the lock that its supervisor holds: the
kernel lets it go when the process dies, and a file server when the machine does. Of hosts without a common directory
both stand in the ledger (:mod:`storage.hosts`), written by the uploader of each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import structlog

from storage.files import FILE_MODE

__all__ = [
    "ProcessState",
    "described",
    "exclusive_service",
    "forget_states",
    "read_states",
    "serving_hosts",
    "serving_process",
    "states_file",
    "states_of",
    "write_states",
]

_log = structlog.get_logger(__name__)

_KEEPERS = ("supervisor", "executor")
_TRIES, _TRY_AGAIN_S = 5, 0.02


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One process of the node."""

    name: str
    pid: int | None
    """None while it waits to be started again."""
    ready: bool
    failed_starts: int
    """How often in a row it died before it had settled."""
    last_death: str | None
    """How it ended last: an exit code or a signal."""
    changed_at: dt.datetime


def described(states: Iterable[ProcessState]) -> list[dict[str, Any]]:
    """States of processes as JSON."""
    return [{**dataclasses.asdict(one), "changed_at": one.changed_at.isoformat()} for one in states]


def states_of(rows: Iterable[Mapping[str, Any]]) -> tuple[ProcessState, ...]:
    """States of processes as :func:`described` gives them.

    Raises
    ------
    ValueError
        They were written by another version of this software.
    """
    try:
        return tuple(
            ProcessState(**{**row, "changed_at": dt.datetime.fromisoformat(row["changed_at"])}) for row in rows
        )
    except (KeyError, TypeError) as error:
        message = f"not what is known of a process: {error}"
        raise ValueError(message) from error


def states_file(storage_directory: Path, keeper: str, host: str | None = None) -> Path:
    """Where the processes that a keeper (``supervisor``, ``executor``) of a host, or of this machine, are described."""
    return storage_directory / f".serve.{host or platform.node()}.{keeper}.json"


def write_states(file: Path, states: Iterable[ProcessState]) -> None:
    """Replace the file; a disk that takes nothing is logged, for the processes matter more than their description."""
    rows = described(states)
    temporary = file.with_suffix(".tmp")
    try:
        temporary.write_text(json.dumps(rows), encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        _log.warning("states of the processes not written", error=error.strerror)


def forget_states(storage_directory: Path, host: str | None = None, *, keepers: Iterable[str] = _KEEPERS) -> None:
    """Remove what keepers of an earlier life said of their processes, which died with them."""
    for keeper in keepers:
        try:
            states_file(storage_directory, keeper, host).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("states of processes that died not removed", error=error.strerror)


def read_states(storage_directory: Path, host: str | None = None) -> tuple[ProcessState, ...]:
    """The processes of a host, or of this machine, as last described; none where nothing can be read."""
    states: list[ProcessState] = []
    for keeper in _KEEPERS:
        try:
            rows = json.loads(states_file(storage_directory, keeper, host).read_text(encoding="utf-8"))
            states += states_of(rows)
        except (OSError, ValueError):
            continue
    return tuple(states)


def _lock_file(storage_directory: Path, host: str | None) -> Path:
    return storage_directory / f".serve.{host or platform.node()}.lock"


def serving_hosts(storage_directory: Path) -> tuple[str, ...]:
    """Names of the hosts that serve a storage directory now.

    Raises
    ------
    OSError
        A lock cannot be read.
    """
    names = sorted(one.name[len(".serve.") : -len(".lock")] for one in storage_directory.glob(".serve.*.lock"))
    return tuple(name for name in names if serving_process(storage_directory, name) is not None)


def serving_process(storage_directory: Path, host: str | None = None) -> int | None:
    """Process id of the supervisor that serves a storage directory from a host, or from this machine, if one does.

    Raises
    ------
    OSError
        The lock cannot be read.
    """
    try:
        lock = _lock_file(storage_directory, host).open("r+")
    except FileNotFoundError:
        return None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(lock.read().strip() or 0)
    return None


def _locked(lock: IO[str]) -> bool:
    """Whether a lock is held from now on; whoever asks who serves holds it for a moment."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_TRY_AGAIN_S)
        else:
            return True
    return False


@contextlib.contextmanager
def exclusive_service(storage_directory: Path, host: str | None = None) -> Iterator[int | None]:
    """Hold a storage directory against a second supervisor of a host, or on this machine.

    Yields
    ------
    int or None
        Process id of the supervisor that holds it already; ``None`` when it is held now, until the block ends.

    Raises
    ------
    OSError
        The lock cannot be written.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(_lock_file(storage_directory, host), flags, FILE_MODE)
    with os.fdopen(descriptor, "a+", encoding="ascii") as lock:
        if not _locked(lock):
            lock.seek(0)
            yield int(lock.read().strip() or 0)
            return
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield None
