"""Ledgers to test with: SQLite files, and a PostgreSQL server of the session's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from absence import absent
from postgresql_server import MISSING, is_installed, running_postgresql
from sqlalchemy import create_engine, text

from storage.files import InstanceFiles
from storage.ledger import Ledger, open_ledger


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a database of a PostgreSQL server that lives as long as the session."""
    if not is_installed():
        absent(MISSING)
    with running_postgresql(fsync=False) as url:
        yield url


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """URL of an empty PostgreSQL database."""
    engine = create_engine(postgresql_server)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return postgresql_server


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.sqlite"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    opened = open_ledger(url)
    yield opened
    opened.close()


@pytest.fixture
def files(tmp_path: Path) -> InstanceFiles:
    return InstanceFiles(tmp_path / "files")
