"""The last test of each destination in full, and what the destination reported of the test object."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.ledger import Ledger, record_event
from storage.schema import DestinationTrialRow

__all__ = ["DestinationTrial", "begin_trial", "end_trial", "last_trials", "report_on_trial"]


@dataclass(frozen=True, slots=True)
class DestinationTrial:
    """One test of a destination."""

    destination: str
    by: str
    at: dt.datetime
    sop_instance_uid: str
    findings: Mapping[str, Any]
    """What was found, as JSON; empty while it is under way."""
    reported_at: dt.datetime | None
    """When the destination reported storage commitment of the test object."""
    report: str
    """``committed``, or why not, in words; empty before."""


def begin_trial(
    ledger: Ledger, destination: str, transaction_uid: str, sop_instance_uid: str, *, by: str, now: dt.datetime
) -> None:
    """Note that a destination is tested, and by which transaction it will report; the test before is forgotten."""
    with ledger.transaction() as session:
        row = session.get(DestinationTrialRow, destination)
        if row is None:
            row = DestinationTrialRow(destination=destination)
            session.add(row)
        row.transaction_uid, row.sop_instance_uid = transaction_uid, sop_instance_uid
        row.by, row.at, row.findings = by, now, {}
        row.reported_at, row.report = None, ""
        record_event(session, "destination tested", destination, at=now, by=by, test_object=sop_instance_uid)


def end_trial(ledger: Ledger, transaction_uid: str, findings: Mapping[str, Any]) -> None:
    """Keep what was found, unless a later test has begun."""
    with ledger.transaction() as session:
        row = session.scalar(select(DestinationTrialRow).where(DestinationTrialRow.transaction_uid == transaction_uid))
        if row is not None:
            row.findings = dict(findings)


def report_on_trial(
    session: Session,
    transaction_uid: str,
    committed: Collection[str],
    failed: Mapping[str, str],
    destinations: Collection[str],
    now: dt.datetime,
) -> None:
    """Take in a storage commitment report, if it is of a test object.

    Parameters
    ----------
    committed, failed
        SOP Instance UIDs; for failed ones with the reason in words.
    destinations
        Whom the reporter speaks for.
    """
    row = session.scalar(select(DestinationTrialRow).where(DestinationTrialRow.transaction_uid == transaction_uid))
    if row is None or row.destination not in destinations or row.reported_at is not None:
        return
    if row.sop_instance_uid in committed:
        row.reported_at, row.report = now, "committed"
    elif row.sop_instance_uid in failed:
        row.reported_at, row.report = now, failed[row.sop_instance_uid]


def last_trials(ledger: Ledger) -> dict[str, DestinationTrial]:
    """The last test of each destination, by its name."""
    with ledger.reading() as session:
        return {
            row.destination: DestinationTrial(
                row.destination, row.by, row.at, row.sop_instance_uid, row.findings, row.reported_at, row.report
            )
            for row in session.scalars(select(DestinationTrialRow))
        }
