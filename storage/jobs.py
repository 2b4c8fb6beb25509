"""Scheduling: studies that wait, and the jobs made of them."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import ColumnElement, Select, Table, exists, func, select, update
from sqlalchemy.orm import Session, aliased, selectinload

from storage.closing import FRONT_PAGE, ResultReference, close_version, predecessors, reopen_version, told_of
from storage.job_rows import RetryAt, has_later, job_event, leave, lock_studies, requeue, supersede
from storage.leases import Lease
from storage.ledger import Ledger, LedgerError, insert_if_absent, record_event
from storage.schema import (
    Association,
    AssociationStudy,
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    JobRow,
    JobSlot,
    JobState,
    PerformedStepRow,
    PerformedStepStudyRow,
    ResultRow,
    SeriesRow,
    StudyRow,
    Verdict,
)

__all__ = [
    "EVERY_SLOT",
    "ROUTE_RUN",
    "SCHEDULER",
    "STUDY_COMPLETE",
    "Job",
    "Outcome",
    "ResultConflictError",
    "ResultRecord",
    "RoutedJob",
    "SeriesSummary",
    "StudyContents",
    "WaitingStudy",
    "add_jobs",
    "add_result",
    "claim_job",
    "complete_job",
    "create_jobs",
    "fail_job",
    "input_digest",
    "inputs_in_work",
    "note_step",
    "put_job_off",
    "release_expired_jobs",
    "release_lease",
    "release_worker",
    "requeue_job",
    "shares_input",
    "studies_to_consider",
    "study_contents",
]

EVERY_SLOT = frozenset(JobSlot)
STUDY_COMPLETE = "study complete"
"""Event: a version of a study was closed; ``version`` which, ``routes`` those that took series of it."""
ROUTE_RUN = "route run"
"""Event: a route that had not taken the present version of a study was run on it; ``by`` whom, ``routes`` which."""
SCHEDULER = "scheduler"
"""By whom the ledger says that something was done that no person asked for."""


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
    """A job to be made: which series of the study go to which package of which route."""

    route: str
    package: str
    series_instance_uids: tuple[str, ...]
    priority: int
    deadline_s: float
    maximum_attempts: int
    timeout_s: float
    slot: JobSlot = JobSlot.CPU
    background: bool = False
    """Whether it gives way to all that are not."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job that a worker holds."""

    id: int
    lease: str
    """Token of this attempt."""
    study_instance_uid: str
    study_version: int
    route: str
    package: str
    """An analysis package, or :data:`storage.closing.FRONT_PAGE`."""
    timeout_s: float
    attempt: int
    maximum_attempts: int
    correlation_id: str
    created_at: dt.datetime
    """When its study version was closed: the date and time its results carry, whichever attempt makes them."""
    input_digest: str
    """Over the digests of its input instances."""
    identity: str
    """What the UIDs of its results derive from; the input digest unless results of other bytes have that already."""
    deadline_at: dt.datetime
    paths: tuple[str, ...]
    """Its input instances, relative to the storage directory, in the order received."""
    predecessors: tuple[ResultReference, ...]
    """Results of the same package on an earlier version of the study, and of earlier runs of this job."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a job.

    Attributes
    ----------
    sentences
        Why it declined, failed or delivered only a part. No patient data.
    key_numbers
        What it found, in sentences for the front page. No patient data.
    summary
        For operators: seconds by step, roles of the results; JSON. No patient data. ``numbers`` in it are what was
        found, by name, and ``withheld`` the destinations that get nothing of it, with the reason
        (:mod:`storage.closing`).
    """

    verdict: Verdict
    sentences: tuple[str, ...] = ()
    key_numbers: tuple[str, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)


class ResultConflictError(LedgerError):
    """A result has the SOP Instance UID of one that is recorded with other bytes; nothing was recorded."""


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


