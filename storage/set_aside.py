"""Studies that the scheduler could not read: set aside, with the reason, until they change or a day has passed."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import select

from storage.jobs import WaitingStudy
from storage.ledger import Ledger, record_event
from storage.schema import EventRow, StudyRow

__all__ = ["SetAside", "set_study_aside", "why_set_aside"]

_KIND = "study set aside"


@dataclass(frozen=True, slots=True)
class SetAside:
    """That a study is passed over by the scheduler, since when and why."""

    at: dt.datetime
    reason: str
    """For people; no patient data."""


def set_study_aside(ledger: Ledger, study: WaitingStudy, reason: str, *, now: dt.datetime) -> None:
    """Record that a study cannot be scheduled as it is."""
    with ledger.transaction() as session:
        row = session.scalars(select(StudyRow).where(StudyRow.study_instance_uid == study.study_instance_uid)).one()
        record_event(
            session,
            _KIND,
            row.study_instance_uid,
            at=now,
            correlation_id=row.last_association_id,
            study_id=row.id,
            reason=reason,
            **_state(study),
        )


def why_set_aside(ledger: Ledger, study: WaitingStudy) -> SetAside | None:
    """Why a study was set aside as it is now; ``None`` when it was not, or has changed since."""
    with ledger.reading() as session:
        last = session.scalars(
            select(EventRow)
            .join(StudyRow, StudyRow.id == EventRow.study_id)
            .where(StudyRow.study_instance_uid == study.study_instance_uid, EventRow.kind == _KIND)
            .order_by(EventRow.id.desc())
            .limit(1)
        ).one_or_none()
    if last is None or any(last.detail.get(key) != value for key, value in _state(study).items()):
        return None
    return SetAside(last.at, str(last.detail["reason"]))


def _state(study: WaitingStudy) -> dict[str, int | str]:
    """What changes when something comes in for a study, also in the place of something else, or a version is closed."""
    return {
        "version": study.version,
        "waiting": study.instances,
        "last_received_at": study.last_received_at.isoformat(),
    }
