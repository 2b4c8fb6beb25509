"""What all associations of the node have in common below DICOM: socket options, time limits, the listener."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import structlog
from pynetdicom import AE, _config, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationServer, AssociationSocket

from dicom_node.errors import raised_at
from dicom_node.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.network.admission import Rejection
from dicom_node.network.first_pdu import ABORT, FirstPduError, ae_titles, reject
from dicom_node.network.negotiation import MalformedPduError, cleaned
from dicom_node.network.pending import Arrival, Endpoint, PendingConnections, PendingLimits
from dicom_node.network.places import Places
from dicom_node.network.refusals import RefusalReason, Refusals
from dicom_node.network.tls import PeerCertificate, peer_certificate
from dicom_node.network.typed import replace_method, time_limit

__all__ = [
    "AcceptAll",
    "Acceptance",
    "AdmissionPolicy",
    "AssociationRequest",
    "EventHandlers",
    "application_entity",
    "lenient_answer",
    "listening",
    "prompt_socket",
]

_log = structlog.get_logger(__name__)

EventHandlers = Sequence[tuple[Any, ...]]

READ_AT_ONCE = 1 << 16
"""Bytes."""
_ABORTING_S = 2.0
"""How long the thread that reads a connection may take to its end when the node stops."""
SHORTEST_MAXIMUM = 8
"""Bytes of a PDU with a presentation data value of two (PS3.8 9.3.5)."""

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
        wrapper = event.assoc.dul.socket
        if wrapper is None or wrapper.socket is None:
            return
        wrapper.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapper.socket.settimeout(timeout_s)
        replace_method(wrapper, "recv", functools.partial(_read_promptly, wrapper.socket))

    return ((evt.EVT_CONN_OPEN, opened),)


def lenient_answer() -> EventHandlers:
    """Handlers that have the peer's answer to an association request made clean before it is decoded."""

    def opened(event: evt.Event) -> None:
        provider = event.assoc.dul
        otherwise = provider._decode_pdu

        def decode(pdu: bytearray) -> tuple[Any, str]:
            try:
                decoded, happened = otherwise(bytearray(cleaned(bytes(pdu))))
            except MalformedPduError:
                # Its own decoder says what it says of damaged PDUs.
                return otherwise(pdu)
            if isinstance(decoded, A_ASSOCIATE_AC):
                # What the state machine does with it, where an exception would leave the connection open.
                decoded.to_primitive()
            return decoded, happened

        replace_method(provider, "_decode_pdu", decode)

    return ((evt.EVT_CONN_OPEN, opened),)


