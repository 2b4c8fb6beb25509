"""Scheduling: studies that wait, and the jobs made of them."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Table, func, select
from sqlalchemy.orm import Session, selectinload

from storage.ledger import Ledger, LedgerError, insert_if_absent, record_event
from storage.schema import (
    Association,
    AssociationStudy,
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    JobRow,
    JobState,
    PerformedStepRow,
    PerformedStepStudyRow,
    ResultRow,
    SeriesRow,
    StudyRow,
)

__all__ = [
    "Job",
    "ResultRecord",
    "RoutedJob",
    "SeriesSummary",
    "StudyContents",
    "WaitingStudy",
    "claim_job",
    "complete_job",
    "create_jobs",
    "extend_job",
    "fail_job",
    "overlong_jobs",
    "release_expired_jobs",
    "release_worker",
    "requeue_job",
    "studies_to_consider",
    "study_contents",
]


DEATHS_PER_ATTEMPT = 5


@dataclass(frozen=True, slots=True)
class WaitingStudy:
    """A study that has instances which no version of it holds yet."""

    study_instance_uid: str
    version: int
    instances: int
    last_received_at: dt.datetime
    open_associations: int
    """Associations that sent to it and are still open."""
    step_changed_at: dt.datetime | None = None
    """When a performed procedure step of it last changed; none without one."""


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """One series as the routing rules see it."""

    series_instance_uid: str
    calling_ae_title: str
    modality: str
    series_description: str
    study_description: str
    manufacturer: str
    body_part_examined: str
    facts: tuple[Mapping[str, Any], ...]
    """One for each of its instances."""


@dataclass(frozen=True, slots=True)
class StudyContents:
    """Everything that completeness and routing read of a study."""

    study_instance_uid: str
    version: int
    instances: int
    last_received_at: dt.datetime
    longest_pause_s: float
    """Between two arrivals among the instances that wait: a sender that paused so long may do so again."""
    series: tuple[SeriesSummary, ...]


@dataclass(frozen=True, slots=True)
class RoutedJob:
    """A job to be made: which series of the study go to which route."""

    route: str
    series_instance_uids: tuple[str, ...]
    priority: int
    deadline_s: float
    maximum_attempts: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job that a worker holds."""

    id: int
    study_instance_uid: str
    study_version: int
    route: str
    attempt: int
    maximum_attempts: int
    correlation_id: str
    created_at: dt.datetime
    """When its study version was closed: the date and time its results carry, whichever attempt makes them."""
    input_digest: str
    """Over the digests of its input instances."""
    deadline_at: dt.datetime
    paths: tuple[str, ...]
    """Its input instances, relative to the storage directory, in the order received."""


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """A result object whose file is already on disk."""

    role: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    series_description: str
    path: str
    digest: str
    size: int
    destinations: tuple[str, ...]


def studies_to_consider(ledger: Ledger) -> tuple[WaitingStudy, ...]:
    """Studies that hold instances newer than their last version."""
    step_changed_at = (
        select(func.max(PerformedStepRow.changed_at))
        .join(PerformedStepStudyRow, PerformedStepStudyRow.step_id == PerformedStepRow.id)
        .where(PerformedStepStudyRow.study_instance_uid == StudyRow.study_instance_uid)
        .correlate(StudyRow)
        .scalar_subquery()
    )
    with ledger.reading() as session:
        waiting = session.execute(
            select(StudyRow, func.count(InstanceRow.id), func.max(InstanceRow.received_at), step_changed_at)
            .join(SeriesRow, SeriesRow.study_id == StudyRow.id)
            .join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
            .where(InstanceRow.study_version.is_(None), InstanceRow.removed_at.is_(None))
            .group_by(StudyRow.id)
            .order_by(StudyRow.id)
        ).all()
        return tuple(
            WaitingStudy(
                study.study_instance_uid,
                study.version,
                count,
                last_received_at,
                _open_associations(session, study.id),
                changed_at,
            )
            for study, count, last_received_at, changed_at in waiting
        )


def _open_associations(session: Session, study_id: int) -> int:
    return (
        session.scalar(
            select(func.count())
            .select_from(AssociationStudy)
            .join(Association, Association.id == AssociationStudy.association_id)
            .where(AssociationStudy.study_id == study_id, Association.closed_at.is_(None))
        )
        or 0
    )


