"""Make due what waits for a time too far ahead, after the clock was set back.

A clock that was ahead for a while, by an hour or by years, leaves times in the ledger for which everything would then
wait. No pause is that long: what is further ahead than the longest is made due.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Table, exists, select, update

from storage.ledger import Ledger
from storage.schema import (
    CommitmentTransactionRow,
    DeliveryRow,
    DeliveryState,
    JobRow,
    JobState,
    OutageRow,
    ReportState,
)

__all__ = ["deliveries_due_within", "jobs_due_within"]

SLACK = dt.timedelta(minutes=1)
"""By so much the clocks of machines that share a ledger may differ."""


def deliveries_due_within(
    ledger: Ledger, now: dt.datetime, *, delay_s: float, commitment_s: float, lease_s: float, report_s: float
) -> int:
    """Make due what goes out and waits for a time that no pause reaches; returns how many rows were changed.

    Parameters
    ----------
    delay_s, commitment_s, lease_s
        The longest pause before an attempt, the longest wait for a commitment, and the longest lease of an attempt.
    report_s
        The longest time after which a report to a peer is due, be it for a pause or for the lease of who makes it.
    """
    waits = (delay_s, commitment_s, lease_s, report_s)
    tries, commits, held, reports = (_beyond(now, seconds) for seconds in waits)
    return _made_due(
        ledger,
        now,
        (DeliveryRow, "due_at", (DeliveryRow.state == DeliveryState.QUEUED) & (DeliveryRow.due_at > tries)),
        (
            DeliveryRow,
            "commitment_deadline",
            (DeliveryRow.state == DeliveryState.AWAITING_COMMITMENT) & (DeliveryRow.commitment_deadline > commits),
        ),
        (
            DeliveryRow,
            "lease_until",
            (DeliveryRow.state == DeliveryState.SENDING) & (DeliveryRow.lease_until > held),
        ),
        (OutageRow, "retry_at", OutageRow.retry_at > tries),
        (
            CommitmentTransactionRow,
            "due_at",
            (CommitmentTransactionRow.state == ReportState.DUE) & (CommitmentTransactionRow.due_at > reports),
        ),
    )


def jobs_due_within(ledger: Ledger, now: dt.datetime, *, delay_s: float) -> int:
    """Make due the jobs that wait for a time that no pause reaches; returns how many."""
    waits = (JobRow.state == JobState.QUEUED) & (JobRow.due_at > _beyond(now, delay_s))
    return _made_due(ledger, now, (JobRow, "due_at", waits))


def _beyond(now: dt.datetime, seconds: float) -> dt.datetime:
    return now + dt.timedelta(seconds=seconds) + SLACK


def _made_due(ledger: Ledger, now: dt.datetime, *rows: tuple[Any, str, ColumnElement[bool]]) -> int:
    with ledger.reading() as session:
        # Hardly ever there is one: on SQLite it would wait for the writers each time for nothing.
        found = [one for one in rows if session.scalar(select(exists().where(one[2])))]
    changed = 0
    for row, column, waits in found:
        with ledger.transaction() as session:
            statement = update(cast(Table, row.__table__)).where(waits).values({column: now})
            changed += cast("CursorResult[Any]", session.execute(statement)).rowcount
    return changed
