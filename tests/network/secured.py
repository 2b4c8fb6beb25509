"""A TLS client whose records can be damaged on the way."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from network.certificates import Authority, Credentials


def client_context(credentials: Credentials | None, trusted: Authority) -> ssl.SSLContext:
    """Of a peer that shows these credentials, or none, and looks for no name."""
    context = ssl.create_default_context(cafile=trusted.certificate)
    context.check_hostname = False
    if credentials is not None:
        context.load_cert_chain(credentials.certificate, credentials.key)
    return context


class Secured:
    """A connection under TLS, as far as a sender of tests needs a socket.

    ``ssl.SSLSocket`` closes both directions at once, and lets nobody at its records.

    Parameters
    ----------
    on_the_way
        Makes of each flight of records what is sent instead; of those of the handshake, too.
    """

    def __init__(
        self,
        connection: socket.socket,
        context: ssl.SSLContext,
        on_the_way: Callable[[bytes], bytes] = lambda records: records,
    ) -> None:
        self._socket, self._on_the_way = connection, on_the_way
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._came, self._goes)
        self._ended = False
        self.setsockopt, self.settimeout = connection.setsockopt, connection.settimeout

    def handshake(self) -> None:
        """Agree on keys; ``ConnectionError`` where the node closes instead, ``ssl.SSLError`` where it says why."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise ConnectionResetError("closed within the handshake") from None
            else:
                self._flush()
                return

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        if data:
            self._tls.write(data)
            self._flush()

    def shutdown(self, how: int) -> None:
        """End one direction of the connection below, without a word of TLS, as many a sender does."""
        self._ended = True
        self._socket.shutdown(how)

    def recv(self, size: int) -> bytes:
        """What came, at most so much; empty at the end of the connection."""
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                if not self._fill():
                    return b""
            except ssl.SSLError:
                # OpenSSL says with an alert that it misses the sender's close_notify.
                if not self._ended:
                    raise
                return b""

    def _flush(self) -> None:
        if records := self._goes.read():
            self._socket.sendall(self._on_the_way(records))

    def _fill(self) -> bool:
        records = self._socket.recv(65536)
        self._came.write(records)
        return bool(records)
