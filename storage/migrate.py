"""Bringing a ledger database to the schema of this version, once, however many processes open it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

__all__ = ["migrate_to_head"]

MIGRATIONS = Path(__file__).parent / "migrations"
# Any number that no other program takes on the same PostgreSQL database.
ADVISORY_LOCK = 0x0D1C0_0DE


def migrate_to_head(engine: Engine) -> None:
    """Run the migrations that the database lacks, in one transaction that excludes all others.

    Raises
    ------
    alembic.util.CommandError
        The database has a revision that this version does not know: it was written by a later one.
    """
    configuration = Config()
    configuration.set_main_option("script_location", str(MIGRATIONS))
    head = ScriptDirectory.from_config(configuration).get_current_head()
    with engine.connect().execution_options(reads_only=True) as connection:
        if _revision(connection) == head:
            return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        if _revision(connection) != head:
            configuration.attributes["connection"] = connection
            command.upgrade(configuration, "head")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
