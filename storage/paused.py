"""Paused destinations: nothing is sent to them for a while; what is for them waits and counts no attempt."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import select

from storage.ledger import Ledger, LedgerError, record_event
from storage.schema import PausedDestinationRow

__all__ = ["PausedDestination", "pause_destination", "paused_destinations", "resume_destination"]


@dataclass(frozen=True, slots=True)
class PausedDestination:
    """One destination to which nothing is sent."""

    destination: str
    since: dt.datetime
    by: str
    reason: str


def paused_destinations(ledger: Ledger) -> tuple[PausedDestination, ...]:
    """The destinations that are paused, by name."""
    with ledger.reading() as session:
        rows = session.scalars(select(PausedDestinationRow).order_by(PausedDestinationRow.destination))
        return tuple(PausedDestination(row.destination, row.since, row.by, row.reason) for row in rows)


def pause_destination(ledger: Ledger, destination: str, *, reason: str, by: str, now: dt.datetime) -> None:
    """Send nothing to a destination any more; what is on its way at this moment arrives.

    Raises
    ------
    LedgerError
        It is paused already.
    """
    with ledger.transaction() as session:
        if session.get(PausedDestinationRow, destination) is not None:
            raise LedgerError(f"destination {destination} is paused already")
        session.add(PausedDestinationRow(destination=destination, since=now, by=by, reason=reason))
        record_event(session, "destination paused", destination, at=now, reason=reason, by=by)


def resume_destination(ledger: Ledger, destination: str, *, by: str, now: dt.datetime) -> None:
    """Send to a destination again.

    Raises
    ------
    LedgerError
        It is not paused.
    """
    with ledger.transaction() as session:
        row = session.get(PausedDestinationRow, destination, with_for_update=True)
        if row is None:
            raise LedgerError(f"destination {destination} is not paused")
        session.delete(row)
        record_event(session, "destination resumed", destination, at=now, since=row.since.isoformat(), by=by)
