"""Radiologists' verdicts on results: accepted, rejected, corrected. Nothing is overwritten; the latest counts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.closing import FRONT_PAGE
from storage.ledger import Ledger, LedgerError, record_event
from storage.schema import AssessmentResult, AssessmentRow, JobRow, ResultRow, StudyRow, Verdict

__all__ = ["Assessment", "RejectionReceived", "assess", "assessments", "note_corrections", "note_rejections"]


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
class RejectionReceived:
    """One rejection note that a peer sent."""

    sop_instance_uid: str
    calling_ae_title: str
    meaning: str
    """Of its title."""
    rejected: tuple[str, ...]
    """SOP Instance UIDs that it names."""


def assess(
    ledger: Ledger, job_id: int, result: AssessmentResult, *, comment: str, by: str, now: dt.datetime
) -> Assessment:
    """Keep a radiologist's verdict on the results of a job.

    Raises
    ------
    LedgerError
        There is no such job, or it made no results that could be judged.
    """
    with ledger.transaction() as session:
        job = session.get(JobRow, job_id)
        if job is None:
            raise LedgerError(f"no job {job_id} in the ledger")
        if job.verdict not in (Verdict.DELIVERED, Verdict.PARTIAL):
            raise LedgerError(f"job {job_id} made no results that could be judged")
        return _assessment(_keep(session, job, result, comment, by, now))


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
                JobRow.verdict.in_((Verdict.DELIVERED, Verdict.PARTIAL)),
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


def note_rejections(
    ledger: Ledger, study_instance_uid: str, received: Sequence[RejectionReceived], *, now: dt.datetime
) -> int:
    """Keep that results of a study were rejected elsewhere, once for each note and job; how many verdicts were new.

    The closing job's front page is no answer of an analysis: a note that names nothing else judges nothing.
    """
    kept = 0
    with ledger.transaction() as session:
        for note in received:
            jobs = session.scalars(
                select(JobRow)
                .join(ResultRow, ResultRow.job_id == JobRow.id)
                .join(StudyRow, StudyRow.id == JobRow.study_id)
                .where(
                    StudyRow.study_instance_uid == study_instance_uid,
                    ResultRow.sop_instance_uid.in_(note.rejected),
                    JobRow.package != FRONT_PAGE,
                    JobRow.verdict.in_((Verdict.DELIVERED, Verdict.PARTIAL)),
                )
                .order_by(JobRow.id)
                .distinct()
            ).all()
            comment = f"rejection note {note.sop_instance_uid}: {note.meaning}"
            for job in jobs:
                if not _is_known(session, job, comment):
                    _keep(session, job, AssessmentResult.REJECTED, comment, note.calling_ae_title, now)
                    kept += 1
    return kept


def _is_known(session: Session, job: JobRow, comment: str) -> bool:
    known = select(AssessmentRow.id).where(
        AssessmentRow.study_instance_uid == job.study.study_instance_uid,
        AssessmentRow.route == job.route,
        AssessmentRow.package == job.package,
        AssessmentRow.comment == comment,
    )
    return session.scalar(known.limit(1)) is not None


def _keep(
    session: Session, job: JobRow, result: AssessmentResult, comment: str, by: str, now: dt.datetime
) -> AssessmentRow:
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
    return row


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
