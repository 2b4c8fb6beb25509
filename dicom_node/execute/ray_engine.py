"""The Ray engine: an actor for each slot, wherever the cluster has room for it; a job is leased when an actor is free.

The executor is the driver. It alone claims jobs, so that what the cluster cannot take waits in the ledger; an actor
reads the images, and records what the job came to, by itself. Nothing of a study passes through Ray but the row of its
job. When an actor dies, with its process or with its machine, its job is given back as after the death of a local
worker, and another actor is made where there is room.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import secrets
import signal
import time
from collections.abc import Iterator
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import metrics
from dicom_node.config import Configuration, RaySettings
from dicom_node.execute.lanes import Lane, ray_lanes
from dicom_node.execute.watching import KILLED, RunningJobs, release, release_all
from dicom_node.execute.worker import JobEnd, ProcessStudy, mind_memory, open_worker
from dicom_node.exposition import DIRECTORY_VARIABLE
from dicom_node.hosts import host_name, worker_prefix
from dicom_node.log_files import LogFolder
from dicom_node.logs import configure_logging
from dicom_node.process_states import ProcessState, states_file, write_states
from dicom_node.roles import STEP_GRACE_S, RoleContext
from storage.jobs import Job, claim_job
from storage.ledger import Ledger, open_ledger, utc_now

# Ray tells its makers what it is used for unless it is told not to before it is imported; and it leaves out log lines
# that look like others.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"

import ray
from ray.exceptions import RayError

__all__ = ["serve_executor"]

_log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.1
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 30.0
"""Between the death of an actor that never became ready and the next one."""
WAITS_LONG_S = 60.0
"""An actor that has no place for so long is told of in the log."""
OBJECT_STORE_BYTES = 100 << 20
"""Of a Ray of one's own: nothing but rows of jobs passes through it."""


class _Actor:
    """Runs in a process of its own somewhere in the cluster; one job at a time."""

    def __init__(self, name: str, configuration: Configuration, lane: Lane, process: ProcessStudy | None) -> None:
        configure_logging(json=True, role=name, folder=LogFolder.of(configuration))
        self._configuration = configuration
        self._worker = open_worker(name, configuration, lane, process)

    def pid(self) -> int:
        """Answers when the models are loaded."""
        return os.getpid()

    def work(self, job: Job, configuration: Configuration) -> tuple[JobEnd, bool]:
        """Do a job, by this configuration; also returns whether this process is spent."""
        self._worker.configuration = configuration
        end = self._worker.work_on(job)
        mind_memory(configuration.execution.free_memory_mb)
        return end, self._worker.spent


class _Slot:
    """One slot with its present actor."""

    def __init__(self, name: str, lane: Lane) -> None:
        self.name, self.lane = name, lane
        self.actor: Any = None
        self.answer: Any = None
        """What is waited for: that the actor is ready, or the end of its job; none while it is free."""
        self.pid: int | None = None
        """None while the actor is not ready."""
        self.failed_starts = 0
        self.start_at = time.monotonic()
        self.last_death: str | None = None
        self.changed_at = dt.datetime.now(dt.UTC)
        self.told_long = False

    @property
    def is_free(self) -> bool:
        return self.actor is not None and self.answer is None

    def state(self) -> ProcessState:
        return ProcessState(
            self.name, self.pid, self.pid is not None, self.failed_starts, self.last_death, self.changed_at
        )


def serve_executor(context: RoleContext, configuration: Configuration, process: ProcessStudy | None = None) -> None:
    """Drive the actors until told to stop; ready when the first has its models loaded."""
    lanes = ray_lanes(configuration.execution.ray)
    slots = tuple(_Slot(f"{worker_prefix(configuration)}{lane.name}", lane) for lane in lanes)
    names = tuple(slot.name for slot in slots)
    ledger = open_ledger(configuration.storage.database)
    # Actors end with their driver: whatever is held under their names is held by nobody.
    release_all(ledger, names, KILLED, counted=True)
    with _connected(configuration.execution.ray):
        driver = _Driver(context, configuration, process, ledger, slots)
        running = RunningJobs(ledger, driver.kill, names)
        told_ready = False
        while not context.stop.is_set():
            driver.configuration = context.renewed() or driver.configuration
            driver.tend(LOOK_EVERY_S)
            if not told_ready and any(slot.pid is not None for slot in slots):
                told_ready = True
                context.ready()
            try:
                running.watch()
                driver.lease()
            except SQLAlchemyError as error:
                _log.error("the ledger did not answer", error=type(error).__name__)
        driver.stop(STEP_GRACE_S)
    release_all(ledger, names, "the node was stopped", counted=False)
    ledger.close()


