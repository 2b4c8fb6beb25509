"""Reception: associations, instances and quarantined objects."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import Table, select, update
from sqlalchemy.orm import Session

from storage.ledger import Ledger, LedgerError, insert_if_absent, record_event
from storage.schema import Association, AssociationStudy, InstanceRow, QuarantineRow, SeriesRow, StudyRow

__all__ = [
    "QuarantinedObject",
    "ReceivedInstance",
    "Reception",
    "close_abandoned_associations",
    "close_association",
    "open_association",
    "record_instance",
    "record_quarantine",
    "stored_digest",
]


class Reception(enum.Enum):
    """What the ledger made of an instance."""

    NEW = "new"
    DUPLICATE = "duplicate"
    """The same bytes are already recorded: Success, nothing new."""
    CONFLICT = "conflict"
    """The SOP Instance UID is taken by other bytes: the first is kept, this one belongs in quarantine."""


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """An instance whose file is already on disk."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    path: str
    """Relative to the storage directory."""
    size: int
    association_id: str
    calling_ae_title: str
    modality: str
    series_description: str
    study_description: str
    manufacturer: str
    body_part_examined: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What completeness needs of it, as JSON; empty while nobody has read it, see :mod:`storage.facts`."""


@dataclass(frozen=True, slots=True)
class QuarantinedObject:
    """Bytes that were kept aside, and why."""

    digest: str
    path: str
    reason: str
    """A sentence for the operator; no patient data."""
    sop_instance_uid: str | None = None
    association_id: str | None = None
    job_id: int | None = None


def open_association(
    ledger: Ledger, *, calling_ae_title: str, called_ae_title: str, address: str, at: dt.datetime, receiver: str
) -> str:
    """Record that a peer opened an association; returns its id, the correlation id of all that follows.

    Parameters
    ----------
    receiver
        Name of the receiver process, the same after a restart: see :func:`close_abandoned_associations`.
    """
    association_id = uuid.uuid4().hex
    with ledger.transaction() as session:
        session.add(
            Association(
                id=association_id,
                receiver=receiver,
                calling_ae_title=calling_ae_title,
                called_ae_title=called_ae_title,
                address=address,
                opened_at=at,
            )
        )
    return association_id


def close_association(ledger: Ledger, association_id: str, *, outcome: str, at: dt.datetime) -> None:
    """Record the end of an association (``released``, ``aborted``, …); a second call changes nothing."""
    with ledger.transaction() as session:
        session.execute(
            update(Association)
            .where(Association.id == association_id, Association.closed_at.is_(None))
            .values(closed_at=at, outcome=outcome[:64])
        )


def close_abandoned_associations(ledger: Ledger, receiver: str, *, at: dt.datetime) -> int:
    """Close what an earlier life of this receiver process left open; returns how many there were.

    Parameters
    ----------
    receiver
        Name of the process; or, ending in ``/``, the beginning of the names of all receivers of a node.
    """
    name = Association.receiver
    mine = name.startswith(receiver, autoescape=True) if receiver.endswith("/") else name == receiver
    with ledger.transaction() as session:
        abandoned = session.scalars(select(Association).where(mine, Association.closed_at.is_(None))).all()
        for association in abandoned:
            association.closed_at, association.outcome = at, "receiver died"
            record_event(session, "association abandoned", association.id, at=at, correlation_id=association.id)
        return len(abandoned)


def stored_digest(ledger: Ledger, sop_instance_uid: str) -> str | None:
    """Digest of the instance recorded under a SOP Instance UID, if any."""
    with ledger.reading() as session:
        return session.scalar(select(InstanceRow.digest).where(InstanceRow.sop_instance_uid == sop_instance_uid))


def record_instance(ledger: Ledger, instance: ReceivedInstance, *, at: dt.datetime) -> Reception:
    """Take an instance into the record, in one commit; after it the sender may be told Success.

    Safe under parallel associations of one study. An instance whose file was removed by retention counts as new when
    it comes again.

    Raises
    ------
    LedgerError
        The association is not in the ledger.
    """
    with ledger.transaction() as session:
        return _record(session, instance, at)


def record_instances(ledger, instances, *, at):
    with ledger.transaction() as session:
        return [_record(session, one, at) for one in instances]


def _record(session, instance, at):
    if True:
        held = _held(session, instance.sop_instance_uid)
        if held is None:
            study = _study(session, instance, at)
            if study.last_association_id != instance.association_id:
                _check_association(session, instance.association_id)
            series_id = _series_id(session, study.id, instance)
            if _insert_instance(session, series_id, instance, at):
                _arrived(session, study, instance, at)
                return Reception.NEW
            held = _held(session, instance.sop_instance_uid)
            assert held is not None
        if held.digest != instance.digest:
            record_event(
                session,
                "instance conflict",
                instance.sop_instance_uid,
                at=at,
                correlation_id=instance.association_id,
                study_id=held.series.study_id,
                digest=instance.digest,
            )
            return Reception.CONFLICT
        if held.removed_at is None:
            # A sender that repeats a study is still in mid-association for it.
            _link(session, held.series.study_id, instance.association_id)
            return Reception.DUPLICATE
        study = held.series.study
        session.refresh(study, with_for_update={"key_share": True})
        held = session.get_one(InstanceRow, held.id, populate_existing=True)
        if held.removed_at is None:
            _link(session, study.id, instance.association_id)
            return Reception.DUPLICATE
        held.removed_at = held.study_version = None
        held.path, held.association_id, held.received_at = instance.path, instance.association_id, at
        study.removed_at = None
        _arrived(session, study, instance, at)
        return Reception.NEW


def _held(session: Session, sop_instance_uid: str) -> InstanceRow | None:
    return session.scalar(select(InstanceRow).where(InstanceRow.sop_instance_uid == sop_instance_uid))


def _locked_study(session: Session, study_instance_uid: str) -> StudyRow | None:
    # The row of a study is locked before any other, here and wherever a study changes, so that nobody waits in a
    # circle; and with FOR NO KEY UPDATE, which leaves the foreign keys of others alone.
    return session.scalar(
        select(StudyRow).where(StudyRow.study_instance_uid == study_instance_uid).with_for_update(key_share=True)
    )


def _study(session: Session, instance: ReceivedInstance, at: dt.datetime) -> StudyRow:
    study = _locked_study(session, instance.study_instance_uid)
    if study is not None:
        return study
    _check_association(session, instance.association_id)
    insert_if_absent(
        session,
        cast(Table, StudyRow.__table__),
        {
            "study_instance_uid": instance.study_instance_uid,
            "version": 0,
            "first_received_at": at,
            "last_received_at": at,
            "last_association_id": instance.association_id,
        },
    )
    study = _locked_study(session, instance.study_instance_uid)
    assert study is not None
    _link(session, study.id, instance.association_id)
    return study


def _series_id(session: Session, study_id: int, instance: ReceivedInstance) -> int:
    known = select(SeriesRow.id).where(
        SeriesRow.study_id == study_id, SeriesRow.series_instance_uid == instance.series_instance_uid
    )
    series_id = session.scalar(known)
    if series_id is not None:
        return series_id
    insert_if_absent(
        session,
        cast(Table, SeriesRow.__table__),
        {
            "study_id": study_id,
            "series_instance_uid": instance.series_instance_uid,
            "calling_ae_title": instance.calling_ae_title,
            "modality": _text(instance.modality, 16),
            "series_description": _text(instance.series_description, 64),
            "study_description": _text(instance.study_description, 64),
            "manufacturer": _text(instance.manufacturer, 64),
            "body_part_examined": _text(instance.body_part_examined, 16),
        },
    )
    return session.scalars(known).one()


def _text(value: str, length: int) -> str:
    # PostgreSQL refuses NUL in text; senders pad with it.
    return value.replace("\0", "").strip()[:length]


def _insert_instance(session: Session, series_id: int, instance: ReceivedInstance, at: dt.datetime) -> bool:
    return insert_if_absent(
        session,
        cast(Table, InstanceRow.__table__),
        {
            "series_id": series_id,
            "sop_instance_uid": instance.sop_instance_uid,
            "sop_class_uid": instance.sop_class_uid,
            "transfer_syntax_uid": instance.transfer_syntax_uid,
            "digest": instance.digest,
            "path": instance.path,
            "size": instance.size,
            "association_id": instance.association_id,
            "received_at": at,
            "facts": dict(instance.facts),
        },
    )


def _link(session: Session, study_id: int, association_id: str) -> None:
    _check_association(session, association_id)
    insert_if_absent(
        session,
        cast(Table, AssociationStudy.__table__),
        {"association_id": association_id, "study_id": study_id},
    )


def _check_association(session: Session, association_id: str) -> None:
    if session.get(Association, association_id) is None:
        raise LedgerError(f"association {association_id} was never opened")


def _arrived(session: Session, study: StudyRow, instance: ReceivedInstance, at: dt.datetime) -> None:
    study.last_received_at = max(study.last_received_at, at)
    if study.last_association_id != instance.association_id:
        # Else the study's row says that the two are linked: most images follow one of the same association.
        _link(session, study.id, instance.association_id)
        study.last_association_id = instance.association_id
    record_event(
        session,
        "instance received",
        instance.sop_instance_uid,
        at=at,
        correlation_id=instance.association_id,
        study_id=study.id,
    )


def record_quarantine(ledger: Ledger, quarantined: QuarantinedObject, *, at: dt.datetime) -> None:
    """Record an object that was kept aside; the same bytes for the same reason are recorded once."""
    with ledger.transaction() as session:
        insert_if_absent(
            session,
            cast(Table, QuarantineRow.__table__),
            {
                "digest": quarantined.digest,
                "path": quarantined.path,
                "reason": quarantined.reason[:200],
                "sop_instance_uid": quarantined.sop_instance_uid,
                "association_id": quarantined.association_id,
                "job_id": quarantined.job_id,
                "at": at,
            },
        )
        record_event(
            session,
            "object quarantined",
            quarantined.sop_instance_uid or quarantined.digest,
            at=at,
            correlation_id=quarantined.association_id,
            reason=quarantined.reason,
        )
