"""A ledger to test with, in SQLite and in PostgreSQL, and instance files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.files import InstanceFiles
from storage.ledger import Ledger, open_ledger


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    opened = open_ledger(url)
    yield opened
    opened.close()


@pytest.fixture
def files(tmp_path: Path) -> InstanceFiles:
    return InstanceFiles(tmp_path / "files")
