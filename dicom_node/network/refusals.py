"""What becomes of connections that do not become associations: always a count, seldom a line in the log."""

from __future__ import annotations

import collections
import enum
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

__all__ = ["RefusalReason", "Refusals"]

_log = structlog.get_logger(__name__)

EVERY_S = 60.0
"""One line a minute for the same reason and address, however often it happens: whoever can connect cannot fill the
log."""
REMEMBERED = 1024
"""Addresses and reasons that are told apart; beyond that, only reasons."""


class RefusalReason(enum.StrEnum):
    """Why a connection did not become an association; the label of a metric."""

    PROBE = "probe"
    """Closed by the peer before it had sent a whole request: load balancers, port scans."""
    SILENT = "no_request_in_time"
    EVICTED = "evicted"
    """Too many connections waited for a request; this one had waited longest."""
    ABORTED = "aborted"
    NOT_DICOM = "not_dicom"
    UNEXPECTED_PDU = "unexpected_pdu"
    PDU_LENGTH = "pdu_length"
    PDU_CONTENT = "pdu_content"
    NOT_TLS = "not_tls"
    TLS_HANDSHAKE = "tls_handshake"
    TLS_REQUIRED = "tls_required"
    CERTIFICATE = "certificate"
    CALLED_AE_TITLE = "called_ae_title"
    CALLING_AE_TITLE = "calling_ae_title"
    HOST = "host"
    NODE_LIMIT = "node_limit"
    PEER_LIMIT = "peer_limit"
    FAILURE = "failure"

    @property
    def is_security_alert(self) -> bool:
        """Whether it is a failed authentication of a node (PS3.15 A.5.3.11, Security Alert)."""
        return self in _ALERTS


_ALERTS = {
    RefusalReason.TLS_HANDSHAKE,
    RefusalReason.TLS_REQUIRED,
    RefusalReason.CERTIFICATE,
    RefusalReason.CALLED_AE_TITLE,
    RefusalReason.CALLING_AE_TITLE,
    RefusalReason.HOST,
}


class Refusals:
    """Counts refusals, tells of them, and raises alerts.

    Parameters
    ----------
    on_refused
        Called with each reason; must not block.
    security_alert
        Called with reason, address and detail of failed authentications, as seldom as lines are written to the log. It
        has a thread of its own: an audit file on a disk that hangs must not keep anybody out.
    """

    def __init__(
        self,
        on_refused: Callable[[str], None] = lambda _reason: None,
        security_alert: Callable[[str, str, str], None] = lambda _kind, _address, _detail: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_refused, self._security_alert, self._clock = on_refused, security_alert, clock
        self.counts: collections.Counter[RefusalReason] = collections.Counter()
        self._told: dict[tuple[RefusalReason, str], tuple[float, int]] = {}
        self._lock = threading.Lock()
        self._alerting = ThreadPoolExecutor(max_workers=1, thread_name_prefix="security alerts")

    def close(self) -> None:
        """Wait until all alerts have been raised."""
        self._alerting.shutdown()

    def count(self, reason: RefusalReason) -> None:
        """Count a connection that nobody needs to hear of."""
        with self._lock:
            self.counts[reason] += 1
        self._on_refused(reason)

    def tell(self, reason: RefusalReason, address: str, why: str) -> None:
        """Count a refusal and write a line about it, unless there was one of its kind a moment ago.

        Parameters
        ----------
        why
            What happened, and what to change where.
        """
        self.count(reason)
        suppressed = self._to_be_told(reason, address)
        if suppressed is None:
            return
        unsaid = {"suppressed": suppressed} if suppressed else {}
        _log.warning("association refused", reason=str(reason), why=why, address=address, **unsaid)
        if reason.is_security_alert:
            self._alerting.submit(self._security_alert, reason, address, why)

    def _to_be_told(self, reason: RefusalReason, address: str) -> int | None:
        """How many of its kind were not told since the last that was; ``None`` when this one is not to be told."""
        now = self._clock()
        with self._lock:
            if len(self._told) >= REMEMBERED:
                self._told = {key: value for key, value in self._told.items() if now < value[0]}
            known = (reason, address) in self._told or len(self._told) < REMEMBERED
            key = (reason, address if known else "")
            until, unsaid = self._told.get(key, (now, 0))
            if now < until:
                self._told[key] = (until, unsaid + 1)
                return None
            self._told[key] = (now + EVERY_S, 0)
            return unsaid
