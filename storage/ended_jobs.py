"""Jobs in the order they ended, for notifications."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, or_, select

from storage.closing import FRONT_PAGE
from storage.ledger import Ledger
from storage.schema import JobRow, StudyAttributesRow, StudyRow, Verdict

__all__ = ["EndedJob", "jobs_ended"]


@dataclass(frozen=True, slots=True)
class EndedJob:
    """One job of an analysis package that came to a verdict."""

    id: int
    study_instance_uid: str
    attributes: Mapping[str, str]
    """By DICOM keyword, as far as the study is described: patient data."""
    route: str
    package: str
    verdict: Verdict
    sentences: tuple[str, ...]
    numbers: tuple[Mapping[str, Any], ...]
    ended_at: dt.datetime


def jobs_ended(
    ledger: Ledger, *, after: tuple[dt.datetime, int], until: dt.datetime, limit: int = 200
) -> tuple[EndedJob, ...]:
    """Jobs that ended after a moment and a job, the first first.

    Parameters
    ----------
    after
        When the last one ended that is known, and its id.
    until
        Some seconds ago: what ended before may be committed after what ended later.
    """
    moment, job_id = after
    query = (
        select(JobRow, StudyRow.study_instance_uid, StudyAttributesRow.attributes)
        .join(StudyRow, StudyRow.id == JobRow.study_id)
        .outerjoin(StudyAttributesRow, StudyAttributesRow.study_id == StudyRow.id)
        .where(
            JobRow.package != FRONT_PAGE,
            JobRow.verdict.is_not(None),
            JobRow.ended_at <= until,
            or_(JobRow.ended_at > moment, and_(JobRow.ended_at == moment, JobRow.id > job_id)),
        )
        .order_by(JobRow.ended_at, JobRow.id)
        .limit(limit)
    )
    with ledger.reading() as session:
        return tuple(
            EndedJob(
                row.id,
                study,
                attributes or {},
                row.route,
                row.package,
                row.verdict,
                tuple(row.sentences),
                tuple((row.summary or {}).get("reported", ())),
                row.ended_at,
            )
            for row, study, attributes in session.execute(query)
            if row.verdict is not None and row.ended_at is not None
        )
