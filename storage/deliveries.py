"""Deliveries: results on their way to destinations, until the destination commits them.

Two counts are kept apart. What a destination refuses or fails counts against a delivery, which in the end is a dead
letter. That a destination cannot be reached says nothing of the delivery: the destination has an outage then, nothing
is sent to it before the outage's next attempt, and everything waits as long as it takes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import ColumnElement, Table, delete, exists, select
from sqlalchemy.orm import Session, contains_eager, joinedload

from storage.ledger import Ledger, LedgerError, insert_if_absent, record_event
from storage.schema import (
    CommitmentRequest,
    DeliveryRow,
    DeliveryState,
    JobRow,
    OutageRow,
    PausedDestinationRow,
    ResultRow,
    StudyRow,
)
from storage.trials import report_on_trial

__all__ = [
    "Delivery",
    "Selection",
    "claim_deliveries",
    "claim_overdue",
    "commitment_reported",
    "commitments_postponed",
    "delivery_confirmed",
    "delivery_failed",
    "delivery_not_accepted",
    "delivery_put_off",
    "delivery_sent",
    "delivery_unverified",
    "destination_reached",
    "destination_unreachable",
    "destinations_with_work",
    "dismiss",
    "dismiss_deliveries",
    "extend_deliveries",
    "leave_to_a_person",
    "release_deliveries",
    "release_expired_deliveries",
    "requeue_deliveries",
    "selected_studies",
    "tell_again",
]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One result × one destination."""

    id: int
    destination: str
    state: DeliveryState
    failed_attempts: int
    put_off: int
    """How often in a row the destination had no room for it."""
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
        put_off=row.put_off,
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


@dataclass(frozen=True, slots=True)
class Selection:
    """Deliveries that an operator means: those to which all that is given applies."""

    destination: str | None = None
    role: str | None = None
    """Kind of object, as the results of a job are named."""
    job_id: int | None = None
    study_instance_uid: str | None = None

    def condition(self) -> ColumnElement[bool]:
        """The condition of a query for these deliveries."""
        of_result = select(ResultRow.id).join(JobRow, JobRow.id == ResultRow.job_id)
        if self.role is not None:
            of_result = of_result.where(ResultRow.role == self.role)
        if self.job_id is not None:
            of_result = of_result.where(JobRow.id == self.job_id)
        if self.study_instance_uid is not None:
            study = select(StudyRow.id).where(StudyRow.study_instance_uid == self.study_instance_uid)
            of_result = of_result.where(JobRow.study_id.in_(study))
        condition = DeliveryRow.result_id.in_(of_result)
        return condition if self.destination is None else condition & (DeliveryRow.destination == self.destination)


_TOLD = (
    DeliveryState.SENDING,
    DeliveryState.AWAITING_COMMITMENT,
    DeliveryState.COMMITTED,
    DeliveryState.NOT_VERIFIED,
)
_WITH_RESULT = joinedload(DeliveryRow.result).joinedload(ResultRow.job).joinedload(JobRow.study)


def destinations_with_work(ledger: Ledger, now: dt.datetime) -> tuple[str, ...]:
    """Destinations that have a delivery due or a commitment overdue, and may be called now."""
    due = (DeliveryRow.state == DeliveryState.QUEUED) & (DeliveryRow.due_at <= now)
    overdue = (DeliveryRow.state == DeliveryState.AWAITING_COMMITMENT) & (DeliveryRow.commitment_deadline < now)
    with ledger.reading() as session:
        return tuple(
            session.scalars(
                select(DeliveryRow.destination)
                .where(due | overdue, ~_shut(now))
                .distinct()
                .order_by(DeliveryRow.destination)
            )
        )


def _shut(now: dt.datetime) -> ColumnElement[bool]:
    away = exists().where(OutageRow.destination == DeliveryRow.destination, OutageRow.retry_at > now)
    return away | exists().where(PausedDestinationRow.destination == DeliveryRow.destination)


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
                ~_shut(now),
            )
            .order_by(DeliveryRow.id)
            .limit(limit)
            .options(_WITH_RESULT)
            .with_for_update(skip_locked=True, of=DeliveryRow)
        ).all()
        for row in rows:
            row.state, row.owner, row.lease_until = DeliveryState.SENDING, owner, now + dt.timedelta(seconds=lease_s)
        return [_joined(row) for row in rows]


