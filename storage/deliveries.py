"""Deliveries: results on their way to destinations, until the destination commits them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, contains_eager, joinedload

from storage.ledger import Ledger, LedgerError, record_event
from storage.schema import CommitmentRequest, DeliveryRow, DeliveryState, JobRow, ResultRow

__all__ = [
    "Delivery",
    "claim_deliveries",
    "commitment_reported",
    "delivery_confirmed",
    "delivery_failed",
    "delivery_sent",
    "destinations_with_work",
    "extend_deliveries",
    "overdue_commitments",
    "release_deliveries",
    "release_expired_deliveries",
    "requeue_delivery",
]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One result × one destination."""

    id: int
    destination: str
    state: DeliveryState
    failed_attempts: int
    transaction_uid: str | None
    job_id: int
    study_instance_uid: str
    correlation_id: str
    role: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: str
    """Relative to the storage directory."""
    digest: str
    size: int


def _joined(row: DeliveryRow) -> Delivery:
    result, job = row.result, row.result.job
    return Delivery(
        id=row.id,
        destination=row.destination,
        state=row.state,
        failed_attempts=row.attempts,
        transaction_uid=row.transaction_uid,
        job_id=job.id,
        study_instance_uid=job.study.study_instance_uid,
        correlation_id=job.correlation_id,
        role=result.role,
        sop_class_uid=result.sop_class_uid,
        sop_instance_uid=result.sop_instance_uid,
        series_instance_uid=result.series_instance_uid,
        path=result.path,
        digest=result.digest,
        size=result.size,
    )


_WITH_RESULT = joinedload(DeliveryRow.result).joinedload(ResultRow.job).joinedload(JobRow.study)


def destinations_with_work(ledger: Ledger, now: dt.datetime) -> tuple[str, ...]:
    """Destinations that have a delivery due."""
    with ledger.reading() as session:
        return tuple(
            session.scalars(
                select(DeliveryRow.destination)
                .where(DeliveryRow.state == DeliveryState.QUEUED, DeliveryRow.due_at <= now)
                .distinct()
                .order_by(DeliveryRow.destination)
            )
        )


def claim_deliveries(
    ledger: Ledger, destination: str, limit: int, owner: str, now: dt.datetime, lease_s: float
) -> list[Delivery]:
    """Take up to ``limit`` due deliveries of one destination, in the order their jobs gave them: QUEUED → SENDING."""
    with ledger.transaction() as session:
        rows = session.scalars(
            select(DeliveryRow)
            .where(
                DeliveryRow.destination == destination,
                DeliveryRow.state == DeliveryState.QUEUED,
                DeliveryRow.due_at <= now,
            )
            .order_by(DeliveryRow.id)
            .limit(limit)
            .options(_WITH_RESULT)
            .with_for_update(skip_locked=True, of=DeliveryRow)
        ).all()
        for row in rows:
            row.state, row.owner, row.lease_until = DeliveryState.SENDING, owner, now + dt.timedelta(seconds=lease_s)
        return [_joined(row) for row in rows]


def extend_deliveries(ledger: Ledger, owner: str, now: dt.datetime, lease_s: float) -> None:
    """Prolong the lease of everything that an owner is sending."""
    with ledger.transaction() as session:
        for row in _sending(session, DeliveryRow.owner == owner):
            row.lease_until = now + dt.timedelta(seconds=lease_s)


def release_deliveries(ledger: Ledger, owner: str, now: dt.datetime) -> int:
    """Give back what an owner was sending when it stopped or died: SENDING → QUEUED, due at once."""
    with ledger.transaction() as session:
        return _release(session, _sending(session, DeliveryRow.owner == owner), now, f"{owner} stopped")


def release_expired_deliveries(ledger: Ledger, now: dt.datetime) -> int:
    """Give back what was being sent by owners that no longer prolong their lease."""
    with ledger.transaction() as session:
        return _release(session, _sending(session, DeliveryRow.lease_until < now), now, "lease expired")


