"""Overviews of the ledger for people: studies, jobs, deliveries, quarantine, events.

Nothing here changes anything, and nothing it returns holds patient data.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Text, func, select
from sqlalchemy.orm import Session, joinedload, selectinload

from storage.closing import FRONT_PAGE
from storage.deliveries import Selection
from storage.instances import CONFLICT
from storage.ledger import Ledger, LedgerError
from storage.schema import (
    ENDED,
    Association,
    AssociationStudy,
    CommitmentRequest,
    CommitmentTransactionRow,
    DeliveryRow,
    DeliveryState,
    EventRow,
    InstanceRow,
    JobRow,
    JobSlot,
    JobState,
    OutageRow,
    QuarantineRow,
    ReportState,
    ResultRow,
    SeriesRow,
    StudyRow,
    Verdict,
)

__all__ = [
    "CONFLICT_AGE",
    "Backlog",
    "Commitment",
    "DeliveryOverview",
    "Event",
    "EventPage",
    "JobOverview",
    "LedgerOverview",
    "Outage",
    "QuarantineOverview",
    "ResultOverview",
    "SenderOverview",
    "StudyOverview",
    "StudyReceipt",
    "backlog",
    "commitments",
    "count_deliveries",
    "count_jobs",
    "delivery_overviews",
    "events_of_study",
    "job_overviews",
    "ledger_overview",
    "outages",
    "quarantine_overviews",
    "result_overviews",
    "search_events",
    "senders",
    "study_of_job",
    "study_overviews",
    "study_receipt",
    "typical_job_s",
]

LOOKED_AT_EVENTS = 100_000
"""For one page; what lies further is looked through when somebody goes on."""
CONFLICT_AGE = dt.timedelta(days=7)
"""For so long a conflict in quarantine calls for a person; it is kept for longer."""


@dataclass(frozen=True, slots=True)
class LedgerOverview:
    """The whole ledger in numbers."""

    studies: int
    studies_waiting: int
    """With instances that no job has seen."""
    instances: int
    open_associations: int
    jobs: Mapping[JobState, int]
    verdicts: Mapping[Verdict, int]
    """Of the jobs that have ended for good."""
    jobs_late: int
    """Past their deadline and not ended."""
    deliveries: Mapping[DeliveryState, int]
    commitments: Mapping[ReportState, int]
    """Storage commitment requests of peers, by how far their reports have come."""
    quarantined: int
    last_received_at: dt.datetime | None
    last_committed_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits and what failed; quick to ask however much the ledger holds."""

    studies_waiting: int
    """With instances that no job has seen."""
    jobs: Mapping[JobState, int]
    """Those in a state that calls for work or for a person."""
    jobs_late: int
    """Past their deadline and not ended."""
    oldest_job_at: dt.datetime | None
    """When the oldest job that has not ended was made."""
    deliveries: Mapping[tuple[str, DeliveryState], int]
    """By destination; those not committed."""
    oldest_delivery_at: Mapping[str, dt.datetime]
    """By destination: when the oldest delivery was made that is neither committed nor dead."""
    outages: tuple[Outage, ...]
    quarantined: int
    conflicts_lately: int
    """Of the objects in quarantine: came within :data:`CONFLICT_AGE` with other bytes under a UID that is held."""
    last_received_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class StudyOverview:
    """One study and how far it has come."""

    study_instance_uid: str
    version: int
    first_received_at: dt.datetime
    last_received_at: dt.datetime
    removed_at: dt.datetime | None
    series: int
    instances: int
    instances_waiting: int
    open_associations: int
    senders: tuple[str, ...]
    """AE titles that sent its series."""
    jobs: Mapping[JobState, int]
    verdicts: Mapping[str, Verdict]
    """By package: of its last job that has ended for good; ``route/package`` where the study took several routes."""
    deliveries: Mapping[DeliveryState, int]


