"""The local engine: a worker process for each device slot, killed when a job takes too long, restarted when it dies."""

from __future__ import annotations

import datetime as dt
import os
import platform

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Configuration, ExecutionSettings
from dicom_node.errors import ExecutionTimeoutError
from dicom_node.execute.worker import ProcessStudy, serve_worker
from dicom_node.process_states import states_file
from dicom_node.roles import STEP_GRACE_S, Role, RoleContext, RoleKeeper
from storage.jobs import fail_job, overlong_jobs, release_worker
from storage.ledger import Ledger, open_ledger, utc_now

__all__ = ["serve_executor", "threads_per_slot"]

_log = structlog.get_logger(__name__)

TEND_S = 0.1


def threads_per_slot(execution: ExecutionSettings) -> int:
    """CPU threads of one worker: as configured, or the cores this process may use divided among the slots."""
    if execution.threads_per_slot is not None:
        return execution.threads_per_slot
    slots = len(execution.devices) * execution.slots_per_device
    return max(1, len(os.sched_getaffinity(0)) // slots)


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
    devices = {
        f"{platform.node()[:24]}:{configuration.node.port}/{device}/{slot}": device
        for device in execution.devices
        for slot in range(execution.slots_per_device)
    }
    slots = tuple(devices)
    # The workers of an earlier life died with it: whatever is held under their names is held by nobody.
    _release_all(ledger, slots, "the node was restarted")
    keeper = RoleKeeper(
        [
            Role(
                name,
                serve_worker,
                (configuration, device, threads, process),
                on_death=lambda how, name=name: _release(ledger, name, how),  # type: ignore[misc]
            )
            for name, device in devices.items()
        ],
        states_file(configuration.storage.directory, "executor"),
    )
    told_ready = False
    while not context.stop.wait(TEND_S):
        keeper.tend()
        if not told_ready and keeper.all_ready():
            told_ready = True
            context.ready()
        _kill_overlong(ledger, keeper, slots, execution.job_timeout_s)
    keeper.stop(STEP_GRACE_S)
    _release_all(ledger, slots, "the node was stopped")
    ledger.close()


def _kill_overlong(ledger: Ledger, keeper: RoleKeeper, workers: tuple[str, ...], timeout_s: float) -> None:
    now = utc_now()
    try:
        for job_id, worker in overlong_jobs(ledger, workers, now - dt.timedelta(seconds=timeout_s)):
            keeper.kill(worker)
            error = ExecutionTimeoutError(
                f"ran longer than {timeout_s:g} s and was killed",
                subject=f"job {job_id}",
                remedy="raise execution.job_timeout_s if studies of this size need it",
            )
            _log.error("job killed", job=job_id, worker=worker, error=str(error))
            fail_job(ledger, job_id, str(error), retryable=error.retryable, retry_at=now, worker=worker, now=now)
    except SQLAlchemyError as error:
        _log.error("the ledger did not answer", error=type(error).__name__)


def _release(ledger: Ledger, worker: str, how: str) -> None:
    now = utc_now()
    try:
        released = release_worker(
            ledger, worker, f"the worker process died: {how}", counted=True, now=now, retry_at=now
        )
    except SQLAlchemyError as error:
        # The lease of its job runs out, and the scheduler takes it back then.
        _log.error("jobs of a dead worker not released", worker=worker, error=type(error).__name__)
    else:
        if released:
            _log.warning("jobs of a dead worker released", worker=worker, jobs=released)


def _release_all(ledger: Ledger, workers: tuple[str, ...], why: str) -> None:
    now = utc_now()
    for worker in workers:
        release_worker(ledger, worker, why, counted=False, now=now, retry_at=now)
