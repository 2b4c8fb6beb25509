"""The lease of what a round sends: kept while an object is on its way, however long that takes, and not for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from types import TracebackType

import structlog

from dicom_node.errors import classify
from dicom_node.network.sender import SLOWEST_LINK_BYTES_PER_S
from storage.deliveries import extend_deliveries
from storage.ledger import Ledger, utc_now

__all__ = ["LEASE_S", "RoundLease"]

_log = structlog.get_logger(__name__)

LEASE_S = 120.0


class RoundLease:
    """Prolongs the lease of the deliveries of one round, in a thread of its own; use it as a context.

    What is on its way may take as long as an answer may, and longer for each byte. When nothing has come to an end for
    that long and a lease beside, the association or connection hangs: the lease runs out, and somebody else sends it.

    Parameters
    ----------
    owner
        Who claimed the deliveries.
    response_timeout_s
        How long a destination may take to answer.
    """

    def __init__(self, ledger: Ledger, owner: str, delivery_ids: Collection[int], response_timeout_s: float) -> None:
        self._ledger, self._owner, self._ids = ledger, owner, frozenset(delivery_ids)
        self._response_timeout_s = response_timeout_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="delivery lease", daemon=True)
        self.on_its_way()

    def on_its_way(self, size: int = 0) -> None:
        """Tell that something else is begun now: an object, a request or a question of so many bytes."""
        self._until = time.monotonic() + LEASE_S + self._response_timeout_s + size / SLOWEST_LINK_BYTES_PER_S

    def __enter__(self) -> RoundLease:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._ended.wait(LEASE_S / 3):
            if time.monotonic() > self._until:
                _log.warning("lease of deliveries not renewed: nothing has gone on", deliveries=len(self._ids))
                return
            try:
                extend_deliveries(self._ledger, self._owner, self._ids, utc_now(), LEASE_S)
            except Exception as error:  # noqa: BLE001 - the ledger may be down for a while; the next try may be in time
                _log.warning("lease of deliveries not renewed", what=classify(error).what)
