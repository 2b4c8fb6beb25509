"""A receiver for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from network.running_node import RunningReceiver, configuration, receiver_thread


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[RunningReceiver]:
    """A receiver that knows the scanner MR1, with an empty ledger."""
    with receiver_thread(configuration(tmp_path)) as running:
        yield running
