"""History of section ``routes`` of the configuration: each text, who wrote it and why; the file itself rules."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import select

from storage.ledger import Ledger, LedgerError, record_event
from storage.schema import RoutesVersionRow

__all__ = ["RoutesVersion", "keep_routes", "routes_version", "routes_versions"]

FROM_THE_FILE = "the file"
"""Who wrote what was not written in the console."""


@dataclass(frozen=True, slots=True)
class RoutesVersion:
    """One text that the section had."""

    number: int
    text: str
    by: str
    reason: str
    at: dt.datetime


def keep_routes(ledger: Ledger, before: str, text: str, *, by: str, reason: str, now: dt.datetime) -> int:
    """Keep the routes about to be written, and those before them where nobody has kept those; returns the number.

    Parameters
    ----------
    before
        What stands in the file.
    text
        What is to stand there.
    """
    with ledger.transaction() as session:
        last = session.scalar(select(RoutesVersionRow).order_by(RoutesVersionRow.id.desc()).limit(1))
        if last is None or last.text != before:
            found = "as it stood there before somebody changed it in the console"
            session.add(RoutesVersionRow(text=before, by=FROM_THE_FILE, reason=found, at=now))
            session.flush()
        row = RoutesVersionRow(text=text, by=by, reason=reason, at=now)
        session.add(row)
        session.flush()
        record_event(session, "routes saved", f"version {row.id}", at=now, by=by, reason=reason)
        return row.id


def routes_versions(ledger: Ledger, *, limit: int = 50) -> tuple[RoutesVersion, ...]:
    """The last versions, the newest first."""
    with ledger.reading() as session:
        rows = session.scalars(select(RoutesVersionRow).order_by(RoutesVersionRow.id.desc()).limit(limit))
        return tuple(map(_version, rows))


def routes_version(ledger: Ledger, number: int) -> RoutesVersion:
    """One version of the routes, by its number.

    Raises
    ------
    LedgerError
        There is none of this number.
    """
    with ledger.reading() as session:
        row = session.get(RoutesVersionRow, number)
        if row is None:
            raise LedgerError(f"no version {number} of the routes is kept")
        return _version(row)


def _version(row: RoutesVersionRow) -> RoutesVersion:
    return RoutesVersion(row.id, row.text, row.by, row.reason, row.at)