@dataclass(frozen=True, slots=True)
class JobOverview:
    """One job."""

    id: int
    study_instance_uid: str
    study_version: int
    route: str
    package: str
    state: JobState
    verdict: Verdict | None
    """None until it has ended for good."""
    sentences: tuple[str, ...]
    key_numbers: tuple[str, ...]
    priority: int
    slot: JobSlot
    background: bool
    timeout_s: float
    attempts: int
    maximum_attempts: int
    correlation_id: str
    worker: str | None
    created_at: dt.datetime
    due_at: dt.datetime
    deadline_at: dt.datetime
    started_at: dt.datetime | None
    step: str | None
    """What it is at, of a job that runs; none before it has run for a while."""
    ended_at: dt.datetime | None
    error: str | None
    summary: Mapping[str, Any] | None
    results: int
    deliveries: Mapping[DeliveryState, int]

    def is_late(self, now: dt.datetime) -> bool:
        """Whether the job ended after its deadline, or has passed it without an end."""
        if self.state is JobState.SUPERSEDED:
            return False
        return (self.ended_at or now) > self.deadline_at


@dataclass(frozen=True, slots=True)
class DeliveryOverview:
    """One result × one destination."""

    id: int
    job_id: int
    study_instance_uid: str
    destination: str
    role: str
    series_description: str
    sop_class_uid: str
    sop_instance_uid: str
    state: DeliveryState
    failed_attempts: int
    due_at: dt.datetime
    sent_at: dt.datetime | None
    transaction_uid: str | None
    committed_at: dt.datetime | None
    ended_at: dt.datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Outage:
    """One destination that could not be reached the last time it was called."""

    destination: str
    since: dt.datetime
    attempts: int
    retry_at: dt.datetime
    error: str
    waiting: int
    """Deliveries that wait for its end."""


@dataclass(frozen=True, slots=True)
class Commitment:
    """One delivery that came to its end."""

    destination: str
    waited_s: float
    """From sent to committed."""
    turnaround_s: float | None
    """From the last image of its study version to this, when no other result of its job is still to be committed."""


@dataclass(frozen=True, slots=True)
class QuarantineOverview:
    """One object that was kept aside."""

    id: int
    digest: str
    path: str
    reason: str
    sop_instance_uid: str | None
    job_id: int | None
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class ResultOverview:
    """One object that a job of a study made."""

    id: int
    job_id: int
    package: str
    study_version: int
    role: str
    series_description: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    """Relative to the storage directory."""
    present: bool
    """Whether its file is still there."""
    rejected: bool
    """Whether a note rejects it: a later version took its place, or the study was deleted."""


@dataclass(frozen=True, slots=True)
class StudyReceipt:
    """What came in of a study, and what of its results is safe elsewhere."""

    kept: int
    """Instances that the ledger holds, their files there or removed after their time."""
    quarantined: int
    """Objects of associations that sent it which were kept aside."""
    results: int
    results_committed: int
    """Results that every one of their destinations took responsibility for."""
    committed_at: dt.datetime | None
    """When the last of them was."""


@dataclass(frozen=True, slots=True)
class SenderOverview:
    """One application entity that called this node of late."""

    calling_ae_title: str
    last_closed_at: dt.datetime
    outcome: str
    """Of its last association."""


