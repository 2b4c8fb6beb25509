"""What the node holds: instances whose files are there, for storage commitment, queries and retrieval."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.schema import InstanceRow, SeriesRow, StudyRow

__all__ = ["HeldInstance", "held_instances"]


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
        )
        for row, series, study in session.execute(query)
    ]