def input_digest(digests: Iterable[str]) -> str:
    """Digest of the input of a job from those of the instances that it reads; their order does not matter."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def create_jobs(
    ledger: Ledger, study: StudyContents, routed: Sequence[RoutedJob], *, reason: str, now: dt.datetime
) -> tuple[int, ...] | None:
    """Close a version of a study and make its jobs, if the study still is as it was seen.

    A package whose input is the same as that of its last job on the route gets no new one, unless retention has taken
    what that job read. Jobs of earlier versions that have not started are superseded.

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
            STUDY_COMPLETE,
            row.study_instance_uid,
            at=now,
            correlation_id=row.last_association_id,
            study_id=row.id,
            version=row.version,
            instances=len(present),
            reason=reason,
            routes=list(dict.fromkeys(one.route for one in routed)),
            packages=list(dict.fromkeys(one.package for one in routed)),
        )
        created = []
        for one in routed:
            series = set(one.series_instance_uids)
            read = input_digest(instance.digest for instance, uid in present if uid in series)
            job_id = _create_job(session, row, one, read, now)
            if job_id is not None:
                created.append(job_id)
        return tuple(created)


def add_jobs(
    ledger: Ledger, study: StudyContents, routed: Sequence[RoutedJob], *, reason: str, by: str, now: dt.datetime
) -> tuple[int, ...]:
    """Make jobs of the present version of a study that somebody asked for; ids of the new ones.

    A package that has had the same input on the route gets no new one, as in :func:`create_jobs`.

    Raises
    ------
    LedgerError
        There is no such study, instances of it wait to be scheduled, or the route has had jobs of this version.
    """
    with ledger.transaction() as session:
        row = session.scalars(
            select(StudyRow)
            .where(StudyRow.study_instance_uid == study.study_instance_uid)
            .with_for_update(key_share=True)
        ).one_or_none()
        if row is None:
            raise LedgerError(f"no study {study.study_instance_uid} in the ledger")
        present = session.execute(
            select(InstanceRow, SeriesRow.series_instance_uid)
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .where(SeriesRow.study_id == row.id, InstanceRow.removed_at.is_(None))
            .order_by(InstanceRow.id)
        ).all()
        if row.version != study.version or any(instance.study_version is None for instance, _ in present):
            raise LedgerError(f"images of study {study.study_instance_uid} wait to be scheduled: try again then")
        ran = session.scalar(
            select(JobRow.route).where(
                JobRow.study_id == row.id,
                JobRow.study_version == row.version,
                JobRow.route.in_({one.route for one in routed}),
            )
        )
        if ran is not None:
            raise LedgerError(f"route {ran} has analysed this version of the study: run its jobs again")
        created = []
        for one in routed:
            series = set(one.series_instance_uids)
            read = input_digest(instance.digest for instance, uid in present if uid in series)
            job_id = _create_job(session, row, one, read, now)
            if job_id is not None:
                created.append(job_id)
        record_event(
            session,
            ROUTE_RUN,
            row.study_instance_uid,
            at=now,
            correlation_id=row.last_association_id,
            study_id=row.id,
            version=row.version,
            routes=list(dict.fromkeys(one.route for one in routed)),
            jobs=created,
            reason=reason,
            by=by,
        )
        return tuple(created)


def _create_job(session: Session, study: StudyRow, one: RoutedJob, input_digest: str, now: dt.datetime) -> int | None:
    earlier = session.scalars(
        select(JobRow)
        .where(JobRow.study_id == study.id, JobRow.route == one.route, JobRow.package.in_((one.package, FRONT_PAGE)))
        .order_by(JobRow.study_version, JobRow.revision)
        .with_for_update()
    ).all()
    of_package = [job for job in earlier if job.package == one.package]
    if of_package and of_package[-1].input_digest == input_digest and of_package[-1].inputs_removed_at is None:
        return None
    for job in earlier:
        if job.state is JobState.QUEUED:
            supersede(session, job, now)
    # After retention the same images make results anew, at another time: they are other objects.
    again = any(job.input_digest == input_digest for job in of_package)
    seed = f"{input_digest} {study.version}"
    job = JobRow(
        study_id=study.id,
        study_version=study.version,
        route=one.route,
        package=one.package,
        revision=0,
        series_instance_uids=list(one.series_instance_uids),
        input_digest=input_digest,
        identity=hashlib.sha256(seed.encode()).hexdigest() if again else input_digest,
        priority=one.priority,
        slot=one.slot,
        background=one.background,
        timeout_s=one.timeout_s,
        state=JobState.QUEUED,
        attempts=0,
        maximum_attempts=one.maximum_attempts,
        heartbeat=0,
        sentences=[],
        key_numbers=[],
        correlation_id=study.last_association_id,
        created_at=now,
        due_at=now,
        deadline_at=now + dt.timedelta(seconds=one.deadline_s),
    )
    session.add(job)
    session.flush()
    job_event(session, job, "job queued", now)
    return job.id


