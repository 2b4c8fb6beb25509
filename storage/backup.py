"""A copy of a ledger and of every file that it names, taken while the node runs, and put back into an empty place.

The ledger is copied first, as it was at one moment; then the files that this copy names. Every file lies under its
final name before a row names it, and nothing is swept while a backup runs: whatever was acknowledged before the backup
began is in it. Files in a bucket are downloaded, and put back into one. A backup holds the ledger as an SQLite file
whatever database it came from, so that it can be put back into either. ``backup.json`` is written last: without it a
backup is not whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, Connection, Table, bindparam, delete, func, insert, select, text, update

from storage.bucket_files import BucketFiles
from storage.files import DIRECTORY_MODE, FILE_MODE, InstanceFiles, flush_directory
from storage.jobs import release_worker
from storage.journal import await_filed, unfiled
from storage.leases import leases_of
from storage.ledger import Ledger, LedgerError, open_ledger, record_event
from storage.schema import Base, HostRow, InstanceRow, LedgerIdentityRow, QuarantineRow, ResultRow
from storage.uploads import await_uploaded

__all__ = ["BackupError", "BackupRecord", "Restored", "back_up", "read_backup", "restore"]

LEDGER = "ledger.sqlite"
FILES = "files"
RECORD = "backup.json"
FILED_S = 30.0
"""How long a backup waits for what is in the journals of receivers."""
FORMAT = 1
ROWS_A_STATEMENT = 1000

DigestOf = Callable[[Path], str | None]
"""Digest of the content of an instance file, as its name gives it; ``None`` for a file that cannot be read as one."""


class BackupError(LedgerError):
    """A backup cannot be made there, or be put back from there; nothing was changed."""


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """What a backup holds.

    Attributes
    ----------
    identity : str
        Of the ledger and the storage directory (:mod:`storage.identity`).
    began_at : datetime
        What was acknowledged before is in the backup.
    ledger_sha256 : str
        Of the file of the ledger.
    files, size
        Number of instance files, and their bytes.
    linked : int
        How many of them are further names of the node's own files: they guard against deletion, not against the loss of
        the disk.
    missing, damaged : tuple of str
        Files that the ledger names and that were not there, or whose content is not what their name says.
    unfiled : int
        Images that had been acknowledged and are not in the backup, because the journals they lay in were not filed in
        time; a few of them may have come after it began.
    """

    format: int
    identity: str
    began_at: dt.datetime
    ended_at: dt.datetime
    software: str
    ledger_sha256: str
    files: int
    size: int
    linked: int
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    unfiled: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back."""

    identity: str
    began_at: dt.datetime
    """When the backup began."""
    files: int
    size: int
    missing: tuple[str, ...]
    """Files that the ledger names and the backup lacks."""
    damaged: tuple[str, ...]
    """Files of the backup whose content is not what their name says: they were not put back."""


def back_up(
    ledger: Ledger,
    files: InstanceFiles,
    target: Path,
    *,
    digest_of: DigestOf,
    software: str,
    clock: Callable[[], dt.datetime],
    link: bool = True,
) -> BackupRecord:
    """Copy a ledger and every file that it names; the node may run.

    Parameters
    ----------
    target
        An absent or empty folder.
    digest_of
        Verifies each copy.
    software
        Version of the node, for the record.
    clock
        The present, aware.
    link
        Give files a further name where the target is on their disk, instead of copying their bytes.

    Raises
    ------
    BackupError
        The target is not empty, or the ledger and the directory have no identity.
    OSError
        The target cannot be written.
    """
    began_at = clock()
    left = 0 if await_filed(files.root, FILED_S) else unfiled(files.root)[0]
    await_uploaded(ledger, FILED_S, but_of=files.held_by)
    with ledger.reading() as session:
        identity = session.scalar(select(LedgerIdentityRow.identity))
    if identity is None or identity != files.identity():
        raise BackupError("the ledger and the storage directory do not belong together: start the node once")
    _make_empty(target)
    # A sweep that runs ends first; none begins before the backup has ended.
    with files.unswept():
        copy = target / LEDGER
        with contextlib.closing(open_ledger(f"sqlite:///{copy}")) as kept:
            _fill_ledger(ledger, kept)
            named = _named_files(kept)
        _settle(copy)
        copied = _copy_files(_bringing(files, link=link), target / FILES, named, digest_of)
    record = BackupRecord(
        FORMAT, identity, began_at, clock(), software, _sha256(copy), copied.files, copied.size, copied.linked,
        copied.missing, copied.damaged, left,
    )  # fmt: skip
    _write_record(target, record)
    with ledger.transaction() as session:
        record_event(
            session,
            "backup made",
            identity,
            at=record.ended_at,
            files=record.files,
            missing=len(record.missing),
            damaged=len(record.damaged),
            unfiled=record.unfiled,
        )
    return record


