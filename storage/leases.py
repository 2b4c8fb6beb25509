"""Leases of jobs: alive while their heartbeat goes up, whatever the clocks of the machines say."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from sqlalchemy import select, update

from storage.ledger import Ledger
from storage.schema import JobRow, JobState

__all__ = ["LEASE_S", "RENEW_EVERY_S", "Lease", "LeaseWatch", "leases_of", "renew"]

LEASE_S = 60.0
RENEW_EVERY_S = LEASE_S / 4


@dataclass(frozen=True, slots=True)
class Lease:
    """A job that a worker holds."""

    job_id: int
    worker: str
    token: str
    heartbeat: int
    timeout_s: float
    """How long the attempt may take."""


def leases_of(ledger: Ledger, workers: Collection[str] | None = None) -> tuple[Lease, ...]:
    """The jobs that these workers hold, or all workers."""
    query = select(JobRow.id, JobRow.worker, JobRow.lease, JobRow.heartbeat, JobRow.timeout_s).where(
        JobRow.state == JobState.RUNNING, JobRow.lease.is_not(None)
    )
    if workers is not None:
        query = query.where(JobRow.worker.in_(workers))
    with ledger.reading() as session:
        return tuple(
            Lease(job_id, worker, token, heartbeat, timeout_s)
            for job_id, worker, token, heartbeat, timeout_s in session.execute(query.order_by(JobRow.id))
            if worker is not None and token is not None
        )


def renew(ledger: Ledger, tokens: Collection[str]) -> frozenset[str]:
    """Keep leases alive; returns those that still hold, the others are lost."""
    if not tokens:
        return frozenset()
    with ledger.transaction() as session:
        held = session.scalars(
            update(JobRow)
            .where(JobRow.state == JobState.RUNNING, JobRow.lease.in_(tokens))
            .values(heartbeat=JobRow.heartbeat + 1)
            .returning(JobRow.lease)
        ).all()
    return frozenset(token for token in held if token is not None)


class LeaseWatch:
    """Tells which leases have had no heartbeat for their time, by a clock that nobody sets.

    Parameters
    ----------
    lease_s
        Without a heartbeat for this long a lease has expired.
    clock
        Seconds; goes up evenly.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s, self._clock = lease_s, clock
        self._seen: dict[str, tuple[int, float]] = {}
        """By token: its heartbeat, and since when it is that."""
        self._looked_at = clock()

    def expired(self, leases: Collection[Lease]) -> tuple[Lease, ...]:
        """Look at all leases that are held at this moment; call it several times in the time of a lease."""
        now = self._clock()
        if now - self._looked_at > self._lease_s / 2:
            # This process stood still, and perhaps the whole machine: what it did not see cannot count.
            self._seen.clear()
        self._looked_at = now
        seen = {}
        for lease in leases:
            heartbeat, since = self._seen.get(lease.token, (None, now))
            seen[lease.token] = (lease.heartbeat, since if heartbeat == lease.heartbeat else now)
        self._seen = seen
        return tuple(lease for lease in leases if now - seen[lease.token][1] >= self._lease_s)
