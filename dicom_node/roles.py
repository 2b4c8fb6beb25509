"""Role processes: started by spawn, in a process group of their own, never outliving their parent.

A role is a function that works until it is told to stop. It may die at any moment; whoever started it starts it again,
and its start-up is its recovery.
"""

from __future__ import annotations

import ctypes
import dataclasses
import datetime as dt
import gc
import itertools
import multiprocessing
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import structlog

from dicom_node.errors import raised_at
from dicom_node.log_files import LogFolder
from dicom_node.logs import configure_logging
from dicom_node.process_states import ProcessState, write_states

__all__ = ["STEP_GRACE_S", "Role", "RoleContext", "RoleKeeper", "leave_out_of_collections", "stop_on_signals"]

_log = structlog.get_logger(__name__)

# A fork would copy locks and threads of the parent in any state; torch and SQLAlchemy survive neither.
_spawn = multiprocessing.get_context("spawn")

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
FIRST_RESTART_DELAY_S = 0.25
LONGEST_RESTART_DELAY_S = 30.0
STEP_GRACE_S = 20.0
"""Time for the step at hand when the node stops; what takes longer is killed and done again at the next start."""
SETTLED_S = 1.0
"""A process that lived this long after it was ready was not a failed start."""


@dataclass(frozen=True, slots=True)
class RoleContext:
    """What a role process gets from its surroundings."""

    name: str
    stop: threading.Event
    """Set on SIGTERM: finish the step at hand, then return."""
    ready: Callable[[], None]
    """To be called once, when the role can do its work."""
    renewed: Callable[[], Any] = lambda: None
    """What the first argument of the role is to be from now on, when that changed since the last call; or ``None``.
    To be asked now and then by roles that can go on with another one."""


@dataclass(frozen=True, slots=True)
class Role:
    """One process that should be running.

    Attributes
    ----------
    name
        The same after each restart: work that is held in the ledger is held under it.
    work
        Module-level function, called with the context and ``arguments`` in the new process.
    """

    name: str
    work: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    """The first can be renewed while the role runs (:meth:`RoleKeeper.renew`)."""
    renewable: bool = True
    """Whether it asks for :attr:`RoleContext.renewed`; one that does not begins its next life with the new argument."""
    on_death: Callable[[str], None] | None = None
    """Called in the parent with what happened, before the restart."""


def stop_on_signals(hangup: threading.Event | None = None) -> threading.Event:
    """An event that is set by SIGTERM or SIGINT; for the main thread of a process.

    SIGHUP stops nothing: a terminal that closes must not end a node. It sets ``hangup``; a process without one says in
    the log who takes it.

    The interpreter writes each signal to a socket, and a thread that reads it sets the event: setting it in the signal
    handler itself can deadlock with the main thread that waits for it.
    """
    stop = threading.Event()
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.fileno())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)

    def wait() -> None:
        while numbers := reading.recv(64):
            if set(numbers) & {signal.SIGTERM, signal.SIGINT}:
                stop.set()
            elif signal.SIGHUP in numbers and hangup is not None:
                hangup.set()
            elif signal.SIGHUP in numbers:
                _log.warning("SIGHUP ignored: the process that started the node reads the configuration again")
        writing.close()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return stop


def leave_out_of_collections() -> None:
    """Let what stands now be, so that what the work of this process leaves behind is found soon.

    An association leaves 60 kB of objects that refer to each other. Python looks for such when there are a quarter as
    many new ones as were kept at the last look: with all that was imported among these, it would look after thousands.
    """
    gc.collect()
    gc.freeze()
    # Counts what is kept from now on.
    gc.collect()


