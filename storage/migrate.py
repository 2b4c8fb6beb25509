"""Bringing a ledger database to the schema of this version, once, however many processes open it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

__all__ = ["MigrationError", "migrate", "migrate_to_head", "revisions_to_come"]

MIGRATIONS = Path(__file__).parent / "migrations"
# Any number that no other program takes on the same PostgreSQL database.
ADVISORY_LOCK = 0x0D1C0_0DE


class MigrationError(Exception):
    """The database cannot be brought to the schema of this version."""


def migrate_to_head(engine: Engine) -> None:
    """Run the migrations that the database lacks, in one transaction that excludes all others.

    Raises
    ------
    MigrationError
        The database was written by a later version, or holds rows that refer to nothing.
    """
    # Every process of the node opens the ledger, nearly always at its head already: found out without Alembic, which
    # takes longer to import than all the rest of this package.
    with engine.connect().execution_options(reads_only=True) as connection:
        if _is_at_head(connection):
            return
    with engine.connect() as connection, _without_foreign_keys(connection), connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        if not _is_at_head(connection):
            migrate(connection)
            _check_foreign_keys(connection)


@contextlib.contextmanager
def _without_foreign_keys(connection: Connection) -> Iterator[None]:
    """Let SQLite make a table anew that others refer to (https://www.sqlite.org/lang_altertable.html, section 7)."""
    if connection.dialect.name != "sqlite":
        yield
        return
    # Straight to the driver: within a transaction the setting does nothing.
    driver = connection.connection.cursor()
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")
        driver.close()


def _check_foreign_keys(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        orphans = connection.execute(text("PRAGMA foreign_key_check")).all()
        if orphans:
            tables = ", ".join(sorted({str(row[0]) for row in orphans}))
            raise MigrationError(f"rows of {tables} refer to rows that are not there; restore a backup")


def migrate(connection: Connection) -> None:
    """Run the migrations that a database lacks, in the transaction of the caller."""
    from alembic import command
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(MIGRATIONS))
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


def revisions_to_come(connection: Connection) -> tuple[str, ...]:
    """Revisions that a database lacks, in order; nothing is changed.

    Raises
    ------
    MigrationError
        It was written by a later version.
    """
    known = sorted(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    revision = None
    if inspect(connection).has_table("alembic_version"):
        revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if revision is not None and revision not in known:
        raise MigrationError(
            f"it was written by a later version of this software (revision {revision} is not among {known[0]} to "
            f"{known[-1]}); run that version"
        )
    return tuple(known if revision is None else known[known.index(revision) + 1 :])


def _is_at_head(connection: Connection) -> bool:
    return not revisions_to_come(connection)