def claim_job(
    ledger: Ledger,
    worker: str,
    now: dt.datetime,
    *,
    slots: Collection[JobSlot] = EVERY_SLOT,
    background: bool | None = None,
) -> Job | None:
    """Take the due job of the highest priority, the oldest first: QUEUED → RUNNING.

    A job that has been tried before comes after all that have been tried less often: what kills its worker, or fails,
    holds nobody up. A job that gives way waits until all of its study version and route that do not have ended: it can
    then use what they have found.

    Parameters
    ----------
    slots
        Kinds of jobs that this worker takes.
    background
        Only jobs that give way, or only those that do not; both unless given.
    """
    due = (JobRow.state == JobState.QUEUED) & (JobRow.due_at <= now) & JobRow.slot.in_(slots)
    quick = aliased(JobRow)
    waits = exists().where(
        quick.study_id == JobRow.study_id,
        quick.route == JobRow.route,
        quick.background.is_(False),
        quick.state.in_((JobState.QUEUED, JobState.RUNNING)),
    )
    due &= JobRow.background.is_(False) | ~waits
    if background is not None:
        due &= JobRow.background.is_(background)
    # Results of a later version name those of the version before: one that still runs is to have ended.
    before = aliased(JobRow)
    due &= ~exists().where(
        before.study_id == JobRow.study_id,
        before.route == JobRow.route,
        before.package == JobRow.package,
        before.id < JobRow.id,
        before.state == JobState.RUNNING,
    )
    with ledger.reading() as session:
        # Idle workers ask several times a second; on SQLite only those that find something wait for the writers.
        if session.scalar(select(JobRow.id).where(due).limit(1)) is None:
            return None
    with ledger.transaction() as session:
        row = session.scalar(
            select(JobRow)
            .where(due)
            .order_by(JobRow.background, JobRow.attempts, JobRow.priority.desc(), JobRow.created_at, JobRow.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=JobRow)
        )
        if row is None:
            return None
        row.state, row.worker, row.lease = JobState.RUNNING, worker, uuid.uuid4().hex
        row.heartbeat += 1
        row.attempts += 1
        row.started_at, row.ended_at, row.step = now, None, None
        job_event(session, row, "job started", now, worker=worker, attempt=row.attempts)
        paths = session.scalars(_present_inputs(row).order_by(InstanceRow.id)).all()
        return Job(
            id=row.id,
            lease=row.lease,
            study_instance_uid=row.study.study_instance_uid,
            study_version=row.study_version,
            route=row.route,
            package=row.package,
            timeout_s=row.timeout_s,
            attempt=row.attempts,
            maximum_attempts=row.maximum_attempts,
            correlation_id=row.correlation_id,
            created_at=row.created_at,
            input_digest=row.input_digest,
            identity=row.identity,
            deadline_at=row.deadline_at,
            paths=tuple(paths),
            predecessors=predecessors(session, row),
        )


def inputs_in_work(ledger: Ledger) -> frozenset[str]:
    """Input digests of the package jobs that have not ended."""
    with ledger.reading() as session:
        return frozenset(
            session.scalars(
                select(JobRow.input_digest).where(
                    JobRow.state.in_((JobState.QUEUED, JobState.RUNNING)), JobRow.package != FRONT_PAGE
                )
            )
        )


def shares_input(ledger: Ledger, job: Job) -> bool:
    """Whether another package still waits for the same input."""
    with ledger.reading() as session:
        other = select(JobRow.id).where(
            JobRow.state == JobState.QUEUED,
            JobRow.input_digest == job.input_digest,
            JobRow.package.not_in((job.package, FRONT_PAGE)),
        )
        return session.scalar(other.limit(1)) is not None


def _present_inputs(row: JobRow) -> Select[str]:
    return (
        select(InstanceRow.path)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(
            SeriesRow.study_id == row.study_id,
            SeriesRow.series_instance_uid.in_(row.series_instance_uids),
            InstanceRow.study_version <= row.study_version,
            InstanceRow.removed_at.is_(None),
        )
    )


def note_step(ledger: Ledger, lease: str, step: str) -> None:
    """Note at which step a job is that runs; nothing is noted where the lease was lost."""
    with ledger.transaction() as session:
        session.execute(
            update(JobRow).where(JobRow.state == JobState.RUNNING, JobRow.lease == lease).values(step=step[:64])
        )


