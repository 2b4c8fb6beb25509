"""Analyses that take their actor along, for actors that a test has on a Ray cluster."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicom_node.execute.process import ProcessedStudy

JOURNAL = "DICOM_NODE_TEST_JOURNAL"
"""Folder in which each attempt writes down its process id, by package."""


def first_attempts_fail(*paths: Any, package: str, **settings: Any) -> ProcessedStudy:
    """Kill the process, or hang, at the first attempt of a package; the second one is a cheap analysis."""
    from crash_analysis import cheap_analysis

    journal = Path(os.environ[JOURNAL]) / package
    if not journal.exists():
        journal.write_text(str(os.getpid()))
        if "quick" in package:
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            time.sleep(0.2)
    return cheap_analysis(*paths, package=package, **settings)