class _Driver:
    """Makes actors, gives them jobs and notices their ends."""

    def __init__(
        self,
        context: RoleContext,
        configuration: Configuration,
        process: ProcessStudy | None,
        ledger: Ledger,
        slots: tuple[_Slot, ...],
    ) -> None:
        self.configuration = configuration
        self._context, self._process, self._ledger, self._slots = context, process, ledger, slots
        self._states = states_file(configuration.storage.directory, "executor", host_name(configuration))
        self._told: tuple[tuple[int | None, int], ...] = ()

    def tend(self, seconds: float) -> None:
        """Make the actors that are missing, and wait up to some seconds for what ends or becomes ready."""
        for slot in self._slots:
            if slot.actor is None and time.monotonic() >= slot.start_at:
                self._start(slot)
        waited_for = {slot.answer: slot for slot in self._slots if slot.answer is not None}
        ended: list[Any] = []
        if waited_for:
            ended, _ = ray.wait(list(waited_for), num_returns=len(waited_for), timeout=seconds)
        else:
            self._context.stop.wait(seconds)
        for answer in ended:
            self._take(waited_for[answer])
        self._tell()

    def lease(self) -> None:
        """Give each free actor a job, as long as there are any.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            The ledger does not answer.
        """
        nothing: set[bool | None] = set()
        for slot in self._slots:
            lane = slot.lane
            if not slot.is_free or lane.background in nothing:
                continue
            job = claim_job(self._ledger, slot.name, utc_now(), slots=lane.slots, background=lane.background)
            if job is None:
                nothing.add(lane.background)
            else:
                slot.answer = slot.actor.work.remote(job, self.configuration)

    def kill(self, name: str) -> None:
        """End the actor of a slot; another is made."""
        for slot in self._slots:
            if slot.name == name and slot.actor is not None:
                self._end(slot)

    def stop(self, grace_s: float) -> None:
        """Give jobs at hand some time to end, then end all actors."""
        until = time.monotonic() + grace_s
        while (left := until - time.monotonic()) > 0:
            busy = [slot.answer for slot in self._slots if slot.answer is not None and slot.pid is not None]
            if not busy:
                break
            for answer in ray.wait(busy, timeout=left)[0]:
                self._take(next(slot for slot in self._slots if slot.answer == answer))
        for slot in self._slots:
            if slot.actor is not None:
                self._end(slot)

    def _start(self, slot: _Slot) -> None:
        settings = self.configuration.execution.ray
        # Ray sets OMP_NUM_THREADS of the process to the CPUs that it reserves. It is not to make an actor that died
        # anew: its job is to be given back first.
        actor = ray.remote(_Actor).options(
            num_cpus=settings.cpus_per_actor, num_gpus=settings.gpus_per_actor, max_restarts=0, max_task_retries=0
        )
        slot.actor = actor.remote(slot.name, self.configuration, slot.lane, self._process)
        slot.answer = slot.actor.pid.remote()
        slot.start_at, slot.told_long = time.monotonic(), False

    def _take(self, slot: _Slot) -> None:
        """Take the answer of an actor, or notice its death."""
        answer, slot.answer = slot.answer, None
        try:
            got = ray.get(answer)
        except RayError as error:
            how = _in_words(error)
            _log.warning("actor died", actor=slot.name, how=how)
            slot.failed_starts = slot.failed_starts + 1 if slot.pid is None else 0
            slot.last_death = how
            self._end(slot)
            delay = FIRST_DELAY_S * 2 ** max(0, slot.failed_starts - 1)
            slot.start_at = time.monotonic() + min(LONGEST_DELAY_S, delay)
            metrics.process_died(slot.name)
            release(self._ledger, slot.name, how, self._context.stop)
            return
        if isinstance(got, int):
            slot.pid, slot.failed_starts = got, 0
            return
        end, spent = got
        metrics.JOB_SECONDS.labels("succeeded" if end.succeeded else "failed").observe(end.seconds)
        if spent:
            # A defect showed: the next attempt deserves a fresh process, with its memory and device unspoilt.
            self._end(slot)

    def _end(self, slot: _Slot) -> None:
        with contextlib.suppress(RayError, ValueError):
            ray.kill(slot.actor)
        slot.actor = slot.answer = slot.pid = None
        slot.start_at = time.monotonic()

    def _tell(self) -> None:
        for slot in self._slots:
            waits = slot.actor is not None and slot.pid is None and time.monotonic() - slot.start_at > WAITS_LONG_S
            if waits and not slot.told_long:
                slot.told_long = True
                _log.warning("the Ray cluster has no room for an actor, or it takes long to start", actor=slot.name)
        seen = tuple((slot.pid, slot.failed_starts) for slot in self._slots)
        if seen == self._told:
            return
        for slot, now, before in zip(self._slots, seen, self._told or len(seen) * ((None, 0),), strict=True):
            if now != before:
                slot.changed_at = dt.datetime.now(dt.UTC)
        self._told = seen
        write_states(self._states, [slot.state() for slot in self._slots])


def _in_words(error: RayError) -> str:
    cause = getattr(error, "cause", None)
    # The text of an exception may quote a data set.
    return type(error).__name__ if cause is None else f"{type(error).__name__} ({type(cause).__name__})"


@contextlib.contextmanager
def _connected(settings: RaySettings) -> Iterator[None]:
    """Join a Ray cluster, or start a Ray of one's own on this machine, which ends with the block.

    Raises
    ------
    ConnectionError
        The cluster does not answer.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    # The processes of Ray that inherited it would all count under one name.
    numbers = os.environ.pop(DIRECTORY_VARIABLE, None)
    try:
        if settings.address is None:
            lanes = ray_lanes(settings)
            # Only this executor and its actors are let in; without one Ray would write it to the home directory.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
            ray.init(
                num_cpus=settings.cpus_per_actor * len(lanes),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                logging_level=logging.WARNING,
                _node_ip_address="127.0.0.1",
            )
        else:
            ray.init(address=settings.address, logging_level=logging.WARNING)
    finally:
        # Ray puts its own in place of those that end a role.
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if numbers is not None:
            os.environ[DIRECTORY_VARIABLE] = numbers
    try:
        yield
    finally:
        ray.shutdown()
