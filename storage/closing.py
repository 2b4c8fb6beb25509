"""The closing job: made when all packages of a study version on a route have ended, it reports their outcomes."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from storage.job_rows import job_event, supersede
from storage.ledger import Ledger
from storage.schema import DeliveryRow, JobRow, JobSlot, JobState, ResultRow, StudyRow, Verdict

__all__ = [
    "FRONT_PAGE",
    "PackageOutcome",
    "ResultReference",
    "ToldSummary",
    "close_version",
    "closing_job_of",
    "package_outcomes",
    "packages_told",
    "reopen_version",
    "told_before",
    "told_of",
    "told_summary",
]

FRONT_PAGE = "front_page"
"""Stands where the name of a package stands."""
TIMEOUT_S = 300.0
MAXIMUM_ATTEMPTS = 5
_OPEN = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class ResultReference:
    """A result object, as another object refers to it."""

    role: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    series_description: str


@dataclass(frozen=True, slots=True)
class PackageOutcome:
    """Outcome of one package."""

    job_id: int
    package: str
    study_version: int
    verdict: Verdict
    sentences: tuple[str, ...]
    key_numbers: tuple[str, ...]
    results: tuple[ResultReference, ...]
    """In the order of delivery."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What it found, by name with unit."""
    withheld: Mapping[str, str] = field(default_factory=dict)
    """Destinations that its results are withheld from, and why."""
    reported: tuple[Mapping[str, Any], ...] = ()
    """The same with units, bounds and normal ranges, as the summary of its job has them."""


@dataclass(frozen=True, slots=True)
class ToldSummary:
    """Content of a front page, as far as the ledger keeps it."""

    route: str
    numbers: tuple[Mapping[str, Any], ...]
    paragraph: str
    """Empty when there was none."""


def told_summary(ledger: Ledger, job_id: int, sop_instance_uid: str) -> ToldSummary:
    """Content of a front page, by the closing job that made it and its SOP Instance UID."""
    with ledger.reading() as session:
        row = session.scalars(select(JobRow).where(JobRow.id == job_id)).one()
        told = told_of(row).get(sop_instance_uid, {})
        return ToldSummary(row.route, tuple(told.get("numbers", ())), told.get("paragraph", ""))


def told_before(ledger: Ledger, sop_instance_uid: str, destination: str) -> tuple[Mapping[str, Any], ...]:
    """Numbers that a destination was told of a study and route before a front page was made, the oldest first.

    Parameters
    ----------
    sop_instance_uid
        Of the front page.
    """
    with ledger.reading() as session:
        own = session.execute(
            select(ResultRow.id, JobRow.study_id, JobRow.route)
            .join(JobRow, JobRow.id == ResultRow.job_id)
            .where(ResultRow.sop_instance_uid == sop_instance_uid)
        ).one()
        before = session.execute(
            select(ResultRow.sop_instance_uid, JobRow.summary)
            .join(JobRow, JobRow.id == ResultRow.job_id)
            .join(DeliveryRow, DeliveryRow.result_id == ResultRow.id)
            .where(
                JobRow.study_id == own.study_id,
                JobRow.route == own.route,
                JobRow.package == FRONT_PAGE,
                ResultRow.id < own.id,
                DeliveryRow.destination == destination,
                DeliveryRow.sent_at.is_not(None),
            )
            .order_by(ResultRow.id)
        ).all()
        told = [(summary or {}).get("told", {}).get(uid, {}) for uid, summary in before]
        return tuple(number for one in told for number in one.get("numbers", ()))


def closing_job_of(ledger: Ledger, sop_instance_uid: str, study_instance_uid: str) -> int | None:
    """The closing job of a study that made a front page; none where this is none, or the ledger has forgotten it.

    It is known by its result, or else by what the job has kept of what it told.
    """
    with ledger.reading() as session:
        jobs = session.scalars(
            select(JobRow)
            .join(StudyRow, StudyRow.id == JobRow.study_id)
            .where(StudyRow.study_instance_uid == study_instance_uid, JobRow.package == FRONT_PAGE)
            .order_by(JobRow.id)
            .options(selectinload(JobRow.results))
        )
        for job in jobs:
            made = {one.sop_instance_uid for one in job.results}
            if sop_instance_uid in made or sop_instance_uid in told_of(job):
                return job.id
        return None


def told_of(job: JobRow) -> dict[str, Any]:
    """What a closing job told, in any of its runs, by SOP Instance UID of the front page."""
    return dict((job.summary or {}).get("told", {}))


