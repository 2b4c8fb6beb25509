"""Which storage directory a ledger belongs to: both carry one identity, and refuse each other without it.

The identity is drawn once, when a ledger and a directory first meet. A ledger that was lost, mistyped or restored from
elsewhere, a directory that is not mounted, and a second node with another directory on the same ledger are found out by
it before anything is touched.
"""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.bucket import BucketError
from storage.bucket_files import BucketFiles
from storage.files import InstanceFiles
from storage.ledger import Ledger, LedgerError, record_event
from storage.schema import InstanceRow, LedgerIdentityRow, ResultRow
from storage.uploads import hold_all

__all__ = ["IdentityError", "bind", "identity_of", "is_bound", "rebind"]

_LOOKED_AT = 1000
"""Files of a ledger without an identity, the latest, that are looked for in a directory without one."""


class IdentityError(LedgerError):
    """The ledger and the storage directory do not belong together; nothing was changed in either."""


def bind(ledger: Ledger, files: InstanceFiles, *, now: dt.datetime) -> None:
    """Make sure that a ledger and a directory belong together; both get an identity when neither has one.

    Raises
    ------
    IdentityError
        They do not belong together.
    """
    if isinstance(files, BucketFiles):
        with files.binding():
            _bind_bucket(ledger, files, now)
        return
    if (bucket := files.bucket_before()) is not None:
        raise IdentityError(
            f"the instance files of this storage directory are in {bucket}: give back storage.bucket; to be without "
            "it, make a backup with it and restore that"
        )
    if identity_of(ledger) is not None and is_bound(ledger, files):
        return
    # Hosts of one node may meet a new ledger and a new directory at the same time: the second finds what the first did.
    with files.binding():
        _bind_unless_bound(ledger, files, now)


def _bind_bucket(ledger: Ledger, files: BucketFiles, now: dt.datetime) -> None:
    ours, here = identity_of(ledger), files.own_identity()
    try:
        there = files.identity()
    except BucketError:
        if ours is not None and here == ours and files.bucket_before() == str(files.bucket):
            # As it was when it was served last: a bucket that is away keeps nobody from sending.
            return
        raise
    if ours is not None and files.next_identity() == ours and there in (None, ours) and here in (None, ours):
        # An earlier life died before all had it.
        files.take_identity()
    elif ours is None and there is None and here is None:
        _refuse_strangers(ledger, files)
        _bind(ledger, files, uuid.uuid4().hex, now)
    elif ours is None:
        raise IdentityError(
            "the bucket or the storage directory belongs to another ledger than this one, which is new or was "
            "mistyped: give back its ledger; if that is lost, `dicom-node adopt` reads the files into this one"
        )
    elif here not in (None, ours) or there not in (None, ours):
        raise IdentityError(
            "ledger, bucket and storage directory do not belong to one node: correct storage.database, storage.bucket "
            "or storage.directory"
        )
    elif there is None and (here is None or files.bucket_before() is not None):
        raise IdentityError(
            f"{files.bucket} is not the bucket of this ledger (its files are in "
            f"{files.bucket_before() or 'the directory of another host, which has to be started first'}): correct "
            "storage.bucket"
        )
    elif here is None and next(files.front_paths(), None) is not None:
        raise IdentityError("the storage directory holds files and has no identity: move them away")
    elif there is None or here is None or files.bucket_before() != str(files.bucket):
        # A host that is new, a bucket that was copied, or a node that had none: then its directory has everything.
        if there is None:
            assert files.held_by is not None
            hold_all(ledger, files.held_by)
        files.propose_identity(ours)
        files.take_identity()


