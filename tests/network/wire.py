"""PDUs as bytes, and connections that send them as they like."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from pydicom.uid import ExplicitVRLittleEndian

VERIFICATION = "1.2.840.10008.1.1"
ASSOCIATE_AC = b"\x02"
P_DATA_TF, A_RELEASE_RP, A_ABORT = 0x04, 0x06, 0x07
COMMAND, DATA, LAST = 1, 0, 2
"""Bits of the message control header (PS3.8 E.2)."""
RELEASE_RQ = bytes.fromhex("05000000000400000000")
NO_DATA_SET = bytes.fromhex("00000008020000000101")
"""CommandDataSetType 0101."""
ABORT_BY_USER = bytes.fromhex("07000000000400000000")
"""A-ABORT, source service-user (PS3.8 table 9-26): what action AA-1 sends."""


class Proposal(NamedTuple):
    """A presentation context to propose."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian,)


ECHO = Proposal(1, VERIFICATION)


def associate_request(
    calling: bytes, called: bytes, proposals: Sequence[Proposal] = (ECHO,), *, maximum_length: int = 16384
) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 table 9-11)."""

    def item(kind: int, value: bytes) -> bytes:
        return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value

    application = item(0x10, b"1.2.840.10008.3.1.1.1")
    contexts = b"".join(
        item(
            0x20,
            bytes((one.context_id, 0, 0, 0))
            + item(0x30, one.abstract_syntax.encode("ascii"))
            + b"".join(item(0x40, syntax.encode("ascii")) for syntax in one.transfer_syntaxes),
        )
        for one in proposals
    )
    user = item(0x50, item(0x51, maximum_length.to_bytes(4, "big")) + item(0x52, b"1.2.3"))
    body = b"\x00\x01\x00\x00" + called.ljust(16) + calling.ljust(16) + bytes(32) + application + contexts + user
    return pdu(0x01, body)


def pdu(kind: int, body: bytes) -> bytes:
    """A PDU of any type (PS3.8 9.3.1)."""
    return bytes((kind, 0)) + len(body).to_bytes(4, "big") + body


def pdv(context_id: int, control: int, fragment: bytes) -> bytes:
    """A presentation data value item (PS3.8 9.3.5.1)."""
    return (len(fragment) + 2).to_bytes(4, "big") + bytes((context_id, control)) + fragment


def data_pdus(context_id: int, command: bytes, data: bytes | None, *, size: int = 16384) -> list[bytes]:
    """A message as P-DATA-TF PDUs with one fragment each, of ``size`` bytes at most."""
    pdus = []
    for kind, whole in ((COMMAND, command), (DATA, data)):
        if whole is None:
            continue
        for start in range(0, max(len(whole), 1), size):
            last = LAST if start + size >= len(whole) else 0
            pdus.append(pdu(P_DATA_TF, pdv(context_id, kind | last, whole[start : start + size])))
    return pdus


def element(number: int, value: bytes) -> bytes:
    """An element of a command set (PS3.7 6.3.1)."""
    return struct.pack("<HHL", 0, number, len(value)) + value


def uid(value: str) -> bytes:
    """A value of VR UI."""
    return value.encode("latin-1") + b"\0" * (len(value) % 2)


def us(value: int) -> bytes:
    """A value of VR US."""
    return struct.pack("<H", value)


def command_set(elements: bytes) -> bytes:
    """Elements with their group length."""
    return element(0x0000, struct.pack("<L", len(elements))) + elements


def echo_request(message_id: int) -> bytes:
    """Command set of a C-ECHO request (PS3.7 9.3.5.1)."""
    return command_set(
        element(0x0002, uid(VERIFICATION)) + element(0x0100, us(0x0030)) + element(0x0110, us(message_id)) + NO_DATA_SET
    )


def store_request(message_id: int, sop_class: str, sop_instance: str) -> bytes:
    """Command set of a C-STORE request (PS3.7 9.3.1.1)."""
    return command_set(
        element(0x0002, uid(sop_class))
        + element(0x0100, us(0x0001))
        + element(0x0110, us(message_id))
        + element(0x0700, us(2))
        + element(0x0800, us(1))
        + element(0x1000, uid(sop_instance))
    )


def read_elements(command: bytes) -> dict[int, bytes]:
    """Elements of a command set by number; ``struct.error`` or ``ValueError`` if it is none."""
    found, offset = {}, 0
    while offset < len(command):
        group, number, length = struct.unpack_from("<HHL", command, offset)
        value = command[offset + 8 : offset + 8 + length]
        if group or len(value) != length:
            raise ValueError("not a command set")
        found[number] = value
        offset += 8 + length
    return found


class Response(NamedTuple):
    """What matters of a response."""

    message_id: int
    status: int
    sop_instance: str


class Scripted:
    """A peer that writes its PDUs by hand."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def associate(self, *proposals: Proposal, calling: str, called: str) -> None:
        """Have an association, with all proposals accepted."""
        self.send(associate_request(calling.encode(), called.encode(), proposals or (ECHO,)))
        kind, body = self.receive()
        assert kind == ASSOCIATE_AC[0]
        assert len(body) > 68

    def send(self, *parts: bytes) -> None:
        """Send each part by itself."""
        for part in parts:
            self.connection.sendall(part)

    def receive(self) -> tuple[int, bytes]:
        """Type and body of the next PDU; ``EOFError`` when the connection is closed."""
        header = self.exactly(6)
        return header[0], self.exactly(int.from_bytes(header[2:], "big"))

    def response(self) -> Response:
        """The next message, which must be a response in one fragment."""
        kind, body = self.receive()
        assert kind == P_DATA_TF, f"PDU of type {kind}: {body.hex()}"
        assert len(body) == 4 + int.from_bytes(body[:4], "big")
        assert body[5] == COMMAND | LAST
        fields = read_elements(body[6:])
        return Response(
            int.from_bytes(fields[0x0120], "little"),
            int.from_bytes(fields[0x0900], "little"),
            fields.get(0x1000, b"").rstrip(b"\0").decode("ascii"),
        )

    def abort_source(self) -> int:
        """Source of the A-ABORT that must come next, before the connection is closed."""
        kind, body = self.receive()
        assert kind == A_ABORT, f"PDU of type {kind}: {body.hex()}"
        assert len(body) == 4
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        assert self.is_closed()
        return body[2]

    def release(self) -> None:
        """Release the association."""
        self.send(RELEASE_RQ)
        assert self.receive() == (A_RELEASE_RP, bytes(4))
        assert self.is_closed()

    def is_closed(self) -> bool:
        """Whether the node closes the connection without another word."""
        return answer(self.connection) == b""

    def exactly(self, size: int) -> bytes:
        """The next bytes; ``EOFError`` when the connection is closed before."""
        received = b""
        while len(received) < size:
            data = self.connection.recv(size - len(received))
            if not data:
                raise EOFError("the connection was closed")
            received += data
        return received


def connected(port: int, source: str = "127.0.0.1", timeout_s: float = 30) -> socket.socket:
    """A connection to the node from an address of the loopback network."""
    return socket.create_connection(("127.0.0.1", port), timeout=timeout_s, source_address=(source, 0))


def answer(connection: socket.socket) -> bytes:
    """All that the node sends until it closes the connection."""
    received = b""
    # Reset: closed while there was more to read than the node cared for.
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(4096):
            received += data
    return received


def drip(connection: socket.socket, sent: bytes, *, every_s: float) -> None:
    """Send byte by byte."""
    for number in range(len(sent)):
        connection.sendall(sent[number : number + 1])
        time.sleep(every_s)


def seconds_until_closed(connection: socket.socket) -> float:
    """How long the node keeps a connection open without an answer."""
    started = time.monotonic()
    assert answer(connection) == b""
    return time.monotonic() - started