def _sending(session: Session, condition: object) -> Sequence[DeliveryRow]:
    return session.scalars(
        select(DeliveryRow)
        .where(DeliveryRow.state == DeliveryState.SENDING, condition)  # type: ignore[arg-type]
        .with_for_update(of=DeliveryRow)
    ).all()


def _release(session: Session, rows: Sequence[DeliveryRow], now: dt.datetime, why: str) -> int:
    for row in rows:
        row.state, row.owner, row.lease_until, row.due_at = DeliveryState.QUEUED, None, None, now
        _event(session, row, "delivery released", now, why=why)
    return len(rows)


def delivery_sent(
    ledger: Ledger,
    delivery_ids: Collection[int],
    transaction_uid: str | None,
    commitment_deadline: dt.datetime | None,
    *,
    now: dt.datetime,
) -> None:
    """The destination stored these: SENDING or AWAITING_COMMITMENT → AWAITING_COMMITMENT, or COMMITTED at once.

    Called before the commitment request leaves, so that an answer always finds its transaction.

    Parameters
    ----------
    transaction_uid, commitment_deadline
        Of the storage commitment request; both ``None`` for a destination that is not asked for commitment.
    """
    if (transaction_uid is None) != (commitment_deadline is None):
        raise LedgerError("a commitment request needs both a transaction UID and a deadline")
    with ledger.transaction() as session:
        for row in _locked(session, delivery_ids):
            if row.state not in (DeliveryState.SENDING, DeliveryState.AWAITING_COMMITMENT):
                # Committed meanwhile by an answer to an earlier request, or taken back after a lease ran out.
                continue
            row.sent_at = row.sent_at or now
            row.owner = row.lease_until = row.error = None
            if transaction_uid is None:
                row.state, row.committed_at = DeliveryState.COMMITTED, now
                _event(session, row, "delivery sent", now, commitment="not asked")
                continue
            row.state = DeliveryState.AWAITING_COMMITMENT
            row.transaction_uid, row.commitment_deadline = transaction_uid, commitment_deadline
            session.add(CommitmentRequest(transaction_uid=transaction_uid, delivery_id=row.id, requested_at=now))
            _event(session, row, "delivery sent", now, transaction_uid=transaction_uid)


def commitment_reported(
    ledger: Ledger,
    transaction_uid: str,
    committed: Collection[str],
    failed: Mapping[str, str],
    *,
    now: dt.datetime,
    retry_at: Callable[[int], dt.datetime | None],
) -> int:
    """Take in an N-EVENT-REPORT: committed instances → COMMITTED, failed ones → QUEUED or DEAD.

    A commitment counts whenever it comes; a failure counts only for the latest request of a delivery. Unknown
    transactions and instances change nothing.

    Parameters
    ----------
    committed, failed
        SOP Instance UIDs; for failed ones with the reason in words.
    retry_at
        Failed attempts of a delivery, this one included, to the time of the next; ``None`` when there is none.

    Returns
    -------
    int
        How many deliveries changed their state.
    """
    with ledger.transaction() as session:
        rows = session.scalars(
            select(DeliveryRow)
            .join(CommitmentRequest, CommitmentRequest.delivery_id == DeliveryRow.id)
            .join(DeliveryRow.result)
            .where(CommitmentRequest.transaction_uid == transaction_uid)
            .options(contains_eager(DeliveryRow.result))
            .with_for_update(of=DeliveryRow)
        ).all()
        changed = 0
        for row in rows:
            uid = row.result.sop_instance_uid
            if uid in committed and row.state is not DeliveryState.COMMITTED:
                _commit(session, row, now, "reported")
                changed += 1
            elif (
                uid in failed
                and row.state is DeliveryState.AWAITING_COMMITMENT
                and row.transaction_uid == transaction_uid
            ):
                error = f"the destination did not commit it: {failed[uid]}"
                _fail(session, row, error, retry_at(row.attempts + 1), now)
                # Answered: a transaction UID on a queued delivery tells of a request whose answer never came.
                row.transaction_uid = None
                changed += 1
        return changed


