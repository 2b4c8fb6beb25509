"""What was measured of the same patient before, in studies that the node still holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from storage.closing import FRONT_PAGE
from storage.ledger import Ledger
from storage.schema import JobRow, JobState, StudyAttributesRow, StudyRow

__all__ = ["EarlierStudy", "earlier_study"]

_SAME = ("IssuerOfPatientID", "PatientBirthDate")
"""Who has the same PatientID and differs in one of these is another person."""


@dataclass(frozen=True, slots=True)
class EarlierStudy:
    """An earlier study of a patient, with the numbers that its jobs kept."""

    study_instance_uid: str
    study_date: str
    numbers: tuple[Mapping[str, Any], ...]
    """As the summaries of its jobs have them under ``reported``."""


def earlier_study(ledger: Ledger, study_instance_uid: str) -> EarlierStudy | None:
    """The last study of the same patient before a study, among those whose files are held and that have numbers.

    Both must be described (:func:`storage.holdings.describe_study`).
    """
    own_study, own = aliased(StudyRow), aliased(StudyAttributesRow)
    with ledger.reading() as session:
        attributes = session.scalar(
            select(own.attributes)
            .join(own_study, own_study.id == own.study_id)
            .where(own_study.study_instance_uid == study_instance_uid)
        )
        if attributes is None or not attributes.get("PatientID") or not attributes.get("StudyDate"):
            return None
        others = session.execute(
            select(StudyRow.id, StudyRow.study_instance_uid, StudyAttributesRow.attributes)
            .join(StudyAttributesRow, StudyAttributesRow.study_id == StudyRow.id)
            .where(
                StudyRow.removed_at.is_(None),
                StudyRow.study_instance_uid != study_instance_uid,
                StudyAttributesRow.patient_id == attributes["PatientID"],
            )
        ).all()
        when = _when(attributes)
        before = [
            (_when(row.attributes), row)
            for row in others
            if row.attributes.get("StudyDate")
            and _when(row.attributes) < when
            and all(attributes.get(key, "") == row.attributes.get(key, "") for key in _SAME)
        ]
        for _, row in sorted(before, key=lambda one: one[0], reverse=True):
            numbers = _numbers(session, row.id)
            if numbers:
                return EarlierStudy(row.study_instance_uid, row.attributes["StudyDate"], numbers)
    return None


def _when(attributes: Mapping[str, str]) -> tuple[str, str]:
    return attributes.get("StudyDate", ""), attributes.get("StudyTime", "")


def _numbers(session: Session, study_id: int) -> tuple[Mapping[str, Any], ...]:
    """Of the last job of each package that succeeded."""
    jobs = session.scalars(
        select(JobRow)
        .where(JobRow.study_id == study_id, JobRow.state == JobState.SUCCEEDED, JobRow.package != FRONT_PAGE)
        .order_by(JobRow.study_version, JobRow.id)
    )
    latest = {job.package: (job.summary or {}).get("reported", ()) for job in jobs}
    return tuple(number for numbers in latest.values() for number in numbers)
