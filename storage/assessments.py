"""Radiologists' verdicts on results: accepted, rejected, corrected. Nothing is overwritten; the latest counts.

A front page that went to receivers of messages is due there again when a verdict changes what they may use of it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from storage.closing import FRONT_PAGE, packages_told, told_of
from storage.deliveries import tell_again
from storage.ledger import Ledger, LedgerError, record_event
from storage.schema import AssessmentResult, AssessmentRow, JobRow, ResultRow, StudyRow, Verdict

__all__ = [
    "Assessment",
    "RejectedAnswers",
    "VerdictReceived",
    "assess",
    "assessments",
    "note_corrections",
    "note_verdicts",
    "rejected_answers",
]

_HAVE_RESULTS = (Verdict.DELIVERED, Verdict.PARTIAL)
_LONGEST_COMMENT = 500


@dataclass(frozen=True, slots=True)
class Assessment:
    """One radiologist's verdict on what one package made of one version of a study."""

    study_instance_uid: str
    study_version: int
    route: str
    package: str
    result: AssessmentResult
    comment: str
    by: str
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class VerdictReceived:
    """One verdict of an object that a peer sent: a rejection note, or an assessment document."""

    result: AssessmentResult
    by: str
    """Who judged."""
    comment: str
    """Kept with the verdict; the same for the same object, so that one that comes again is known."""
    judged: tuple[str, ...]
    """SOP Instance UIDs of the objects that it judges."""


@dataclass(frozen=True, slots=True)
class RejectedAnswers:
    """Which answers on a front page radiologists have rejected."""

    packages: tuple[str, ...]
    of_all: bool
    """Whether they are all that have results."""
    told_as: str
    """Names the last verdict that changed what may be used; empty where nothing was ever rejected."""


def assess(
    ledger: Ledger,
    job_id: int,
    result: AssessmentResult,
    *,
    comment: str,
    by: str,
    now: dt.datetime,
    receivers: Collection[str] = (),
) -> Assessment:
    """Keep a radiologist's verdict on the results of a job.

    Parameters
    ----------
    receivers
        Destinations that get a message for each front page.

    Raises
    ------
    LedgerError
        There is no such job, or it made no results that could be judged.
    """
    with ledger.transaction() as session:
        job = session.get(JobRow, job_id)
        if job is None:
            raise LedgerError(f"no job {job_id} in the ledger")
        if job.verdict not in _HAVE_RESULTS:
            raise LedgerError(f"job {job_id} made no results that could be judged")
        if job.package == FRONT_PAGE:
            raise LedgerError(f"job {job_id} made a front page, which is no answer: judge what it lists")
        return _assessment(_keep(session, job, result, comment, by, now, receivers))


def note_corrections(ledger: Ledger, job_id: int, corrections: Sequence[tuple[str, str]], *, now: dt.datetime) -> None:
    """Keep that somebody corrected what a package made before a job, once for each corrected object.

    Parameters
    ----------
    job_id
        The job that works on the corrected objects.
    corrections
        Who corrected, and SOP Instance UID of the corrected object.
    """
    with ledger.transaction() as session:
        job = session.get_one(JobRow, job_id)
        before = session.scalar(
            select(JobRow)
            .where(
                JobRow.study_id == job.study_id,
                JobRow.route == job.route,
                JobRow.package == job.package,
                JobRow.id < job.id,
                JobRow.verdict.in_(_HAVE_RESULTS),
            )
            .order_by(JobRow.id.desc())
            .limit(1)
        )
        if before is None:
            return
        for by, uid in corrections:
            comment = f"corrected SEG {uid}"
            if not _is_known(session, before, comment):
                _keep(session, before, AssessmentResult.CORRECTED, comment, by or "a corrected SEG", now)


def note_verdicts(
    ledger: Ledger,
    study_instance_uid: str,
    received: Sequence[VerdictReceived],
    *,
    now: dt.datetime,
    receivers: Collection[str] = (),
) -> int:
    """Keep what objects of other systems say of results of a study, once for each object and job.

    The closing job's front page is no answer of an analysis: an object that names nothing else judges nothing.

    Parameters
    ----------
    receivers
        Destinations that get a message for each front page.

    Returns
    -------
    int
        How many verdicts were new.
    """
    kept = 0
    with ledger.transaction() as session:
        for one in received:
            jobs = session.scalars(
                select(JobRow)
                .join(ResultRow, ResultRow.job_id == JobRow.id)
                .join(StudyRow, StudyRow.id == JobRow.study_id)
                .where(
                    StudyRow.study_instance_uid == study_instance_uid,
                    ResultRow.sop_instance_uid.in_(one.judged),
                    JobRow.package != FRONT_PAGE,
                    JobRow.verdict.in_(_HAVE_RESULTS),
                )
                .order_by(JobRow.id)
                .distinct()
            ).all()
            comment = one.comment[:_LONGEST_COMMENT]
            for job in jobs:
                if not _is_known(session, job, comment):
                    _keep(session, job, one.result, comment, one.by[:64], now, receivers)
                    kept += 1
    return kept