@dataclass(frozen=True, slots=True)
class Event:
    """One state transition."""

    at: dt.datetime
    correlation_id: str | None
    kind: str
    subject: str
    detail: Mapping[str, Any]
    sender: str | None
    """AE title that called in the association it belongs to."""


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events of the ledger, a page of them."""

    events: tuple[Event, ...]
    """The newest first."""
    older: int | None
    """``before`` of the page of older ones; None where there are none."""
    newer: int | None
    """``after`` of the page of newer ones; None where there are none."""
    looked_to: dt.datetime | None
    """Where the search broke off before it had enough, because it had looked at many; else None."""


_WAITS = InstanceRow.study_version.is_(None) & InstanceRow.removed_at.is_(None)


def ledger_overview(ledger: Ledger, *, now: dt.datetime) -> LedgerOverview:
    """Count everything."""
    with ledger.reading() as session:
        jobs = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
        verdicts = session.execute(
            select(JobRow.verdict, func.count()).where(JobRow.verdict.is_not(None)).group_by(JobRow.verdict)
        )
        deliveries = session.execute(select(DeliveryRow.state, func.count()).group_by(DeliveryRow.state))
        studies, instances = session.execute(
            select(func.count(), func.coalesce(func.sum(StudyRow.instances), 0)).select_from(StudyRow)
        ).one()
        waiting = session.scalar(select(func.count()).select_from(InstanceRow).where(_WAITS)) or 0
        return LedgerOverview(
            studies=studies,
            studies_waiting=_studies_waiting(session),
            instances=instances + waiting,
            open_associations=session.scalar(
                select(func.count()).select_from(Association).where(Association.closed_at.is_(None))
            )
            or 0,
            jobs=dict(jobs.all()),
            verdicts={verdict: count for verdict, count in verdicts if verdict is not None},
            jobs_late=_jobs_late(session, now),
            deliveries=dict(deliveries.all()),
            commitments=dict(
                session.execute(
                    select(CommitmentTransactionRow.state, func.count()).group_by(CommitmentTransactionRow.state)
                ).all()
            ),
            quarantined=session.scalar(select(func.count()).select_from(QuarantineRow)) or 0,
            last_received_at=_last_received_at(session),
            last_committed_at=session.scalar(select(func.max(DeliveryRow.committed_at))),
        )


def backlog(ledger: Ledger, *, now: dt.datetime) -> Backlog:
    """Count what waits and what failed."""
    going = JobRow.state.in_((JobState.QUEUED, JobState.RUNNING))
    going_out = (DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.AWAITING_COMMITMENT)
    with ledger.reading() as session:
        jobs = session.execute(
            select(JobRow.state, func.count()).where(going | (JobRow.state == JobState.FAILED)).group_by(JobRow.state)
        )
        deliveries = session.execute(
            select(DeliveryRow.destination, DeliveryRow.state, func.count())
            .where(DeliveryRow.state.in_((*going_out, DeliveryState.DEAD)))
            .group_by(DeliveryRow.destination, DeliveryRow.state)
        )
        oldest = session.execute(
            select(DeliveryRow.destination, func.min(DeliveryRow.created_at))
            .where(DeliveryRow.state.in_(going_out))
            .group_by(DeliveryRow.destination)
        )
        return Backlog(
            studies_waiting=_studies_waiting(session),
            jobs=dict(jobs.all()),
            jobs_late=_jobs_late(session, now),
            oldest_job_at=session.scalar(select(func.min(JobRow.created_at)).where(going)),
            deliveries={(destination, state): count for destination, state, count in deliveries},
            oldest_delivery_at=dict(oldest.all()),
            outages=_outages(session),
            quarantined=session.scalar(select(func.count()).select_from(QuarantineRow)) or 0,
            conflicts_lately=session.scalar(
                select(func.count())
                .select_from(QuarantineRow)
                .where(QuarantineRow.reason == CONFLICT, QuarantineRow.at > now - CONFLICT_AGE)
            )
            or 0,
            last_received_at=_last_received_at(session),
        )


def _last_received_at(session: Session) -> dt.datetime | None:
    latest = (
        session.scalar(select(func.max(StudyRow.last_received_at))),
        session.scalar(select(func.max(InstanceRow.received_at)).where(_WAITS)),
    )
    return max((at for at in latest if at is not None), default=None)


def _studies_waiting(session: Session) -> int:
    return (
        session.scalar(
            select(func.count(SeriesRow.study_id.distinct()))
            .join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
            .where(_WAITS)
        )
        or 0
    )


def _jobs_late(session: Session, now: dt.datetime) -> int:
    going = JobRow.state.in_((JobState.QUEUED, JobState.RUNNING))
    return session.scalar(select(func.count()).select_from(JobRow).where(going, JobRow.deadline_at < now)) or 0


def study_overviews(
    ledger: Ledger, *, study_instance_uid: str | None = None, limit: int = 100
) -> tuple[StudyOverview, ...]:
    """The studies received last, the newest first; or one of them.

    Raises
    ------
    LedgerError
        The study asked for is not in the ledger.
    """
    with ledger.reading() as session:
        query = select(StudyRow).order_by(StudyRow.last_received_at.desc(), StudyRow.id.desc()).limit(limit)
        if study_instance_uid is not None:
            query = query.where(StudyRow.study_instance_uid == study_instance_uid)
        studies = session.scalars(query).all()
        if study_instance_uid is not None and not studies:
            raise LedgerError(f"no study {study_instance_uid} in the ledger")
        ids = [study.id for study in studies]
        held = {
            study_id: (series, instances, waiting, last_received_at)
            for study_id, series, instances, waiting, last_received_at in session.execute(
                select(
                    SeriesRow.study_id,
                    func.count(SeriesRow.id.distinct()),
                    func.count(InstanceRow.id),
                    func.count(InstanceRow.id).filter(_WAITS),
                    func.max(InstanceRow.received_at),
                )
                .join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
                .where(SeriesRow.study_id.in_(ids))
                .group_by(SeriesRow.study_id)
            )
        }
        # Of a study that was deleted.
        nothing = (0, 0, 0, None)
        associations = dict(
            session.execute(
                select(AssociationStudy.study_id, func.count())
                .join(Association, Association.id == AssociationStudy.association_id)
                .where(AssociationStudy.study_id.in_(ids), Association.closed_at.is_(None))
                .group_by(AssociationStudy.study_id)
            ).all()
        )
        senders: dict[int, list[str]] = {}
        for study_id, title in session.execute(
            select(SeriesRow.study_id, SeriesRow.calling_ae_title)
            .where(SeriesRow.study_id.in_(ids))
            .distinct()
            .order_by(SeriesRow.calling_ae_title)
        ):
            senders.setdefault(study_id, []).append(title)
        jobs: dict[int, dict[JobState, int]] = {}
        for study_id, job_state, count in session.execute(
            select(JobRow.study_id, JobRow.state, func.count())
            .where(JobRow.study_id.in_(ids))
            .group_by(JobRow.study_id, JobRow.state)
        ):
            jobs.setdefault(study_id, {})[job_state] = count
        verdicts: dict[int, dict[tuple[str, str], Verdict]] = {}
        for study_id, route, package, verdict in session.execute(
            select(JobRow.study_id, JobRow.route, JobRow.package, JobRow.verdict)
            .where(JobRow.study_id.in_(ids), JobRow.verdict.is_not(None), JobRow.package != FRONT_PAGE)
            .order_by(JobRow.study_version, JobRow.id)
        ):
            if verdict is not None:
                verdicts.setdefault(study_id, {})[route, package] = verdict
        deliveries: dict[int, dict[DeliveryState, int]] = {}
        for study_id, delivery_state, count in session.execute(
            select(JobRow.study_id, DeliveryRow.state, func.count())
            .join(ResultRow, ResultRow.job_id == JobRow.id)
            .join(DeliveryRow, DeliveryRow.result_id == ResultRow.id)
            .where(JobRow.study_id.in_(ids))
            .group_by(JobRow.study_id, DeliveryRow.state)
        ):
            deliveries.setdefault(study_id, {})[delivery_state] = count
        return tuple(
            StudyOverview(
                study_instance_uid=study.study_instance_uid,
                version=study.version,
                first_received_at=study.first_received_at,
                last_received_at=max(study.last_received_at, held.get(study.id, nothing)[3] or study.last_received_at),
                removed_at=study.removed_at,
                series=held.get(study.id, nothing)[0],
                instances=held.get(study.id, nothing)[1],
                instances_waiting=held.get(study.id, nothing)[2],
                open_associations=associations.get(study.id, 0),
                senders=tuple(senders.get(study.id, ())),
                jobs=jobs.get(study.id, {}),
                verdicts=_by_package(verdicts.get(study.id, {})),
                deliveries=deliveries.get(study.id, {}),
            )
            for study in studies
        )


def _by_package(verdicts: Mapping[tuple[str, str], Verdict]) -> dict[str, Verdict]:
    several = len({route for route, _ in verdicts}) > 1
    return {f"{route}/{package}" if several else package: verdict for (route, package), verdict in verdicts.items()}


def job_overviews(
    ledger: Ledger,
    *,
    states: Sequence[JobState] = tuple(JobState),
    study_instance_uid: str | None = None,
    limit: int = 100,
) -> tuple[JobOverview, ...]:
    """Jobs in these states, the newest first."""
    with ledger.reading() as session:
        query = (
            select(JobRow)
            .join(JobRow.study)
            .where(JobRow.state.in_(states))
            .order_by(JobRow.id.desc())
            .limit(limit)
            .options(joinedload(JobRow.study), selectinload(JobRow.results).selectinload(ResultRow.deliveries))
        )
        if study_instance_uid is not None:
            query = query.where(StudyRow.study_instance_uid == study_instance_uid)
        return tuple(
            JobOverview(
                id=row.id,
                study_instance_uid=row.study.study_instance_uid,
                study_version=row.study_version,
                route=row.route,
                package=row.package,
                state=row.state,
                verdict=row.verdict,
                sentences=tuple(row.sentences),
                key_numbers=tuple(row.key_numbers),
                priority=row.priority,
                slot=row.slot,
                background=row.background,
                timeout_s=row.timeout_s,
                attempts=row.attempts,
                maximum_attempts=row.maximum_attempts,
                correlation_id=row.correlation_id,
                worker=row.worker,
                created_at=row.created_at,
                due_at=row.due_at,
                deadline_at=row.deadline_at,
                started_at=row.started_at,
                step=row.step if row.state is JobState.RUNNING else None,
                ended_at=row.ended_at,
                error=row.error,
                summary=row.summary,
                results=len(row.results),
                deliveries=Counter(delivery.state for result in row.results for delivery in result.deliveries),
            )
            for row in session.scalars(query)
        )


def delivery_overviews(
    ledger: Ledger,
    *,
    states: Sequence[DeliveryState] = tuple(DeliveryState),
    study_instance_uid: str | None = None,
    selection: Selection | None = None,
    limit: int = 1000,
) -> tuple[DeliveryOverview, ...]:
    """Deliveries in these states, the newest first."""
    with ledger.reading() as session:
        query = (
            select(DeliveryRow, ResultRow, StudyRow.study_instance_uid)
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .join(JobRow, JobRow.id == ResultRow.job_id)
            .join(StudyRow, StudyRow.id == JobRow.study_id)
            .where(DeliveryRow.state.in_(states))
            .order_by(DeliveryRow.id.desc())
            .limit(limit)
        )
        if study_instance_uid is not None:
            query = query.where(StudyRow.study_instance_uid == study_instance_uid)
        if selection is not None:
            query = query.where(selection.condition())
        return tuple(
            DeliveryOverview(
                id=row.id,
                job_id=result.job_id,
                study_instance_uid=uid,
                destination=row.destination,
                role=result.role,
                series_description=result.series_description,
                sop_class_uid=result.sop_class_uid,
                sop_instance_uid=result.sop_instance_uid,
                state=row.state,
                failed_attempts=row.attempts,
                due_at=row.due_at,
                sent_at=row.sent_at,
                transaction_uid=row.transaction_uid,
                committed_at=row.committed_at,
                ended_at=row.ended_at,
                error=row.error,
            )
            for row, result, uid in session.execute(query)
        )


def outages(ledger: Ledger) -> tuple[Outage, ...]:
    """Destinations that could not be reached, by name."""
    with ledger.reading() as session:
        return _outages(session)


def _outages(session: Session) -> tuple[Outage, ...]:
    waiting = (
        select(func.count())
        .where(DeliveryRow.destination == OutageRow.destination, DeliveryRow.state == DeliveryState.QUEUED)
        .scalar_subquery()
    )
    return tuple(
        Outage(row.destination, row.since, row.attempts, row.retry_at, row.error, count)
        for row, count in session.execute(select(OutageRow, waiting).order_by(OutageRow.destination))
    )


def count_deliveries(ledger: Ledger, states: Collection[DeliveryState], selection: Selection | None = None) -> int:
    """How many deliveries are in these states."""
    with ledger.reading() as session:
        query = select(func.count()).select_from(DeliveryRow).where(DeliveryRow.state.in_(states))
        if selection is not None:
            query = query.where(selection.condition())
        return session.scalar(query) or 0


def count_jobs(ledger: Ledger) -> int:
    """How many jobs there are, in all states."""
    with ledger.reading() as session:
        return session.scalar(select(func.count()).select_from(JobRow)) or 0


def commitments(
    ledger: Ledger, *, at: dt.datetime, delivery_ids: Collection[int] = (), transaction_uid: str | None = None
) -> tuple[Commitment, ...]:
    """Those of some deliveries that were committed, or delivered without verification, at one moment.

    Parameters
    ----------
    at
        Time that the transition was given.
    delivery_ids, transaction_uid
        The deliveries: these, and those of a storage commitment request.
    """
    requested = select(CommitmentRequest.delivery_id).where(CommitmentRequest.transaction_uid == transaction_uid)
    with ledger.reading() as session:
        rows = session.execute(
            select(DeliveryRow, JobRow)
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .join(JobRow, JobRow.id == ResultRow.job_id)
            .where(
                DeliveryRow.id.in_(delivery_ids) | DeliveryRow.id.in_(requested),
                DeliveryRow.state.in_((DeliveryState.COMMITTED, DeliveryState.NOT_VERIFIED)),
                DeliveryRow.ended_at == at,
            )
            .order_by(DeliveryRow.id)
        ).all()
        last = {job.id: delivery.id for delivery, job in rows}
        return tuple(
            Commitment(
                delivery.destination,
                (at - (delivery.sent_at or at)).total_seconds(),
                _turnaround_s(session, job, at) if last[job.id] == delivery.id else None,
            )
            for delivery, job in rows
        )


def _turnaround_s(session: Session, job: JobRow, at: dt.datetime) -> float | None:
    to_come = session.scalar(
        select(func.count())
        .select_from(DeliveryRow)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(ResultRow.job_id == job.id, DeliveryRow.state.not_in(ENDED))
    )
    received = session.scalar(
        select(func.max(InstanceRow.received_at))
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(SeriesRow.study_id == job.study_id, InstanceRow.study_version <= job.study_version)
    )
    return None if to_come or received is None else (at - received).total_seconds()


def quarantine_overviews(ledger: Ledger, *, limit: int = 100) -> tuple[QuarantineOverview, ...]:
    """Objects kept aside, the newest first."""
    with ledger.reading() as session:
        return tuple(
            QuarantineOverview(row.id, row.digest, row.path, row.reason, row.sop_instance_uid, row.job_id, row.at)
            for row in session.scalars(select(QuarantineRow).order_by(QuarantineRow.id.desc()).limit(limit))
        )


def events_of_study(ledger: Ledger, study_instance_uid: str, *, limit: int = 1000) -> tuple[Event, ...]:
    """The latest events of a study, in the order they happened."""
    with ledger.reading() as session:
        rows = session.execute(
            select(EventRow, Association.calling_ae_title)
            .join(StudyRow, StudyRow.id == EventRow.study_id)
            .outerjoin(Association, Association.id == EventRow.correlation_id)
            .where(StudyRow.study_instance_uid == study_instance_uid)
            .order_by(EventRow.id.desc())
            .limit(limit)
        ).all()
        return tuple(
            Event(row.at, row.correlation_id, row.kind, row.subject, row.detail, sender)
            for row, sender in reversed(rows)
        )


def search_events(
    ledger: Ledger,
    *,
    text: str = "",
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    before: int | None = None,
    after: int | None = None,
    limit: int = 200,
) -> EventPage:
    """Events of the whole ledger, the newest first, a page at a time.

    Parameters
    ----------
    text
        A part of kind, subject or detail.
    since, until
        When they happened; aware.
    before
        ``older`` of the page of newer ones. Without it and ``after`` the page is that of the newest.
    after
        ``newer`` of the page of older ones; comes before ``before``.
    limit
        Most events of one page.
    """
    with ledger.reading() as session:
        within = [EventRow.at >= since] if since is not None else []
        within += [EventRow.at <= until] if until is not None else []
        first = session.scalar(select(func.min(EventRow.id)).where(*within))
        last = session.scalar(select(func.max(EventRow.id)).where(*within))
        if first is None or last is None:
            return EventPage((), None, None, None)
        forwards = after is not None
        # Both ends belong to what is looked at.
        low, high = (after + 1, last) if after is not None else (first, last if before is None else before - 1)
        low, high = max(low, first), min(high, last)
        furthest = min(high, low + LOOKED_AT_EVENTS - 1) if forwards else max(low, high - LOOKED_AT_EVENTS + 1)
        query = (
            select(EventRow, Association.calling_ae_title)
            .outerjoin(Association, Association.id == EventRow.correlation_id)
            .where(EventRow.id.between(low, furthest) if forwards else EventRow.id.between(furthest, high))
            .where(*within)
            .order_by(EventRow.id if forwards else EventRow.id.desc())
            .limit(limit)
        )
        if text:
            detail = EventRow.detail.cast(Text)
            query = query.where(
                EventRow.kind.icontains(text, autoescape=True)
                | EventRow.subject.icontains(text, autoescape=True)
                | detail.icontains(text, autoescape=True)
            )
        rows = session.execute(query).all()
        full = len(rows) == limit
        end = rows[-1][0].id if full else furthest
        broke_off = not full and (furthest < high if forwards else furthest > low)
        oldest, newest = (low, end) if forwards else (end, high)
        return EventPage(
            events=tuple(
                Event(row.at, row.correlation_id, row.kind, row.subject, row.detail, sender)
                for row, sender in (rows[::-1] if forwards else rows)
            ),
            older=oldest if oldest > first else None,
            newer=newest if newest < last else None,
            looked_to=session.scalar(select(EventRow.at).where(EventRow.id == end)) if broke_off else None,
        )


def study_of_job(ledger: Ledger, job_id: int) -> str:
    """StudyInstanceUID of the study that a job is of.

    Raises
    ------
    LedgerError
        There is no such job.
    """
    with ledger.reading() as session:
        query = select(StudyRow.study_instance_uid).join(JobRow, JobRow.study_id == StudyRow.id)
        found = session.scalar(query.where(JobRow.id == job_id))
        if found is None:
            raise LedgerError(f"no job {job_id} in the ledger")
        return found


def result_overviews(ledger: Ledger, study_instance_uid: str) -> tuple[ResultOverview, ...]:
    """Every result of a study, in the order made."""
    with ledger.reading() as session:
        rows = session.execute(
            select(ResultRow, JobRow)
            .join(JobRow, JobRow.id == ResultRow.job_id)
            .join(StudyRow, StudyRow.id == JobRow.study_id)
            .where(StudyRow.study_instance_uid == study_instance_uid)
            .order_by(ResultRow.id)
        )
        return tuple(
            ResultOverview(
                id=row.id,
                job_id=job.id,
                package=job.package,
                study_version=job.study_version,
                role=row.role,
                series_description=row.series_description,
                sop_class_uid=row.sop_class_uid,
                sop_instance_uid=row.sop_instance_uid,
                path=row.path,
                present=row.removed_at is None,
                rejected=row.rejected_at is not None,
            )
            for row, job in rows
        )


def study_receipt(ledger: Ledger, study_instance_uid: str) -> StudyReceipt:
    """What came in of a study, and what of its results is safe elsewhere.

    Raises
    ------
    LedgerError
        There is no such study.
    """
    with ledger.reading() as session:
        study = session.scalar(select(StudyRow).where(StudyRow.study_instance_uid == study_instance_uid))
        if study is None:
            raise LedgerError(f"no study {study_instance_uid} in the ledger")
        kept = session.scalar(
            select(func.count(InstanceRow.id))
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .where(SeriesRow.study_id == study.id)
        )
        sending = select(AssociationStudy.association_id).where(AssociationStudy.study_id == study.id)
        aside = session.scalar(
            select(func.count()).select_from(QuarantineRow).where(QuarantineRow.association_id.in_(sending))
        )
        results = (
            session.scalars(
                select(ResultRow)
                .join(JobRow, JobRow.id == ResultRow.job_id)
                .where(JobRow.study_id == study.id, ResultRow.rejected_at.is_(None))
                .options(selectinload(ResultRow.deliveries))
            )
            .unique()
            .all()
        )
        safe = [
            one
            for one in results
            if one.deliveries and all(sent.state is DeliveryState.COMMITTED for sent in one.deliveries)
        ]
        times = [sent.committed_at for one in safe for sent in one.deliveries if sent.committed_at is not None]
        return StudyReceipt(kept or 0, aside or 0, len(results), len(safe), max(times, default=None))


def senders(ledger: Ledger, *, looked_at: int = 1000) -> tuple[SenderOverview, ...]:
    """Who called this node in the last associations that have ended, each with the latest of its own, by AE title."""
    with ledger.reading() as session:
        rows = session.execute(
            select(Association.calling_ae_title, Association.closed_at, Association.outcome)
            .where(Association.closed_at.is_not(None))
            .order_by(Association.closed_at.desc())
            .limit(looked_at)
        )
        latest: dict[str, SenderOverview] = {}
        for title, closed_at, outcome in rows:
            if closed_at is not None:
                latest.setdefault(title, SenderOverview(title, closed_at, outcome or ""))
        return tuple(latest[title] for title in sorted(latest))


def typical_job_s(ledger: Ledger, *, looked_at: int = 200) -> Mapping[str, float]:
    """Median of the seconds that the last jobs of each package took on this node, by package."""
    with ledger.reading() as session:
        rows = session.execute(
            select(JobRow.package, JobRow.started_at, JobRow.ended_at)
            .where(JobRow.state == JobState.SUCCEEDED, JobRow.started_at.is_not(None), JobRow.ended_at.is_not(None))
            .order_by(JobRow.id.desc())
            .limit(looked_at)
        )
        seconds: dict[str, list[float]] = {}
        for package, started_at, ended_at in rows:
            if started_at is not None and ended_at is not None:
                seconds.setdefault(package, []).append((ended_at - started_at).total_seconds())
        return {package: sorted(own)[len(own) // 2] for package, own in seconds.items()}
