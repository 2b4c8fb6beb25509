"""Web services for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from web.running_web import RunningWeb, web_node, web_thread


@pytest.fixture
def web(tmp_path: Path) -> Iterator[RunningWeb]:
    """Web services with an empty ledger."""
    with web_thread(web_node(tmp_path)) as running:
        yield running
