"""Taking other bytes in place of those that the ledger holds under a SOP Instance UID: a correction by the sender."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Table, delete, select
from sqlalchemy.orm import Session

from storage.files import InstanceFiles, StoredFile
from storage.instances import ReceivedInstance, series_values
from storage.ledger import Ledger, insert_if_absent, record_event
from storage.retention import release_files
from storage.schema import (
    AssociationStudy,
    InstanceRow,
    QuarantineRow,
    ReleasedFileRow,
    SeriesRow,
    StudyAttributesRow,
    StudyRow,
)

__all__ = ["INSTANCE_REPLACED", "REPLACED", "replace_instance"]

INSTANCE_REPLACED = "instance replaced"
"""Event: other bytes of a study stand in for what was held."""

REPLACED = "replaced by other bytes under the same SOP Instance UID"
"""Reason under which quarantine keeps what was held before."""


@dataclass(frozen=True, slots=True)
class _Held:
    id: int
    study_instance_uid: str
    file: StoredFile
    present: bool


def replace_instance(ledger: Ledger, files: InstanceFiles, one: ReceivedInstance, *, by: str, now: dt.datetime) -> bool:
    """Let an instance whose file is on disk stand in for the one that is held under its SOP Instance UID.

    What was held goes to quarantine. The instance waits to be scheduled: the study gets a new version, whose results
    make those of the earlier ones void.

    Parameters
    ----------
    by
        Who wants it: the calling AE title, or an account.

    Returns
    -------
    bool
        False, and nothing changed, when nothing is held under this SOP Instance UID, or in another study: an instance
        does not move from one study to another.

    Raises
    ------
    OSError
        No room or no access; nothing changed.
    """
    while True:
        held = _held(ledger, one.sop_instance_uid)
        if held is None or held.study_instance_uid != one.study_instance_uid:
            return False
        if held.file.digest == one.digest:
            return True
        # Linked before the commit: the bytes that were acknowledged first are never without a name.
        kept = files.copy_to_quarantine(held.file) if held.present else None
        with ledger.transaction() as session:
            if _replace(session, held, one, kept, files.held_by, by, now):
                return True


def _held(ledger: Ledger, sop_instance_uid: str) -> _Held | None:
    with ledger.reading() as session:
        row = session.execute(
            select(InstanceRow, StudyRow.study_instance_uid)
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(InstanceRow.sop_instance_uid == sop_instance_uid)
        ).one_or_none()
        if row is None:
            return None
        instance, study_instance_uid = row
        file = StoredFile(instance.path, instance.digest, instance.size)
        return _Held(instance.id, study_instance_uid, file, instance.removed_at is None)


def _replace(
    session: Session,
    held: _Held,
    one: ReceivedInstance,
    kept: StoredFile | None,
    held_by: str | None,
    by: str,
    now: dt.datetime,
) -> bool:
    study = session.scalars(
        select(StudyRow).where(StudyRow.study_instance_uid == one.study_instance_uid).with_for_update(key_share=True)
    ).one()
    row = session.get(InstanceRow, held.id, with_for_update=True)
    if row is None or row.digest != held.file.digest or (row.removed_at is None) != held.present:
        # Replaced, removed or deleted meanwhile.
        return False
    if kept is not None:
        insert_if_absent(
            session,
            cast(Table, QuarantineRow.__table__),
            {
                "digest": kept.digest,
                "path": kept.path,
                "reason": REPLACED,
                "sop_instance_uid": one.sop_instance_uid,
                "association_id": row.association_id,
                "at": now,
            },
        )
        release_files(session, select(InstanceRow.path).where(InstanceRow.id == row.id), now=now)
    row.series_id = _series(session, study, one)
    row.sop_class_uid, row.transfer_syntax_uid = one.sop_class_uid, one.transfer_syntax_uid
    row.digest, row.path, row.size, row.held_by = one.digest, one.path, one.size, held_by
    row.association_id, row.received_at, row.facts = one.association_id, now, dict(one.facts)
    if row.study_version is not None:
        study.instances -= 1
    row.study_version = row.removed_at = study.removed_at = None
    study.last_association_id = one.association_id
    # Its conflict let go of the file that is named from now on.
    session.execute(delete(ReleasedFileRow).where(ReleasedFileRow.path == one.path))
    # They are read anew from what is held now.
    session.execute(delete(StudyAttributesRow).where(StudyAttributesRow.study_id == study.id))
    insert_if_absent(
        session,
        cast(Table, AssociationStudy.__table__),
        {"association_id": one.association_id, "study_id": study.id},
    )
    record_event(
        session,
        INSTANCE_REPLACED,
        one.sop_instance_uid,
        at=now,
        correlation_id=one.association_id,
        study_id=study.id,
        before=held.file.digest,
        after=one.digest,
        by=by,
    )
    return True


def _series(session: Session, study: StudyRow, one: ReceivedInstance) -> int:
    values = series_values(study.id, one)
    insert_if_absent(session, cast(Table, SeriesRow.__table__), values)
    series = session.scalars(
        select(SeriesRow).where(
            SeriesRow.study_id == study.id, SeriesRow.series_instance_uid == one.series_instance_uid
        )
    ).one()
    for key, value in values.items():
        setattr(series, key, value)
    session.flush()
    return series.id
