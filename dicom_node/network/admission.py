"""Association policy: who may open an association, and what a peer may do on it."""

from __future__ import annotations

import enum
import ipaddress
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dicom_node.config import Configuration, Peer, PeerPermission

__all__ = ["Admitted", "HostResolver", "Refused", "Rejection", "admit", "normalised_address"]


class Rejection(enum.Enum):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    CALLING_NOT_RECOGNISED = (1, 1, 3)
    CALLED_NOT_RECOGNISED = (1, 1, 7)
    TEMPORARY_CONGESTION = (2, 3, 1)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The association may be opened."""

    permissions: frozenset[PeerPermission]


@dataclass(frozen=True, slots=True)
class Refused:
    """The association is rejected."""

    rejection: Rejection
    why: str
    """For the log: what to change where."""


def normalised_address(address: str) -> str:
    """An IP address as one text, whichever way a socket spelled it (``::ffff:10.0.0.1`` is ``10.0.0.1``)."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


class HostResolver:
    """Addresses of host names, remembered for a while so that a slow name server does not slow each association."""

    def __init__(self, keep_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s, self._clock = keep_s, clock
        self._known: dict[str, tuple[float, frozenset[str]]] = {}

    def __call__(self, host: str) -> frozenset[str]:
        """Addresses of a host; empty when the name does not resolve and never did."""
        now = self._clock()
        until, addresses = self._known.get(host, (0.0, frozenset[str]()))
        if now < until:
            return addresses
        try:
            found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
        except OSError:
            # The name server is down: the last known addresses are better than locking out a scanner.
            found = []
        if found:
            addresses = frozenset(normalised_address(str(entry[4][0])) for entry in found)
        self._known[host] = (now + self._keep_s, addresses)
        return addresses


def admit(
    configuration: Configuration,
    *,
    calling_ae_title: str,
    called_ae_title: str,
    address: str,
    open_associations: int,
    resolve: Callable[[str], frozenset[str]],
) -> Admitted | Refused:
    """Decide on an association request.

    Parameters
    ----------
    address
        Of the peer's end of the connection.
    open_associations
        Associations that peers have open with this process, this request not counted.
    resolve
        Host name to addresses, see :class:`HostResolver`.
    """
    if called_ae_title.strip() != configuration.node.ae_title:
        return Refused(
            Rejection.CALLED_NOT_RECOGNISED,
            f"it called {called_ae_title.strip()!r}; this node is {configuration.node.ae_title!r} (node.ae_title)",
        )
    titled = _titled(configuration.peers, calling_ae_title.strip())
    if not titled:
        return Refused(
            Rejection.CALLING_NOT_RECOGNISED, f"no peer has the AE title {calling_ae_title.strip()!r} (section peers)"
        )
    here = [peer for peer in titled if _is_at(peer, address, resolve)]
    if not here:
        return Refused(
            Rejection.CALLING_NOT_RECOGNISED,
            f"{calling_ae_title.strip()!r} may not call from {address} (peers: host)",
        )
    limit = configuration.node.maximum_associations
    if open_associations >= limit:
        return Refused(
            Rejection.LOCAL_LIMIT_EXCEEDED, f"{limit} associations are open already (node.maximum_associations)"
        )
    return Admitted(frozenset[PeerPermission]().union(*(peer.may for peer in here)))


def _titled(peers: Mapping[str, Peer], ae_title: str) -> list[Peer]:
    return [peer for peer in peers.values() if peer.ae_title == ae_title]


def _is_at(peer: Peer, address: str, resolve: Callable[[str], Iterable[str]]) -> bool:
    return not peer.host or normalised_address(address) in resolve(peer.host)
