"""The lease of what a round sends or reports: kept while it is on its way, however long that takes, not for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

import structlog

from dicom_node.errors import classify
from dicom_node.network.sender import SLOWEST_LINK_BYTES_PER_S

__all__ = ["RoundLease"]

_log = structlog.get_logger(__name__)


class RoundLease:
    """Prolongs the lease of what one round has claimed, in a thread of its own; use it as a context.

    What is on its way may take as long as an answer may, and longer for each byte. When nothing has come to an end for
    that long and a lease beside, the association or connection hangs: the lease runs out, and somebody else sends it.

    Parameters
    ----------
    extend
        Prolongs the lease in the ledger.
    response_timeout_s
        How long a peer may take to answer.
    lease_s
        The time of the lease.
    """

    def __init__(self, extend: Callable[[], object], response_timeout_s: float, lease_s: float) -> None:
        self._extend, self._response_timeout_s, self._lease_s = extend, response_timeout_s, lease_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease of a round", daemon=True)
        self.on_its_way()

    def on_its_way(self, size: int = 0) -> None:
        """Tell that something else is begun now: an object, a request or a question of so many bytes."""
        allowed_s = self._lease_s + self._response_timeout_s + size / SLOWEST_LINK_BYTES_PER_S
        self._until = time.monotonic() + allowed_s

    def __enter__(self) -> RoundLease:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._ended.wait(self._lease_s / 3):
            if time.monotonic() > self._until:
                _log.warning("lease not renewed: nothing has gone on")
                return
            try:
                self._extend()
            except Exception as error:  # noqa: BLE001 - the ledger may be down for a while; the next try may be in time
                _log.warning("lease not renewed", what=classify(error).what)