def complete_job(
    ledger: Ledger, job: Job, results: Sequence[ResultRecord], outcome: Outcome, *, now: dt.datetime
) -> bool:
    """Complete a job: RUNNING → SUCCEEDED, with its verdict, results and their deliveries in the same transaction.

    A result that is already recorded, with the same bytes, is not delivered again. When the job was the last of its
    study version and route, the closing job is made.

    Returns
    -------
    bool
        False, and nothing recorded, when the worker no longer holds the job.

    Raises
    ------
    ResultConflictError
        A result has the SOP Instance UID of one that is recorded with other bytes; nothing was recorded.
    """
    with ledger.transaction() as session:
        row = _held(session, job)
        if row is None:
            return False
        row.state, row.ended_at, row.error = JobState.SUCCEEDED, now, None
        leave(row)
        row.verdict, row.sentences = outcome.verdict, list(outcome.sentences)
        told = {**told_of(row), **outcome.summary.get("told", {})}
        row.key_numbers, row.summary = list(outcome.key_numbers), {**outcome.summary, **_kept(told)}
        for result in results:
            add_result(session, row, result, now)
        job_event(
            session,
            row,
            "job succeeded",
            now,
            attempt=row.attempts,
            verdict=outcome.verdict.value,
            sentences=list(outcome.sentences),
            results=len(results),
        )
        session.flush()
        close_version(session, row, now)
        return True


def add_result(session: Session, job: JobRow, result: ResultRecord, now: dt.datetime) -> None:
    """Record a result and queue its deliveries, within the caller's transaction; what is recorded already stays.

    Raises
    ------
    ResultConflictError
        Its SOP Instance UID is recorded with other bytes.
    """
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
    if (held.digest, held.sop_class_uid) != (result.digest, result.sop_class_uid):
        raise ResultConflictError(
            f"{result.role} {result.sop_instance_uid}: job {held.job_id} has recorded an object of this SOP Instance "
            "UID with other bytes, so this one was not recorded"
        )
    if held.removed_at is not None:
        # Retention took the file and the job ran again: the new one stands in.
        held.path, held.size, held.removed_at = result.path, result.size, None
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


def fail_job(ledger: Ledger, job: Job, error: str, *, retryable: bool, retry_at: RetryAt, now: dt.datetime) -> bool:
    """Record a failed attempt: RUNNING → QUEUED until ``retry_at`` while it may be tried again, else FAILED.

    Parameters
    ----------
    error
        One sentence; no patient data.

    Returns
    -------
    bool
        False, and nothing recorded, when the worker no longer holds the job.
    """
    with ledger.transaction() as session:
        row = _held(session, job)
        if row is None:
            return False
        _end_attempt(session, row, error, retry_at if retryable else None, now)
        return True


def put_job_off(ledger: Ledger, job: Job, why: str, *, until: dt.datetime, now: dt.datetime) -> bool:
    """Give a job back that cannot be done for want of something that is not its fault; it is no attempt.

    Returns
    -------
    bool
        False, and nothing recorded, when the worker no longer holds the job.
    """
    with ledger.transaction() as session:
        row = _held(session, job)
        if row is None:
            return False
        row.attempts -= 1
        worker = row.worker
        requeue(session, row, until, now)
        job_event(session, row, "job released", now, worker=worker, why=why)
        return True


def release_worker(
    ledger: Ledger, worker: str, error: str, *, counted: bool, now: dt.datetime, retry_at: RetryAt
) -> tuple[int, ...]:
    """Queue again the jobs of a worker that stopped or died; they wait until ``retry_at``.

    Parameters
    ----------
    counted
        Whether it is an attempt of the job: when the worker died over it, alone or with the whole node, not when the
        node was stopped.

    Returns
    -------
    tuple of int
        Ids of the jobs it held.
    """
    return _release(ledger, JobRow.worker == worker, error, counted=counted, now=now, retry_at=retry_at)


def release_expired_jobs(
    ledger: Ledger, expired: Sequence[Lease], *, now: dt.datetime, retry_at: RetryAt
) -> tuple[int, ...]:
    """Take back, as from dead workers, the jobs of these leases that have had no heartbeat since they were looked at.

    Returns
    -------
    tuple of int
        Their ids.
    """
    released: list[int] = []
    for lease in expired:
        silent = (JobRow.lease == lease.token) & (JobRow.heartbeat == lease.heartbeat)
        error = "the worker gave no sign of life"
        released += _release(ledger, silent, error, counted=True, now=now, retry_at=retry_at)
    return tuple(released)


