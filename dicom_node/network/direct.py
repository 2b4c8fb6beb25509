"""C-STORE straight from the socket into its file, under pynetdicom's negotiation and state machine.

pynetdicom hands every PDU through two threads that poll, three queues and as many copies of the data: most of the time
of an image. An association of this module is pynetdicom's in all but two things. Its threads sleep until something
happens instead of polling, and while the state machine is in Sta6 (PS3.8 9.2), where a P-DATA-TF PDU changes no state,
the fragments of a C-STORE request (PS3.7 9.3.1) go to a :class:`StoreSink` as they come and the response is written
without a message object. Every other message, every other PDU and every other state take pynetdicom's own path.

Peers are held to limits that pynetdicom does not know: the length of a PDU, of a command set, of the data set of any
message but C-STORE, and the time in which a PDU must be complete.

``node.data_path: stock`` switches all of it off; see :mod:`dicom_node.network.receiver`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import DimsePrimitiveType
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA, _PDUPrimitiveType
from pynetdicom.presentation import PresentationContextTuple
from pynetdicom.transport import AssociationSocket

from dicom_node.errors import raised_at
from dicom_node.network.negotiation import cleaned
from dicom_node.network.typed import time_limit

__all__ = [
    "BeginStore",
    "CommandError",
    "DirectAssociation",
    "StoreCommand",
    "StoreSink",
    "encode_command",
    "encode_store_response",
    "read_command",
]

_log = structlog.get_logger(__name__)

MAXIMUM_CONTROL_PDU = 1 << 20
"""Bytes of any PDU but P-DATA-TF: 128 presentation contexts with every transfer syntax there is take 400 kB."""
MAXIMUM_COMMAND = 1 << 16
MAXIMUM_IDENTIFIER = 1 << 24
"""Bytes of a data set that is kept in memory: of a query, a storage commitment request, a performed procedure step."""
MAXIMUM_WAITING = 4
"""Messages that wait to be served; a peer that does not wait for answers is not read from while there are more."""

_P_DATA_TF, _A_RELEASE_RQ, _A_ABORT = 0x04, 0x05, 0x07
_C_STORE_RQ, _C_STORE_RSP, _C_ECHO_RQ, _NO_DATA_SET = 0x0001, 0x8001, 0x0030, 0x0101
_LONGEST_UID = 64
_COMMAND, _LAST = 1, 2
"""Bits of the message control header (PS3.8 E.2)."""
_PDU_SLACK = 6
"""Some senders take the maximum length for that of the data, without their headers."""
_LOOK_S = 0.5
"""How often timers are looked at while nothing happens."""
_PRESSED_S = 0.01
"""The same while a peer asks for more than it is answered."""
_CLOSING_S = 1.0
"""How long a peer may take to close the connection after the last PDU (PS3.8 9.2.2, Sta13)."""
_BUFFER = 1 << 18

_pdu_header = struct.Struct(">BxL").unpack
_pdv_header = struct.Struct(">LBB").unpack
_element_header = struct.Struct("<HHL").unpack_from


class _ProtocolError(Exception):
    """The peer broke PS3.8 or PS3.7: event 19, the association is aborted."""


class CommandError(_ProtocolError):
    """A command set that is none (PS3.7 6.3)."""


@dataclass(frozen=True, slots=True)
class StoreCommand:
    """What a C-STORE request says before its data set (PS3.7 9.3.1.1)."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str


class StoreSink(Protocol):
    """Where one data set goes; none of these may raise."""

    def write(self, part: memoryview) -> None:
        """Take the next bytes, valid during the call only."""

    def finish(self) -> tuple[int, str]:
        """The data set is complete: its status (PS3.4 B.2.3) and ErrorComment."""

    def abandon(self) -> None:
        """The data set breaks off; there will be no response."""


BeginStore = Callable[[Association, PresentationContextTuple, StoreCommand], StoreSink]
"""Called in the thread of the association; may not raise."""