def study_contents(ledger: Ledger, study_instance_uid: str) -> StudyContents:
    """Read a study for completeness and routing.

    Raises
    ------
    LedgerError
        There is no such study.
    """
    with ledger.reading() as session:
        study = session.scalar(
            select(StudyRow)
            .where(StudyRow.study_instance_uid == study_instance_uid)
            .options(selectinload(StudyRow.series).selectinload(SeriesRow.instances))
        )
        if study is None:
            raise LedgerError(f"no study {study_instance_uid} in the ledger")
        series = tuple(
            SeriesSummary(
                series_instance_uid=row.series_instance_uid,
                calling_ae_title=row.calling_ae_title,
                modality=row.modality,
                series_description=row.series_description,
                study_description=row.study_description,
                manufacturer=row.manufacturer,
                body_part_examined=row.body_part_examined,
                facts=tuple(instance.facts for instance in row.instances if instance.removed_at is None),
            )
            for row in study.series
        )
        arrivals = sorted(
            instance.received_at
            for row in study.series
            for instance in row.instances
            if instance.study_version is None and instance.removed_at is None
        )
        return StudyContents(
            study.study_instance_uid,
            study.version,
            sum(len(one.facts) for one in series),
            max([study.last_received_at, *arrivals[-1:]]),
            _longest_pause_s(arrivals),
            series,
        )


def _longest_pause_s(arrivals: Sequence[dt.datetime]) -> float:
    return max(((after - before).total_seconds() for before, after in itertools.pairwise(arrivals)), default=0.0)


def create_jobs(
    ledger: Ledger, study: StudyContents, routed: Sequence[RoutedJob], *, reason: str, now: dt.datetime
) -> tuple[int, ...] | None:
    """Close a version of a study and make its jobs, if the study still is as it was seen.

    A route whose input is the same as that of its last job gets no new one. Jobs of earlier versions that have not
    started are superseded.

    Parameters
    ----------
    study
        What the decision was made on.
    reason
        Why the study counts as complete, for the record.

    Returns
    -------
    tuple of int or None
        Ids of the new jobs; ``None``, and nothing done, when instances or an association came in between.
    """
    with ledger.transaction() as session:
        row = session.scalars(
            select(StudyRow)
            .where(StudyRow.study_instance_uid == study.study_instance_uid)
            .with_for_update(key_share=True)
        ).one()
        present = session.execute(
            select(InstanceRow, SeriesRow.series_instance_uid)
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .where(SeriesRow.study_id == row.id, InstanceRow.removed_at.is_(None))
            .order_by(InstanceRow.id)
        ).all()
        unchanged = row.version == study.version and len(present) == study.instances
        if not unchanged or _open_associations(session, row.id):
            return None
        if all(instance.study_version is not None for instance, _ in present):
            return None
        row.version += 1
        for instance, _ in present:
            if instance.study_version is None:
                instance.study_version = row.version
                row.instances += 1
        row.last_received_at = max(row.last_received_at, *(instance.received_at for instance, _ in present))
        record_event(
            session,
            "study complete",
            row.study_instance_uid,
            at=now,
            correlation_id=row.last_association_id,
            study_id=row.id,
            version=row.version,
            instances=len(present),
            reason=reason,
            routes=[one.route for one in routed],
        )
        created = []
        for one in routed:
            series = set(one.series_instance_uids)
            digests = sorted(instance.digest for instance, uid in present if uid in series)
            job_id = _create_job(session, row, one, hashlib.sha256("\n".join(digests).encode()).hexdigest(), now)
            if job_id is not None:
                created.append(job_id)
        return tuple(created)


def _create_job(session: Session, study: StudyRow, one: RoutedJob, input_digest: str, now: dt.datetime) -> int | None:
    earlier = session.scalars(
        select(JobRow)
        .where(JobRow.study_id == study.id, JobRow.route == one.route)
        .order_by(JobRow.study_version)
        .with_for_update()
    ).all()
    if earlier and earlier[-1].input_digest == input_digest:
        return None
    for job in earlier:
        if job.state is JobState.QUEUED:
            job.state, job.ended_at = JobState.SUPERSEDED, now
            _event(session, job, "job superseded", now)
    job = JobRow(
        study_id=study.id,
        study_version=study.version,
        route=one.route,
        series_instance_uids=list(one.series_instance_uids),
        input_digest=input_digest,
        priority=one.priority,
        state=JobState.QUEUED,
        attempts=0,
        maximum_attempts=one.maximum_attempts,
        correlation_id=study.last_association_id,
        created_at=now,
        due_at=now,
        deadline_at=now + dt.timedelta(seconds=one.deadline_s),
    )
    session.add(job)
    session.flush()
    _event(session, job, "job queued", now)
    return job.id