def rejected_answers(ledger: Ledger, job_id: int) -> RejectedAnswers:
    """Which of the answers that a closing job lists are rejected at present."""
    with ledger.reading() as session:
        told = packages_told(session, session.get_one(JobRow, job_id))
        standing = [(job, _standing(session, job)) for job in told if job.verdict in _HAVE_RESULTS]
        rejected = [job.package for job, given in standing if given and given[-1].result is AssessmentResult.REJECTED]
        ever = any(one.result is AssessmentResult.REJECTED for _, given in standing for one in given)
        last = max((given[-1].id for _, given in standing if given), default=0)
        return RejectedAnswers(tuple(rejected), len(rejected) == len(standing) > 0, str(last) if ever else "")


def _standing(session: Session, job: JobRow) -> Sequence[AssessmentRow]:
    """The verdicts that say whether results may be used, the latest last: a correction says that others follow."""
    return session.scalars(
        _of_job(job).where(AssessmentRow.result != AssessmentResult.CORRECTED).order_by(AssessmentRow.id)
    ).all()


def _of_job(job: JobRow) -> Select[AssessmentRow]:
    return select(AssessmentRow).where(
        AssessmentRow.study_instance_uid == job.study.study_instance_uid,
        AssessmentRow.study_version == job.study_version,
        AssessmentRow.route == job.route,
        AssessmentRow.package == job.package,
    )


def _is_known(session: Session, job: JobRow, comment: str) -> bool:
    known = select(AssessmentRow.id).where(
        AssessmentRow.study_instance_uid == job.study.study_instance_uid,
        AssessmentRow.route == job.route,
        AssessmentRow.package == job.package,
        AssessmentRow.comment == comment,
    )
    return session.scalar(known.limit(1)) is not None


def _keep(
    session: Session,
    job: JobRow,
    result: AssessmentResult,
    comment: str,
    by: str,
    now: dt.datetime,
    receivers: Collection[str] = (),
) -> AssessmentRow:
    before = _standing(session, job)
    was_rejected = bool(before) and before[-1].result is AssessmentResult.REJECTED
    row = AssessmentRow(
        study_instance_uid=job.study.study_instance_uid,
        study_version=job.study_version,
        route=job.route,
        package=job.package,
        result=result,
        comment=comment,
        by=by,
        at=now,
    )
    session.add(row)
    # The comment stays out of the events, which hold no patient data: a radiologist may name some.
    record_event(
        session,
        "results assessed",
        f"job {job.id}",
        at=now,
        correlation_id=job.correlation_id,
        study_id=job.study_id,
        route=job.route,
        package=job.package,
        result=result.value,
        by=by,
    )
    if result is not AssessmentResult.CORRECTED and (result is AssessmentResult.REJECTED) != was_rejected:
        tell_again(session, _front_pages(session, job), receivers, why=f"{job.package} {result.value}", now=now)
    return row


def _front_pages(session: Session, job: JobRow) -> set[str]:
    """SOP Instance UIDs of the front pages that tell of what a job came to."""
    closing = session.scalars(
        select(JobRow).where(JobRow.study_id == job.study_id, JobRow.route == job.route, JobRow.package == FRONT_PAGE)
    ).all()
    return {
        uid for one in closing if any(told.id == job.id for told in packages_told(session, one)) for uid in told_of(one)
    }


def assessments(ledger: Ledger, *, study_instance_uid: str | None = None) -> tuple[Assessment, ...]:
    """All verdicts, or those on one study, in the order they were given."""
    with ledger.reading() as session:
        query = select(AssessmentRow).order_by(AssessmentRow.id)
        if study_instance_uid is not None:
            query = query.where(AssessmentRow.study_instance_uid == study_instance_uid)
        return tuple(map(_assessment, session.scalars(query)))


def _assessment(row: AssessmentRow) -> Assessment:
    return Assessment(
        row.study_instance_uid, row.study_version, row.route, row.package, row.result, row.comment, row.by, row.at
    )