class DirectAssociation(Association):
    """An acceptor's association with a direct path for C-STORE.

    Parameters
    ----------
    ae, mode
        As of pynetdicom's class.
    begin_store
        Called with each C-STORE request when its command set is complete.
    """

    is_established: bool
    dimse: _WholeMessages

    def __init__(self, ae: AE, mode: str, *, begin_store: BeginStore) -> None:
        self._stirred = threading.Event()
        super().__init__(ae, mode)
        self.dimse = _WholeMessages(self)
        self.dul = _DirectProvider(self, begin_store)
        # Setting them again hands them to the timers of the new provider.
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout

    def stir(self) -> None:
        """Wake the association, so that it looks at its queues."""
        self._stirred.set()

    def kill(self) -> None:
        """Stop both threads."""
        self._kill = True
        self.stir()
        super().kill()

    def _run_reactor(self) -> None:
        while not self._kill:
            # Whoever sends a request on this association waits for the pause (Association.release and the send_*
            # functions of pynetdicom), and it lasts until they are done.
            self._is_paused = True
            self._stirred.wait(_LOOK_S)
            self._stirred.clear()
            self._reactor_checkpoint.wait()
            self._is_paused = False
            self._serve_waiting()
            if self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released = True
                self.is_established = False
                evt.trigger(self, evt.EVT_RELEASED, {})
                self.kill()
            elif self.acse.is_aborted():
                self.dul.receive_pdu(wait=False)
                self.is_aborted = True
                self.is_established = False
                evt.trigger(self, evt.EVT_ABORTED, {})
                self.kill()
            elif not self.dul.is_alive():
                self.kill()
            elif self.dul.idle_timer_expired():
                _log.info("association aborted: silent for too long", address=self.requestor.address)
                self.abort()
                self.kill()

    def _serve_waiting(self) -> None:
        while not self._kill:
            context_id, message = self.dimse.get_msg(block=False)
            if message is None or context_id is None:
                return
            try:
                self._serve_request(message, context_id)
            except Exception as error:  # noqa: BLE001 - without this thread the association would never end
                _log.error("service failed", request=type(message).__name__, place=raised_at(error))
                self.abort(block=False)


class _WholeMessages(DIMSEServiceProvider):
    """Queues the fragments of a message without those of another between them, whichever threads send."""

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self.sending = threading.Lock()

    def send_msg(self, primitive: DimsePrimitiveType, context_id: int) -> None:
        """Queue a message for the peer."""
        with self.sending:
            super().send_msg(primitive, context_id)


class _Wake:
    """Ends the wait of a thread that polls it together with a socket."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptor: int | None = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Descriptor to poll; -1 when closed."""
        return -1 if self._descriptor is None else self._descriptor

    def set(self) -> None:
        """Wake the thread now or at its next wait."""
        with self._lock:
            if self._descriptor is not None:
                os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Reset, so that the next wait blocks."""
        if self._descriptor is not None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)

    def close(self) -> None:
        """Free the descriptor."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


class _Reader:
    """Reads a connection through one buffer, against a deadline."""

    def __init__(self, connection: socket.socket, patience_s: float) -> None:
        self._connection, self._patience_s = connection, patience_s
        self._buffer = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0
        self._deadline = 0.0
        if type(connection) is socket.socket:
            # A time-out of Python's costs a poll before each read; the kernel's costs nothing.
            connection.settimeout(None)
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                connection.setsockopt(socket.SOL_SOCKET, option, _timeval(patience_s))
        else:
            connection.settimeout(patience_s)
        self._pending: Callable[[], int] = getattr(connection, "pending", lambda: 0)

    def has_more(self) -> bool:
        """Whether bytes are here already, so that waiting for the socket would miss them."""
        return self._start < self._end or self._pending() > 0

    def begin(self) -> None:
        """Start the clock: what is read from now on must be complete within the patience."""
        self._deadline = time.monotonic() + self._patience_s

    def take(self, size: int) -> memoryview:
        """Exactly ``size`` bytes, at most what the buffer holds; valid until the next call.

        Raises
        ------
        OSError
            The connection broke off, or the time is over.
        """
        if self._end - self._start < size and self._start + size > len(self._buffer):
            waiting = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, len(waiting)
            self._buffer[: self._end] = waiting
        while self._end - self._start < size:
            self._fill()
        self._start += size
        return self._buffer[self._start - size : self._start]

    def some(self, limit: int) -> memoryview:
        """Some bytes, at least one; valid until the next call."""
        if self._start == self._end:
            self._fill()
        start = self._start
        self._start = min(self._end, start + limit)
        return self._buffer[start : self._start]

    def long(self, size: int) -> bytes:
        """Exactly ``size`` bytes, more than the buffer holds if need be."""
        parts = bytearray()
        while len(parts) < size:
            parts += self.some(size - len(parts))
        return bytes(parts)

    def _fill(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        if time.monotonic() > self._deadline:
            raise TimeoutError("the PDU was not complete in time")
        if hasattr(socket, "TCP_QUICKACK"):
            # A sender with Nagle's algorithm waits for this acknowledgement before it sends the rest; Linux falls
            # back to delaying it by itself (tcp(7)).
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        received = self._connection.recv_into(self._buffer[self._end :])
        if not received:
            raise ConnectionResetError("the connection was closed")
        self._end += received


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))


