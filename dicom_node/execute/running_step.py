"""Tells the ledger which step of a job runs, so that whoever looks on sees how far it is."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from storage.jobs import note_step
from storage.ledger import Ledger

__all__ = ["RunningStep"]

_log = structlog.get_logger(__name__)

TELL_EVERY_S = 2.0
"""A step that begins and ends within it may not be told of: each note is a commit, and receivers wait for those."""


class RunningStep:
    """Notes at which step a job is, from a thread of its own, where that has changed since it last did.

    Parameters
    ----------
    lease
        Token of the attempt that runs.
    """

    def __init__(self, ledger: Ledger, lease: str, *, every_s: float = TELL_EVERY_S) -> None:
        self._ledger, self._lease, self._every_s = ledger, lease, every_s
        self._step: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="running-step", daemon=True)

    def begins(self, step: str) -> None:
        """Take note that a step begins."""
        self._step = step

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _tell(self) -> None:
        told: str | None = None
        while not self._over.wait(self._every_s):
            step = self._step
            if step is None or step == told:
                continue
            try:
                note_step(self._ledger, self._lease, step)
            except SQLAlchemyError as error:
                # Nobody needs it but who looks on; it is said again in a moment.
                _log.warning("step of a job not noted", step=step, error=type(error).__name__)
            else:
                told = step