def delivery_confirmed(ledger: Ledger, delivery_ids: Collection[int], *, how: str, now: dt.datetime) -> None:
    """The destination was found to hold these although no commitment came: AWAITING_COMMITMENT → COMMITTED."""
    with ledger.transaction() as session:
        for row in _locked(session, delivery_ids):
            if row.state is DeliveryState.AWAITING_COMMITMENT:
                _commit(session, row, now, how)


def overdue_commitments(ledger: Ledger, now: dt.datetime) -> list[Delivery]:
    """Deliveries whose commitment did not come in time."""
    with ledger.reading() as session:
        rows = session.scalars(
            select(DeliveryRow)
            .where(DeliveryRow.state == DeliveryState.AWAITING_COMMITMENT, DeliveryRow.commitment_deadline < now)
            .order_by(DeliveryRow.id)
            .options(_WITH_RESULT)
        )
        return [_joined(row) for row in rows]


def delivery_failed(
    ledger: Ledger, delivery_id: int, error: str, retry_at: dt.datetime | None, *, now: dt.datetime
) -> None:
    """An attempt failed: SENDING or AWAITING_COMMITMENT → QUEUED until ``retry_at``, or DEAD when that is ``None``."""
    with ledger.transaction() as session:
        for row in _locked(session, (delivery_id,)):
            if row.state in (DeliveryState.SENDING, DeliveryState.AWAITING_COMMITMENT):
                _fail(session, row, error, retry_at, now)


def requeue_delivery(ledger: Ledger, delivery_id: int, *, now: dt.datetime) -> None:
    """An operator sends a dead delivery again: DEAD → QUEUED with all its attempts.

    Raises
    ------
    LedgerError
        There is no such delivery, or it is not dead.
    """
    with ledger.transaction() as session:
        (row,) = _locked(session, (delivery_id,))
        if row.state is not DeliveryState.DEAD:
            raise LedgerError(f"delivery {delivery_id} is {row.state}, not dead")
        row.state, row.attempts, row.due_at, row.error = DeliveryState.QUEUED, 0, now, None
        _event(session, row, "delivery requeued", now)


def _locked(session: Session, delivery_ids: Collection[int]) -> Sequence[DeliveryRow]:
    rows = session.scalars(
        select(DeliveryRow)
        .where(DeliveryRow.id.in_(delivery_ids))
        .order_by(DeliveryRow.id)
        .with_for_update(of=DeliveryRow)
    ).all()
    if len(rows) != len(set(delivery_ids)):
        missing = sorted(set(delivery_ids) - {row.id for row in rows})
        raise LedgerError(f"no such delivery: {', '.join(map(str, missing))}")
    return rows


def _commit(session: Session, row: DeliveryRow, now: dt.datetime, how: str) -> None:
    row.state, row.committed_at = DeliveryState.COMMITTED, now
    row.owner = row.lease_until = row.error = None
    _event(session, row, "delivery committed", now, how=how)


def _fail(session: Session, row: DeliveryRow, error: str, retry_at: dt.datetime | None, now: dt.datetime) -> None:
    row.attempts += 1
    row.owner = row.lease_until = row.commitment_deadline = None
    row.error = error
    if retry_at is None:
        row.state = DeliveryState.DEAD
        _event(session, row, "delivery dead", now, error=error, attempts=row.attempts)
    else:
        row.state, row.due_at = DeliveryState.QUEUED, retry_at
        _event(session, row, "delivery failed", now, error=error, attempts=row.attempts, retry_at=retry_at.isoformat())


def _event(session: Session, row: DeliveryRow, kind: str, at: dt.datetime, **detail: object) -> None:
    job = row.result.job
    record_event(
        session,
        kind,
        row.result.sop_instance_uid,
        at=at,
        correlation_id=job.correlation_id,
        study_id=job.study_id,
        destination=row.destination,
        **detail,
    )
