"""Draws pages in a process of its own while this one goes on, where one was started; else here, when they are wanted.

Drawing is Python from end to end, so threads do not share it. The pages are handed over as figures; what draws them is
the same function either way. The process draws one set of pages after the other. It ends when its input is closed, and
so with the process that started it.

A message is eight bytes of length and a pickle; both ends are this program.
"""

from __future__ import annotations

import atexit
import gc
import os
import pickle
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TypeVar, cast

from dicom_node.errors import ProcessingFailureError, raised_at
from dicom_node.results.capture import warm_fonts
from pipelines.module_process import end_process, start_python

__all__ = ["DrawingProcess", "begin_drawing", "start_drawing"]

T = TypeVar("T")

_COMMAND = ("-m", "dicom_node.results.drawing")


class DrawingProcess:
    """The process, started once and again after its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._asking = ThreadPoolExecutor(1, "drawing")

    @property
    def wanted(self) -> bool:
        """Whether it was started, be it alive or not."""
        return self._process is not None

    def start(self) -> None:
        """Start the process unless it runs."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self._process = start_python(_COMMAND)

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        end_process(process)

    def begin(self, draw: Callable[[], T]) -> Callable[[], T]:
        """Hand over what is to be drawn; the callable waits for it."""
        request = pickle.dumps(draw, protocol=pickle.HIGHEST_PROTOCOL)
        answered = self._asking.submit(self._ask, request)

        def drawn() -> T:
            drew, outcome = answered.result()
            if drew:
                return cast("T", outcome)
            raise ProcessingFailureError(
                f"the process that draws the pages {outcome}",
                subject="summary pages",
                remedy="the job is tried again; if that repeats, look for a lack of memory, and report a defect",
            )

        return drawn

    def _ask(self, request: bytes) -> tuple[bool, object]:
        self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _write(process.stdin, request)
            answer = _read(process.stdout)
        except OSError:
            answer = None
        if answer is None:
            self.stop()
            return False, f"was ended (exit code {process.returncode})"
        drew, outcome = pickle.loads(answer)
        return bool(drew), outcome


_process = DrawingProcess()
atexit.register(_process.stop)


def start_drawing() -> None:
    """Start the process, with its fonts loaded, before the first pages are there for it."""
    _process.start()


def begin_drawing(draw: Callable[[], T]) -> Callable[[], T]:
    """Begin to draw in the other process; without one, nothing is drawn until it is wanted.

    Parameters
    ----------
    draw
        A function of a module with its arguments (:class:`functools.partial`), figures among them: it is pickled. The
        same arguments must give the same, whichever process draws.

    Returns
    -------
    callable
        Waits for what was drawn and returns it.

    Raises
    ------
    ProcessingFailureError
        By the callable: the other process failed or was killed.
    """
    return _process.begin(draw) if _process.wanted else draw


def _write(file: IO[bytes], message: bytes) -> None:
    file.write(struct.pack("<Q", len(message)))
    file.write(message)
    file.flush()


def _read(file: IO[bytes]) -> bytes | None:
    """The next message; ``None`` at the end."""
    length = file.read(8)
    if len(length) < 8:
        return None
    (count,) = struct.unpack("<Q", length)
    message = file.read(count)
    return message if len(message) == count else None


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    while (request := _read(requests)) is not None:
        try:
            outcome = (True, pickle.loads(request)())
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side is told, without the text of pages
            outcome = (False, f"failed: {raised_at(error)}")
        _write(answers, pickle.dumps(outcome, protocol=pickle.HIGHEST_PROTOCOL))
        del outcome
        gc.collect()


def _main() -> None:
    warnings.simplefilter("ignore")
    # What a library prints must not stand between the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        warm_fonts()
        # Between two sets of pages is the time to look for what nobody refers to, not in the middle of one.
        gc.disable()
        _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
