"""What the node holds: instances whose files are there, for storage commitment, queries and retrieval."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, exists, func, select
from sqlalchemy.orm import Session, aliased

from storage.identifiers import NOBODY, Issuer, PatientIdentifier, StudyIdentity
from storage.ledger import Ledger, insert_if_absent
from storage.schema import InstanceRow, SeriesRow, StudyAttributesRow, StudyRow

__all__ = [
    "HeldInstance",
    "HeldSeries",
    "HeldStudy",
    "UndescribedStudy",
    "count_instances",
    "describe_study",
    "held_instances",
    "held_series",
    "held_studies",
    "identity_of_study",
    "undescribed_studies",
]


@dataclass(frozen=True, slots=True)
class HeldInstance:
    """One instance that was received and not removed since."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: str
    """Relative to the storage directory."""
    size: int
    """Of the file, bytes."""
    held_by: str | None
    """Host whose disk alone has it; none once it is in its place."""


@dataclass(frozen=True, slots=True)
class HeldSeries:
    """One series of which instances are held."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    path: str
    """One of its files, relative to the storage directory."""


@dataclass(frozen=True, slots=True)
class HeldStudy:
    """One study of which instances are held, with what :func:`describe_study` wrote of it."""

    study_instance_uid: str
    attributes: Mapping[str, str]
    """By DICOM keyword: patient data."""
    modalities: tuple[str, ...]
    series: int


@dataclass(frozen=True, slots=True)
class UndescribedStudy:
    """A study whose attributes nobody has asked for yet."""

    id: int
    path: str
    """One of its files, relative to the storage directory."""


_held = exists().where(InstanceRow.series_id == SeriesRow.id, InstanceRow.removed_at.is_(None))


def undescribed_studies(ledger: Ledger, study_instance_uid: str | None = None) -> tuple[UndescribedStudy, ...]:
    """Held studies whose attributes are not in the ledger; all of them, or one if it is among them."""
    first = (
        select(func.min(InstanceRow.id))
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(SeriesRow.study_id == StudyRow.id, InstanceRow.removed_at.is_(None))
        .correlate(StudyRow)
        .scalar_subquery()
    )
    shown = aliased(InstanceRow)
    query = (
        select(StudyRow.id, shown.path)
        .join(shown, shown.id == first)
        .where(StudyRow.removed_at.is_(None), ~exists().where(StudyAttributesRow.study_id == StudyRow.id))
        .order_by(StudyRow.id)
    )
    if study_instance_uid is not None:
        query = query.where(StudyRow.study_instance_uid == study_instance_uid)
    with ledger.reading() as session:
        return tuple(UndescribedStudy(*row) for row in session.execute(query))


def describe_study(
    ledger: Ledger,
    study_id: int,
    attributes: Mapping[str, str],
    *,
    read_from: str | None = None,
    identity: StudyIdentity | None = None,
) -> bool:
    """Keep the attributes of a study, ``PatientID`` among them, until its files are removed.

    Parameters
    ----------
    read_from
        File that they were read from, relative to the storage directory.
    identity
        What an order is held against, the patient's other numbers among it; PatientID alone and its issuer, where that
        is not known.

    Returns
    -------
    bool
        False, and nothing kept, when that file is not of the study any more: a correction may have changed the patient
        while it was read.
    """
    with ledger.transaction() as session:
        # Corrections, deletions and retention lock the study as well.
        session.execute(select(StudyRow.id).where(StudyRow.id == study_id).with_for_update(key_share=True))
        still = select(InstanceRow.id).where(
            InstanceRow.series_id.in_(select(SeriesRow.id).where(SeriesRow.study_id == study_id)),
            InstanceRow.path == read_from,
            InstanceRow.removed_at.is_(None),
        )
        if read_from is not None and session.scalar(still.limit(1)) is None:
            return False
        insert_if_absent(
            session,
            cast(Table, StudyAttributesRow.__table__),
            {
                "study_id": study_id,
                "patient_id": attributes.get("PatientID", ""),
                "attributes": dict(attributes),
                "identity": {} if identity is None else _as_json(identity),
            },
        )
        return True


def _as_json(identity: StudyIdentity) -> dict[str, Any]:
    issuer = identity.accession_issuer
    return {
        "patients": [[one.number, one.issuer.namespace, one.issuer.universal_id] for one in identity.patients],
        "accession_issuer": [issuer.namespace, issuer.universal_id],
    }


def identity_of_study(row: StudyAttributesRow) -> StudyIdentity:
    """What a described study states of whose it is; of one that an earlier version described, its PatientID alone."""
    if row.identity:
        return StudyIdentity(
            tuple(PatientIdentifier(number, Issuer(*issuer)) for number, *issuer in row.identity["patients"]),
            Issuer(*row.identity["accession_issuer"]),
        )
    number = row.attributes.get("PatientID", "")
    issuer = Issuer(row.attributes.get("IssuerOfPatientID", ""))
    return StudyIdentity((PatientIdentifier(number, issuer),) if number else (), NOBODY)


def held_studies(
    ledger: Ledger,
    *,
    study_instance_uids: Collection[str] | None = None,
    patient_id: str | None = None,
) -> tuple[HeldStudy, ...]:
    """Described studies, in the order received; all of them unless UIDs or a PatientID are given."""
    query = (
        select(StudyRow.id, StudyRow.study_instance_uid, StudyAttributesRow.attributes)
        .join(StudyAttributesRow, StudyAttributesRow.study_id == StudyRow.id)
        .where(StudyRow.removed_at.is_(None))
        .order_by(StudyRow.id)
    )
    if study_instance_uids is not None:
        query = query.where(StudyRow.study_instance_uid.in_(study_instance_uids))
    if patient_id is not None:
        query = query.where(StudyAttributesRow.patient_id == patient_id)
    with ledger.reading() as session:
        studies = session.execute(query).all()
        modalities: dict[int, list[str]] = {}
        of_these: ColumnElement[bool] = _held
        if study_instance_uids is not None or patient_id is not None:
            of_these = _held & SeriesRow.study_id.in_([row.id for row in studies])
        for study_id, modality in session.execute(
            select(SeriesRow.study_id, SeriesRow.modality).where(of_these).order_by(SeriesRow.id)
        ):
            modalities.setdefault(study_id, []).append(modality)
        return tuple(
            HeldStudy(
                study_instance_uid=row.study_instance_uid,
                attributes=row.attributes,
                modalities=tuple(dict.fromkeys(one for one in modalities[row.id] if one)),
                series=len(modalities[row.id]),
            )
            for row in studies
            if row.id in modalities
        )


def held_series(ledger: Ledger, study_instance_uid: str) -> tuple[HeldSeries, ...]:
    """Series of a study, in the order received."""
    first = (
        select(func.min(InstanceRow.id))
        .where(InstanceRow.series_id == SeriesRow.id, InstanceRow.removed_at.is_(None))
        .correlate(SeriesRow)
        .scalar_subquery()
    )
    with ledger.reading() as session:
        rows = session.execute(
            select(StudyRow.study_instance_uid, SeriesRow.series_instance_uid, SeriesRow.modality, InstanceRow.path)
            .join(SeriesRow, SeriesRow.study_id == StudyRow.id)
            .join(InstanceRow, InstanceRow.id == first)
            .where(StudyRow.study_instance_uid == study_instance_uid)
            .order_by(SeriesRow.id)
        )
        return tuple(HeldSeries(*row) for row in rows)


def count_instances(ledger: Ledger, *, study_instance_uid: str, series_instance_uid: str | None = None) -> int:
    """How many instances of a study, or of one of its series, are held."""
    query = (
        select(func.count(InstanceRow.id))
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(InstanceRow.removed_at.is_(None), StudyRow.study_instance_uid == study_instance_uid)
    )
    if series_instance_uid is not None:
        query = query.where(SeriesRow.series_instance_uid == series_instance_uid)
    with ledger.reading() as session:
        return session.scalar(query) or 0


def held_instances(
    session: Session,
    *,
    study_instance_uids: Collection[str] | None = None,
    series_instance_uids: Collection[str] | None = None,
    sop_instance_uids: Collection[str] | None = None,
    limit: int | None = None,
) -> list[HeldInstance]:
    """Instances in the order received; each given set of UIDs must hold the one of the instance."""
    query = (
        select(InstanceRow, SeriesRow.series_instance_uid, StudyRow.study_instance_uid)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(InstanceRow.removed_at.is_(None))
        .order_by(InstanceRow.id)
        .limit(limit)
    )
    for column, wanted in (
        (StudyRow.study_instance_uid, study_instance_uids),
        (SeriesRow.series_instance_uid, series_instance_uids),
        (InstanceRow.sop_instance_uid, sop_instance_uids),
    ):
        if wanted is not None:
            query = query.where(column.in_(wanted))
    return [
        HeldInstance(
            study_instance_uid=study,
            series_instance_uid=series,
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            path=row.path,
            size=row.size,
            held_by=row.held_by,
        )
        for row, series, study in session.execute(query)
    ]