def claim_job(ledger: Ledger, worker: str, now: dt.datetime, lease_s: float) -> Job | None:
    """Take the due job of the highest priority, the oldest first: QUEUED → RUNNING."""
    due = (JobRow.state == JobState.QUEUED) & (JobRow.due_at <= now)
    with ledger.reading() as session:
        # Idle workers ask several times a second; on SQLite only those that find something wait for the writers.
        if session.scalar(select(JobRow.id).where(due).limit(1)) is None:
            return None
    with ledger.transaction() as session:
        row = session.scalar(
            select(JobRow)
            .where(due)
            .order_by(JobRow.priority.desc(), JobRow.created_at, JobRow.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=JobRow)
        )
        if row is None:
            return None
        row.state, row.worker, row.lease_until = JobState.RUNNING, worker, now + dt.timedelta(seconds=lease_s)
        row.attempts += 1
        row.started_at, row.ended_at = now, None
        _event(session, row, "job started", now, worker=worker, attempt=row.attempts)
        paths = session.scalars(
            select(InstanceRow.path)
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .where(
                SeriesRow.study_id == row.study_id,
                SeriesRow.series_instance_uid.in_(row.series_instance_uids),
                InstanceRow.study_version <= row.study_version,
                InstanceRow.removed_at.is_(None),
            )
            .order_by(InstanceRow.id)
        ).all()
        return Job(
            id=row.id,
            study_instance_uid=row.study.study_instance_uid,
            study_version=row.study_version,
            route=row.route,
            attempt=row.attempts,
            maximum_attempts=row.maximum_attempts,
            correlation_id=row.correlation_id,
            created_at=row.created_at,
            input_digest=row.input_digest,
            deadline_at=row.deadline_at,
            paths=tuple(paths),
        )


def overlong_jobs(ledger: Ledger, workers: Collection[str], started_before: dt.datetime) -> tuple[tuple[int, str], ...]:
    """Jobs that some of these workers run since before a time: (job id, worker)."""
    with ledger.reading() as session:
        rows = session.execute(
            select(JobRow.id, JobRow.worker).where(
                JobRow.state == JobState.RUNNING, JobRow.worker.in_(workers), JobRow.started_at < started_before
            )
        )
        return tuple((job_id, worker) for job_id, worker in rows if worker is not None)


def extend_job(ledger: Ledger, job_id: int, worker: str, now: dt.datetime, lease_s: float) -> bool:
    """Prolong a lease; false when the worker no longer holds the job and should drop it."""
    with ledger.transaction() as session:
        row = _held(session, job_id, worker)
        if row is None:
            return False
        row.lease_until = now + dt.timedelta(seconds=lease_s)
        return True


def complete_job(
    ledger: Ledger,
    job_id: int,
    results: Sequence[ResultRecord],
    summary: Mapping[str, Any],
    *,
    worker: str,
    now: dt.datetime,
) -> bool:
    """RUNNING → SUCCEEDED, with its results and their deliveries in the same transaction.

    A result whose SOP Instance UID is already recorded is not recorded or delivered again: identity is derived, so it
    is the same object.

    Returns
    -------
    bool
        False, and nothing recorded, when the worker no longer holds the job.
    """
    with ledger.transaction() as session:
        row = _held(session, job_id, worker)
        if row is None:
            return False
        row.state, row.ended_at, row.summary = JobState.SUCCEEDED, now, dict(summary)
        row.worker = row.lease_until = row.error = None
        for result in results:
            _add_result(session, row, result, now)
        _event(session, row, "job succeeded", now, attempt=row.attempts, results=len(results))
        return True


def _add_result(session: Session, job: JobRow, result: ResultRecord, now: dt.datetime) -> None:
    insert_if_absent(
        session,
        cast(Table, ResultRow.__table__),
        {
            "job_id": job.id,
            "role": result.role,
            "sop_class_uid": result.sop_class_uid,
            "sop_instance_uid": result.sop_instance_uid,
            "series_instance_uid": result.series_instance_uid,
            "series_description": result.series_description[:64],
            "path": result.path,
            "digest": result.digest,
            "size": result.size,
        },
    )
    held = session.scalars(select(ResultRow).where(ResultRow.sop_instance_uid == result.sop_instance_uid)).one()
    if held.removed_at is not None:
        # Retention took the file and the job ran again: the new one stands in.
        held.path, held.digest, held.size, held.removed_at = result.path, result.digest, result.size, None
    for destination in result.destinations:
        insert_if_absent(
            session,
            cast(Table, DeliveryRow.__table__),
            {
                "result_id": held.id,
                "destination": destination,
                "state": DeliveryState.QUEUED,
                "attempts": 0,
                "created_at": now,
                "due_at": now,
            },
        )


def fail_job(
    ledger: Ledger,
    job_id: int,
    error: str,
    *,
    retryable: bool,
    retry_at: dt.datetime,
    worker: str,
    now: dt.datetime,
) -> bool:
    """RUNNING → QUEUED until ``retry_at`` while it may be tried again, else FAILED.

    Returns
    -------
    bool
        False, and nothing recorded, when the worker no longer holds the job.
    """
    with ledger.transaction() as session:
        row = _held(session, job_id, worker)
        if row is None:
            return False
        _end_attempt(session, row, error, retry_at if retryable else None, now, allowed=row.maximum_attempts)
        return True


