"""Association policy: who may open an association, and what a peer may do on it."""

from __future__ import annotations

import enum
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dicom_node.config import Configuration, Peer, PeerPermission
from dicom_node.network.places import Places
from dicom_node.network.refusals import RefusalReason
from dicom_node.network.tls import PeerCertificate

__all__ = [
    "Admitted",
    "HostResolver",
    "Refused",
    "Rejection",
    "admit",
    "counted_under",
    "normalised_address",
    "take_place",
]


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
    peers: tuple[str, ...]
    """Entries of section ``peers`` that it is opened under."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The association is rejected."""

    rejection: Rejection
    reason: RefusalReason
    why: str
    """For the log: what to change where."""


def normalised_address(address: str) -> str:
    """An IP address as one text, whichever way a socket spelled it (``::ffff:10.0.0.1`` is ``10.0.0.1``)."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


class HostResolver:
    """Addresses of host names, looked up ahead of time: a slow name server must not hold up those who call.

    Parameters
    ----------
    hosts
        Names and addresses of peers; empty ones are left out.
    """

    def __init__(self, hosts: Iterable[str], every_s: float = 60.0) -> None:
        self._every_s = every_s
        self._known: dict[str, frozenset[str]] = {}
        self._names: list[str] = []
        for host in sorted({host for host in hosts if host}):
            try:
                self._known[host] = frozenset({normalised_address(host)})
            except ValueError:
                self._names.append(host)

    def __call__(self, host: str) -> frozenset[str]:
        """Addresses of a host; empty when its name does not resolve and never did."""
        return self._known.get(host, frozenset())

    def look_up(self) -> None:
        """Ask the name server for all names, once."""
        for name in self._names:
            try:
                found = socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)
            except OSError:
                # The name server is down: the last known addresses are better than locking out a scanner.
                continue
            self._known[name] = frozenset(normalised_address(str(entry[4][0])) for entry in found)

    def keep_looking_up(self, stop: threading.Event, patience_s: float = 5.0) -> None:
        """Look up now and then in a thread until told to stop; returns when the first round is done or takes long."""
        if not self._names:
            return
        first_round = threading.Event()

        def work() -> None:
            self.look_up()
            first_round.set()
            while not stop.wait(self._every_s):
                self.look_up()

        threading.Thread(target=work, name="names of peers", daemon=True).start()
        first_round.wait(patience_s)


def admit(
    configuration: Configuration,
    *,
    calling_ae_title: str,
    called_ae_title: str,
    address: str,
    certificate: PeerCertificate | None = None,
    resolve: Callable[[str], frozenset[str]],
) -> Admitted | Refused:
    """Decide whether a peer is one that may open associations.

    Parameters
    ----------
    address
        Of the peer's end of the connection.
    certificate
        That it showed; none without TLS. An AE title alone authenticates nobody.
    resolve
        Host name to addresses, see :class:`HostResolver`.
    """
    if called_ae_title.strip() != configuration.node.ae_title:
        return Refused(
            Rejection.CALLED_NOT_RECOGNISED,
            RefusalReason.CALLED_AE_TITLE,
            f"it called {called_ae_title.strip()!r}; this node is {configuration.node.ae_title!r} (node.ae_title)",
        )
    calling = calling_ae_title.strip()
    shown = "" if certificate is None else f"{certificate.common_name!r}, SHA-256 {certificate.fingerprint}"
    candidates = dict(configuration.peers)
    for reason, holds, why in (
        (
            RefusalReason.CALLING_AE_TITLE,
            lambda peer: peer.ae_title == calling,
            f"no peer has the AE title {calling!r} (section peers)",
        ),
        (
            RefusalReason.HOST,
            lambda peer: _is_at(peer, address, resolve),
            f"{calling!r} may not call from {address} (peers: host)",
        ),
        (
            RefusalReason.TLS_REQUIRED,
            lambda peer: certificate is not None or not peer.tls,
            f"{calling!r} may not call without TLS (peers: tls)",
        ),
        (
            RefusalReason.CERTIFICATE,
            lambda peer: certificate is None or not peer.certificate or certificate.is_that_of(peer.certificate),
            f"{calling!r} showed a certificate that is not its own: {shown} (peers: certificate)",
        ),
    ):
        candidates = {name: peer for name, peer in candidates.items() if holds(peer)}
        if not candidates:
            return Refused(Rejection.CALLING_NOT_RECOGNISED, reason, why)
    return Admitted(
        frozenset[PeerPermission]().union(*(peer.may for peer in candidates.values())), tuple(sorted(candidates))
    )


def counted_under(peers: tuple[str, ...], address: str) -> tuple[str, ...]:
    """Names under which an association is counted: each entry that it is opened under, and its address."""
    return *peers, normalised_address(address)


def take_place(configuration: Configuration, admitted: Admitted, address: str, places: Places) -> Refused | None:
    """Count an association in, unless the node, its peer or its address has too many open; ``None`` when counted.

    A peer and an address without a limit of their own may have three quarters of what the node has, so that none of
    them alone keeps everybody else out.
    """
    names = counted_under(admitted.peers, address)
    places.enter(names)
    limit = configuration.node.maximum_associations
    share = limit - limit // 4
    of_address = configuration.node.maximum_associations_per_address or share
    refused = None
    if places.table.total() > limit:
        refused = Refused(
            Rejection.LOCAL_LIMIT_EXCEEDED,
            RefusalReason.NODE_LIMIT,
            f"{limit} associations are open already (node.maximum_associations)",
        )
    if refused is None and places.table.total(names[-1]) > of_address:
        refused = Refused(
            Rejection.LOCAL_LIMIT_EXCEEDED,
            RefusalReason.PEER_LIMIT,
            f"{of_address} associations from its address are open already (node.maximum_associations_per_address)",
        )
    for name in admitted.peers:
        of_peer = configuration.peers[name].maximum_associations or share
        if refused is None and places.table.total(name) > of_peer:
            refused = Refused(
                Rejection.LOCAL_LIMIT_EXCEEDED,
                RefusalReason.PEER_LIMIT,
                f"it has {of_peer} associations open already (peers.{name}.maximum_associations)",
            )
    if refused is not None:
        places.leave(names)
    return refused


def _is_at(peer: Peer, address: str, resolve: Callable[[str], Iterable[str]]) -> bool:
    return not peer.host or normalised_address(address) in resolve(peer.host)
