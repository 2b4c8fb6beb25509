"""A module of this program run in a process of its own, asked and answered over pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["end_process", "start_python"]

_PIPE_BYTES = 1 << 20
"""Room for a frame or a page: fewer turns between the two processes."""


def start_python(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start Python by a command (``-m`` and a module), with one computing thread and the path of this process.

    It ends when its input is closed.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        pipesize=_PIPE_BYTES,
    )


def end_process(process: subprocess.Popen[bytes] | None) -> None:
    """Kill a process, unless there is none, and wait for its end."""
    if process is not None:
        process.kill()
        process.communicate()
