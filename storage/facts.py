"""Facts of instances, read from their files when somebody first asks about their study.

Reading a header takes longer than receiving the image, and nobody needs it before the association has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from storage.ledger import Ledger
from storage.schema import InstanceRow, SeriesRow, StudyRow

__all__ = ["UnreadInstance", "record_facts", "unread_instances"]


@dataclass(frozen=True, slots=True)
class UnreadInstance:
    """An instance of which the ledger holds no facts yet."""

    id: int
    path: str
    """Relative to the storage directory."""


def unread_instances(ledger: Ledger, study_instance_uid: str) -> tuple[UnreadInstance, ...]:
    """Present instances of a study whose facts are still to be read, whether or not a version holds them already."""
    with ledger.reading() as session:
        rows = session.execute(
            select(InstanceRow.id, InstanceRow.path, InstanceRow.facts)
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(
                StudyRow.study_instance_uid == study_instance_uid,
                InstanceRow.removed_at.is_(None),
            )
            .order_by(InstanceRow.id)
        )
        return tuple(UnreadInstance(row.id, row.path) for row in rows if not row.facts)


def record_facts(ledger: Ledger, read: Sequence[tuple[UnreadInstance, Mapping[str, Any]]]) -> None:
    """Keep what was read of some instances."""
    with ledger.transaction() as session:
        session.execute(update(InstanceRow), [{"id": instance.id, "facts": dict(facts)} for instance, facts in read])