def _run(role: Role, parent: int, pipe: Connection, log: LogFolder | None) -> None:
    os.setpgid(0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # What ps and top show; 15 bytes.
    libc.prctl(PR_SET_NAME, f"dn {role.name}"[:15].encode())
    if os.getppid() != parent:
        # The parent died before the line above took effect.
        os.kill(os.getpid(), signal.SIGKILL)
    configure_logging(role=role.name, folder=log)
    stop = stop_on_signals()

    def tell_ready() -> None:
        leave_out_of_collections()
        pipe.send_bytes(b"ready")

    def renewed() -> Any:
        latest = None
        while pipe.poll():
            latest = pipe.recv()
        return latest

    try:
        role.work(RoleContext(role.name, stop, tell_ready, renewed), *role.arguments)
    except Exception as error:
        # The interpreter shows it on standard error, and there alone: its text may quote a data set.
        _log.error("process ends by an unforeseen failure", error=type(error).__name__, at=raised_at(error))
        raise


class _Running:
    """One life of a role."""

    def __init__(self, role: Role, log: LogFolder | None) -> None:
        self._pipe, theirs = _spawn.Pipe()
        # Callbacks stay with the parent; they need not be picklable.
        sent = dataclasses.replace(role, on_death=None)
        self.process: SpawnProcess = _spawn.Process(
            target=_run, args=(sent, os.getpid(), theirs, log), name=role.name, daemon=False
        )
        self.process.start()
        theirs.close()
        self.ready_since: float | None = None

    def poll_ready(self) -> bool:
        """Whether the process has said that it is ready."""
        if self.ready_since is None and self._pipe.poll():
            try:
                self._pipe.recv_bytes()
            except EOFError:
                return False
            self.ready_since = time.monotonic()
        return self.ready_since is not None

    def renew(self, argument: object) -> None:
        """Tell the process what the first argument of its role is from now on.

        One that takes nothing any more is killed: its next life begins with it.
        """
        _, writable, _ = select.select([], [self._pipe], [], 0)
        try:
            if not writable:
                raise BlockingIOError
            self._pipe.send(argument)
        except OSError:
            self.kill()

    def kill(self) -> None:
        """SIGKILL the process and whatever it started, and wait until it is gone."""
        pid = self.process.pid
        if pid is not None and self.process.is_alive():
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                # It has not yet made its own group.
                self.process.kill()
        self.process.join()

    def close(self) -> None:
        """Free what the parent holds of a dead process."""
        self.process.join()
        self.process.close()
        self._pipe.close()


class _Kept:
    """A role with its present life and the history that the back-off needs."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.running: _Running | None = None
        self.failed_starts = 0
        self.last_death: str | None = None
        self.start_at = time.monotonic()
        self.changed_at = dt.datetime.now(dt.UTC)

    def state(self) -> ProcessState:
        running = self.running
        return ProcessState(
            self.role.name,
            None if running is None else running.process.pid,
            running is not None and running.ready_since is not None,
            self.failed_starts,
            self.last_death,
            self.changed_at,
        )


class RoleKeeper:
    """Keeps a set of roles running until told to stop.

    Parameters
    ----------
    roles
        What should run.
    states : Path, optional
        File that tells how they are, rewritten whenever that changes.
    log
        Where they keep their log besides standard error.

    Not thread-safe: the children die with the thread that started them (PR_SET_PDEATHSIG), so one long-lived thread
    makes all calls.
    """

    def __init__(self, roles: Sequence[Role], states: Path | None = None, log: LogFolder | None = None) -> None:
        self._kept = [_Kept(role) for role in roles]
        self._states, self._log = states, log
        self._told: tuple[tuple[int | None, bool, int], ...] = ()

    def tend(self) -> None:
        """Start what should run and does not; call it several times a second."""
        for kept in self._kept:
            if kept.running is not None:
                kept.running.poll_ready()
                if not kept.running.process.is_alive():
                    self._note_death(kept)
            if kept.running is None and time.monotonic() >= kept.start_at:
                kept.running = _Running(kept.role, self._log)
                _log.info("process started", process=kept.role.name, pid=kept.running.process.pid)
        self._tell()

    def _tell(self) -> None:
        if self._states is None:
            return
        seen = tuple((one.pid, one.ready, one.failed_starts) for one in (kept.state() for kept in self._kept))
        if seen == self._told:
            return
        for kept, (now, before) in zip(self._kept, itertools.zip_longest(seen, self._told), strict=True):
            if now != before:
                kept.changed_at = dt.datetime.now(dt.UTC)
        self._told = seen
        write_states(self._states, [kept.state() for kept in self._kept])

    def all_ready(self) -> bool:
        """Whether every role runs and has said that it is ready."""
        return all(kept.running is not None and kept.running.poll_ready() for kept in self._kept)

    def pids(self) -> dict[str, int]:
        """Process ids of the roles that run at the moment."""
        return {
            kept.role.name: kept.running.process.pid
            for kept in self._kept
            if kept.running is not None and kept.running.process.pid is not None
        }

    def renew(self, argument: object) -> None:
        """Replace the first argument of every role, in this life and in the next ones."""
        for kept in self._kept:
            kept.role = dataclasses.replace(kept.role, arguments=(argument, *kept.role.arguments[1:]))
            if kept.running is not None and kept.role.renewable:
                kept.running.renew(argument)

    def kill(self, name: str) -> None:
        """SIGKILL one role with its process group; :meth:`tend` starts it again."""
        for kept in self._kept:
            if kept.role.name == name and kept.running is not None:
                kept.running.kill()

    def stop(self, grace_s: float) -> None:
        """SIGTERM all roles, give them time for the step at hand, SIGKILL what is left."""
        running = [kept.running for kept in self._kept if kept.running is not None]
        for one in running:
            if one.process.is_alive():
                one.process.terminate()
        until = time.monotonic() + grace_s
        for one in running:
            one.process.join(max(0.0, until - time.monotonic()))
        for kept in self._kept:
            if kept.running is not None:
                if kept.running.process.is_alive():
                    _log.warning("process did not stop in time, killed", process=kept.role.name)
                    kept.running.kill()
                kept.running.close()
                kept.running = None

    def _note_death(self, kept: _Kept) -> None:
        running = kept.running
        assert running is not None
        settled = running.ready_since is not None and time.monotonic() - running.ready_since >= SETTLED_S
        kept.failed_starts = 0 if settled else kept.failed_starts + 1
        delay = min(LONGEST_RESTART_DELAY_S, FIRST_RESTART_DELAY_S * 2 ** max(0, kept.failed_starts - 1))
        kept.start_at = time.monotonic() + delay
        how = kept.last_death = _how_it_ended(running.process.exitcode)
        running.close()
        kept.running = None
        _log.warning("process died", process=kept.role.name, how=how, restart_in_s=delay)
        # Imported late: a parent says first where the numbers of its processes go.
        from dicom_node.metrics import process_died

        process_died(kept.role.name)
        if kept.role.on_death is not None:
            kept.role.on_death(how)


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