def read_backup(source: Path) -> BackupRecord:
    """What a backup says it holds.

    Raises
    ------
    BackupError
        It is no backup, not whole, of a later version, or its ledger is not the one that was written.
    """
    try:
        values = json.loads((source / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackupError(f"{source} is no backup, or one that did not end: it has no readable {RECORD}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise BackupError(f"{source} was written by another version of this software: restore it with that")
    times = {key: dt.datetime.fromisoformat(values[key]) for key in ("began_at", "ended_at")}
    record = BackupRecord(
        **{**values, **times, "missing": tuple(values["missing"]), "damaged": tuple(values["damaged"])}
    )
    try:
        same = _sha256(source / LEDGER) == record.ledger_sha256
    except OSError:
        same = False
    if not same:
        raise BackupError(f"the ledger in {source} is damaged: its checksum is not the one that was recorded")
    return record


def restore(
    source: Path,
    database: str,
    files: InstanceFiles,
    *,
    digest_of: DigestOf,
    clock: Callable[[], dt.datetime],
) -> Restored:
    """Put a backup back: into an empty database and an empty storage directory, which no node may serve.

    The files come first and the ledger after them; the directory gets its identity last. A restoration that was cut off
    leaves a place that no node serves and into which nothing is restored: empty it, and begin again.

    Parameters
    ----------
    database
        URL of the ledger, SQLite or PostgreSQL; migrated to this version.

    Raises
    ------
    BackupError
        The backup cannot be used, or the target is not empty.
    OSError
        The target cannot be written.
    sqlalchemy.exc.SQLAlchemyError
        The database cannot be reached.
    """
    record = read_backup(source)
    if files.identity() is not None or any(files.stored_paths()):
        raise BackupError(f"{files.root} is not empty: restore into a new directory, or move that one away")
    with contextlib.closing(open_ledger(database)) as ledger:
        with ledger.engine.connect().execution_options(reads_only=True) as connection:
            filled = [one.name for one in Base.metadata.sorted_tables if connection.execute(select(one).limit(1)).all()]
        if filled:
            raise BackupError(
                f"the database is not empty (it has rows in {', '.join(filled)}): restore into a new one, or move that "
                "one away"
            )
    # The backup stays as it is: opening a ledger migrates it.
    with tempfile.TemporaryDirectory(prefix="restore-", dir=files.root) as folder:
        copy = Path(folder) / LEDGER
        shutil.copyfile(source / LEDGER, copy)
        with contextlib.closing(open_ledger(f"sqlite:///{copy}")) as kept:
            with kept.reading() as session:
                identity = session.scalar(select(LedgerIdentityRow.identity))
            if identity != record.identity:
                raise BackupError(f"the ledger in {source} is of another node than {RECORD} says")
            _give_back_jobs(kept, clock)
            _place_all(kept)
            named = _named_files(kept)
            copied = _copy_files(lambda path, copy: _copy(source / FILES / path, copy), files.root, named, digest_of)
            if isinstance(files, BucketFiles):
                _upload(files, named)
            files.propose_identity(identity)
            with contextlib.closing(open_ledger(database)) as ledger:
                _fill_ledger(kept, ledger)
                with ledger.transaction() as session:
                    record_event(
                        session,
                        "restored from backup",
                        identity,
                        at=clock(),
                        began_at=record.began_at.isoformat(),
                        files=copied.files,
                        missing=len(copied.missing),
                        damaged=len(copied.damaged),
                    )
    files.take_identity()
    return Restored(identity, record.began_at, copied.files, copied.size, copied.missing, copied.damaged)


def _give_back_jobs(ledger: Ledger, clock: Callable[[], dt.datetime]) -> None:
    """Nobody holds the jobs that ran when the backup was made, and it was no fault of theirs."""
    for worker in {lease.worker for lease in leases_of(ledger)}:
        why = "the ledger was restored from a backup"
        release_worker(ledger, worker, why, counted=False, now=clock(), retry_at=lambda _attempts: clock())


# -- files -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Copied:
    files: int = 0
    size: int = 0
    linked: int = 0
    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


def _make_empty(target: Path) -> None:
    new = [one for one in (target, *target.parents) if not one.exists()]
    target.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
    # A backup survives a power cut only if the names of all folders on the way to it do.
    for folder in dict.fromkeys(one.parent for one in new):
        flush_directory(folder)
    if any(target.iterdir()):
        raise BackupError(f"{target} is not empty: name a new folder for each backup")


def _named_files(ledger: Ledger) -> list[str]:
    """Paths of all files that a ledger names, sorted."""
    with ledger.reading() as session:
        found = {
            *session.scalars(select(InstanceRow.path).where(InstanceRow.removed_at.is_(None))),
            *session.scalars(select(ResultRow.path).where(ResultRow.removed_at.is_(None))),
            *session.scalars(select(QuarantineRow.path)),
        }
    return sorted(found - {""})


_Bring = Callable[[str, Path], bool]
"""Makes the copy of a file, by its path in the ledger; tells whether it is a further name of the node's own file."""


def _bringing(files: InstanceFiles, *, link: bool) -> _Bring:
    def bring(path: str, copy: Path) -> bool:
        original = files.absolute(path)
        if isinstance(files, BucketFiles) and not original.exists():
            # Past the cache, which it would only fill.
            files.bucket.get(path, copy)
            _secure(copy)
            return False
        if link and _linked(original, copy):
            return True
        return _copy(original, copy)

    return bring


def _upload(files: BucketFiles, paths: list[str]) -> None:
    for path in paths:
        # What is missing or damaged in the backup is not there.
        if files.absolute(path).exists():
            files.upload(path)
            files.absolute(path).unlink()


def _place_all(ledger: Ledger) -> None:
    """All files are put where they belong: no host has one of them alone, and none serves yet."""
    with ledger.transaction() as session:
        session.execute(update(InstanceRow).where(InstanceRow.held_by.is_not(None)).values(held_by=None))
        session.execute(delete(HostRow))


def _copy_files(bring: _Bring, target: Path, paths: list[str], digest_of: DigestOf) -> _Copied:
    copied = _Copied()
    folders: set[Path] = set()
    for path in paths:
        copy = target / path
        if copy.parent not in folders:
            copy.parent.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
            folders.add(copy.parent)
        try:
            linked = bring(path, copy)
        except FileNotFoundError:
            copied.missing += (path,)
            continue
        # The copy is read, not the original: it is what somebody will depend on.
        if digest_of(copy) != copy.stem:
            copy.unlink()
            copied.damaged += (path,)
            continue
        copied.linked += linked
        copied.files += 1
        copied.size += copy.stat().st_size
    if folders:
        for folder in {target, *folders, *(one.parent for one in folders)}:
            flush_directory(folder)
    return copied


def _linked(original: Path, copy: Path) -> bool:
    try:
        copy.hardlink_to(original)
    except FileNotFoundError:
        raise
    except OSError:
        # Another disk, or one that knows no links.
        return False
    return True


def _secure(copy: Path) -> None:
    """Give a new file its mode, and flush it."""
    copy.chmod(FILE_MODE)
    with copy.open("rb") as file:
        os.fsync(file.fileno())


def _copy(original: Path, copy: Path) -> bool:
    with original.open("rb") as reading:
        descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(descriptor, "wb") as writing:
            shutil.copyfileobj(reading, writing, 1 << 20)
            writing.flush()
            os.fsync(writing.fileno())
    return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_record(target: Path, record: BackupRecord) -> None:
    values = dataclasses.asdict(record)
    values |= {key: values[key].isoformat() for key in ("began_at", "ended_at")}
    beside = target / f"{RECORD}.part"
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE), "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(target / RECORD)
    flush_directory(target)


# -- the ledger --------------------------------------------------------------------------------------------------------


def _fill_ledger(source: Ledger, target: Ledger) -> None:
    """Copy a ledger, as it is at one moment, into an empty one; writers do not wait for it."""
    if source.engine.dialect.name == target.engine.dialect.name == "sqlite":
        with (
            contextlib.closing(sqlite3.connect(str(source.engine.url.database))) as reading,
            contextlib.closing(sqlite3.connect(str(target.engine.url.database))) as writing,
        ):
            # In one step: in parts it would begin anew whenever somebody writes.
            reading.backup(writing)
    else:
        _copy_rows(source, target)


def _settle(copy: Path) -> None:
    """Make a copy one file, sound and on the disk."""
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        (sound,) = connection.execute("PRAGMA quick_check").fetchone()
    if sound != "ok":
        raise BackupError(f"the ledger is damaged: {sound}")
    with copy.open("rb") as file:
        os.fsync(file.fileno())


def _copy_rows(source: Ledger, target: Ledger) -> None:
    """Copy all rows into an empty ledger, as they are at one moment."""
    engine = source.engine
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with (
        engine.connect().execution_options(reads_only=True, yield_per=ROWS_A_STATEMENT) as reading,
        target.engine.begin() as writing,
    ):
        for table in Base.metadata.sorted_tables:
            statement = insert(table).values({column.name: _parameter(column) for column in table.columns})
            for rows in _batches(reading, table):
                writing.execute(statement, rows)
            if target.engine.dialect.name == "postgresql":
                _set_sequence(writing, table)
        for table in Base.metadata.sorted_tables:
            count = select(func.count()).select_from(table)
            if reading.scalar(count) != writing.scalar(count):
                raise BackupError(f"table {table.name} was not copied whole")


def _parameter(column: Column[Any]) -> Any:
    # A value that is absent is not the value null of JSON.
    return bindparam(column.name, type_=JSON(none_as_null=True) if isinstance(column.type, JSON) else column.type)


def _batches(reading: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    for partition in reading.execute(select(table)).mappings().partitions():
        yield [dict(row) for row in partition]


def _set_sequence(writing: Connection, table: Table) -> None:
    """Let the numbers that PostgreSQL gives to new rows go on after those that were put in."""
    for column in table.primary_key.columns:
        sequence = writing.scalar(
            text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name}
        )
        highest = None if sequence is None else writing.scalar(select(func.max(column)))
        if highest is not None:
            writing.execute(text("SELECT setval(:sequence, :highest)"), {"sequence": sequence, "highest": highest})
