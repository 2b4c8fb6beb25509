"""What of the instances is not in the bucket yet, and its upload.

An upload is: take back that the ledger let go of a file of this name, if it did; put the object; note that it is there.
The first waits while a sweep removes objects of the same name (:mod:`storage.bucket_sweep`), so no sweep removes what
is put after it. Each step may be done again.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update

from storage.ledger import Ledger
from storage.schema import InstanceRow, ReleasedFileRow, SeriesRow, StudyRow

__all__ = [
    "HeldByHost",
    "Upload",
    "await_uploaded",
    "begin_uploads",
    "end_uploads",
    "held_by_hosts",
    "hold_all",
    "studies_being_uploaded",
    "uploads_due",
]

_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Upload:
    """An instance whose file is on the disk of a host only."""

    instance_id: int
    path: str
    received_at: dt.datetime
    """Tells this arrival of the instance from a later one."""


@dataclass(frozen=True, slots=True)
class HeldByHost:
    """How many instances a host has that the bucket has not."""

    host: str
    instances: int
    since: dt.datetime
    """When the oldest of them came in."""


def uploads_due(ledger: Ledger, host: str | None, *, limit: int, passed_over: Collection[int] = ()) -> list[Upload]:
    """Instances that a host is to upload, the oldest first.

    Parameters
    ----------
    host
        ``None`` for those of all hosts: one that has the same bytes may upload them instead of one that is gone.
    passed_over
        Ids of instances that cannot be uploaded now.
    """
    whose = InstanceRow.held_by.is_not(None) if host is None else InstanceRow.held_by == host
    query = (
        select(InstanceRow.id, InstanceRow.path, InstanceRow.received_at)
        .where(whose, InstanceRow.removed_at.is_(None), InstanceRow.id.not_in(passed_over))
        .order_by(InstanceRow.id)
        .limit(limit)
    )
    with ledger.reading() as session:
        return [Upload(*row) for row in session.execute(query)]


def begin_uploads(ledger: Ledger, uploads: Sequence[Upload]) -> None:
    """Take back that the ledger let go of files that are about to be uploaded; a sweep that removes them ends first."""
    paths = [one.path for one in uploads]
    with ledger.reading() as session:
        if session.scalar(select(ReleasedFileRow.path).where(ReleasedFileRow.path.in_(paths)).limit(1)) is None:
            # Nearly always. A sweep that removes any of them keeps the rows until after it has.
            return
    with ledger.transaction() as session:
        session.execute(delete(ReleasedFileRow).where(ReleasedFileRow.path.in_(paths)))


def end_uploads(ledger: Ledger, uploads: Sequence[Upload]) -> None:
    """Note that instances are in the bucket, unless they were removed, or came anew, meanwhile."""
    with ledger.transaction() as session:
        for one in uploads:
            session.execute(
                update(InstanceRow)
                .where(
                    InstanceRow.id == one.instance_id,
                    InstanceRow.path == one.path,
                    InstanceRow.received_at == one.received_at,
                )
                .values(held_by=None)
            )


def hold_all(ledger: Ledger, host: str) -> int:
    """Note that a host alone has all instances, because the node had no bucket until now; returns how many."""
    with ledger.transaction() as session:
        ids = session.scalars(
            update(InstanceRow).where(InstanceRow.removed_at.is_(None)).values(held_by=host).returning(InstanceRow.id)
        ).all()
        return len(ids)


def held_by_hosts(ledger: Ledger) -> tuple[HeldByHost, ...]:
    """What is not uploaded yet, by host."""
    query = (
        select(InstanceRow.held_by, func.count(), func.min(InstanceRow.received_at))
        .where(InstanceRow.held_by.is_not(None), InstanceRow.removed_at.is_(None))
        .group_by(InstanceRow.held_by)
        .order_by(InstanceRow.held_by)
    )
    with ledger.reading() as session:
        return tuple(HeldByHost(str(host), count, since) for host, count, since in session.execute(query))


def studies_being_uploaded(ledger: Ledger) -> frozenset[str]:
    """Study Instance UIDs of those of which only one host has instances: others could not read them."""
    query = (
        select(StudyRow.study_instance_uid)
        .join(SeriesRow, SeriesRow.study_id == StudyRow.id)
        .join(InstanceRow, InstanceRow.series_id == SeriesRow.id)
        .where(InstanceRow.held_by.is_not(None), InstanceRow.removed_at.is_(None))
        .distinct()
    )
    with ledger.reading() as session:
        return frozenset(session.scalars(query))


def await_uploaded(ledger: Ledger, patience_s: float, *, but_of: str | None) -> bool:
    """Wait until no other host than one has what the bucket has not; false when it is not in time."""
    until = time.monotonic() + patience_s
    while any(one.host != but_of for one in held_by_hosts(ledger)):
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_S)
    return True
