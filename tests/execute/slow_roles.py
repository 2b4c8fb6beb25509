"""Roles and analyses that misbehave, for processes that a test starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node.errors import StudyRefusedError
from dicom_node.roles import RoleContext

if TYPE_CHECKING:
    from dicom_node.execute.process import ProcessedStudy


def wait_until_stopped(context: RoleContext, journal: Path) -> None:
    """A role that does as it is told, and writes down what happens to it."""
    _note(journal, "started")
    context.ready()
    context.stop.wait()
    _note(journal, "stopped")


def ignore_stop(context: RoleContext, journal: Path) -> None:
    """A role that hangs, with a process of its own beside it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    _note(journal, f"child {child.pid}")
    context.ready()
    while True:
        time.sleep(1)


def die_at_once(context: RoleContext, journal: Path) -> None:
    """A role that cannot start."""
    _note(journal, f"{time.monotonic()}")
    os.kill(os.getpid(), signal.SIGKILL)


def _note(journal: Path, line: str) -> None:
    with journal.open("a") as file:
        file.write(line + "\n")


def hang(*_paths: object, **_settings: object) -> ProcessedStudy:
    """An analysis that never ends."""
    while True:
        time.sleep(1)


def refuse(*_paths: object, **_settings: object) -> ProcessedStudy:
    """An analysis with an error that no further attempt can help."""
    raise StudyRefusedError("is not a heart", subject="study", remedy="send a heart")


def stumble(*_paths: object, **_settings: object) -> ProcessedStudy:
    """An analysis with a defect."""
    raise ZeroDivisionError("patient DOE^JOHN divided by zero")


def die(*_paths: object, **_settings: object) -> ProcessedStudy:
    """An analysis that takes its process along."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
