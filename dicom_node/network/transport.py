"""What all associations of the node have in common below DICOM: socket options, time limits, the listener."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationServer

from dicom_node.network.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = ["EventHandlers", "Listener", "application_entity", "listening", "prompt_socket"]

EventHandlers = Sequence[tuple[Any, ...]]

# The standard handlers format every PDU and message for a log that nobody reads: a quarter of the time per image.
_config.LOG_HANDLER_LEVEL = "none"
# Identifiers of queries are patient data.
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
# Files leave as they are on disk, byte for byte and in chunks, where the peer takes their transfer syntax.
_config.STORE_SEND_CHUNKED_DATASET = True
# Tracebacks of pynetdicom for each broken-off connection; what matters is logged by the node itself.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


def application_entity(
    ae_title: str, *, maximum_pdu: int, network_timeout_s: float, acse_timeout_s: float, dimse_timeout_s: float
) -> AE:
    """A local application entity with every time limit set.

    Parameters
    ----------
    maximum_pdu
        Bytes that peers may send in one PDU.
    network_timeout_s
        Silence of an open association, and of a connection in the middle of a PDU.
    acse_timeout_s
        Answer to an association or release request; connecting.
    dimse_timeout_s
        Answer to a DIMSE request.
    """
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_pdu_size = maximum_pdu
    entity.network_timeout = network_timeout_s
    entity.acse_timeout = acse_timeout_s
    entity.connection_timeout = acse_timeout_s
    entity.dimse_timeout = dimse_timeout_s
    return entity


def prompt_socket(timeout_s: float) -> EventHandlers:
    """Handlers that keep Nagle's algorithm and delayed acknowledgement from stalling an association.

    Each costs a peer without TCP_NODELAY, or this node as a sender to one, 40 ms an object.

    Parameters
    ----------
    timeout_s
        Longest that a send or the rest of a PDU may take; else one stalled peer holds a thread for ever.
    """

    def opened(event: evt.Event) -> None:
        connection = _socket(event)
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(timeout_s)
            _acknowledge_at_once(connection)

    def received(event: evt.Event) -> None:
        connection = _socket(event)
        if connection is not None:
            _acknowledge_at_once(connection)

    return ((evt.EVT_CONN_OPEN, opened), (evt.EVT_DATA_RECV, received))


def _socket(event: evt.Event) -> socket.socket | None:
    wrapper = event.assoc.dul.socket
    return None if wrapper is None else wrapper.socket


def _acknowledge_at_once(connection: socket.socket) -> None:
    # Linux falls back to delayed acknowledgement by itself, so the option is set again after each PDU (tcp(7)).
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class Listener(AssociationServer):
    """pynetdicom's server with a backlog for bursts of connections, and a port that several processes may share."""

    request_queue_size = 128
    reuse_port = False

    def server_bind(self) -> None:
        """Bind the socket."""
        if self.reuse_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Drop a connection that could not be set up; the listener goes on."""
        logging.getLogger(__name__).warning("connection from %s could not be set up", client_address, exc_info=True)


class SharedListener(Listener):
    """A listener whose port other processes listen on as well."""

    reuse_port = True


@contextlib.contextmanager
def listening(
    entity: AE,
    address: tuple[str, int],
    contexts: Sequence[PresentationContext],
    handlers: EventHandlers,
    *,
    shared_port: bool = False,
    grace_s: float = 5.0,
) -> Iterator[Listener]:
    """Accept associations until the block ends.

    At the end new connections are refused at once and open associations get ``grace_s`` seconds to finish; what is
    open then is aborted.

    Raises
    ------
    OSError
        The address cannot be listened on.
    """
    server = entity.make_server(
        address,
        contexts=list(contexts),
        evt_handlers=list(handlers),
        server_class=SharedListener if shared_port else Listener,
    )
    entity._servers.append(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="listener", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        deadline = time.monotonic() + grace_s
        while server.active_associations and time.monotonic() < deadline:
            time.sleep(0.02)
        for association in server.active_associations:
            association.abort()
