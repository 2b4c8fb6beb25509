"""Which studies somebody means: by UID, by the beginning of one, by accession number, patient ID or sender."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import or_, select

from storage.ledger import Ledger
from storage.schema import AssociationStudy, DeliveryRow, JobRow, ResultRow, SeriesRow, StudyAttributesRow, StudyRow

__all__ = ["StudyIdentifiers", "find_studies", "studies_received_since", "study_identifiers"]


@dataclass(frozen=True, slots=True)
class StudyIdentifiers:
    """Under which names a study, and what was done with it, occurs elsewhere, as in the log."""

    study_instance_uid: str
    associations: frozenset[str]
    """Correlation ids of the associations that brought its images."""
    jobs: frozenset[int]
    correlation_ids: frozenset[str]
    """Of its jobs."""
    results: frozenset[str]
    """SOP Instance UIDs."""
    transactions: frozenset[str]
    """UIDs of the transactions of storage commitment of its results."""


def study_identifiers(ledger: Ledger, study_instance_uid: str) -> StudyIdentifiers:
    """The identifiers of a study and of what belongs to it; of an unknown one its UID alone."""
    with ledger.reading() as session:
        study = select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid).scalar_subquery()
        jobs = session.execute(select(JobRow.id, JobRow.correlation_id).where(JobRow.study_id == study)).all()
        of_jobs = select(ResultRow.id).join(JobRow, JobRow.id == ResultRow.job_id).where(JobRow.study_id == study)
        sent = select(DeliveryRow.transaction_uid).where(
            DeliveryRow.result_id.in_(of_jobs), DeliveryRow.transaction_uid.is_not(None)
        )
        return StudyIdentifiers(
            study_instance_uid,
            frozenset(
                session.scalars(select(AssociationStudy.association_id).where(AssociationStudy.study_id == study))
            ),
            frozenset(job for job, _ in jobs),
            frozenset(correlation_id for _, correlation_id in jobs),
            frozenset(session.scalars(select(ResultRow.sop_instance_uid).where(ResultRow.id.in_(of_jobs)))),
            frozenset(uid for uid in session.scalars(sent) if uid is not None),
        )


def studies_received_since(ledger: Ledger, since: dt.datetime, *, limit: int) -> tuple[str, ...]:
    """StudyInstanceUIDs of the studies received since, whose images are held, the latest first."""
    with ledger.reading() as session:
        return tuple(
            session.scalars(
                select(StudyRow.study_instance_uid)
                .where(StudyRow.last_received_at >= since, StudyRow.removed_at.is_(None))
                .order_by(StudyRow.last_received_at.desc(), StudyRow.id.desc())
                .limit(limit)
            )
        )


def find_studies(ledger: Ledger, text: str, *, limit: int = 20) -> tuple[str, ...]:
    """StudyInstanceUIDs of the studies that a text names, those received last first.

    Parameters
    ----------
    text
        A whole StudyInstanceUID, which then is the only answer; or the beginning of one, an AccessionNumber or a
        PatientID (of studies whose attributes are in the ledger), or the AE title of a sender.
    """
    beginning = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    with ledger.reading() as session:
        exact = session.scalar(select(StudyRow.study_instance_uid).where(StudyRow.study_instance_uid == text))
        if exact is not None:
            return (exact,)
        described = select(StudyAttributesRow.study_id).where(
            or_(
                StudyAttributesRow.patient_id == text,
                StudyAttributesRow.attributes["AccessionNumber"].as_string() == text,
            )
        )
        sent = select(SeriesRow.study_id).where(SeriesRow.calling_ae_title == text)
        found = session.scalars(
            select(StudyRow.study_instance_uid)
            .where(
                or_(
                    StudyRow.study_instance_uid.like(beginning, escape="\\"),
                    StudyRow.id.in_(described),
                    StudyRow.id.in_(sent),
                )
            )
            .order_by(StudyRow.last_received_at.desc(), StudyRow.id.desc())
            .limit(limit)
        )
        return tuple(found)
