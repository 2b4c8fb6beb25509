"""TCP ports of the loopback interface, and waiting for what listens on them."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

# Below the ports that Linux gives to outgoing connections (32768 and above): one of those would take a port between the
# moment it is chosen and the moment somebody listens on it.
_PORTS = range(12000, 32000)
_CHOICE = random.SystemRandom()
# Held open, and so locked, until this process ends: no other test process chooses the same port.
_LOCKS: list[int] = []


def free_port() -> int:
    """A port of the loopback interface that nobody listens on, and that no other test process on this machine gets."""
    folder = Path(tempfile.gettempdir()) / f"dicom-node-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        port = _CHOICE.choice(_PORTS)
        lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
            continue
        _LOCKS.append(lock)
        return port


def listening(port: int) -> bool:
    """Whether somebody accepts connections on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str, every: float = 0.05) -> None:
    """Wait for a condition.

    Raises
    ------
    TimeoutError
        Naming what did not happen.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(every)


class _Flag(Protocol):
    """Event of threads, or of processes."""

    def wait(self, timeout: float) -> bool: ...


def wait_ready(ready: _Flag, alive: Callable[[], bool], log: Path | None = None) -> None:
    """Wait until a process or thread says that it is ready, for as long as it lives: a busy machine takes its time.

    Raises
    ------
    AssertionError
        It ended without; with what it wrote into its log.
    """
    while not ready.wait(0.2):
        # It may have said so, and ended, between the two looks.
        assert alive() or ready.wait(0), log.read_text() if log is not None and log.exists() else "no log"