def close_version(session: Session, ended: JobRow, now: dt.datetime) -> None:
    """Make the closing job when the job that has just ended for good was the last one of its study version and route.

    The study is locked by the caller. A version that a later one with other images stands in for is not closed.
    """
    if ended.package == FRONT_PAGE:
        return
    packages = packages_told(session, ended)
    if any(job.state in _OPEN for job in packages) or _has_other_inputs_later(session, ended):
        return
    version = max(job.study_version for job in packages)
    earlier = session.scalars(
        select(JobRow).where(
            JobRow.study_id == ended.study_id,
            JobRow.route == ended.route,
            JobRow.package == FRONT_PAGE,
            JobRow.study_version == version,
        )
    ).all()
    revision = len(earlier)
    row = JobRow(
        study_id=ended.study_id,
        study_version=version,
        route=ended.route,
        package=FRONT_PAGE,
        revision=revision,
        series_instance_uids=ended.series_instance_uids,
        input_digest=ended.input_digest,
        identity=_identity(packages, version, revision),
        priority=min(job.priority for job in packages),
        slot=JobSlot.CPU,
        background=False,
        timeout_s=TIMEOUT_S,
        state=JobState.QUEUED,
        attempts=0,
        maximum_attempts=MAXIMUM_ATTEMPTS,
        heartbeat=0,
        sentences=[],
        key_numbers=[],
        correlation_id=ended.correlation_id,
        created_at=now,
        due_at=now,
        deadline_at=max(job.deadline_at for job in packages),
    )
    session.add(row)
    session.flush()
    job_event(session, row, "job queued", now)


def reopen_version(session: Session, row: JobRow, now: dt.datetime) -> None:
    """Withdraw a closing job that has not ended, because a package runs again."""
    closing = session.scalars(
        select(JobRow)
        .where(
            JobRow.study_id == row.study_id,
            JobRow.route == row.route,
            JobRow.package == FRONT_PAGE,
            JobRow.state.in_(_OPEN),
        )
        .with_for_update()
    ).all()
    for one in closing:
        supersede(session, one, now)


def package_outcomes(ledger: Ledger, job_id: int) -> tuple[PackageOutcome, ...]:
    """Outcome of each package that a closing job is to report, in the order of the route.

    The same for as long as the closing job can run: a package that runs again takes the closing job out.
    """
    with ledger.reading() as session:
        closing = session.scalars(select(JobRow).where(JobRow.id == job_id)).one()
        return tuple(
            PackageOutcome(
                job.id,
                job.package,
                job.study_version,
                job.verdict or Verdict.FAILED,
                tuple(job.sentences),
                tuple(job.key_numbers),
                _references(job.results),
                (job.summary or {}).get("numbers", {}),
                (job.summary or {}).get("withheld", {}),
                tuple((job.summary or {}).get("reported", ())),
            )
            for job in packages_told(session, closing)
            if job.state not in _OPEN
        )


def predecessors(session: Session, row: JobRow) -> tuple[ResultReference, ...]:
    """Results of the same package and route that those of this attempt may take the place of, the oldest first.

    They are those of the last job before this one that has any, and those of earlier runs of this one. A job that ran
    when this one was made is among them: this one is not claimed before it has ended (``claim_job``).
    """
    earlier = session.scalar(
        select(JobRow)
        .where(
            JobRow.study_id == row.study_id,
            JobRow.route == row.route,
            JobRow.package == row.package,
            JobRow.id < row.id,
            # What began later cannot count: every attempt is to see the same.
            JobRow.started_at <= row.created_at,
            select(ResultRow.id).where(ResultRow.job_id == JobRow.id).exists(),
        )
        .order_by(JobRow.id.desc())
        .limit(1)
        .options(selectinload(JobRow.results))
    )
    return (*(_references(earlier.results) if earlier is not None else ()), *_references(row.results))


def _references(results: Sequence[ResultRow]) -> tuple[ResultReference, ...]:
    return tuple(
        ResultReference(
            one.role, one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid, one.series_description
        )
        for one in results
    )


def packages_told(session: Session, row: JobRow) -> list[JobRow]:
    """The jobs that a closing job lists: the latest of each package on the same input."""
    jobs = session.scalars(
        select(JobRow)
        .where(
            JobRow.study_id == row.study_id,
            JobRow.route == row.route,
            JobRow.package != FRONT_PAGE,
            JobRow.input_digest == row.input_digest,
            JobRow.state != JobState.SUPERSEDED,
            JobRow.inputs_removed_at.is_(None),
        )
        .order_by(JobRow.study_version, JobRow.id)
        .options(selectinload(JobRow.results))
    ).all()
    latest = {job.package: job for job in jobs}
    return sorted(latest.values(), key=lambda job: job.id)


def _has_other_inputs_later(session: Session, row: JobRow) -> bool:
    later = select(JobRow.id).where(
        JobRow.study_id == row.study_id,
        JobRow.route == row.route,
        JobRow.input_digest != row.input_digest,
        JobRow.study_version > row.study_version,
    )
    return session.scalar(later.limit(1)) is not None


def _identity(packages: Sequence[JobRow], version: int, revision: int) -> str:
    """Of a front page: whatever it says other than another one is part of it."""
    told = [
        [
            job.package,
            job.identity,
            job.verdict,
            job.sentences,
            job.key_numbers,
            [one.sop_instance_uid for one in job.results],
        ]
        for job in packages
    ]
    return hashlib.sha256(json.dumps([version, revision, told], sort_keys=True).encode()).hexdigest()
