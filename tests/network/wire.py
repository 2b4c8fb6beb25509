"""PDUs as bytes, and connections that send them as they like."""

from __future__ import annotations

import contextlib
import socket
import time

from pydicom.uid import ExplicitVRLittleEndian

ASSOCIATE_AC = b"\x02"
ABORT_BY_USER = bytes.fromhex("07000000000400000000")
"""A-ABORT, source service-user (PS3.8 table 9-26): what action AA-1 sends."""


def associate_request(calling: bytes, called: bytes) -> bytes:
    """A-ASSOCIATE-RQ for C-ECHO (PS3.8 table 9-11)."""

    def item(kind: int, value: bytes) -> bytes:
        return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value

    application = item(0x10, b"1.2.840.10008.3.1.1.1")
    context = item(
        0x20,
        b"\x01\x00\x00\x00" + item(0x30, b"1.2.840.10008.1.1") + item(0x40, ExplicitVRLittleEndian.encode("ascii")),
    )
    user = item(0x50, item(0x51, (16384).to_bytes(4, "big")) + item(0x52, b"1.2.3"))
    body = b"\x00\x01\x00\x00" + called.ljust(16) + calling.ljust(16) + bytes(32) + application + context + user
    return b"\x01\x00" + len(body).to_bytes(4, "big") + body


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
