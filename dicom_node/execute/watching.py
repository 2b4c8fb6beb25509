"""What every engine does for the jobs that its workers hold: leases kept alive, overlong jobs ended, dead workers' jobs
given back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import ExecutionTimeoutError
from dicom_node.execute.retry import backing_off
from storage.jobs import release_lease, release_worker
from storage.leases import RENEW_EVERY_S, leases_of, renew
from storage.ledger import Ledger, utc_now

__all__ = ["KILLED", "RunningJobs", "release", "release_all"]

_log = structlog.get_logger(__name__)

KILLED = "the node was killed, or its machine went down, while this ran"
LEDGER_AWAY_S = 0.5
"""Between two tries to tell the ledger of a dead worker."""


class RunningJobs:
    """Keeps alive the leases of the workers that live, and kills those that take too long, by a clock nobody sets.

    Parameters
    ----------
    kill
        Ends the worker of a name, and returns when nothing of it runs.
    workers
        Names of all workers of an engine.
    """

    def __init__(self, ledger: Ledger, kill: Callable[[str], None], workers: tuple[str, ...]) -> None:
        self._ledger, self._kill, self._workers = ledger, kill, workers
        self._since: dict[str, float] = {}
        """By lease: when it was first seen."""
        self._renewed_at = time.monotonic()

    def watch(self) -> None:
        """Renew the leases of workers that live, kill those that take too long; call it several times a second.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            The ledger does not answer.
        """
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
            self._kill(lease.worker)
            error = ExecutionTimeoutError(
                f"ran longer than {lease.timeout_s:g} s and was killed",
                subject=f"job {lease.job_id}",
                remedy="raise execution.job_timeout_s if studies of this size need it",
            )
            _log.error("job killed", job=lease.job_id, worker=lease.worker, error=str(error))
            at = utc_now()
            release_lease(self._ledger, lease.token, str(error), now=at, retry_at=backing_off(at))


def release(ledger: Ledger, worker: str, how: str, stop: threading.Event) -> None:
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


def release_all(ledger: Ledger, workers: Collection[str], why: str, *, counted: bool) -> None:
    """Give back what workers hold; ``counted`` as in :func:`storage.jobs.release_worker`."""
    now = utc_now()
    for worker in workers:
        release_worker(ledger, worker, why, counted=counted, now=now, retry_at=backing_off(now))
