"""Holds connections until each has sent a whole A-ASSOCIATE-RQ PDU: one thread for all of them.

An association costs two threads, so none is made for a connection that may be a load balancer's probe, a port scan or a
peer that stalls in its TLS handshake or in the middle of a PDU. A connection without a request in time is closed.
"""

from __future__ import annotations

import contextlib
import enum
import os
import selectors
import socket
import ssl
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from dicom_node.network.first_pdu import ABORT, FirstPduError, missing_bytes
from dicom_node.network.refusals import RefusalReason, Refusals

__all__ = ["Arrival", "Endpoint", "PendingConnections", "PendingLimits"]

_log = structlog.get_logger(__name__)

LAST_REQUESTS_S = 1.0
"""For the request of whoever has connected when the node is told to stop."""
LISTENER_PAUSE_S = 0.05
"""How long accepting pauses when the operating system has no more sockets to give."""
EVICTED_AT_ONCE = 16
"""How many waiting connections are then closed: an association and its files take several descriptors."""
DEFERRAL_S = 0.004
"""How long accepting waits for each association that this process has more than the least busy one."""
LONGEST_DEFERRAL_S = 0.05
JUST_ARRIVED_S = 0.25
"""A peer usually sends its request at once; what has waited longer is no measure of the work that is coming."""
IGNORED_AFTER_ANSWER = 65536
"""Bytes that a refused peer may still send before its connection is closed."""
READ_AT_ONCE = 16384
TLS_HANDSHAKE_RECORD = b"\x16"
"""ContentType of the record that a ClientHello comes in (RFC 8446 5.1)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A listening socket, and the TLS context of its connections, if any."""

    socket: socket.socket
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class PendingLimits:
    """How long and how many may wait.

    Attributes
    ----------
    artim_s
        Time for the TLS handshake, again for the request, and again for the peer to close after a refusal: the ARTIM
        timer (PS3.8 9.1.5).
    waiting, waiting_of_address
        Connections, in this process; a new one beyond that takes the place of the one that has waited longest. They
        leave as many of the usual 1,024 file descriptors as associations and their files need.
    """

    artim_s: float
    waiting: int = 384
    waiting_of_address: int = 128


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection with its whole A-ASSOCIATE-RQ PDU."""

    connection: socket.socket
    """Blocking, nothing in it but what follows the request; an ``ssl.SSLSocket`` of a TLS endpoint."""
    address: tuple[str, int]
    request: bytes


class _Stage(enum.Enum):
    HANDSHAKE = enum.auto()
    REQUEST = enum.auto()
    REFUSED = enum.auto()
    """Answered with a refusal, until the peer closes the connection (PS3.8 Sta13)."""


@dataclass(slots=True, eq=False)
class _Pending:
    connection: socket.socket
    address: tuple[str, int]
    stage: _Stage
    arrived_at: float
    until: float
    received: bytearray = field(default_factory=bytearray)
    has_sent: bool = False
    """Whether the peer has sent anything of a TLS handshake."""
    ignored: int = 0


class PendingConnections:
    """Accepts connections and holds them until each is handed over with its request, or refused.

    Parameters
    ----------
    endpoints
        Listening sockets, which other processes may share. The copies of this process are closed at the end.
    receive
        Called in the one thread with each whole request; must not block. Takes the connection over and returns
        ``None``, or returns the PDU that refuses it.
    ahead
        How much more this process has to serve than the least busy of those that share the endpoints; the busier one
        waits a moment before it accepts, so that the other may.
    arriving
        Told how many connections came in just now.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        receive: Callable[[Arrival], bytes | None],
        limits: PendingLimits,
        refusals: Refusals,
        *,
        ahead: Callable[[], int] = lambda: 0,
        arriving: Callable[[int], None] = lambda _connections: None,
    ) -> None:
        self._endpoints, self._receive, self._limits, self._refusals = tuple(endpoints), receive, limits, refusals
        self._ahead, self._arriving = ahead, arriving
        self._selector = selectors.DefaultSelector()
        self._pending: OrderedDict[_Pending, None] = OrderedDict()
        """By deadline: each gets the same time from when it was put last."""
        self._of_address: Counter[str] = Counter()
        self._paused: dict[Endpoint, float] = {}
        self._told_arriving = 0
        self._stopping = False
        self._wake_up = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake_up, selectors.EVENT_READ, None)
        for endpoint in self._endpoints:
            endpoint.socket.setblocking(False)
            self._selector.register(endpoint.socket, selectors.EVENT_READ, endpoint)
        self._thread = threading.Thread(target=self._run, name="pending connections", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether connections are accepted."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Close the endpoints, when all that was in their backlog has been accepted, and then what sends no request.

        Whoever has connected gets :data:`LAST_REQUESTS_S` to send one; new connections go to whoever else listens.
        """
        self._stopping = True
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake_up, 1)
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._timeout_s()):
                    if isinstance(key.data, Endpoint):
                        self._incoming(key.data)
                    elif isinstance(key.data, _Pending) and key.data in self._pending:
                        self._proceed(key.data)
                now = time.monotonic()
                self._resume(now)
                self._close_overdue(now)
                self._publish_arriving(now)
            self._close_endpoints()
            self._take_last_requests()
        finally:
            for endpoint in self._endpoints:
                endpoint.socket.close()
            for pending in list(self._pending):
                self._close(pending)
            self._selector.close()
            os.close(self._wake_up)

    def _close_endpoints(self) -> None:
        for endpoint in self._endpoints:
            # What waits in the backlog would be reset.
            while self._accept(endpoint):
                continue
            if endpoint not in self._paused:
                self._selector.unregister(endpoint.socket)
            endpoint.socket.close()
        self._paused.clear()
        self._selector.unregister(self._wake_up)

    def _take_last_requests(self) -> None:
        until = time.monotonic() + LAST_REQUESTS_S
        while self._pending and (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if key.data in self._pending:
                    self._proceed(key.data)

    def _timeout_s(self) -> float | None:
        """Seconds until something is due without an event."""
        moments = list(self._paused.values())
        if self._pending:
            moments.append(next(iter(self._pending)).until)
        if self._told_arriving:
            moments.append(time.monotonic() + JUST_ARRIVED_S)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    # Listening

    def _incoming(self, endpoint: Endpoint) -> None:
        ahead = self._ahead()
        if ahead > 0 and endpoint not in self._paused:
            self._pause(endpoint, min(LONGEST_DEFERRAL_S, ahead * DEFERRAL_S))
            return
        self._accept(endpoint)

    def _pause(self, endpoint: Endpoint, seconds: float) -> None:
        self._selector.unregister(endpoint.socket)
        self._paused[endpoint] = time.monotonic() + seconds

    def _resume(self, now: float) -> None:
        for endpoint in [endpoint for endpoint, until in self._paused.items() if until <= now]:
            # One connection that no other process took meanwhile.
            self._accept(endpoint)
            if self._paused.get(endpoint, now) <= now:
                del self._paused[endpoint]
                self._selector.register(endpoint.socket, selectors.EVENT_READ, endpoint)

    def _accept(self, endpoint: Endpoint) -> bool:
        """Accept one connection; returns whether there was one."""
        try:
            connection, address = endpoint.socket.accept()
        except (BlockingIOError, ConnectionError):
            # Another process was faster, or the peer has gone again.
            return False
        except OSError as error:
            # Out of file descriptors or memory: the longest waiting are closed, new ones wait in the backlog.
            why = f"connections cannot be accepted: {error.strerror} (raise the limit of open files)"
            self._refusals.tell(RefusalReason.FAILURE, "", why)
            for pending in list(self._pending)[:EVICTED_AT_ONCE]:
                self._evict(pending)
            if endpoint in self._paused:
                self._paused[endpoint] = time.monotonic() + LISTENER_PAUSE_S
            else:
                self._pause(endpoint, LISTENER_PAUSE_S)
            return False
        stage = _Stage.REQUEST
        try:
            connection.setblocking(False)
            if endpoint.tls is not None:
                stage = _Stage.HANDSHAKE
                connection = endpoint.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):
            connection.close()
            self._refusals.count(RefusalReason.PROBE)
            return True
        now = time.monotonic()
        pending = _Pending(connection, (address[0], address[1]), stage, now, now + self._limits.artim_s)
        self._evict_beyond_limits(pending.address[0])
        self._pending[pending] = None
        self._of_address[pending.address[0]] += 1
        self._selector.register(connection, selectors.EVENT_READ, pending)
        # Most requests come with the connection.
        self._proceed(pending)
        return True

    def _evict_beyond_limits(self, address: str) -> None:
        if self._of_address[address] >= self._limits.waiting_of_address:
            self._evict(next(pending for pending in self._pending if pending.address[0] == address))
        elif len(self._pending) >= self._limits.waiting:
            self._evict(next(iter(self._pending)))

    def _evict(self, pending: _Pending) -> None:
        if pending.stage is not _Stage.REFUSED:
            self._refusals.count(RefusalReason.EVICTED)
        self._close(pending)

    def _publish_arriving(self, now: float) -> None:
        count = 0
        for pending in reversed(self._pending):
            if pending.until - self._limits.artim_s < now - JUST_ARRIVED_S:
                break
            count += pending.stage is not _Stage.REFUSED and pending.arrived_at >= now - JUST_ARRIVED_S
        if count != self._told_arriving:
            self._told_arriving = count
            self._arriving(count)

    # Pending connections

    def _proceed(self, pending: _Pending) -> None:
        try:
            if pending.stage is _Stage.HANDSHAKE:
                self._handshake(pending)
            if pending.stage is _Stage.REQUEST:
                self._read_request(pending)
            elif pending.stage is _Stage.REFUSED:
                self._ignore(pending)
        except (ssl.SSLWantReadError, BlockingIOError):
            self._wait_for(pending, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._wait_for(pending, selectors.EVENT_WRITE)
        except FirstPduError as error:
            self._refusals.count(error.reason)
            self._refuse(pending, error.answer)
        except OSError:
            self._closed_by_peer(pending)

    def _handshake(self, pending: _Pending) -> None:
        assert isinstance(pending.connection, ssl.SSLSocket)
        if not pending.has_sent:
            # Peeked at below TLS, which would take any bytes for a broken handshake.
            first = socket.socket.recv(pending.connection, 1, socket.MSG_PEEK)
            if not first:
                raise ConnectionResetError
            if first != TLS_HANDSHAKE_RECORD:
                self._refusals.count(RefusalReason.NOT_TLS)
                self._close(pending)
                return
            pending.has_sent = True
        try:
            pending.connection.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError):
            raise
        except ssl.SSLError as error:
            reason = error.reason or str(error)
            self._refusals.tell(
                RefusalReason.TLS_HANDSHAKE,
                pending.address[0],
                f"TLS handshake failed: {reason.lower().replace('_', ' ')} (certificates at the peer and in node.tls)",
            )
            self._close(pending)
            return
        pending.stage = _Stage.REQUEST
        self._put_last(pending)

    def _read_request(self, pending: _Pending) -> None:
        while (missing := missing_bytes(pending.received)) > 0:
            data = pending.connection.recv(min(missing, READ_AT_ONCE))
            if not data:
                raise ConnectionResetError
            pending.received += data
        self._remove(pending)
        pending.connection.setblocking(True)
        try:
            answer = self._receive(Arrival(pending.connection, pending.address, bytes(pending.received)))
        except Exception:  # noqa: BLE001 - one connection must not end the thread that all others depend on
            _log.exception("association request could not be handled", address=pending.address[0])
            self._refusals.count(RefusalReason.FAILURE)
            answer = ABORT
        if answer is not None:
            pending.connection.setblocking(False)
            self._add(pending)
            self._refuse(pending, answer)

    def _refuse(self, pending: _Pending, answer: bytes) -> None:
        """Send the refusal and wait for the peer to close: closing first may destroy what it has not read yet."""
        pending.received.clear()
        if not answer:
            self._close(pending)
            return
        pending.stage = _Stage.REFUSED
        self._put_last(pending)
        try:
            # The send buffer of a connection that was only read from holds ten bytes.
            pending.connection.send(answer)
            if not isinstance(pending.connection, ssl.SSLSocket):
                pending.connection.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(pending)
            return
        self._wait_for(pending, selectors.EVENT_READ)

    def _ignore(self, pending: _Pending) -> None:
        while pending.ignored <= IGNORED_AFTER_ANSWER:
            data = pending.connection.recv(READ_AT_ONCE)
            if not data:
                break
            pending.ignored += len(data)
        self._close(pending)

    def _closed_by_peer(self, pending: _Pending) -> None:
        if pending.stage is not _Stage.REFUSED:
            self._refusals.count(RefusalReason.PROBE)
        self._close(pending)

    def _close_overdue(self, now: float) -> None:
        while self._pending:
            pending = next(iter(self._pending))
            if pending.until > now:
                return
            if pending.stage is not _Stage.REFUSED:
                self._refusals.count(RefusalReason.SILENT)
            self._close(pending)

    def _wait_for(self, pending: _Pending, events: int) -> None:
        if self._selector.get_key(pending.connection).events != events:
            self._selector.modify(pending.connection, events, pending)

    def _put_last(self, pending: _Pending) -> None:
        pending.until = time.monotonic() + self._limits.artim_s
        self._pending.move_to_end(pending)

    def _add(self, pending: _Pending) -> None:
        self._pending[pending] = None
        self._of_address[pending.address[0]] += 1
        self._selector.register(pending.connection, selectors.EVENT_READ, pending)

    def _remove(self, pending: _Pending) -> None:
        del self._pending[pending]
        self._of_address[pending.address[0]] -= 1
        if not self._of_address[pending.address[0]]:
            del self._of_address[pending.address[0]]
        self._selector.unregister(pending.connection)

    def _close(self, pending: _Pending) -> None:
        if pending in self._pending:
            self._remove(pending)
        with contextlib.suppress(OSError):
            pending.connection.close()