class _DirectProvider(DULServiceProvider):
    """The upper layer of an association: waits for socket and user at once, and serves C-STORE itself."""

    def __init__(self, association: DirectAssociation, begin_store: BeginStore) -> None:
        super().__init__(association)
        self._association = association
        self._begin_store = begin_store
        self._wake = _Wake()
        self._reader: _Reader | None = None
        self._command = bytearray()
        self._context_id = 0
        """Of the message that is being received."""
        self._sink: StoreSink | None = None
        self._store: StoreCommand | None = None
        self._forwarded: int | None = None
        """Bytes of the data set of another message so far, while one is being received."""

    @property
    def _connection(self) -> AssociationSocket:
        """The connection, which an acceptor has before its thread starts."""
        assert self.socket is not None
        return self.socket

    def send_pdu(self, primitive: _PDUPrimitiveType) -> None:
        """Queue a primitive for the peer."""
        super().send_pdu(primitive)
        # A peer that waits for the end of a long service is not silent.
        self._idle_timer.restart()
        self._wake.set()

    def kill_dul(self) -> None:
        """Stop the thread."""
        super().kill_dul()
        self._wake.set()

    def run_reactor(self) -> None:
        """Serve the connection until it is closed."""
        association = self._association
        self._idle_timer.start()
        association._dul_ready.set()
        try:
            connection = self._connection.socket
            assert connection is not None
            self._reader = _Reader(connection, time_limit(self.network_timeout))
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            poll.register(self._wake, select.POLLIN)
            while not self._kill_thread:
                self._step(poll)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the peer gets an A-ABORT
            _log.error("association broken off", address=association.requestor.address, place=raised_at(error))
            self._break_off()
        finally:
            if self._sink is not None:
                self._sink.abandon()
                self._sink = None
            # What is left refers to itself in circles, until Python looks for such; its buffer must not wait for that.
            self._reader = None
            self._wake.close()
            association.stir()

    def _step(self, poll: select.poll) -> None:
        if self.artim_timer.expired:
            self.event_queue.put("Evt18")
        elif not self._user_wants() and self.event_queue.empty():
            self._listen(poll)
        self._act()

    def _act(self) -> None:
        with contextlib.suppress(queue.Empty):
            # An action that closes the connection puts one more event, which the state after it does not know.
            while not self._kill_thread:
                self.state_machine.do_action(self.event_queue.get_nowait())
                self._association.stir()

    def _user_wants(self) -> bool:
        if self.state_machine.current_state in ("Sta1", "Sta13"):
            # Too late for whatever the user still wants to say; the state machine knows no event for it.
            while not self.to_provider_queue.empty():
                self.to_provider_queue.get_nowait()
            return False
        return bool(self._process_recv_primitive())

    def _listen(self, poll: select.poll) -> None:
        """Wait for the peer or the user, and read what the peer sent."""
        assert self._reader is not None
        closing = self.state_machine.current_state == "Sta13"
        if not closing and self.assoc.dimse.msg_queue.qsize() > MAXIMUM_WAITING:
            time.sleep(_PRESSED_S)
            return
        if not self._reader.has_more():
            ready = {descriptor for descriptor, _ in poll.poll(1000 * (_CLOSING_S if closing else _LOOK_S))}
            if self._wake.fileno() in ready:
                self._wake.clear()
                ready.discard(self._wake.fileno())
            if not ready:
                if closing:
                    self._connection.close()
                return
        if closing:
            self._discard()
        else:
            self._read_pdu_data()
            self._idle_timer.restart()

    def _discard(self) -> None:
        # What follows a last PDU may be the rest of one that was not read to its end, so it is not looked at.
        assert self._reader is not None
        self._reader.begin()
        try:
            self._reader.some(_BUFFER)
        except OSError:
            self.event_queue.put("Evt17")

    def _read_pdu_data(self) -> None:
        assert self._reader is not None
        self._reader.begin()
        try:
            kind, length = _pdu_header(self._reader.take(6))
            if kind == _P_DATA_TF and self.state_machine.current_state == "Sta6":
                longest = self.assoc.acceptor.maximum_length
                assert longest is not None
                if length > longest + _PDU_SLACK:
                    raise _ProtocolError(f"a PDU of {length} bytes")
                self._receive_data(length)
                return
            if not 1 <= kind <= _A_ABORT or length > MAXIMUM_CONTROL_PDU:
                raise _ProtocolError(f"a PDU of type {kind:02X} and {length} bytes")
            body = self._reader.long(length)
            try:
                pdu, event = self._decode_pdu(bytearray(cleaned(struct.pack(">BxL", kind, length) + body)))
                if kind in (_A_RELEASE_RQ, _A_ABORT):
                    # What the state machine does with it, where an exception would be too late for an answer.
                    pdu.to_primitive()
            except Exception as error:
                # pynetdicom's decoders raise whatever the damage leads them to.
                raise _ProtocolError(f"a PDU of type {kind:02X} that cannot be decoded") from error
        except OSError:
            self.event_queue.put("Evt17")
        except _ProtocolError as error:
            _log.info("association aborted: protocol error", what=str(error), address=self.assoc.requestor.address)
            self.event_queue.put("Evt19")
        else:
            self._recv_pdu.put(pdu)
            self.event_queue.put(event)

    def _receive_data(self, remaining: int) -> None:
        """The presentation data values of one P-DATA-TF PDU (PS3.8 9.3.5)."""
        assert self._reader is not None
        while remaining:
            if remaining < 6:
                raise _ProtocolError("a presentation data value breaks off")
            length, context_id, control = _pdv_header(self._reader.take(6))
            remaining -= 4 + length
            if length < 2 or remaining < 0:
                raise _ProtocolError(f"a presentation data value of {length} bytes")
            self._fragment(context_id, control, length - 2)

    def _fragment(self, context_id: int, control: int, size: int) -> None:
        assert self._reader is not None
        receiving = self._sink is not None or self._forwarded is not None
        if (receiving or self._command) and context_id != self._context_id:
            raise _ProtocolError("fragments of two messages are mixed")
        self._context_id = context_id
        if bool(control & _COMMAND) == receiving:
            raise _ProtocolError("a command within a data set" if receiving else "a data set without a command")
        if not receiving:
            if len(self._command) + size > MAXIMUM_COMMAND:
                raise _ProtocolError("a command set that is too long")
            self._command += self._reader.long(size)
            if control & _LAST:
                command, self._command = bytes(self._command), bytearray()
                self._message(command)
        elif self._sink is not None:
            while size:
                part = self._reader.some(size)
                size -= len(part)
                self._sink.write(part)
            if control & _LAST:
                self._respond()
        else:
            assert self._forwarded is not None
            self._forwarded += size
            if self._forwarded > MAXIMUM_IDENTIFIER:
                raise _ProtocolError("a data set that is too long for its message")
            self._forward(control, self._reader.long(size))
            if control & _LAST:
                self._forwarded = None

    def _message(self, command: bytes) -> None:
        fields = read_command(command)
        has_data_set = _unsigned(fields, 0x0800) != _NO_DATA_SET
        if _unsigned(fields, 0x0100) == _C_ECHO_RQ and not _uid(fields, 0x0002):
            command = self._with_class(command)
        if _unsigned(fields, 0x0100) != _C_STORE_RQ:
            self._forward(_COMMAND | _LAST, command)
            self._forwarded = 0 if has_data_set else None
            return
        context = self.assoc._accepted_cx.get(self._context_id)
        message_id = _unsigned(fields, 0x0110)
        if context is None or message_id is None or not has_data_set:
            raise _ProtocolError("a C-STORE request without an accepted context, a message ID or a data set")
        if any(len(fields.get(number, b"")) > _LONGEST_UID for number in (0x0002, 0x1000)):
            # Which the response would have to repeat.
            raise _ProtocolError("a C-STORE request with a UID that is too long")
        self._store = StoreCommand(message_id, _uid(fields, 0x0002), _uid(fields, 0x1000))
        self._sink = self._begin_store(self.assoc, context.as_tuple, self._store)

    def _with_class(self, command: bytes) -> bytes:
        """A C-ECHO request with the SOP Class that it leaves out: that of its presentation context."""
        context = self.assoc._accepted_cx.get(self._context_id)
        fields = read_command(command)
        if context is None or context.abstract_syntax is None:
            return command
        fields[0x0002] = _padded(str(context.abstract_syntax).encode("ascii"), b"\0")
        return encode_command(fields)

    def _forward(self, control: int, fragment: bytes) -> None:
        """Hand a fragment to pynetdicom's DIMSE provider, as its state machine does (PS3.8 9.2.3, DT-2)."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((self._context_id, bytes((control,)) + fragment))
        try:
            self.assoc.dimse.receive_primitive(primitive)
        except Exception as error:
            raise _ProtocolError("a message that cannot be decoded") from error
        self._association.stir()

    def _respond(self) -> None:
        assert self._sink is not None
        assert self._store is not None
        sink, self._sink = self._sink, None
        status, comment = sink.finish()
        response = encode_store_response(self._store, status, comment)
        longest = self.assoc.requestor.maximum_length
        size = longest - 6 if longest else len(response)
        with self._association.dimse.sending:
            # Whatever else was said before goes first and whole.
            while self._user_wants():
                self._act()
            if self.state_machine.current_state != "Sta6":
                return
            for start in range(0, len(response), size):
                part = response[start : start + size]
                control = _COMMAND | (_LAST if start + size >= len(response) else 0)
                self._connection.send(
                    struct.pack(">BxLLBB", _P_DATA_TF, len(part) + 6, len(part) + 2, self._context_id, control) + part
                )

    def _break_off(self) -> None:
        """A-ABORT (service provider, reason not specified) without the state machine, which cannot be trusted now."""
        self._connection.send(struct.pack(">BxLxxBB", _A_ABORT, 4, 2, 0))
        self._connection.close()
        self.assoc.is_aborted = True
        self.assoc.is_established = False
        self.assoc._kill = True
        self._kill_thread = True
        evt.trigger(self.assoc, evt.EVT_ABORTED, {})


def read_command(command: bytes) -> dict[int, bytes]:
    """Elements of a command set by their number in group 0000 (PS3.7 6.3.1: always implicit VR little endian).

    Raises
    ------
    CommandError
        It breaks off, or holds another group.
    """
    fields: dict[int, bytes] = {}
    offset, end = 0, len(command)
    while offset < end:
        if offset + 8 > end:
            raise CommandError("a command set that breaks off")
        group, number, length = _element_header(command, offset)
        offset += 8
        if group or length > end - offset:
            raise CommandError("a command set that is none")
        fields[number] = command[offset : offset + length]
        offset += length
    return fields


def encode_command(fields: dict[int, bytes]) -> bytes:
    """A command set of these elements, with its group length."""
    body = b"".join(_element(number, value) for number, value in sorted(fields.items()) if number)
    return _element(0x0000, struct.pack("<L", len(body))) + body


def _unsigned(fields: dict[int, bytes], number: int) -> int | None:
    value = fields.get(number, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _uid(fields: dict[int, bytes], number: int) -> str:
    return fields.get(number, b"").rstrip(b"\0 ").decode("latin-1")


def encode_store_response(store: StoreCommand, status: int, comment: str = "") -> bytes:
    """Command set of a C-STORE response (PS3.7 9.3.1.2).

    Parameters
    ----------
    comment
        ErrorComment, VR LO; shortened to 64 characters of ASCII.
    """
    elements = [
        _element(0x0002, _padded(store.sop_class_uid.encode("latin-1"), b"\0")),
        _element(0x0100, struct.pack("<H", _C_STORE_RSP)),
        _element(0x0120, struct.pack("<H", store.message_id)),
        _element(0x0800, struct.pack("<H", _NO_DATA_SET)),
        _element(0x0900, struct.pack("<H", status)),
    ]
    if comment:
        elements.append(_element(0x0902, _padded(comment.encode("ascii", "replace")[:64], b" ")))
    elements.append(_element(0x1000, _padded(store.sop_instance_uid.encode("latin-1"), b"\0")))
    body = b"".join(elements)
    return _element(0x0000, struct.pack("<L", len(body))) + body


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def _padded(value: bytes, filler: bytes) -> bytes:
    return value + filler * (len(value) % 2)
