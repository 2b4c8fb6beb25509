"""Removing what the ledger let go of, where instance files are in a bucket: see :mod:`storage.retention`.

The bucket is swept by whoever sweeps for the node; what lies before it on the disk of a host, by that host.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import TypeVar

from sqlalchemy import delete, select

from storage.bucket_files import BucketFiles
from storage.ledger import Ledger, record_event
from storage.retention import Swept, check_bound, named_paths
from storage.schema import InstanceRow, ReleasedFileRow

__all__ = ["part_of_the_day", "sweep_bucket", "sweep_front"]

_T = TypeVar("_T")

OBJECTS_A_TRANSACTION = 20
"""Scanners whose images come again wait for each."""
PARTS = 24
"""A bucket of a million images is a thousand requests to list: an hour takes the next part, a day all of it."""


def part_of_the_day(now: dt.datetime) -> tuple[str, ...]:
    """The folders of digests, each of two hexadecimal digits, whose turn it is in this hour; a day has all 256."""
    hour = int(now.timestamp() // 3600) % PARTS
    return tuple(f"{number:02x}" for number in range(hour, 256, PARTS))


def sweep_bucket(
    ledger: Ledger,
    files: BucketFiles,
    *,
    grace: dt.timedelta,
    now: dt.datetime,
    shards: Sequence[str] | None = None,
) -> Swept:
    """Remove the objects that the ledger let go of; move those aside that nothing explains.

    What the ledger let go of is known without a listing. The bucket is listed for what nothing explains: all of it, or
    those folders of digests that are given. What was let go of is forgotten only after twice the grace: the hosts know
    it until then, when they sweep theirs.

    Raises
    ------
    IdentityError
        The bucket is not the ledger's: nothing was touched.
    BucketError
        The bucket is away; some may be removed.
    """
    check_bound(ledger, files)
    with files.sweeping() as alone:
        if not alone:
            return Swept(0, 0)
        than, stored = now - grace, list(files.bucket_names(shards))
        named = named_paths(ledger)
        with ledger.reading() as session:
            released = {row.path: row.at for row in session.scalars(select(ReleasedFileRow))}
        gone = _remove(ledger, files, [path for path in released if path not in named], than)
        # In use again, or removed everywhere; what was let go of anew since then is of a later time, and stays.
        done = [(path, at) for path, at in released.items() if path in named or (path in gone and at < than - grace)]
        for part in _parts(done):
            with ledger.transaction() as session:
                for path, at in part:
                    session.execute(
                        delete(ReleasedFileRow).where(ReleasedFileRow.path == path, ReleasedFileRow.at == at)
                    )
        aside = [path for path, at in stored if path not in named and path not in released and at < than]
        for path in aside:
            files.set_object_aside(path)
    _tell_of_aside(ledger, aside, "bucket", now)
    return Swept(len(gone), len(aside))


def _remove(ledger: Ledger, files: BucketFiles, paths: list[str], than: dt.datetime) -> set[str]:
    gone: set[str] = set()
    for part in _parts(paths):
        with ledger.transaction() as session:
            # Held to the end: who uploads one of these names takes its row first, and so comes after this.
            held = set(
                session.scalars(select(ReleasedFileRow.path).where(ReleasedFileRow.path.in_(part)).with_for_update())
            )
            gone.update(path for path in part if path in held and files.remove_object_if_older(path, than))
    return gone


def sweep_front(ledger: Ledger, files: BucketFiles, *, grace: dt.timedelta, now: dt.datetime) -> Swept:
    """Sweep what lies before the bucket on this host: what was uploaded goes, and what was let go of.

    What lies here of results and quarantine, from a time before there was a bucket, is uploaded first.

    Raises
    ------
    IdentityError
        The bucket is not the ledger's: nothing was touched.
    BucketError
        The bucket is away; nothing more was removed.
    """
    check_bound(ledger, files)
    than = now - grace
    front = [str(path) for path in files.front_paths()]
    named = named_paths(ledger)
    with ledger.reading() as session:
        waiting = set(session.scalars(select(InstanceRow.path).where(InstanceRow.held_by.is_not(None))))
        released = set(session.scalars(select(ReleasedFileRow.path)))
    removed, aside = 0, []
    for path in front:
        if path in waiting:
            continue
        if path in named:
            # What a row says of the bucket is believed only when it is seen there: this is the other copy.
            if files.bucket.size_of(path) is None:
                files.upload(path)
            removed += files.remove_if_older(path, than)
        elif path in released:
            removed += files.remove_if_older(path, than)
        elif files.set_aside_if_older(path, than):
            aside.append(path)
    _tell_of_aside(ledger, aside, f"storage directory of {files.held_by}", now)
    waste = sum(files.remove_if_older(path, than) for path in files.incoming_paths())
    return Swept(removed + waste, len(aside))


def _tell_of_aside(ledger: Ledger, aside: list[str], where: str, now: dt.datetime) -> None:
    if aside:
        with ledger.transaction() as session:
            record_event(session, "files set aside", where, at=now, files=len(aside), for_example=aside[0])


def _parts(items: list[_T]) -> Iterator[list[_T]]:
    for start in range(0, len(items), OBJECTS_A_TRANSACTION):
        yield items[start : start + OBJECTS_A_TRANSACTION]