def _bind_unless_bound(ledger: Ledger, files: InstanceFiles, now: dt.datetime) -> None:
    ours, theirs = identity_of(ledger), files.identity()
    if ours is not None and theirs is None and files.next_identity() == ours:
        # An earlier life died between the commit and the last rename.
        files.take_identity()
        return
    if ours is None and theirs is None:
        _refuse_strangers(ledger, files)
        _bind(ledger, files, uuid.uuid4().hex, now)
        return
    if ours == theirs:
        return
    if ours is None:
        assert theirs is not None
        if any(files.size_of(path) is not None for path in _named(ledger)):
            # Restored from a backup of a version that gave no identity.
            _bind(ledger, files, theirs, now)
            return
        raise IdentityError(
            "the storage directory belongs to another ledger than this one, which is new or was mistyped: give back "
            "its ledger; if that is lost, `dicom-node adopt` reads the files into this one"
        )
    if theirs is None:
        raise IdentityError(
            "the ledger belongs to another storage directory than this one, which is new, mistyped or not mounted: "
            "give back its directory; if that is lost, `dicom-node adopt` gives the ledger this one"
        )
    raise IdentityError(
        "the ledger and the storage directory belong to two different nodes: correct storage.database or "
        "storage.directory"
    )


def is_bound(ledger: Ledger, files: InstanceFiles) -> bool:
    """Whether the ledger and the directory carry the same identity, or neither has one yet."""
    return identity_of(ledger) == files.identity()


def rebind(ledger: Ledger, files: InstanceFiles, *, now: dt.datetime) -> None:
    """Make a ledger and a directory belong together, whatever they belonged to before, because a person says so.

    Raises
    ------
    IdentityError
        The ledger names files, and the directory holds none of them but others: both are somebody's.
    """
    named = _named(ledger)
    if named and any(files.stored_paths()) and not any(files.size_of(path) is not None for path in named):
        raise IdentityError(
            "the ledger names files, and the storage directory holds none of them but others: both are of nodes of "
            "their own; correct storage.database or storage.directory"
        )
    with files.binding():
        _bind(ledger, files, identity_of(ledger) or files.identity() or uuid.uuid4().hex, now)


def _refuse_strangers(ledger: Ledger, files: InstanceFiles) -> None:
    """Both are of a version that gave no identity, or new."""
    named = _named(ledger)
    if not named and any(files.stored_paths()):
        raise IdentityError(
            "the storage directory holds files and the ledger names none: give back the ledger of this directory; if "
            "that is lost, `dicom-node adopt` reads the files into this one"
        )
    if named and not any(files.size_of(path) is not None for path in named):
        raise IdentityError(
            "the ledger names files and the storage directory holds none of them: give back the directory of this "
            "ledger; if that is lost, `dicom-node adopt` gives the ledger this one"
        )


def _named(ledger: Ledger) -> list[str]:
    with ledger.reading() as session:
        named: list[str] = []
        for row in (InstanceRow, ResultRow):
            named += session.scalars(
                select(row.path).where(row.removed_at.is_(None)).order_by(row.id.desc()).limit(_LOOKED_AT)
            )
        return named


def identity_of(ledger: Ledger) -> str | None:
    """The identity that a ledger carries: 32 hexadecimal digits, drawn at random; none before it met a directory."""
    with ledger.reading() as session:
        return session.scalar(select(LedgerIdentityRow.identity))


def _bind(ledger: Ledger, files: InstanceFiles, identity: str, now: dt.datetime) -> None:
    # First the intention on disk, then the commit, then the name: whatever is cut off is finished by `bind`.
    files.propose_identity(identity)
    with ledger.transaction() as session:
        _write(session, identity, now)
    files.take_identity()


def _write(session: Session, identity: str, now: dt.datetime) -> None:
    row = session.get(LedgerIdentityRow, 1, with_for_update=True)
    if row is None:
        session.add(LedgerIdentityRow(id=1, identity=identity, bound_at=now))
        # Two nodes that meet the ledger at once: the second finds the row.
        session.flush()
    elif row.identity != identity:
        raise IdentityError("another node took this ledger at the same time: give each node a ledger of its own")
    record_event(session, "ledger bound", identity, at=now)
