"""Storage commitment that peers ask of this node: the requests, and the reports it owes for them."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Table, exists, select, update
from sqlalchemy.orm import Session

from storage.holdings import HeldInstance, held_instances
from storage.ledger import Ledger, LedgerError, insert_if_absent, record_event
from storage.schema import CommitmentTransactionRow, InstanceRow, ReportState, SeriesRow, StudyRow

__all__ = [
    "CommitmentTransaction",
    "claim_commitments",
    "commitment_reported_to",
    "commitment_transaction",
    "commitment_unreported",
    "due_commitments",
    "extend_commitments",
    "record_commitment_request",
    "report_elsewhere",
    "take_responsibility",
]

_UIDS_A_QUERY = 500


@dataclass(frozen=True, slots=True)
class CommitmentTransaction:
    """One request that is to be answered."""

    id: int
    calling_ae_title: str
    transaction_uid: str
    referenced: tuple[tuple[str, str], ...]
    """SOP Class and SOP Instance UID of each object."""
    requested_at: dt.datetime
    due_at: dt.datetime
    """When its report is due; of a claimed one, when the lease of whoever claimed it ends."""
    failed_attempts: int
    reuses_transaction_uid: bool
    """The peer has used the Transaction UID before, for other objects."""


def record_commitment_request(
    ledger: Ledger,
    *,
    calling_ae_title: str,
    transaction_uid: str,
    referenced: Sequence[tuple[str, str]],
    correlation_id: str | None,
    due_at: dt.datetime,
    now: dt.datetime,
) -> int:
    """Take a request into the ledger; returns its id. The same request again is the same row, to be reported again.

    Parameters
    ----------
    referenced
        SOP Class and SOP Instance UID of each object.
    due_at
        When the report is to go out on an association of its own, if it has not gone out until then.
    """
    digest = hashlib.sha256("\n".join(sorted(" ".join(pair) for pair in referenced)).encode()).hexdigest()
    with ledger.transaction() as session:
        insert_if_absent(
            session,
            cast(Table, CommitmentTransactionRow.__table__),
            {
                "calling_ae_title": calling_ae_title,
                "transaction_uid": transaction_uid,
                "digest": digest,
                "referenced": [list(pair) for pair in referenced],
                "requested_at": now,
                "state": ReportState.DUE,
                "attempts": 0,
                "due_at": due_at,
            },
        )
        row = session.scalars(
            select(CommitmentTransactionRow)
            .where(
                CommitmentTransactionRow.calling_ae_title == calling_ae_title,
                CommitmentTransactionRow.transaction_uid == transaction_uid,
                CommitmentTransactionRow.digest == digest,
            )
            .with_for_update()
        ).one()
        row.state, row.attempts, row.due_at, row.correlation_id = ReportState.DUE, 0, due_at, correlation_id
        _event(session, row, "commitment asked", now, objects=len(referenced))
        return row.id


def due_commitments(ledger: Ledger, now: dt.datetime) -> tuple[CommitmentTransaction, ...]:
    """Requests whose report is due on an association of its own, the oldest first."""
    with ledger.reading() as session:
        rows = session.scalars(
            select(CommitmentTransactionRow)
            .where(CommitmentTransactionRow.state == ReportState.DUE, CommitmentTransactionRow.due_at <= now)
            .order_by(CommitmentTransactionRow.id)
        ).all()
        return tuple(_transaction(session, row) for row in rows)


def claim_commitments(
    ledger: Ledger, calling_ae_title: str, now: dt.datetime, *, limit: int, lease_s: float
) -> tuple[CommitmentTransaction, ...]:
    """Take the oldest requests of a peer whose report is due; nobody else reports them for the time of the lease."""
    with ledger.transaction() as session:
        rows = session.scalars(
            select(CommitmentTransactionRow)
            .where(
                CommitmentTransactionRow.calling_ae_title == calling_ae_title,
                CommitmentTransactionRow.state == ReportState.DUE,
                CommitmentTransactionRow.due_at <= now,
            )
            .order_by(CommitmentTransactionRow.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()
        for row in rows:
            # Whoever has it and dies leaves it due again.
            row.due_at = now + dt.timedelta(seconds=lease_s)
        return tuple(_transaction(session, row) for row in rows)


def extend_commitments(
    ledger: Ledger, transaction_ids: Collection[int], *, held_until: dt.datetime, until: dt.datetime
) -> frozenset[int]:
    """Prolong the lease of requests that are being reported.

    Parameters
    ----------
    held_until
        When the lease would end. One that ends at another time is somebody else's: it ran out, and they were claimed
        again, or the peer has asked again.

    Returns
    -------
    frozenset of int
        Those whose lease is still that of the caller.
    """
    with ledger.transaction() as session:
        return frozenset(
            session.scalars(
                update(CommitmentTransactionRow)
                .where(
                    CommitmentTransactionRow.id.in_(transaction_ids),
                    CommitmentTransactionRow.state == ReportState.DUE,
                    CommitmentTransactionRow.due_at == held_until,
                )
                .values(due_at=until)
                .returning(CommitmentTransactionRow.id)
            )
        )


def commitment_transaction(ledger: Ledger, transaction_id: int) -> CommitmentTransaction:
    """Read one request by its id.

    Raises
    ------
    LedgerError
        There is no such request.
    """
    with ledger.reading() as session:
        row = session.get(CommitmentTransactionRow, transaction_id)
        if row is None:
            raise LedgerError(f"no commitment transaction {transaction_id}")
        return _transaction(session, row)


def take_responsibility(
    ledger: Ledger, sop_instance_uids: Collection[str], *, now: dt.datetime
) -> dict[str, HeldInstance]:
    """Find instances by SOP Instance UID and keep their studies from retention from now on.

    Returns
    -------
    dict
        Those that are held, by SOP Instance UID.
    """
    held: dict[str, HeldInstance] = {}
    with ledger.transaction() as session:
        studies: set[str] = set()
        for part in _parts(sop_instance_uids):
            studies.update(
                session.scalars(
                    select(StudyRow.study_instance_uid)
                    .join(SeriesRow, SeriesRow.study_id == StudyRow.id)
                    .join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
                    .where(InstanceRow.sop_instance_uid.in_(part), InstanceRow.removed_at.is_(None))
                )
            )
        # Retention locks the study as well: what is found after this lock stays. In the order that all keep who lock
        # several studies.
        for study_instance_uid in sorted(studies):
            of_study = StudyRow.study_instance_uid == study_instance_uid
            session.execute(select(StudyRow.id).where(of_study).with_for_update(key_share=True))
            session.execute(update(StudyRow).where(of_study).values(committed_at=now))
        for part in _parts(sop_instance_uids):
            held |= {one.sop_instance_uid: one for one in held_instances(session, sop_instance_uids=part)}
    return held


def _parts(uids: Iterable[str]) -> Iterable[list[str]]:
    known = list(dict.fromkeys(uids))
    return (known[start : start + _UIDS_A_QUERY] for start in range(0, len(known), _UIDS_A_QUERY))


def commitment_reported_to(
    ledger: Ledger, transaction_id: int, *, committed: int, failed: int, status: int, now: dt.datetime
) -> None:
    """Record that the peer answered the report: DUE → REPORTED."""
    with ledger.transaction() as session:
        row = _locked(session, transaction_id)
        row.state, row.reported_at, row.error = ReportState.REPORTED, now, None
        _event(session, row, "commitment answered", now, committed=committed, failed=failed, status=f"{status:04X}")


def report_elsewhere(ledger: Ledger, transaction_id: int, *, now: dt.datetime) -> None:
    """Make a report due now on an association of its own, because that of the request is gone."""
    with ledger.transaction() as session:
        row = _locked(session, transaction_id)
        if row.state is ReportState.DUE:
            row.due_at = now


def commitment_unreported(
    ledger: Ledger, transaction_id: int, error: str, retry_at: dt.datetime | None, *, now: dt.datetime
) -> None:
    """Record that an attempt to report failed: DUE until ``retry_at``, or DEAD when that is ``None``."""
    with ledger.transaction() as session:
        row = _locked(session, transaction_id)
        if row.state is not ReportState.DUE:
            return
        row.attempts += 1
        row.error = error
        if retry_at is None:
            row.state = ReportState.DEAD
            _event(session, row, "commitment report dead", now, error=error, attempts=row.attempts)
        else:
            row.due_at = retry_at


def _locked(session: Session, transaction_id: int) -> CommitmentTransactionRow:
    row = session.get(CommitmentTransactionRow, transaction_id, with_for_update=True)
    if row is None:
        raise LedgerError(f"no commitment transaction {transaction_id}")
    return row


def _transaction(session: Session, row: CommitmentTransactionRow) -> CommitmentTransaction:
    earlier = exists().where(
        CommitmentTransactionRow.calling_ae_title == row.calling_ae_title,
        CommitmentTransactionRow.transaction_uid == row.transaction_uid,
        CommitmentTransactionRow.id < row.id,
    )
    return CommitmentTransaction(
        id=row.id,
        calling_ae_title=row.calling_ae_title,
        transaction_uid=row.transaction_uid,
        referenced=tuple((sop_class, sop_instance) for sop_class, sop_instance in row.referenced),
        requested_at=row.requested_at,
        due_at=row.due_at,
        failed_attempts=row.attempts,
        reuses_transaction_uid=bool(session.scalar(select(earlier))),
    )


def _event(session: Session, row: CommitmentTransactionRow, kind: str, at: dt.datetime, **detail: Any) -> None:
    record_event(
        session,
        kind,
        row.transaction_uid,
        at=at,
        correlation_id=row.correlation_id,
        peer=row.calling_ae_title,
        **detail,
    )
