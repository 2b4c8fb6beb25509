"""The local engine: a worker process for each device slot, killed when a job takes too long, restarted when it dies."""

from __future__ import annotations

import os
import platform
import threading
import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Configuration
from dicom_node.errors import ExecutionTimeoutError
from dicom_node.execute.lanes import lanes, threads_per_slot
from dicom_node.execute.retry import backing_off
from dicom_node.execute.worker import ProcessStudy, serve_worker
from dicom_node.process_states import states_file
from dicom_node.roles import STEP_GRACE_S, Role, RoleContext, RoleKeeper
from storage.jobs import release_lease, release_worker
from storage.leases import RENEW_EVERY_S, leases_of, renew
from storage.ledger import Ledger, open_ledger, utc_now

__all__ = ["serve_executor"]

_log = structlog.get_logger(__name__)

TEND_S = 0.1
LEDGER_AWAY_S = 0.5
"""Between two tries to tell the ledger of a dead worker."""


def serve_executor(context: RoleContext, configuration: Configuration, process: ProcessStudy | None = None) -> None:
    """Run the workers until told to stop; ready when all have their models loaded."""
    execution = configuration.execution
    threads = threads_per_slot(execution)
    # Read by OpenMP and BLAS when they are loaded, so set before the workers start.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    # Threads that spin while they wait for each other stand still when anything else wants their core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ledger = open_ledger(configuration.storage.database)
    node = f"{platform.node()[:24]}:{configuration.node.port}"
    workers = {f"{node}/{lane.name}": lane for lane in lanes(execution)}
    # The workers of an earlier life died with it: whatever is held under their names is held by nobody. A stop gives
    # everything back, so this was no stop, and perhaps the job was the cause: one that takes all memory can take the
    # node along. Uncounted, it would do so for ever.
    killed = "the node was killed, or its machine went down, while this ran"
    _release_all(ledger, tuple(workers), killed, counted=True)
    keeper = RoleKeeper(
        [
            Role(
                name,
                serve_worker,
                (configuration, lane, process),
                on_death=lambda how, name=name: _release(ledger, name, how, context.stop),  # type: ignore[misc]
            )
            for name, lane in workers.items()
        ],
        states_file(configuration.storage.directory, "executor"),
    )
    running = _RunningJobs(ledger, keeper, tuple(workers))
    told_ready = False
    while not context.stop.wait(TEND_S):
        renewed = context.renewed()
        if renewed is not None:
            keeper.renew(renewed)
        keeper.tend()
        if not told_ready and keeper.all_ready():
            told_ready = True
            context.ready()
        try:
            running.watch()
        except SQLAlchemyError as error:
            _log.error("the ledger did not answer", error=type(error).__name__)
    keeper.stop(STEP_GRACE_S)
    _release_all(ledger, tuple(workers), "the node was stopped", counted=False)
    ledger.close()


class _RunningJobs:
    """Keeps alive the leases of the workers that live, and kills those that take too long, by a clock nobody sets."""

    def __init__(self, ledger: Ledger, keeper: RoleKeeper, workers: tuple[str, ...]) -> None:
        self._ledger, self._keeper, self._workers = ledger, keeper, workers
        self._since: dict[str, float] = {}
        """By lease: when it was first seen."""
        self._renewed_at = time.monotonic()

    def watch(self) -> None:
        now = time.monotonic()
        # What a dead worker held was released when its death was noticed, so all of these are held by the living.
        leases = leases_of(self._ledger, self._workers)
        self._since = {lease.token: self._since.get(lease.token, now) for lease in leases}
        if now - self._renewed_at >= RENEW_EVERY_S:
            renew(self._ledger, [lease.token for lease in leases])
            self._renewed_at = now
        for lease in leases:
            if now - self._since[lease.token] <= lease.timeout_s:
                continue
            self._keeper.kill(lease.worker)
            error = ExecutionTimeoutError(
                f"ran longer than {lease.timeout_s:g} s and was killed",
                subject=f"job {lease.job_id}",
                remedy="raise execution.job_timeout_s if studies of this size need it",
            )
            _log.error("job killed", job=lease.job_id, worker=lease.worker, error=str(error))
            at = utc_now()
            release_lease(self._ledger, lease.token, str(error), now=at, retry_at=backing_off(at))


def _release(ledger: Ledger, worker: str, how: str, stop: threading.Event) -> None:
    """Release what a dead worker held before it is started again: under its name nothing else may be held until then.

    When the node stops meanwhile, the lease runs out and the scheduler takes the job back.
    """
    while True:
        now = utc_now()
        try:
            released = release_worker(
                ledger, worker, f"the worker process died: {how}", counted=True, now=now, retry_at=backing_off(now)
            )
        except SQLAlchemyError as error:
            _log.error("jobs of a dead worker not released", worker=worker, error=type(error).__name__)
            if stop.wait(LEDGER_AWAY_S):
                return
        else:
            if released:
                _log.warning("jobs of a dead worker released", worker=worker, jobs=released)
            return


def _release_all(ledger: Ledger, workers: tuple[str, ...], why: str, *, counted: bool) -> None:
    now = utc_now()
    for worker in workers:
        release_worker(ledger, worker, why, counted=counted, now=now, retry_at=backing_off(now))
