"""What all receiver processes of a node share: the listening sockets and the count of open associations."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from dicom_node.config import Configuration
from dicom_node.network.places import PlaceTable

__all__ = ["ListeningPorts", "listening_socket", "no_listening_ports", "open_listening_ports"]

BACKLOG = 512
"""Connections that wait to be accepted; the kernel caps it at net.core.somaxconn."""


@dataclass(frozen=True, slots=True)
class ListeningPorts:
    """The listening sockets and the place table, opened once by the supervisor and given to each receiver process.

    A connection that no process has accepted yet waits in the socket's backlog, so a process that dies loses none: the
    one that takes its place has the same sockets.
    """

    plain: socket.socket | None
    secure: socket.socket | None
    """Where TLS is spoken."""
    places: PlaceTable

    def close(self) -> None:
        """Close the sockets of this process; a port closes when the last process has done so."""
        for listening in (self.plain, self.secure):
            if listening is not None:
                listening.close()


def no_listening_ports(configuration: Configuration) -> ListeningPorts:
    """What a host without receivers has: no socket, and a table in which nothing is counted."""
    return ListeningPorts(None, None, PlaceTable(0, configuration.peers))


def open_listening_ports(configuration: Configuration) -> ListeningPorts:
    """Listen on the ports of a node.

    Raises
    ------
    OSError
        A port is taken, or the address is not this machine's.
    """
    node, tls = configuration.node, configuration.node.tls
    places = PlaceTable(node.receiver_processes, configuration.peers)
    first = listening_socket(node.address, node.port, shared=node.share_port)
    if tls is None:
        return ListeningPorts(first, None, places)
    if tls.port is None:
        return ListeningPorts(None, first, places)
    try:
        return ListeningPorts(first, listening_socket(node.address, tls.port, shared=node.share_port), places)
    except OSError:
        first.close()
        raise


def listening_socket(address: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that listens; processes may share it, and connections wait in its backlog while none accepts.

    Parameters
    ----------
    shared
        Whether other sockets of the same user may listen there too, if they say so as well (SO_REUSEPORT).

    Raises
    ------
    OSError
        The address cannot be listened on; it is the error's ``filename``.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )[0]
        with contextlib.ExitStack() as unless_it_listens:
            listening = unless_it_listens.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(where)
            listening.listen(BACKLOG)
            unless_it_listens.pop_all()
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{address}:{port}") from error
    return listening
