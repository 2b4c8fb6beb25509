"""Which studies somebody means: by UID, by the beginning of one, by accession number, patient ID or sender."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import or_, select

from storage.ledger import Ledger
from storage.schema import SeriesRow, StudyAttributesRow, StudyRow

__all__ = ["find_studies", "studies_received_since"]


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
