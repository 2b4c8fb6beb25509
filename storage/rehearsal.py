"""Trying a migration of the ledger before it is done: on a copy, or in a transaction that is taken back."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, create_engine, inspect, make_url, text

from storage.migrate import MigrationError, migrate, migrate_to_head, revisions_to_come

__all__ = ["Rehearsal", "rehearse"]


KEPT = frozenset(
    {"association", "study", "series", "instance", "result", "delivery", "quarantine", "account", "assessment"}
)
"""Tables of which no migration may lose a row; others it may gather, events for one."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a migration would do."""

    revisions: tuple[str, ...]
    """That the ledger lacks, in order; none where it is of this version, or not there yet."""
    seconds: float
    """That they took here."""
    rows: int
    """Of :data:`KEPT` before; none of them was lost."""


def rehearse(url: str) -> Rehearsal:
    """Bring a ledger to the schema of this version and change nothing: the node may run.

    SQLite is copied beside itself, and the copy is migrated; PostgreSQL migrates in a transaction that is rolled back,
    which waits for, and holds up, whoever writes meanwhile.

    Raises
    ------
    MigrationError
        The migration fails, loses rows, or the database was written by a later version.
    OSError
        There is no room for the copy.
    sqlalchemy.exc.SQLAlchemyError
        The database cannot be reached.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _in_a_transaction(url)
    source = Path(parsed.database or "")
    if not source.is_file():
        return Rehearsal((), 0.0, 0)
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".rehearsal-") as folder:
        copy = Path(folder) / "ledger.sqlite"
        with closing(sqlite3.connect(source)) as held, closing(sqlite3.connect(copy)) as made:
            held.backup(made)
        engine = create_engine(f"sqlite:///{copy}")
        try:
            with engine.connect() as connection:
                missing = revisions_to_come(connection)
                before = _rows(connection)
            started = time.perf_counter()
            migrate_to_head(engine)
            seconds = time.perf_counter() - started
            with engine.connect() as connection:
                _compare(before, _rows(connection))
        finally:
            engine.dispose()
    return Rehearsal(missing, seconds, sum(before.values()))


def _in_a_transaction(url: str) -> Rehearsal:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            transaction = connection.begin()
            try:
                missing = revisions_to_come(connection)
                before = _rows(connection)
                started = time.perf_counter()
                if missing:
                    migrate(connection)
                seconds = time.perf_counter() - started
                _compare(before, _rows(connection))
            finally:
                transaction.rollback()
    finally:
        engine.dispose()
    return Rehearsal(missing, seconds, sum(before.values()))


def _rows(connection: Connection) -> dict[str, int]:
    names = [name for name in inspect(connection).get_table_names() if name in KEPT]
    return {name: connection.scalar(text(f'SELECT count(*) FROM "{name}"')) or 0 for name in names}


def _compare(before: dict[str, int], after: dict[str, int]) -> None:
    lost = [name for name, count in before.items() if name in after and after[name] < count]
    if lost:
        raise MigrationError(f"rows of {', '.join(sorted(lost))} would be lost")
