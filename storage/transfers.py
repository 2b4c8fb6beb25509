"""What each association brought, read by the audit trail, which tells each once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from storage.ledger import Ledger
from storage.schema import Association, AssociationStudy, EventRow, InstanceRow, SeriesRow, StudyRow

__all__ = [
    "EndedAssociation",
    "ReceivedStudy",
    "note_as_told",
    "pass_over_untold",
    "received_by",
    "untold_associations",
]


@dataclass(frozen=True, slots=True)
class ReceivedStudy:
    """What one association brought of one study."""

    study_instance_uid: str
    instances: Mapping[str, int]
    """SOP Class UID to number of instances that were new; empty when all it sent was held already, or was quarantined
    because other bytes were held under its UIDs."""
    path: str | None
    """Of one instance of the study, relative to the storage directory."""


@dataclass(frozen=True, slots=True)
class EndedAssociation:
    """An association that brought something, and has ended."""

    id: str
    receiver: str
    calling_ae_title: str
    called_ae_title: str
    address: str
    closed_at: dt.datetime
    outcome: str
    studies: tuple[ReceivedStudy, ...]


def untold_associations(ledger: Ledger, limit: int, receivers: str = "") -> tuple[EndedAssociation, ...]:
    """Associations that ended and were not noted as told, in the order they ended.

    Parameters
    ----------
    receivers
        What the names of the receivers that served them begin with.
    """
    untold = Association.audited_at.is_(None) & Association.closed_at.is_not(None)
    if receivers:
        untold &= Association.receiver.startswith(receivers, autoescape=True)
    with ledger.reading() as session:
        rows = session.scalars(
            select(Association).where(untold).order_by(Association.closed_at, Association.id).limit(limit)
        ).all()
        return tuple(
            EndedAssociation(
                row.id,
                row.receiver,
                row.calling_ae_title,
                row.called_ae_title,
                row.address,
                row.closed_at,
                row.outcome or "",
                _studies(session, row.id),
            )
            for row in rows
            if row.closed_at is not None
        )


def _studies(session: Session, association_id: str) -> tuple[ReceivedStudy, ...]:
    sent_to = select(AssociationStudy.study_id).where(AssociationStudy.association_id == association_id)
    # Other bytes under known UIDs were taken too, if only into quarantine.
    conflicted = select(EventRow.study_id).where(
        EventRow.correlation_id == association_id, EventRow.kind == "instance conflict"
    )
    studies = session.execute(
        select(StudyRow.id, StudyRow.study_instance_uid)
        .where(StudyRow.id.in_(sent_to.union(conflicted)))
        .order_by(StudyRow.id)
    ).all()
    return tuple(
        ReceivedStudy(
            uid,
            dict(
                session.execute(
                    select(InstanceRow.sop_class_uid, func.count())
                    .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
                    .where(SeriesRow.study_id == study_id, InstanceRow.association_id == association_id)
                    .group_by(InstanceRow.sop_class_uid)
                ).all()
            ),
            session.scalar(
                select(InstanceRow.path)
                .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
                .where(SeriesRow.study_id == study_id, InstanceRow.removed_at.is_(None))
                .limit(1)
            ),
        )
        for study_id, uid in studies
    )


def note_as_told(ledger: Ledger, associations: Collection[str], *, at: dt.datetime) -> None:
    """Note that the audit trail holds what these associations brought."""
    with ledger.transaction() as session:
        session.execute(update(Association).where(Association.id.in_(associations)).values(audited_at=at))


def pass_over_untold(ledger: Ledger) -> int:
    """Note all ended associations as told, because there is no audit trail to tell them; returns how many there were.

    Else they would pile up in what the audit trail asks for every second, and be told, years of them, when one begins.
    """
    with ledger.transaction() as session:
        passed = session.scalars(
            update(Association)
            .where(Association.audited_at.is_(None), Association.closed_at.is_not(None))
            .values(audited_at=Association.closed_at)
            .returning(Association.id)
        ).all()
        return len(passed)


def received_by(ledger: Ledger, role: str, *, since: dt.datetime) -> tuple[str, ...]:
    """Study Instance UIDs of what receivers of one name (the part after ``/``) brought since a time."""
    with ledger.reading() as session:
        return tuple(
            session.scalars(
                select(StudyRow.study_instance_uid)
                .join(AssociationStudy, AssociationStudy.study_id == StudyRow.id)
                .join(Association, Association.id == AssociationStudy.association_id)
                .where(Association.opened_at >= since, Association.receiver.endswith(f"/{role}"))
                .distinct()
                .order_by(StudyRow.study_instance_uid)
            )
        )
