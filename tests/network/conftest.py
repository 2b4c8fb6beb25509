"""A receiver for each test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from absence import absent

from network.running_node import RunningReceiver, configuration, receiver_thread


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[RunningReceiver]:
    """A receiver that knows the scanner MR1, with an empty ledger."""
    with receiver_thread(configuration(tmp_path)) as running:
        yield running


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Two megabytes of file system."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        why = f"a tmpfs cannot be mounted here, it needs root: {mounted.stderr.strip()}"
        absent(why)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