def release_worker(
    ledger: Ledger, worker: str, error: str, *, counted: bool, now: dt.datetime, retry_at: dt.datetime
) -> tuple[int, ...]:
    """A worker stopped or died: its jobs are queued again until ``retry_at``.

    Parameters
    ----------
    counted
        Whether it is an attempt of the job: when the worker died over it, not when the node was stopped or restarted.
        The death of a worker is less often the job's fault than an error is, so a job that has been counted
        ``DEATHS_PER_ATTEMPT`` times its attempts, and only then, is FAILED.

    Returns
    -------
    tuple of int
        Ids of the jobs it held.
    """
    with ledger.transaction() as session:
        rows = session.scalars(
            select(JobRow).where(JobRow.state == JobState.RUNNING, JobRow.worker == worker).with_for_update()
        ).all()
        for row in rows:
            if counted:
                _end_attempt(session, row, error, retry_at, now, allowed=DEATHS_PER_ATTEMPT * row.maximum_attempts)
            else:
                row.attempts -= 1
                _requeue(session, row, retry_at, now)
                _event(session, row, "job released", now, worker=worker, why=error)
        return tuple(row.id for row in rows)


def release_expired_jobs(ledger: Ledger, now: dt.datetime) -> tuple[int, ...]:
    """Take back, as from dead workers, what workers hold that no longer prolong their lease; returns the jobs' ids."""
    with ledger.reading() as session:
        workers = session.scalars(
            select(JobRow.worker).where(JobRow.state == JobState.RUNNING, JobRow.lease_until < now).distinct()
        ).all()
    released: list[int] = []
    for worker in workers:
        if worker is not None:
            released += release_worker(
                ledger, worker, "the worker's lease expired", counted=True, now=now, retry_at=now
            )
    return tuple(released)


def requeue_job(ledger: Ledger, job_id: int, *, now: dt.datetime) -> None:
    """An operator runs a job again: FAILED or SUCCEEDED → QUEUED with all its attempts.

    Raises
    ------
    LedgerError
        There is no such job, it is queued, running or superseded, or the study has a later version.
    """
    with ledger.transaction() as session:
        row = session.scalar(select(JobRow).where(JobRow.id == job_id).with_for_update())
        if row is None:
            raise LedgerError(f"no job {job_id} in the ledger")
        if row.state not in (JobState.FAILED, JobState.SUCCEEDED):
            raise LedgerError(f"job {job_id} is {row.state}: only a failed or a succeeded job can run again")
        if _has_later(session, row):
            raise LedgerError(f"job {job_id} is of an earlier version of its study: run the job of the latest again")
        row.attempts, row.error, row.ended_at = 0, None, None
        _requeue(session, row, now, now)
        _event(session, row, "job requeued", now)


def _held(session: Session, job_id: int, worker: str) -> JobRow | None:
    return session.scalar(
        select(JobRow)
        .where(JobRow.id == job_id, JobRow.state == JobState.RUNNING, JobRow.worker == worker)
        .with_for_update(of=JobRow)
    )


def _requeue(session: Session, row: JobRow, due_at: dt.datetime, now: dt.datetime) -> None:
    row.worker = row.lease_until = None
    if _has_later(session, row):
        # Its results would reach the destinations after those of the whole study.
        row.state, row.ended_at = JobState.SUPERSEDED, now
        _event(session, row, "job superseded", now)
    else:
        row.state, row.due_at = JobState.QUEUED, due_at


def _has_later(session: Session, row: JobRow) -> bool:
    later = select(JobRow.id).where(
        JobRow.study_id == row.study_id, JobRow.route == row.route, JobRow.study_version > row.study_version
    )
    return session.scalar(later.limit(1)) is not None


def _end_attempt(
    session: Session, row: JobRow, error: str, retry_at: dt.datetime | None, now: dt.datetime, *, allowed: int
) -> None:
    row.error = error
    if retry_at is not None and row.attempts < allowed:
        _requeue(session, row, retry_at, now)
        _event(session, row, "job attempt failed", now, error=error, attempt=row.attempts)
    else:
        row.state, row.ended_at = JobState.FAILED, now
        row.worker = row.lease_until = None
        _event(session, row, "job failed", now, error=error, attempt=row.attempts)


def _event(session: Session, row: JobRow, kind: str, at: dt.datetime, **detail: Any) -> None:
    record_event(
        session,
        kind,
        f"job {row.id}",
        at=at,
        correlation_id=row.correlation_id,
        study_id=row.study_id,
        route=row.route,
        version=row.study_version,
        **detail,
    )
