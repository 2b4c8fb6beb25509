"""Reading and removing quarantined objects, which an operator may look at, take in, or drop."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import select

from storage.ledger import Ledger, LedgerError, record_event
from storage.overview import QuarantineOverview
from storage.retention import release_files
from storage.schema import QuarantineRow

__all__ = ["leave_quarantine", "quarantined_object"]


def quarantined_object(ledger: Ledger, quarantine_id: int) -> QuarantineOverview:
    """One object that was kept aside.

    Raises
    ------
    LedgerError
        There is none of this number.
    """
    with ledger.reading() as session:
        row = session.get(QuarantineRow, quarantine_id)
        if row is None:
            raise LedgerError(f"no object {quarantine_id} in quarantine")
        return QuarantineOverview(row.id, row.digest, row.path, row.reason, row.sop_instance_uid, row.job_id, row.at)


def leave_quarantine(
    ledger: Ledger, quarantine_id: int, *, accepted: bool, reason: str, by: str, now: dt.datetime
) -> None:
    """Forget an object that was kept aside: it was taken in, or it is not wanted.

    Raises
    ------
    LedgerError
        There is none of this number.
    """
    with ledger.transaction() as session:
        row = session.get(QuarantineRow, quarantine_id, with_for_update=True)
        if row is None:
            raise LedgerError(f"no object {quarantine_id} in quarantine")
        release_files(session, select(QuarantineRow.path).where(QuarantineRow.id == quarantine_id), now=now)
        record_event(
            session,
            "quarantined object accepted" if accepted else "quarantined object dropped",
            row.sop_instance_uid or row.digest,
            at=now,
            correlation_id=row.association_id,
            reason=reason,
            by=by,
        )
        session.delete(row)
