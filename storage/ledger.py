"""Opening the ledger, and its transactions."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import functools
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Engine, Table, create_engine, event, insert, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from storage.files import DIRECTORY_MODE, FILE_MODE
from storage.migrate import MigrationError, migrate_to_head
from storage.schema import EventRow

__all__ = ["Ledger", "LedgerError", "absent_insert", "insert_if_absent", "open_ledger", "record_event", "utc_now"]

BUSY_TIMEOUT_S = 30.0
# A peer that vanishes without a word, by a power cut or a broken network, is noticed in half a minute on both sides. By
# default a client would wait for a quarter of an hour, and what it had locked would stay locked for two hours.
_NOTICED_BY_CLIENT = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_NOTICED_BY_SERVER = {
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
TURN_S = 0.0002
"""Between two looks whether it is this process's turn: a fraction of a commit."""


class LedgerError(Exception):
    """A transition was asked for that the ledger does not allow; nothing was changed."""


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """A ledger database that is migrated to this version."""

    engine: Engine

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction that writes; committed at the end, rolled back on any exception."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """One transaction that only reads; on SQLite it neither waits for writers nor holds them up."""
        engine = self.engine.execution_options(reads_only=True)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn among processes that write often.

        SQLite lets a writer that finds the database locked sleep for milliseconds, and ever longer: two processes that
        write all the time would mostly sleep. The turn is advisory: who does not get it in time goes on, and the
        database decides.
        """
        database = self.engine.url.database
        if self.engine.dialect.name != "sqlite" or not database or database == ":memory:":
            yield
            return
        lock = os.open(f"{database}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            give_up = time.monotonic() + BUSY_TIMEOUT_S
            while time.monotonic() < give_up:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(TURN_S)
            yield
        finally:
            os.close(lock)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def utc_now() -> dt.datetime:
    """The present, aware, UTC."""
    return dt.datetime.now(dt.UTC)


def open_ledger(url: str, *, durable: bool = True) -> Ledger:
    """Open a ledger, creating it or migrating it to the head first.

    Parameters
    ----------
    url
        SQLAlchemy URL: SQLite (WAL, ``synchronous=FULL``) or PostgreSQL.
    durable
        Whether a commit waits for the disk.

    Raises
    ------
    LedgerError
        The database is of another kind, or was written by a later version.
    sqlalchemy.exc.SQLAlchemyError
        The database cannot be reached.
    """
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        engine = _sqlite_engine(parsed, durable=durable)
    elif backend == "postgresql":
        engine = _postgresql_engine(parsed, durable=durable)
    else:
        raise LedgerError(f"the ledger cannot live in {backend!r}: use a sqlite:/// or postgresql+psycopg:// URL")
    try:
        migrate_to_head(engine)
    except MigrationError as error:
        engine.dispose()
        raise LedgerError(f"the ledger cannot be used: {error}") from error
    except BaseException:
        engine.dispose()
        raise
    return Ledger(engine)


def _postgresql_engine(url: URL, *, durable: bool) -> Engine:
    asked = {name: value for name, value in _NOTICED_BY_CLIENT.items() if name not in url.query}
    options = {} if durable else {"options": "-c synchronous_commit=off"}
    engine = create_engine(url, pool_pre_ping=True, pool_use_lifo=True, connect_args={**asked, **options})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: ConnectionPoolEntry) -> None:
        # Not as options of the connection: poolers refuse those.
        connection.execute("; ".join(f"SET {name} = {value}" for name, value in _NOTICED_BY_SERVER.items()))
        connection.commit()

    return engine


def _sqlite_engine(url: URL, *, durable: bool) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
        # SQLite would let everybody read it; the files that it puts beside it get the mode of this one.
        with contextlib.suppress(OSError):
            os.close(os.open(url.database, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_use_lifo=True)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: ConnectionPoolEntry) -> None:
        # The driver's own transaction control would start them late and deferred: two processes that read and then
        # write would deadlock. BEGIN is emitted below instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads_only = connection.get_execution_options().get("reads_only", False)
        statement = "BEGIN" if reads_only else "BEGIN IMMEDIATE"
        # Straight to the driver: it happens once an image.
        try:
            connection.connection.cursor().execute(statement)
        except sqlite3.Error as error:
            # Whoever waits for a ledger that is locked or down knows SQLAlchemy's errors only.
            raise OperationalError(statement, None, error) from error

    return engine


@functools.cache
def absent_insert(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Statement that inserts rows and skips those that a unique constraint already holds."""
    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return insert.on_conflict_do_nothing()


def insert_if_absent(session: Session | Connection, table: Table, values: dict[str, Any]) -> bool:
    """Insert a row unless a unique constraint already holds one, however many others try the same at once.

    Returns
    -------
    bool
        Whether the row is new.
    """
    # Several associations send one study: its first objects race for the study's and the series' rows.
    bind = session.get_bind() if isinstance(session, Session) else session
    statement = absent_insert(bind.dialect.name, table).returning(*table.primary_key.columns)
    return session.execute(statement, values).first() is not None


def record_event(
    session: Session | Connection,
    kind: str,
    subject: str,
    *,
    at: dt.datetime,
    correlation_id: str | None = None,
    study_id: int | None = None,
    **detail: Any,
) -> None:
    """Add the event row of the transition that this transaction makes."""
    session.execute(
        insert(cast(Table, EventRow.__table__)),
        {
            "at": at,
            "correlation_id": correlation_id,
            "study_id": study_id,
            "kind": kind,
            "subject": subject[:128],
            "detail": detail,
        },
    )
