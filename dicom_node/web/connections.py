"""Closes connections that send no request in time: uvicorn itself would wait for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["RequestTimeoutProtocol"]

HEAD_S = 15.0
"""For the head of a request, once the connection is there or the answer before is out."""
FAREWELL_S = 1.0


class RequestTimeoutProtocol(H11Protocol):
    """HTTP/1.1 with a time limit on the head of each request."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Stop the clock when the head is whole; drops of it do not."""
        super().data_received(data)
        if self._in_request():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Start the clock again: what comes may be another request."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._stop_waiting()
            self._wait_for_head()

    def shutdown(self) -> None:
        """The node stops: a peer that does not answer the end of TLS is not waited for."""
        idle = not self._in_request()
        super().shutdown()
        if idle:
            self.loop.call_later(FAREWELL_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._waiting = self.loop.call_later(HEAD_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        if not self._in_request():
            self.transport.abort()
