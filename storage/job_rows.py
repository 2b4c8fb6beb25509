"""Steps that several transitions of a job share; each works within the transaction of its caller."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.ledger import record_event
from storage.schema import JobRow, JobState, StudyRow

__all__ = ["RetryAt", "has_later", "job_event", "leave", "lock_studies", "requeue", "supersede"]

RetryAt = Callable[[int], dt.datetime]
"""Attempts of a job so far, to the time from which it may be tried again."""


def lock_studies(session: Session, study_ids: Collection[int]) -> None:
    """Let nobody else end or make a job of these studies until the transaction ends.

    Always taken before any row of a job: whoever ends the last job of a version must see that the others have ended.
    """
    session.execute(
        select(StudyRow.id)
        .where(StudyRow.id.in_(sorted(study_ids)))
        .order_by(StudyRow.id)
        .with_for_update(key_share=True)
    ).all()


def leave(row: JobRow) -> None:
    """Clear the lease of a job: nobody holds it any more."""
    row.worker = row.lease = None


def supersede(session: Session, row: JobRow, now: dt.datetime) -> None:
    """Supersede a job: QUEUED or RUNNING → SUPERSEDED; a worker that has it finds its lease gone."""
    leave(row)
    row.state, row.ended_at = JobState.SUPERSEDED, now
    job_event(session, row, "job superseded", now)


def requeue(session: Session, row: JobRow, due_at: dt.datetime, now: dt.datetime) -> None:
    """Queue a job again: RUNNING or ended → QUEUED, or SUPERSEDED where the package has a job of a later version."""
    leave(row)
    if has_later(session, row):
        # Its results would reach the destinations after those of the whole study.
        supersede(session, row, now)
    else:
        row.state, row.due_at = JobState.QUEUED, due_at


def has_later(session: Session, row: JobRow) -> bool:
    """Whether the package has a job of a later version of the study."""
    later = select(JobRow.id).where(
        JobRow.study_id == row.study_id,
        JobRow.route == row.route,
        JobRow.package == row.package,
        (JobRow.study_version > row.study_version)
        | ((JobRow.study_version == row.study_version) & (JobRow.revision > row.revision)),
    )
    return session.scalar(later.limit(1)) is not None


def job_event(session: Session, row: JobRow, kind: str, at: dt.datetime, **detail: Any) -> None:
    """Add the event row of a transition of a job."""
    record_event(
        session,
        kind,
        f"job {row.id}",
        at=at,
        correlation_id=row.correlation_id,
        study_id=row.study_id,
        route=row.route,
        package=row.package,
        version=row.study_version,
        **detail,
    )