def extend_deliveries(
    ledger: Ledger, owner: str, delivery_ids: Collection[int], now: dt.datetime, lease_s: float
) -> None:
    """Prolong the lease of those deliveries that an owner is still sending."""
    with ledger.transaction() as session:
        for row in _sending(session, (DeliveryRow.owner == owner) & DeliveryRow.id.in_(delivery_ids)):
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
    """Record stored deliveries: SENDING or AWAITING_COMMITMENT → AWAITING_COMMITMENT, or NOT_VERIFIED at once.

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
            # It is there, whatever became of the delivery meanwhile: what is rejected later, is rejected there too.
            row.sent_at = row.sent_at or now
            if row.state not in (DeliveryState.SENDING, DeliveryState.AWAITING_COMMITMENT):
                # Committed meanwhile by an answer to an earlier request, or taken back after a lease ran out.
                continue
            row.owner = row.lease_until = row.error = None
            if transaction_uid is None:
                _end(row, DeliveryState.NOT_VERIFIED, now)
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
    destinations: Collection[str],
    now: dt.datetime,
    retry_at: Callable[[int], dt.datetime | None],
) -> int:
    """Take in an N-EVENT-REPORT: committed instances → COMMITTED, failed ones → QUEUED or DEAD.

    A commitment counts whenever it comes; a failure counts only for the latest request of a delivery. Unknown
    transactions and instances, and deliveries to others than those whom the reporter speaks for, are left as they are.

    Parameters
    ----------
    committed, failed
        SOP Instance UIDs; for failed ones with the reason in words.
    destinations
        Whom the reporter speaks for.
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
            .where(CommitmentRequest.transaction_uid == transaction_uid, DeliveryRow.destination.in_(destinations))
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
        if not rows:
            report_on_trial(session, transaction_uid, committed, failed, destinations, now)
        return changed


def delivery_confirmed(ledger: Ledger, delivery_ids: Collection[int], *, how: str, now: dt.datetime) -> None:
    """Record that the destination holds these although no commitment came: AWAITING_COMMITMENT → COMMITTED."""
    with ledger.transaction() as session:
        for row in _locked(session, delivery_ids):
            if row.state is DeliveryState.AWAITING_COMMITMENT:
                _commit(session, row, now, how)


def delivery_unverified(ledger: Ledger, delivery_ids: Collection[int], *, why: str, now: dt.datetime) -> None:
    """Record that the destination cannot be asked whether it keeps these: AWAITING_COMMITMENT → NOT_VERIFIED."""
    with ledger.transaction() as session:
        for row in _locked(session, delivery_ids):
            if row.state is DeliveryState.AWAITING_COMMITMENT:
                _end(row, DeliveryState.NOT_VERIFIED, now)
                _event(session, row, "delivery not verified", now, why=why)


def commitments_postponed(ledger: Ledger, delivery_ids: Collection[int], deadline: dt.datetime) -> None:
    """Put off asking a destination for what it did not commit in time, until a new deadline."""
    with ledger.transaction() as session:
        for row in _locked(session, delivery_ids):
            if row.state is DeliveryState.AWAITING_COMMITMENT:
                row.commitment_deadline = deadline


def claim_overdue(ledger: Ledger, destination: str, now: dt.datetime, lease_s: float) -> list[Delivery]:
    """Take the deliveries to a destination whose commitment did not come in time; nobody else does for the lease."""
    with ledger.transaction() as session:
        rows = session.scalars(
            select(DeliveryRow)
            .where(
                DeliveryRow.destination == destination,
                DeliveryRow.state == DeliveryState.AWAITING_COMMITMENT,
                DeliveryRow.commitment_deadline < now,
            )
            .order_by(DeliveryRow.id)
            .options(_WITH_RESULT)
            .with_for_update(skip_locked=True, of=DeliveryRow)
        ).all()
        for row in rows:
            # Whoever has it and dies leaves it overdue again.
            row.commitment_deadline = now + dt.timedelta(seconds=lease_s)
        return [_joined(row) for row in rows]


def delivery_failed(
    ledger: Ledger, delivery_id: int, error: str, retry_at: dt.datetime | None, *, now: dt.datetime
) -> None:
    """Record a failure: SENDING or AWAITING_COMMITMENT → QUEUED until ``retry_at``, or DEAD when that is ``None``."""
    with ledger.transaction() as session:
        for row in _locked(session, (delivery_id,)):
            if row.state in (DeliveryState.SENDING, DeliveryState.AWAITING_COMMITMENT):
                _fail(session, row, error, retry_at, now)


