"""Where connections wait until they have sent a whole A-ASSOCIATE-RQ: one thread for all of them.

An association costs two threads, so none is made for a connection that may be a load balancer's probe, a port scan or a
peer that stalls in its TLS handshake or in the middle of a PDU. Whoever does not send a request in time is closed.
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

__all__ = ["Arrival", "Door", "Lobby", "LobbyLimits"]

_log = structlog.get_logger(__name__)

LISTENER_PAUSE_S = 0.05
"""When the operating system has no more sockets to give."""
MADE_ROOM_FOR = 16
"""Waiting connections that are then closed: an association and its files take several descriptors."""
DEFERENCE_S = 0.004
LONGEST_DEFERENCE_S = 0.05
JUST_ARRIVED_S = 0.25
"""An honest peer sends its request at once; who has waited longer is no measure of the work that is coming."""
IGNORED_AFTER_ANSWER = 65536
"""Bytes that a refused peer may still send before its connection is closed without further ado."""
READ_AT_ONCE = 16384
TLS_HANDSHAKE_RECORD = b"\x16"
"""ContentType of the record that a ClientHello comes in (RFC 8446 5.1)."""


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket, and the TLS that is spoken behind it, if any."""

    socket: socket.socket
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class LobbyLimits:
    """How long and how many may wait.

    Attributes
    ----------
    artim_s
        Time for the TLS handshake, again for the request, and again for the peer to close after a refusal: the ARTIM
        timer (PS3.8 9.1.5).
    waiting, waiting_of_address
        Connections, in this process; a newcomer beyond that takes the place of the one that has waited longest. They
        leave as many of the usual 1,024 file descriptors as associations and their files need.
    """

    artim_s: float
    waiting: int = 384
    waiting_of_address: int = 128


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection with its whole A-ASSOCIATE-RQ PDU."""

    connection: socket.socket
    """Blocking, nothing in it but what follows the request; an ``ssl.SSLSocket`` behind a TLS door."""
    address: tuple[str, int]
    request: bytes


class _Stage(enum.Enum):
    HANDSHAKE = enum.auto()
    REQUEST = enum.auto()
    LEAVING = enum.auto()
    """Answered with a refusal, until the peer closes the connection (PS3.8 Sta13)."""


@dataclass(slots=True, eq=False)
class _Guest:
    connection: socket.socket
    address: tuple[str, int]
    stage: _Stage
    came_at: float
    until: float
    received: bytearray = field(default_factory=bytearray)
    spoke: bool = False
    """Whether the peer has sent anything of a TLS handshake."""
    ignored: int = 0


class Lobby:
    """Accepts connections and holds them until each is handed over with its request, or refused.

    Parameters
    ----------
    doors
        Listening sockets, which other processes may share. The lobby closes its copies at the end.
    receive
        Called in the lobby's thread with each whole request; must not block. Takes the connection over and returns
        ``None``, or returns the PDU that refuses it.
    ahead
        How much more this process has to serve than the least busy of those that share the doors; the busier one waits
        a moment before it accepts, so that the other may.
    arriving
        Told how many connections came in just now.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        receive: Callable[[Arrival], bytes | None],
        limits: LobbyLimits,
        refusals: Refusals,
        *,
        ahead: Callable[[], int] = lambda: 0,
        arriving: Callable[[int], None] = lambda _connections: None,
    ) -> None:
        self._doors, self._receive, self._limits, self._refusals = tuple(doors), receive, limits, refusals
        self._ahead, self._arriving = ahead, arriving
        self._selector = selectors.DefaultSelector()
        self._guests: OrderedDict[_Guest, None] = OrderedDict()
        """By deadline: each gets the same time from when it was put last."""
        self._of_address: Counter[str] = Counter()
        self._resting: dict[Door, float] = {}
        self._told_arriving = 0
        self._stopping = False
        self._wake_up = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake_up, selectors.EVENT_READ, None)
        for door in self._doors:
            door.socket.setblocking(False)
            self._selector.register(door.socket, selectors.EVENT_READ, door)
        self._thread = threading.Thread(target=self._run, name="lobby", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether connections are accepted."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Close the doors, and the connections that have not become associations."""
        self._stopping = True
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake_up, 1)
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._patience()):
                    if isinstance(key.data, Door):
                        self._answer_door(key.data)
                    elif isinstance(key.data, _Guest) and key.data in self._guests:
                        self._attend(key.data)
                now = time.monotonic()
                self._open_rested_doors(now)
                self._close_overdue(now)
                self._publish_arriving(now)
        finally:
            for door in self._doors:
                door.socket.close()
            for guest in list(self._guests):
                self._close(guest)
            self._selector.close()
            os.close(self._wake_up)

    def _patience(self) -> float | None:
        """Seconds until something is due without an event."""
        moments = list(self._resting.values())
        if self._guests:
            moments.append(next(iter(self._guests)).until)
        if self._told_arriving:
            moments.append(time.monotonic() + JUST_ARRIVED_S)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    # The door

    def _answer_door(self, door: Door) -> None:
        ahead = self._ahead()
        if ahead > 0 and door not in self._resting:
            self._rest(door, min(LONGEST_DEFERENCE_S, ahead * DEFERENCE_S))
            return
        self._accept(door)

    def _rest(self, door: Door, seconds: float) -> None:
        self._selector.unregister(door.socket)
        self._resting[door] = time.monotonic() + seconds

    def _open_rested_doors(self, now: float) -> None:
        for door in [door for door, until in self._resting.items() if until <= now]:
            # One connection that no sibling took meanwhile.
            self._accept(door)
            if self._resting.get(door, now) <= now:
                del self._resting[door]
                self._selector.register(door.socket, selectors.EVENT_READ, door)

    def _accept(self, door: Door) -> None:
        try:
            connection, address = door.socket.accept()
        except (BlockingIOError, ConnectionError):
            # A sibling was faster, or the peer has gone again.
            return
        except OSError as error:
            # Out of file descriptors or memory: who has waited longest makes room, others wait in the backlog.
            why = f"connections cannot be accepted: {error.strerror} (raise the limit of open files)"
            self._refusals.tell(RefusalReason.FAILURE, "", why)
            for guest in list(self._guests)[:MADE_ROOM_FOR]:
                self._crowd_out(guest)
            if door in self._resting:
                self._resting[door] = time.monotonic() + LISTENER_PAUSE_S
            else:
                self._rest(door, LISTENER_PAUSE_S)
            return
        stage = _Stage.REQUEST
        try:
            connection.setblocking(False)
            if door.tls is not None:
                stage = _Stage.HANDSHAKE
                connection = door.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):
            connection.close()
            self._refusals.count(RefusalReason.PROBE)
            return
        now = time.monotonic()
        guest = _Guest(connection, (address[0], address[1]), stage, now, now + self._limits.artim_s)
        self._make_room(guest.address[0])
        self._guests[guest] = None
        self._of_address[guest.address[0]] += 1
        self._selector.register(connection, selectors.EVENT_READ, guest)
        # Most requests come with the connection.
        self._attend(guest)

    def _make_room(self, address: str) -> None:
        if self._of_address[address] >= self._limits.waiting_of_address:
            self._crowd_out(next(guest for guest in self._guests if guest.address[0] == address))
        elif len(self._guests) >= self._limits.waiting:
            self._crowd_out(next(iter(self._guests)))

    def _crowd_out(self, guest: _Guest) -> None:
        if guest.stage is not _Stage.LEAVING:
            self._refusals.count(RefusalReason.CROWDED_OUT)
        self._close(guest)

    def _publish_arriving(self, now: float) -> None:
        count = 0
        for guest in reversed(self._guests):
            if guest.until - self._limits.artim_s < now - JUST_ARRIVED_S:
                break
            count += guest.stage is not _Stage.LEAVING and guest.came_at >= now - JUST_ARRIVED_S
        if count != self._told_arriving:
            self._told_arriving = count
            self._arriving(count)

    # The guests

    def _attend(self, guest: _Guest) -> None:
        try:
            if guest.stage is _Stage.HANDSHAKE:
                self._shake_hands(guest)
            if guest.stage is _Stage.REQUEST:
                self._read_request(guest)
            elif guest.stage is _Stage.LEAVING:
                self._ignore(guest)
        except (ssl.SSLWantReadError, BlockingIOError):
            self._wait_for(guest, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._wait_for(guest, selectors.EVENT_WRITE)
        except FirstPduError as error:
            self._refusals.count(error.reason)
            self._dismiss(guest, error.answer)
        except OSError:
            self._gone(guest)

    def _shake_hands(self, guest: _Guest) -> None:
        assert isinstance(guest.connection, ssl.SSLSocket)
        if not guest.spoke:
            # Peeked at below TLS, which would take any bytes for a broken handshake.
            first = socket.socket.recv(guest.connection, 1, socket.MSG_PEEK)
            if not first:
                raise ConnectionResetError
            if first != TLS_HANDSHAKE_RECORD:
                self._refusals.count(RefusalReason.NOT_TLS)
                self._close(guest)
                return
            guest.spoke = True
        try:
            guest.connection.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError):
            raise
        except ssl.SSLError as error:
            reason = error.reason or str(error)
            self._refusals.tell(
                RefusalReason.TLS_HANDSHAKE,
                guest.address[0],
                f"TLS handshake failed: {reason.lower().replace('_', ' ')} (certificates at the peer and in node.tls)",
            )
            self._close(guest)
            return
        guest.stage = _Stage.REQUEST
        self._put_last(guest)

    def _read_request(self, guest: _Guest) -> None:
        while (missing := missing_bytes(guest.received)) > 0:
            data = guest.connection.recv(min(missing, READ_AT_ONCE))
            if not data:
                raise ConnectionResetError
            guest.received += data
        self._forget(guest)
        guest.connection.setblocking(True)
        try:
            answer = self._receive(Arrival(guest.connection, guest.address, bytes(guest.received)))
        except Exception:  # noqa: BLE001 - one connection must not end the thread that all others depend on
            _log.exception("association request could not be handled", address=guest.address[0])
            self._refusals.count(RefusalReason.FAILURE)
            answer = ABORT
        if answer is not None:
            guest.connection.setblocking(False)
            self._take_in(guest)
            self._dismiss(guest, answer)

    def _dismiss(self, guest: _Guest, answer: bytes) -> None:
        """Send the refusal and wait for the peer to close: closing first may destroy what it has not read yet."""
        guest.received.clear()
        if not answer:
            self._close(guest)
            return
        guest.stage = _Stage.LEAVING
        self._put_last(guest)
        try:
            # The send buffer of a connection that was only read from has room for ten bytes.
            guest.connection.send(answer)
            if not isinstance(guest.connection, ssl.SSLSocket):
                guest.connection.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(guest)
            return
        self._wait_for(guest, selectors.EVENT_READ)

    def _ignore(self, guest: _Guest) -> None:
        while guest.ignored <= IGNORED_AFTER_ANSWER:
            data = guest.connection.recv(READ_AT_ONCE)
            if not data:
                break
            guest.ignored += len(data)
        self._close(guest)

    def _gone(self, guest: _Guest) -> None:
        if guest.stage is not _Stage.LEAVING:
            self._refusals.count(RefusalReason.PROBE)
        self._close(guest)

    def _close_overdue(self, now: float) -> None:
        while self._guests:
            guest = next(iter(self._guests))
            if guest.until > now:
                return
            if guest.stage is not _Stage.LEAVING:
                self._refusals.count(RefusalReason.SILENT)
            self._close(guest)

    def _wait_for(self, guest: _Guest, events: int) -> None:
        if self._selector.get_key(guest.connection).events != events:
            self._selector.modify(guest.connection, events, guest)

    def _put_last(self, guest: _Guest) -> None:
        guest.until = time.monotonic() + self._limits.artim_s
        self._guests.move_to_end(guest)

    def _take_in(self, guest: _Guest) -> None:
        self._guests[guest] = None
        self._of_address[guest.address[0]] += 1
        self._selector.register(guest.connection, selectors.EVENT_READ, guest)

    def _forget(self, guest: _Guest) -> None:
        del self._guests[guest]
        self._of_address[guest.address[0]] -= 1
        if not self._of_address[guest.address[0]]:
            del self._of_address[guest.address[0]]
        self._selector.unregister(guest.connection)

    def _close(self, guest: _Guest) -> None:
        if guest in self._guests:
            self._forget(guest)
        with contextlib.suppress(OSError):
            guest.connection.close()