def release_lease(ledger: Ledger, token: str, error: str, *, now: dt.datetime, retry_at: RetryAt) -> bool:
    """Take back the job of one lease, as an attempt that failed; false when the lease no longer holds."""
    return bool(_release(ledger, JobRow.lease == token, error, counted=True, now=now, retry_at=retry_at))


def _release(
    ledger: Ledger,
    condition: ColumnElement[bool],
    error: str,
    *,
    counted: bool,
    now: dt.datetime,
    retry_at: RetryAt,
) -> tuple[int, ...]:
    running = condition & (JobRow.state == JobState.RUNNING)
    with ledger.reading() as session:
        if session.scalar(select(JobRow.id).where(running).limit(1)) is None:
            return ()
    with ledger.transaction() as session:
        lock_studies(session, session.scalars(select(JobRow.study_id).where(running)).all())
        rows = session.scalars(select(JobRow).where(running).order_by(JobRow.id).with_for_update(of=JobRow)).all()
        for row in rows:
            if counted:
                _end_attempt(session, row, error, retry_at, now)
            else:
                row.attempts -= 1
                worker = row.worker
                requeue(session, row, now, now)
                job_event(session, row, "job released", now, worker=worker, why=error)
        return tuple(row.id for row in rows)


def requeue_job(ledger: Ledger, job_id: int, *, now: dt.datetime) -> None:
    """Queue a job again for an operator: FAILED or SUCCEEDED → QUEUED with all its attempts; no other package runs.

    Raises
    ------
    LedgerError
        There is no such job, it is queued, running or superseded, the study has a later version, or the files that it
        read were removed.
    """
    with ledger.transaction() as session:
        study_id = session.scalar(select(JobRow.study_id).where(JobRow.id == job_id))
        if study_id is None:
            raise LedgerError(f"no job {job_id} in the ledger")
        lock_studies(session, (study_id,))
        row = session.scalars(select(JobRow).where(JobRow.id == job_id).with_for_update(of=JobRow)).one()
        if row.state not in (JobState.FAILED, JobState.SUCCEEDED):
            raise LedgerError(f"job {job_id} is {row.state}: only a failed or a succeeded job can run again")
        if has_later(session, row):
            raise LedgerError(f"job {job_id} is of an earlier version of its study: run the job of the latest again")
        if row.inputs_removed_at is not None or session.scalar(_present_inputs(row).limit(1)) is None:
            raise LedgerError(f"the files that job {job_id} read were removed: send the study again")
        row.attempts, row.error, row.ended_at = 0, None, None
        # What it found before is not what it comes to now.
        row.verdict, row.sentences, row.key_numbers = None, [], []
        # What a front page told stays: it may be on its way still, and may have to be taken back.
        row.summary = _kept(told_of(row)) or None
        requeue(session, row, now, now)
        if row.package != FRONT_PAGE:
            reopen_version(session, row, now)
        job_event(session, row, "job requeued", now)


def _kept(told: dict[str, Any]) -> dict[str, Any]:
    return {"told": told} if told else {}


def _held(session: Session, job: Job) -> JobRow | None:
    study_id = session.scalar(select(JobRow.study_id).where(JobRow.id == job.id))
    if study_id is None:
        return None
    lock_studies(session, (study_id,))
    return session.scalar(
        select(JobRow)
        .where(JobRow.id == job.id, JobRow.state == JobState.RUNNING, JobRow.lease == job.lease)
        .with_for_update(of=JobRow)
    )


def _end_attempt(session: Session, row: JobRow, error: str, retry_at: RetryAt | None, now: dt.datetime) -> None:
    row.error = error
    if retry_at is not None and row.attempts < row.maximum_attempts:
        requeue(session, row, retry_at(row.attempts), now)
        job_event(session, row, "job attempt failed", now, error=error, attempt=row.attempts)
        return
    row.state, row.ended_at = JobState.FAILED, now
    row.verdict, row.sentences = Verdict.FAILED, [error]
    leave(row)
    job_event(session, row, "job failed", now, error=error, attempt=row.attempts)
    session.flush()
    close_version(session, row, now)