def delivery_put_off(ledger: Ledger, delivery_id: int, error: str, retry_at: dt.datetime, *, now: dt.datetime) -> None:
    """Put off what a destination has no room for: SENDING → QUEUED until ``retry_at``; no attempt is counted."""
    with ledger.transaction() as session:
        for row in _locked(session, (delivery_id,)):
            if row.state is DeliveryState.SENDING:
                row.put_off += 1
                _wait(row, error, retry_at)
                if row.put_off == 1:
                    _event(session, row, "delivery put off", now, error=error)


def delivery_not_accepted(ledger: Ledger, delivery_id: int, error: str, *, now: dt.datetime) -> None:
    """Record that the destination does not take objects of this kind: SENDING → NOT_ACCEPTED."""
    with ledger.transaction() as session:
        for row in _locked(session, (delivery_id,)):
            if row.state is DeliveryState.SENDING:
                _end(row, DeliveryState.NOT_ACCEPTED, now)
                row.error = error
                _event(session, row, "delivery not accepted", now, error=error)


def destination_unreachable(
    ledger: Ledger,
    destination: str,
    delivery_ids: Collection[int],
    error: str,
    *,
    retry_at: Callable[[int], dt.datetime],
    now: dt.datetime,
) -> None:
    """Record an unreachable destination: SENDING → QUEUED, and nothing is sent to it before the next attempt.

    Parameters
    ----------
    delivery_ids
        What was to be sent; no attempt is counted against them.
    retry_at
        From the number of attempts of this outage, this one included, to the time of the next.
    """
    with ledger.transaction() as session:
        # Deliverers of several hosts may find it away at the same time.
        begins = {"destination": destination, "since": now, "attempts": 0, "retry_at": now, "error": error}
        if insert_if_absent(session, cast(Table, OutageRow.__table__), begins):
            record_event(session, "destination unreachable", destination, at=now, error=error)
        outage = session.get_one(OutageRow, destination, with_for_update=True)
        outage.attempts += 1
        outage.retry_at, outage.error = retry_at(outage.attempts), error
        for row in _locked(session, delivery_ids):
            if row.state is DeliveryState.SENDING:
                _wait(row, error, now)


def destination_reached(ledger: Ledger, destination: str, *, now: dt.datetime) -> None:
    """Record that the destination answered: its outage, if it had one, is over."""
    with ledger.reading() as session:
        if session.get(OutageRow, destination) is None:
            return
    with ledger.transaction() as session:
        since = session.scalar(delete(OutageRow).where(OutageRow.destination == destination).returning(OutageRow.since))
        if since is not None:
            record_event(session, "destination reached again", destination, at=now, since=since.isoformat())


def requeue_deliveries(
    ledger: Ledger,
    selection: Selection,
    *,
    now: dt.datetime,
    states: Collection[DeliveryState] = (DeliveryState.DEAD,),
) -> int:
    """Queue again, for an operator, what ended without being delivered: → QUEUED with all its attempts.

    What retention has removed since then cannot be sent again, and stays as it is; so does what a rejection note names.

    Returns
    -------
    int
        How many there were.
    """
    with ledger.transaction() as session:
        rows = [
            row
            for row in _selected(session, selection, states)
            if row.result.removed_at is None and row.result.rejected_at is None
        ]
        for row in rows:
            row.state, row.attempts, row.put_off, row.due_at = DeliveryState.QUEUED, 0, 0, now
            row.error = row.ended_at = None
            _event(session, row, "delivery requeued", now)
        # Whoever asks for it has a reason to believe that it can be reached.
        session.execute(delete(OutageRow).where(OutageRow.destination.in_({row.destination for row in rows})))
        return len(rows)


