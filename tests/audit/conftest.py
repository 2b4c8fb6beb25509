"""A collector for the audit trail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from interop.fixtures import require
from interop.rsyslog import Rsyslog


@pytest.fixture
def rsyslog(tmp_path: Path) -> Iterator[Rsyslog]:
    require("rsyslogd")
    running = Rsyslog(tmp_path / "rsyslog")
    yield running
    running.kill()
