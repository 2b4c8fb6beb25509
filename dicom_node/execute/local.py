"""The local engine: a worker process for each device slot, killed when a job takes too long, restarted when it dies."""

from __future__ import annotations

import os

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Configuration
from dicom_node.execute.lanes import lanes, threads_per_slot
from dicom_node.execute.watching import KILLED, RunningJobs, release, release_all
from dicom_node.execute.worker import ProcessStudy, serve_worker
from dicom_node.hosts import execution_here, host_name, worker_prefix
from dicom_node.log_files import LogFolder
from dicom_node.process_states import states_file
from dicom_node.roles import STEP_GRACE_S, Role, RoleContext, RoleKeeper
from storage.ledger import open_ledger

__all__ = ["serve_executor"]

_log = structlog.get_logger(__name__)

TEND_S = 0.1


def serve_executor(context: RoleContext, configuration: Configuration, process: ProcessStudy | None = None) -> None:
    """Run the workers until told to stop; ready when all have their models loaded."""
    execution = execution_here(configuration)
    threads = threads_per_slot(execution)
    # Read by OpenMP and BLAS when they are loaded, so set before the workers start.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    # Threads that spin while they wait for each other stand still when anything else wants their core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ledger = open_ledger(configuration.storage.database)
    workers = {f"{worker_prefix(configuration)}{lane.name}": lane for lane in lanes(execution)}
    # The workers of an earlier life died with it: whatever is held under their names is held by nobody. A stop gives
    # everything back, so this was no stop, and perhaps the job was the cause: one that takes all memory can take the
    # node along. Uncounted, it would do so for ever.
    release_all(ledger, tuple(workers), KILLED, counted=True)
    keeper = RoleKeeper(
        [
            Role(
                name,
                serve_worker,
                (configuration, lane, process),
                on_death=lambda how, name=name: release(ledger, name, how, context.stop),  # type: ignore[misc]
            )
            for name, lane in workers.items()
        ],
        states_file(configuration.storage.directory, "executor", host_name(configuration)),
        LogFolder.of(configuration),
    )
    running = RunningJobs(ledger, keeper.kill, tuple(workers))
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
    release_all(ledger, tuple(workers), "the node was stopped", counted=False)
    ledger.close()
