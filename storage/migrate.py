"""Bringing a ledger database to the schema of this version, once, however many processes open it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

__all__ = ["MigrationError", "migrate_to_head"]

MIGRATIONS = Path(__file__).parent / "migrations"
# Any number that no other program takes on the same PostgreSQL database.
ADVISORY_LOCK = 0x0D1C0_0DE


class MigrationError(Exception):
    """The database has a revision that this version does not know."""


def migrate_to_head(engine: Engine) -> None:
    """Run the migrations that the database lacks, in one transaction that excludes all others.

    Raises
    ------
    MigrationError
        The database was written by a later version.
    """
    # Every process of the node opens the ledger, nearly always at its head already: found out without Alembic, which
    # takes longer to import than all the rest of this package.
    with engine.connect().execution_options(reads_only=True) as connection:
        if _is_at_head(connection):
            return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        if not _is_at_head(connection):
            _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(MIGRATIONS))
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


def _is_at_head(connection: Connection) -> bool:
    known = sorted(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    if not inspect(connection).has_table("alembic_version"):
        return False
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if revision is not None and revision not in known:
        raise MigrationError(f"revision {revision} is not among {known[0]} to {known[-1]}")
    return bool(revision == known[-1])
