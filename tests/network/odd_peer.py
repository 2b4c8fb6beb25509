"""A peer that answers the association request and the echo of this node in its own way."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

from interop.ports import free_port
from pydicom.uid import ImplicitVRLittleEndian

from network.running_node import NODE
from network.wire import VERIFICATION, data_pdus, pdu

IVLE = str(ImplicitVRLittleEndian)


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def answer(
    *extra: tuple[int, bytes], maximum: bool = True, titles: bytes = b"", syntax: bytes = IVLE.encode()
) -> bytes:
    user = (item(0x51, struct.pack(">L", 16384)) if maximum else b"") + item(0x52, b"1.2.3")
    user += b"".join(item(*one) for one in extra)
    accepted = item(0x21, b"\1\0\0\0" + item(0x40, syntax))
    fields = b"\0\1\0\0" + (titles or b"PACS".ljust(16) + NODE.encode().ljust(16)) + bytes(32)
    return pdu(0x02, fields + item(0x10, b"1.2.840.10008.3.1.1.1") + accepted + item(0x50, user))


def receive(connection: socket.socket) -> tuple[int, bytes]:
    def exactly(count: int) -> bytes:
        received = b""
        while len(received) < count:
            part = connection.recv(count - len(received))
            assert part, "the node closed the connection"
            received += part
        return received

    header = exactly(6)
    return header[0], exactly(int.from_bytes(header[2:], "big"))


def echo_command(sop_class: str | None) -> bytes:
    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    body = b"" if sop_class is None else element(2, sop_class.encode() + b"\0" * (len(sop_class) % 2))
    body += element(0x0100, b"\x30\0") + element(0x0110, b"\1\0") + element(0x0800, b"\1\1")
    return element(0, struct.pack("<L", len(body))) + body


def encoded_command(fields: dict[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in sorted(fields.items()))
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def echo_response() -> bytes:
    """Command set of a C-ECHO-RSP of success to Message ID 1."""
    sop_class = VERIFICATION.encode() + b"\0" * (len(VERIFICATION) % 2)
    return encoded_command({0x0002: sop_class, 0x0100: b"\x30\x80", 0x0120: b"\1\0", 0x0800: b"\1\1", 0x0900: b"\0\0"})


class OddPeer:
    """An acceptor that answers with given bytes and serves one echo, in its own way if it has one.

    Parameters
    ----------
    reply
        PDU that answers the association request.
    respond
        Gets the command set of the response as it should be, and gives the PDUs that are sent.
    """

    def __init__(self, reply: bytes, respond: Callable[[bytes], bytes] | None = None) -> None:
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._reply = reply
        self._respond = respond or (lambda command: b"".join(data_pdus(1, command, None)))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> OddPeer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(30)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(30)
            receive(connection)
            connection.sendall(self._reply)
            if not connection.recv(1, socket.MSG_PEEK):
                return
            kind, _ = receive(connection)
            if kind != 0x04:
                return
            connection.sendall(self._respond(echo_response()))
            if connection.recv(1, socket.MSG_PEEK) != b"\x05":
                return
            receive(connection)
            connection.sendall(pdu(0x06, bytes(4)))
            connection.recv(1)
