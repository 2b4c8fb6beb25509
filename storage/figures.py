"""Outcomes of the analyses, job by job, for the figures of a site. No patient data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select

from storage.closing import FRONT_PAGE
from storage.ledger import Ledger
from storage.schema import JobRow, SeriesRow, Verdict

__all__ = ["EndedJob", "ended_jobs"]


@dataclass(frozen=True, slots=True)
class EndedJob:
    """The last job of one package on one study and route."""

    package: str
    at: dt.datetime
    """When its study version was closed."""
    scanner: str
    """Who sent the first of its series, and who made the scanner."""
    verdict: Verdict
    numbers: Mapping[str, float]
    key_numbers: tuple[str, ...]


def ended_jobs(ledger: Ledger, since: dt.datetime, *, limit: int = 20_000) -> tuple[EndedJob, ...]:
    """Outcomes of packages since a time, the latest first; of a study analysed several times the last counts.

    Studies that retention has forgotten (``storage.history_days``) are not among them.
    """
    with ledger.reading() as session:
        rows = session.execute(
            select(
                JobRow.study_id,
                JobRow.route,
                JobRow.package,
                JobRow.created_at,
                JobRow.verdict,
                JobRow.summary,
                JobRow.key_numbers,
                JobRow.series_instance_uids,
            )
            .where(JobRow.created_at >= since, JobRow.verdict.is_not(None), JobRow.package != FRONT_PAGE)
            .order_by(JobRow.created_at.desc(), JobRow.id.desc())
            .limit(limit)
        ).all()
        last = {(row.study_id, row.route, row.package): row for row in reversed(rows)}
        studies = {row.study_id for row in rows}
        scanners: dict[tuple[int, str], str] = {}
        for study_id, uid, title, manufacturer in session.execute(
            select(
                SeriesRow.study_id, SeriesRow.series_instance_uid, SeriesRow.calling_ae_title, SeriesRow.manufacturer
            ).where(SeriesRow.study_id.in_(studies))
        ):
            scanners[study_id, uid] = f"{title} ({manufacturer})" if manufacturer else title
        found = []
        for row in last.values():
            first = row.series_instance_uids[0] if row.series_instance_uids else ""
            numbers = (row.summary or {}).get("numbers", {})
            scanner = scanners.get((row.study_id, first), "unknown")
            found.append(EndedJob(row.package, row.created_at, scanner, row.verdict, numbers, tuple(row.key_numbers)))
        return tuple(sorted(found, key=lambda one: one.at, reverse=True))
