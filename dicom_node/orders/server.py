"""The orders role: takes HL7 v2 messages about orders by the minimal lower layer protocol (MLLP, appendix C.4).

Each message is answered when what it says is in the ledger, or with what is wrong. A sender that got no answer sends it
again, and then nothing is done twice. Senders keep their connections open for days, so silence ends none.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Configuration, OrderSettings
from dicom_node.errors import OrderRefusedError, raised_at
from dicom_node.metrics import ORDER_MESSAGES
from dicom_node.network.admission import normalised_address
from dicom_node.network.listening_ports import listening_socket
from dicom_node.network.tls import server_context
from dicom_node.orders.acknowledgement import acknowledgement
from dicom_node.orders.message import read_header, read_orders
from dicom_node.roles import RoleContext
from storage.ledger import Ledger, open_ledger, utc_now
from storage.orders import AmbiguousOrderError, CancelledOrder, take_orders

__all__ = ["OrderServer", "serve_orders"]

_log = structlog.get_logger(__name__)

_BEGIN, _END = b"\x0b", b"\x1c\x0d"
_LINE_ENDS = b"\r\n"
_WHOLE_S = 60.0
"""For a message that has begun to come, and for its acknowledgement to be taken."""
_HANDSHAKE_S = 15.0
_REST_S = 5.0
"""For a sender to read that its message is too long, and to close the connection."""
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""A sender that vanished without a word would hold its place for ever."""
_SEQUENCE, _MISSING, _INTERNAL = "100", "101", "207"


def serve_orders(context: RoleContext, configuration: Configuration) -> None:
    """Run the orders role until told to stop.

    Raises
    ------
    OSError
        The port is taken.
    ConfigurationError
        A file of ``node.tls`` cannot be used.
    """
    storage = configuration.storage
    with contextlib.closing(open_ledger(storage.database, durable=storage.durable)) as ledger:
        asyncio.run(_serve(context, configuration, OrderServer(ledger, configuration.orders)))


async def _serve(context: RoleContext, configuration: Configuration, server: OrderServer) -> None:
    settings, tls = configuration.orders, configuration.node.tls
    assert settings.port is not None
    secured = server_context(tls) if settings.tls and tls is not None else None
    listening = await asyncio.start_server(
        server.connected,
        sock=listening_socket(settings.address, settings.port),
        limit=settings.maximum_message_kb * 1024,
        ssl=secured,
        ssl_handshake_timeout=None if secured is None else _HANDSHAKE_S,
    )
    context.ready()
    try:
        await asyncio.to_thread(context.stop.wait)
    finally:
        listening.close()
        await server.close()


async def _read_out(reader: asyncio.StreamReader) -> None:
    while await reader.read(65_536):
        pass


class OrderServer:
    """Answers on the connections of one port."""

    def __init__(self, ledger: Ledger, settings: OrderSettings) -> None:
        self._ledger, self._settings = ledger, settings
        self._senders = [ipaddress.ip_network(one) for one in settings.senders]
        self._open: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new connection until it ends, or close it at once."""
        address = normalised_address(str(writer.get_extra_info("peername")[0]))
        if not any(ipaddress.ip_address(address) in one for one in self._senders):
            _log.warning("connection closed: orders.senders does not name its address", address=address)
            writer.close()
        elif len(self._open) >= self._settings.maximum_connections:
            _log.warning("connection closed: orders.maximum_connections are open", address=address)
            writer.close()
        else:
            task = asyncio.create_task(self._serve(reader, writer, address))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        try:
            await self._converse(reader, writer, address)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            _log.info("connection ended", address=address, how=type(error).__name__)
        finally:
            writer.close()

    async def close(self) -> None:
        """End all connections; what was being written is in the ledger, or comes again."""
        served = tuple(self._open)
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        stray = 0
        while mark := await reader.read(1):
            if mark in _LINE_ENDS:
                # Between two messages, as of a sender that keeps them in text files: no message is lost by that.
                stray += 1
                await asyncio.sleep(0)
                continue
            if mark != _BEGIN:
                # The one byte: what follows may be a message without its mark, and that is patient data.
                _log.warning("connection closed: what came is no MLLP", address=address, byte=f"0x{mark.hex()}")
                return
            if stray:
                _log.info("line ends between messages passed over", address=address, bytes=stray)
                stray = 0
            try:
                block: bytes | None = (await asyncio.wait_for(reader.readuntil(_END), _WHOLE_S))[: -len(_END)]
            except asyncio.LimitOverrunError:
                block = None
            answer = await asyncio.to_thread(self.answer, block, address)
            writer.write(_BEGIN + answer + _END)
            await asyncio.wait_for(writer.drain(), _WHOLE_S)
            if block is None:
                # What is left of it cannot be told from what comes next. Closed before it is read, the connection would
                # be reset, and the answer lost.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(_read_out(reader), _REST_S)
                return

    def answer(self, block: bytes | None, address: str) -> bytes:
        """Do what a message says, and acknowledge it.

        Parameters
        ----------
        block
            Without the marks of MLLP; ``None`` where it was too long.
        address
            Where it came from, for the log.
        """
        now = utc_now()
        header = None if block is None else read_header(block)
        refusal: OrderRefusedError | None = None
        try:
            if block is None:
                raise OrderRefusedError("the message is too long", condition=_INTERNAL, rejects=True)
            if header is None:
                raise OrderRefusedError(
                    "the message does not begin with a usable MSH", condition=_SEQUENCE, rejects=True
                )
            message = read_orders(header, block, self._settings)
            same = self._settings.same_issuers
            new = take_orders(self._ledger, message.digest, message.changes, now=now, same_issuers=same)
        except OrderRefusedError as error:
            refusal = error
        except AmbiguousOrderError:
            refusal = OrderRefusedError(
                "several orders share these numbers: PID-3, or who gave the numbers, must tell which is meant",
                condition=_MISSING,
            )
        except SQLAlchemyError as error:
            _log.error("the ledger did not answer", error=type(error).__name__)
            refusal = OrderRefusedError("the ledger does not answer: send it again", condition=_INTERNAL, rejects=True)
        except Exception as error:  # noqa: BLE001 - a sender must get an answer whatever happens
            _log.error("a message about orders failed", at=raised_at(error))
            refusal = OrderRefusedError("this node failed over the message", condition=_INTERNAL, rejects=True)
        else:
            cancelled = sum(isinstance(one, CancelledOrder) for one in message.changes)
            kept = len(message.changes) - cancelled
            # Neither numbers of orders nor what they say: patient data.
            _log.info("orders taken", address=address, kept=kept, cancelled=cancelled, repeated=not new)
            ORDER_MESSAGES.labels("accepted" if new else "repeated").inc()
        if refusal is not None:
            _log.warning("orders not taken", address=address, why=refusal.what, rejected=refusal.rejects)
            ORDER_MESSAGES.labels("rejected" if refusal.rejects else "in error").inc()
        return acknowledgement(header, refusal, now)
