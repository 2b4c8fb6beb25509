"""An order server in a thread, and a sender that talks MLLP to it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from interop.ports import listening, wait_until
from served import served

from dicom_node.config import Configuration
from dicom_node.orders.server import serve_orders
from dicom_node.roles import RoleContext

__all__ = ["Sender", "order_server"]

_BEGIN, _END = b"\x0b", b"\x1c\x0d"


@contextlib.contextmanager
def order_server(configuration: Configuration) -> Iterator[int]:
    """The role in a thread of this process, as the supervisor runs it; its port."""
    with served(lambda stop, ready: serve_orders(RoleContext("orders", stop, ready), configuration)):
        assert configuration.orders.port is not None
        yield configuration.orders.port
    wait_until(lambda: not listening(configuration.orders.port or 0), seconds=30, what="the port is closed")


class Sender:
    """One connection to an order server; use it as a context."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), 30)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, message: str | bytes) -> list[list[str]]:
        """Send a message; the segments and fields of its acknowledgement."""
        self.write(_BEGIN + (message if isinstance(message, bytes) else message.encode()) + _END)
        return self.answer()

    def write(self, sent: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self._connection.sendall(sent)

    def end(self) -> None:
        """Say that nothing more is sent."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def answer(self) -> list[list[str]]:
        """The segments and fields of an acknowledgement; none when the connection is closed instead."""
        received = b""
        while not received.endswith(_END):
            try:
                part = self._connection.recv(1)
            except ConnectionResetError:
                # Closed while something of what was sent had not been read.
                part = b""
            if not part:
                assert received == b""
                return []
            received += part
        return [line.split("|") for line in received[1 : -len(_END)].decode().split("\r") if line]

    def closed(self) -> bool:
        """Whether the other side closes the connection without a word."""
        try:
            return self._connection.recv(1) == b""
        except ConnectionError:
            return True