def tell_again(
    session: Session,
    sop_instance_uids: Collection[str],
    receivers: Collection[str],
    *,
    why: str,
    now: dt.datetime,
) -> int:
    """Queue again what some destinations were told, in the transaction that changes what is to be told.

    What waits is told rightly anyhow; what an operator has given up stays given up. What is on its way at this moment
    is told once more when whoever sends it is done: its lease says when that is at the latest.

    Returns
    -------
    int
        How many there were.
    """
    rows = session.scalars(
        select(DeliveryRow)
        .join(DeliveryRow.result)
        .where(
            ResultRow.sop_instance_uid.in_(sop_instance_uids),
            ResultRow.removed_at.is_(None),
            ResultRow.rejected_at.is_(None),
            DeliveryRow.destination.in_(receivers),
            DeliveryRow.state.in_(_TOLD),
        )
        .order_by(DeliveryRow.id)
        .options(contains_eager(DeliveryRow.result))
        .with_for_update(of=DeliveryRow)
    ).all()
    for row in rows:
        due_at = row.lease_until or now
        if row.state is DeliveryState.SENDING:
            # It may arrive, and has to be taken back then if it becomes void before it is told again.
            row.sent_at = row.sent_at or now
        _end(row, DeliveryState.QUEUED, now)
        row.attempts, row.put_off, row.due_at, row.ended_at, row.error = 0, 0, due_at, None, None
        _event(session, row, "delivery requeued", now, why=why)
    return len(rows)


def dismiss_deliveries(
    ledger: Ledger,
    selection: Selection,
    *,
    reason: str,
    by: str,
    now: dt.datetime,
    states: Collection[DeliveryState] = (DeliveryState.DEAD,),
) -> int:
    """Dismiss deliveries that an operator gives up: → DISMISSED; they hold up retention no longer.

    Returns
    -------
    int
        How many there were.
    """
    with ledger.transaction() as session:
        rows = _selected(session, selection, states)
        for row in rows:
            dismiss(session, row, reason=reason, by=by, now=now)
        return len(rows)


def selected_studies(ledger: Ledger, selection: Selection, states: Collection[DeliveryState]) -> tuple[str, ...]:
    """Study Instance UIDs of some deliveries."""
    with ledger.reading() as session:
        return tuple(
            session.scalars(
                select(StudyRow.study_instance_uid)
                .join(JobRow, JobRow.study_id == StudyRow.id)
                .join(ResultRow, ResultRow.job_id == JobRow.id)
                .join(DeliveryRow, DeliveryRow.result_id == ResultRow.id)
                .where(DeliveryRow.state.in_(states), selection.condition())
                .distinct()
                .order_by(StudyRow.study_instance_uid)
            )
        )


def dismiss(session: Session, row: DeliveryRow, *, reason: str, by: str, now: dt.datetime) -> None:
    """Give one delivery up, in the transaction of whoever makes it void."""
    _end(row, DeliveryState.DISMISSED, now)
    row.error = reason
    _event(session, row, "delivery dismissed", now, reason=reason, by=by)


def leave_to_a_person(session: Session, row: DeliveryRow, *, why: str, now: dt.datetime) -> None:
    """Send nothing before somebody has decided, in the transaction of whoever cannot: → DEAD, no attempt is counted.

    Parameters
    ----------
    why
        What is to be decided, and what follows from sending it again and from giving it up.
    """
    _end(row, DeliveryState.DEAD, now)
    row.error = why
    _event(session, row, "delivery dead", now, error=why, attempts=row.attempts)


def _selected(session: Session, selection: Selection, states: Collection[DeliveryState]) -> Sequence[DeliveryRow]:
    return session.scalars(
        select(DeliveryRow)
        .where(DeliveryRow.state.in_(states), selection.condition())
        .order_by(DeliveryRow.id)
        .options(_WITH_RESULT)
        .with_for_update(of=DeliveryRow)
    ).all()


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


def _end(row: DeliveryRow, state: DeliveryState, now: dt.datetime) -> None:
    row.state, row.ended_at = state, now
    row.owner = row.lease_until = row.commitment_deadline = None


def _wait(row: DeliveryRow, error: str, until: dt.datetime) -> None:
    row.state, row.due_at, row.error = DeliveryState.QUEUED, until, error
    row.owner = row.lease_until = None


def _commit(session: Session, row: DeliveryRow, now: dt.datetime, how: str) -> None:
    _end(row, DeliveryState.COMMITTED, now)
    row.committed_at, row.error = now, None
    _event(session, row, "delivery committed", now, how=how)


def _fail(session: Session, row: DeliveryRow, error: str, retry_at: dt.datetime | None, now: dt.datetime) -> None:
    row.attempts += 1
    row.commitment_deadline = None
    if retry_at is None:
        _end(row, DeliveryState.DEAD, now)
        row.error = error
        _event(session, row, "delivery dead", now, error=error, attempts=row.attempts)
    else:
        _wait(row, error, retry_at)
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