def _read_promptly(connection: socket.socket, size: int) -> bytearray:
    """Read ``size`` bytes, fewer when the connection ends; in place of AssociationSocket.recv.

    A peer with Nagle's algorithm that writes a PDU in two parts holds the second back until the first is acknowledged.
    Linux falls back to delaying that by itself (tcp(7)), so it is told again before each wait.
    """
    received = bytearray()
    while len(received) < size:
        if hasattr(socket, "TCP_QUICKACK"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        part = connection.recv(min(size - len(received), READ_AT_ONCE))
        if not part:
            break
        received += part
    return received


@dataclass(frozen=True, slots=True)
class AssociationRequest:
    """Who asks for an association, before any thread is made for it."""

    calling_ae_title: str
    called_ae_title: str
    address: str
    certificate: PeerCertificate | None
    """Verified; none without TLS."""


class AdmissionPolicy(Protocol):
    """Decides who gets an association; called in the thread of all pending connections, so it must not block."""

    def admit(self, request: AssociationRequest) -> Acceptance | Rejection:
        """Accept or reject."""
        ...


class Acceptance(Protocol):
    """An accepted request, notified of what becomes of it."""

    def begin(self, association: Association) -> Sequence[PresentationContext]:
        """Note that the association is about to start; returns the contexts that it may negotiate."""
        ...

    def withdraw(self) -> None:
        """Give back the place: there will be no association after all."""
        ...


@dataclass(frozen=True, slots=True)
class AcceptAll:
    """Accepts every request, with the same presentation contexts."""

    contexts: tuple[PresentationContext, ...]

    def admit(self, request: AssociationRequest) -> AcceptAll:  # noqa: ARG002
        """Accept."""
        return self

    def begin(self, association: Association) -> Sequence[PresentationContext]:  # noqa: ARG002
        """The contexts, for this association alone: negotiation writes into them."""
        return copy.deepcopy(self.contexts)

    def withdraw(self) -> None:
        """Do nothing: no place was taken."""


class Listener:
    """Makes associations of connections that have sent their request; what pynetdicom calls the server.

    Parameters
    ----------
    entity
        The local application entity.
    handlers
        Bound to each association.
    association_class
        Made as ``association_class(entity, "acceptor")``.
    """

    def __init__(
        self,
        entity: AE,
        handlers: EventHandlers,
        policy: AdmissionPolicy,
        refusals: Refusals,
        association_class: Callable[[AE, str], Association] = Association,
    ) -> None:
        self._entity, self._handlers, self._policy, self._refusals = entity, handlers, policy, refusals
        self._association_class = association_class

    def _as_server(self) -> AssociationServer:
        # An association asks its server for no more than this class has.
        return cast("AssociationServer", self)

    @property
    def active_associations(self) -> list[Association]:
        """Associations whose thread has not ended."""
        return [
            association for association in self._entity.active_associations if association._server is self._as_server()
        ]

    def shutdown_request(self, connection: socket.socket) -> None:
        """Close a connection; called by pynetdicom at the end of each association."""
        with contextlib.suppress(OSError):
            # For reading too: a thread that waits for the rest of a PDU would wait on, as long as its time limit
            # allows. A process that stops would wait with it, be killed by its supervisor, and leave the file of what
            # was on its way.
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def receive(self, arrival: Arrival) -> bytes | None:
        """Start an association, or return the PDU that refuses it."""
        try:
            calling, called = ae_titles(arrival.request)
        except FirstPduError as error:
            self._refusals.count(error.reason)
            return error.answer
        shown = peer_certificate(arrival.connection) if isinstance(arrival.connection, ssl.SSLSocket) else None
        decision = self._policy.admit(AssociationRequest(calling, called, arrival.address[0], shown))
        if isinstance(decision, Rejection):
            return reject(*decision.value)
        # Decoding a request with many presentation contexts takes pynetdicom longer than others should wait.
        try:
            threading.Thread(target=self._associate, args=(arrival, decision), name="request", daemon=True).start()
        except RuntimeError:
            # No more threads to be had.
            decision.withdraw()
            self._refusals.count(RefusalReason.FAILURE)
            return reject(*Rejection.TEMPORARY_CONGESTION.value)
        return None

    def _associate(self, arrival: Arrival, acceptance: Acceptance) -> None:
        try:
            self._association(arrival, acceptance, _decoded(arrival.request)).start()
        except Exception as error:  # noqa: BLE001 - the peer gets an answer and its place is freed whatever happens
            reason = error.reason if isinstance(error, FirstPduError) else RefusalReason.FAILURE
            self._refusals.count(reason)
            if reason is RefusalReason.FAILURE:
                _log.exception("association could not be set up", address=arrival.address[0])
            with contextlib.suppress(OSError):
                arrival.connection.settimeout(self._entity.acse_timeout)
                arrival.connection.sendall(ABORT)
            self.shutdown_request(arrival.connection)
            acceptance.withdraw()

    def _association(self, arrival: Arrival, acceptance: Acceptance, request: A_ASSOCIATE_RQ) -> Association:
        association = self._association_class(self._entity, MODE_ACCEPTOR)
        association._server = self._as_server()
        association.name = f"association {arrival.address[0]}:{arrival.address[1]}"
        association.set_socket(AssociationSocket(association, client_socket=arrival.connection))
        acceptor = association.acceptor
        acceptor.maximum_length = self._entity.maximum_pdu_size
        acceptor.ae_title = self._entity.ae_title
        acceptor.address_info = AddressInformation.from_tuple(arrival.connection.getsockname())
        acceptor.implementation_class_uid = self._entity.implementation_class_uid
        acceptor.implementation_version_name = self._entity.implementation_version_name
        association.requestor.address_info = AddressInformation.from_tuple(arrival.address)
        for event, *rest in self._handlers:
            association.bind(event, *rest)
        acceptor.supported_contexts = list(acceptance.begin(association))
        replace_method(
            association, "run", functools.partial(self._run, association, association.run, arrival.connection)
        )
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": arrival.address})
        # The state machine finds the request as if it had read it: Evt5, put by the socket, then Evt6.
        association.dul._recv_pdu.put(request)
        association.dul.event_queue.put("Evt6")
        return association

    def _run(self, association: Association, run: Callable[[], None], connection: socket.socket) -> None:
        """Run the thread of an association; if that fails, the peer, both threads and the place are let go of."""
        try:
            run()
        except Exception as error:  # noqa: BLE001 - without this thread nobody would ever end the association
            _log.error("association broken off", address=association.requestor.address, place=raised_at(error))
            self._refusals.count(RefusalReason.FAILURE)
            association.dul.kill_dul()
            with contextlib.suppress(OSError):
                connection.sendall(ABORT)
            self.shutdown_request(connection)
            association.is_established, association.is_aborted, association._kill = False, True, True
            evt.trigger(association, evt.EVT_ABORTED, {})


def _decoded(request: bytes) -> A_ASSOCIATE_RQ:
    pdu = _WholeRequest()
    try:
        pdu.decode(cleaned(request))
        # What the state machine does with it: an exception there would leave the peer without an answer.
        pdu.primitive = pdu.to_primitive()
    except Exception as error:
        raise FirstPduError(RefusalReason.PDU_CONTENT) from error
    information = pdu.user_information
    if information is not None and 0 < (information.maximum_length or 0) < SHORTEST_MAXIMUM:
        # It is too short for a fragment.
        raise FirstPduError(RefusalReason.PDU_CONTENT)
    return pdu


class _WholeRequest(A_ASSOCIATE_RQ):
    """Converted once: that takes ten milliseconds for a peer that proposes all it knows."""

    primitive: A_ASSOCIATE | None = None

    def to_primitive(self) -> A_ASSOCIATE:
        """The primitive, as far as it was made before."""
        return self.primitive or super().to_primitive()


@contextlib.contextmanager
def listening(
    entity: AE,
    endpoints: Sequence[Endpoint],
    handlers: EventHandlers,
    policy: AdmissionPolicy,
    *,
    association_class: Callable[[AE, str], Association] = Association,
    refusals: Refusals | None = None,
    places: Places | None = None,
    grace_s: float = 5.0,
) -> Iterator[PendingConnections]:
    """Accept associations until the block ends.

    At the end the endpoints are closed at once and open associations get ``grace_s`` seconds to finish; what is open
    then is aborted.

    Parameters
    ----------
    places
        Where the processes that share the endpoints count their associations, so that the least busy one accepts.
    """
    refusals = refusals or Refusals()
    listener = Listener(entity, handlers, policy, refusals, association_class)
    limits = PendingLimits(artim_s=time_limit(entity.acse_timeout))
    pending = (
        PendingConnections(endpoints, listener.receive, limits, refusals, ahead=places.ahead, arriving=places.arriving)
        if places
        else PendingConnections(endpoints, listener.receive, limits, refusals)
    )
    pending.start()
    try:
        yield pending
    finally:
        pending.stop()
        deadline = time.monotonic() + grace_s
        while listener.active_associations and time.monotonic() < deadline:
            time.sleep(0.02)
        for association in listener.active_associations:
            association.abort()
            # It removes the file of what was on its way.
            association.dul.join(_ABORTING_S)
