"""The node as SCU: associations with peers, C-ECHO, C-STORE with fallback to uncompressed transfer syntaxes."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import A_ASSOCIATE, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.config import Configuration, Peer, TlsSettings
from dicom_node.errors import (
    CannotUnderstandError,
    ConfigurationError,
    DeliveryRefusedError,
    NodeError,
    NotAcceptedError,
    PeerFailedError,
    PeerOutOfResourcesError,
    PeerUnavailableError,
)
from dicom_node.network.answers import lenient_messages
from dicom_node.network.capabilities import UNCOMPRESSED
from dicom_node.network.sop_classes import Verification
from dicom_node.network.tls import client_context
from dicom_node.network.transport import EventHandlers, application_entity, lenient_answer, prompt_socket
from dicom_node.network.typed import replace_method, time_limit
from dicom_node.peer_words import in_few_words

__all__ = [
    "PEER_TROUBLE",
    "DicomFile",
    "EchoResult",
    "ScuSettings",
    "SendOutcome",
    "associated",
    "batches",
    "echo",
    "judge_store_status",
    "read_dicom_file",
    "send_files",
    "store_contexts",
    "store_file",
]

MAXIMUM_CONTEXTS = 128
"""Presentation contexts of one association: odd ids from 1 to 255 (PS3.8 9.3.2.2)."""
PEER_TROUBLE = (RuntimeError, ValueError, AttributeError, TypeError, LookupError, OSError)
"""What pynetdicom raises where the association has ended, was negotiated oddly, or brings what cannot be read."""
SLOWEST_LINK_BYTES_PER_S = 125_000
"""A link of 1 Mbit/s; large objects get this much longer than the response time-out."""


@dataclass(frozen=True, slots=True)
class ScuSettings:
    """How this node behaves towards peers that it calls."""

    ae_title: str
    maximum_pdu: int = 131072
    acse_timeout_s: float = 15.0
    response_timeout_s: float = 30.0
    tls: TlsSettings | None = None
    """For peers that are called over TLS."""

    @classmethod
    def of(cls, configuration: Configuration) -> ScuSettings:
        """The settings of a configuration."""
        node = configuration.node
        return cls(
            node.ae_title, node.maximum_pdu, node.acse_timeout_s, configuration.delivery.response_timeout_s, node.tls
        )


@dataclass(frozen=True, slots=True)
class DicomFile:
    """One Part 10 file, by its File Meta Information."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """What became of one file."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    status: int | None
    """Of the C-STORE response; ``None`` when there was none."""
    error: NodeError | None
    """``None`` when the peer has the object; else :attr:`~dicom_node.errors.NodeError.retryable` says what to do."""
    transcoded: bool = False
    """Sent uncompressed because the peer does not take the transfer syntax of the file."""
    warning: str = ""
    """A warning status in words; the object was stored."""


@dataclass(frozen=True, slots=True)
class EchoResult:
    """Answer to a C-ECHO."""

    seconds: float
    error: NodeError | None

    @property
    def reachable(self) -> bool:
        """Whether the peer answered with Success."""
        return self.error is None


def read_dicom_file(path: Path) -> DicomFile:
    """Read what negotiation needs of a file.

    Raises
    ------
    CannotUnderstandError
        It is not a Part 10 file, or lacks an element of the File Meta Information.
    OSError
        It cannot be read.
    """
    try:
        meta = read_file_meta_info(path)
        return DicomFile(
            path,
            str(meta.MediaStorageSOPClassUID),
            str(meta.MediaStorageSOPInstanceUID),
            str(meta.TransferSyntaxUID),
            path.stat().st_size,
        )
    except (InvalidDicomError, AttributeError, ValueError, EOFError) as error:
        raise CannotUnderstandError(
            "is not a DICOM file (PS3.10 7.1)", subject=str(path), remedy="leave it out"
        ) from error


def store_contexts(files: Sequence[DicomFile]) -> list[PresentationContext]:
    """Contexts to store these files: each SOP class in every transfer syntax it is stored in, and uncompressed.

    One transfer syntax a context, so that the peer can say yes to several and the choice stays with the sender.
    """
    wanted: dict[tuple[str, str], None] = {}
    for file in files:
        wanted[file.sop_class_uid, file.transfer_syntax_uid] = None
        for syntax in UNCOMPRESSED:
            wanted[file.sop_class_uid, str(syntax)] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in wanted]


def batches(files: Sequence[DicomFile], *, reserved_contexts: int = 0) -> list[list[DicomFile]]:
    """Split files so that each part fits one association; order is kept within a SOP class."""
    by_class: dict[str, list[DicomFile]] = {}
    for file in files:
        by_class.setdefault(file.sop_class_uid, []).append(file)
    room = MAXIMUM_CONTEXTS - reserved_contexts
    parts: list[list[DicomFile]] = []
    used = room
    for members in by_class.values():
        needed = len(store_contexts(members))
        if used + needed > room:
            parts.append([])
            used = 0
        parts[-1] += members
        used += needed
    return parts


@contextlib.contextmanager
def associated(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    settings: ScuSettings,
    handlers: EventHandlers = (),
    negotiation: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> Iterator[Association]:
    """An association with a peer, released at the end of the block, aborted when the block raises.

    Parameters
    ----------
    handlers
        Of what the peer may request on it.
    negotiation
        Roles, where this node is not the SCU of a service (PS3.7 D.3.3.4).

    Raises
    ------
    PeerUnavailableError
        The peer cannot be reached, or rejects or aborts the association, or is not who it should be.
    NotAcceptedError
        The peer accepts none of the presentation contexts.
    ConfigurationError
        The peer is to be called over TLS and this node has no certificate.
    """
    where = f"{peer.ae_title}@{peer.host}:{peer.port}"
    if peer.port is None or not peer.host:
        raise PeerUnavailableError("has no host or no port", subject=where, remedy="complete it in section peers")
    entity = application_entity(
        settings.ae_title,
        maximum_pdu=settings.maximum_pdu,
        network_timeout_s=max(60.0, 2 * settings.response_timeout_s),
        acse_timeout_s=settings.acse_timeout_s,
        dimse_timeout_s=settings.response_timeout_s,
    )
    connected = threading.Event()
    rejections: list[A_ASSOCIATE] = []

    def received(event: evt.Event) -> None:
        # pynetdicom takes a rejection for a connection that failed where its thread had closed the connection before
        # this one looked at it.
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu.to_primitive())

    handshake_failures: list[OSError] = []
    secure = _tls(peer, settings, where, handshake_failures.append)
    try:
        association = entity.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            max_pdu=settings.maximum_pdu,
            ext_neg=list(negotiation),
            tls_args=secure,
            evt_handlers=[
                *prompt_socket(settings.response_timeout_s),
                *lenient_answer(),
                *lenient_messages(),
                (evt.EVT_CONN_OPEN, lambda _event: connected.set()),
                (evt.EVT_PDU_RECV, received),
                *handlers,
            ],
        )
    except OSError as error:
        raise PeerUnavailableError(
            f"its address cannot be resolved: {error.strerror}", subject=where, remedy="check peers: host"
        ) from error
    if not association.is_established:
        if handshake_failures:
            raise _handshake_failed(handshake_failures[0], where)
        raise _no_association(association, where, rejections, connected=connected.is_set(), secure=peer.tls)
    _keep_responses(association)
    try:
        yield association
    except BaseException:
        if association.is_established:
            association.abort()
        raise
    if association.is_established:
        _release(association)


def _keep_responses(association: Association) -> None:
    # Whoever sends a request pauses pynetdicom's reactor, but not where it already is on its way to the queue: then it
    # takes the response for a request that it does not know, and the sender waits for its time-out. One response in
    # hundreds on a busy machine.
    otherwise = association._serve_request

    def serve(message: Any, context_id: int) -> None:
        if message.is_valid_request or association._reactor_checkpoint.is_set():
            otherwise(message, context_id)
        else:
            association.dimse.msg_queue.put((context_id, message))

    replace_method(association, "_serve_request", serve)


def _release(association: Association) -> None:
    # A request of the peer that crosses the release leaves pynetdicom waiting for ever for its own reactor: release()
    # spins until that is paused, and the thread that serves the request marks it as running. Aborting ends the wait.
    patience_s = time_limit(association.acse_timeout) + 1
    releasing = threading.Thread(target=association.release, daemon=True)
    releasing.start()
    releasing.join(patience_s)
    if releasing.is_alive():
        association.abort()
        releasing.join(patience_s)


def _tls(
    peer: Peer, settings: ScuSettings, where: str, failed: Callable[[OSError], None]
) -> tuple[ssl.SSLContext, str] | None:
    if not peer.tls:
        return None
    if settings.tls is None:
        raise ConfigurationError(
            "is to be called over TLS, but this node has no certificate", subject=where, remedy="complete node.tls"
        )
    try:
        return client_context(settings.tls, peer, failed), peer.host
    except ConfigurationError as error:
        # Results wait until somebody has mended it.
        raise PeerUnavailableError(f"cannot be called over TLS: {error}", subject=where) from error


def _handshake_failed(error: OSError, where: str) -> NodeError:
    # Where OpenSSL has words of its own, what surrounds them is for its developers.
    why = getattr(error, "verify_message", "") or getattr(error, "reason", None) or str(error)
    return PeerUnavailableError(
        f"TLS handshake failed: {why}",
        subject=where,
        remedy="check node.tls here, peers: certificate and host, and the certificates at the peer",
    )


def _no_association(
    association: Association, where: str, rejections: Sequence[A_ASSOCIATE], *, connected: bool, secure: bool
) -> NodeError:
    if rejections:
        answer = rejections[0]
        return PeerUnavailableError(
            f"rejects the association: {answer.result_str}, {answer.reason_str}",
            subject=where,
            remedy="check both AE titles here and at the peer, and whether the peer knows this node",
        )
    if association.rejected_contexts:
        return NotAcceptedError(
            "accepts none of the presentation contexts offered",
            subject=where,
            remedy="enable the SOP classes at the peer",
        )
    if connected:
        return PeerUnavailableError(
            "takes the connection but breaks off or does not answer the association request",
            subject=where,
            remedy="check its log, and whether it trusts the certificate of this node (node.tls)"
            if secure
            else "check that a DICOM application listens on that port, and its log",
        )
    return PeerUnavailableError("cannot be reached", subject=where, remedy="check host, port and whether it runs")


def echo(peer: Peer, settings: ScuSettings) -> EchoResult:
    """Test the connection to a peer by C-ECHO."""
    started = time.monotonic()
    error: NodeError | None = None
    try:
        with associated(peer, [build_context(Verification, list(UNCOMPRESSED))], settings) as association:
            status = association.send_c_echo().get("Status")
            if status != 0x0000:
                answer = "no answer" if status is None else f"status {status:04X}"
                error = PeerUnavailableError(f"C-ECHO: {answer}", subject=f"{peer.ae_title}@{peer.host}:{peer.port}")
    except NodeError as failure:
        error = failure
    except PEER_TROUBLE:
        where = f"{peer.ae_title}@{peer.host}:{peer.port}"
        error = PeerUnavailableError("C-ECHO: the association broke off", subject=where)
    return EchoResult(time.monotonic() - started, error)


def send_files(
    paths: Sequence[Path],
    peer: Peer,
    settings: ScuSettings,
    *,
    progress: Callable[[SendOutcome], None] = lambda _outcome: None,
) -> list[SendOutcome]:
    """Send files over as few associations as their SOP classes allow; nothing is tried twice.

    Parameters
    ----------
    paths
        Part 10 files.
    peer
        Needs host and port.
    progress
        Called with the outcome of each file as soon as it is known.

    Returns
    -------
    list of SendOutcome
        One for each path. An unreachable peer or an association that breaks off is the outcome of all files that
        were not answered, not an exception.
    """
    outcomes: list[SendOutcome] = []

    def done(outcome: SendOutcome) -> None:
        outcomes.append(outcome)
        progress(outcome)

    files: list[DicomFile] = []
    for path in paths:
        try:
            files.append(read_dicom_file(path))
        except CannotUnderstandError as error:
            done(SendOutcome(path, "", "", None, error))
        except OSError as error:
            done(SendOutcome(path, "", "", None, CannotUnderstandError(f"cannot be read: {error}", subject=str(path))))
    for part in batches(files):
        answered = 0
        try:
            with associated(peer, store_contexts(part), settings) as association:
                for file in part:
                    done(store_file(association, file))
                    answered += 1
                    if not association.is_established:
                        raise PeerUnavailableError("the association broke off", subject=peer.ae_title)
        except (PeerUnavailableError, DeliveryRefusedError) as error:
            for file in part[answered:]:
                done(SendOutcome(file.path, file.sop_class_uid, file.sop_instance_uid, None, error))
    return outcomes


def store_file(
    association: Association, file: DicomFile, *, move_originator: tuple[str, int] | None = None
) -> SendOutcome:
    """Store one file over an open association.

    The bytes of the file are sent as they are where the peer takes its transfer syntax; else it is decompressed and
    sent as Explicit or Implicit VR Little Endian, pixels unchanged.

    Parameters
    ----------
    association
        Opened by this node, or by a peer that proposed to be the SCP of the SOP class (C-GET).
    move_originator
        AE title and Message ID of the C-MOVE request that this serves (PS3.7 9.1.1.1).
    """
    status: int | None = None
    error: NodeError | None = None
    warning = ""
    accepted = {
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == file.sop_class_uid and context.as_scu
    }
    transcoded = file.transfer_syntax_uid not in accepted
    association.dimse_timeout = time_limit(association.ae.dimse_timeout) + file.size / SLOWEST_LINK_BYTES_PER_S
    try:
        payload = _uncompressed(file, accepted) if transcoded else file.path
        originator_title, originator_id = move_originator or (None, None)
        response = association.send_c_store(payload, originator_aet=originator_title, originator_id=originator_id)
        status = response.get("Status")
        warning, error = judge_store_status(status, file.sop_instance_uid, str(response.get("ErrorComment", "")))
    except NodeError as refusal:
        error = refusal
    except PEER_TROUBLE as failure:
        # pynetdicom: no association any more, no context, or a data set that cannot be encoded.
        error = (
            DeliveryRefusedError(f"cannot be sent: {failure}", subject=file.sop_instance_uid)
            if association.is_established
            else PeerFailedError("the association broke off", subject=file.sop_instance_uid)
        )
    return SendOutcome(
        file.path, file.sop_class_uid, file.sop_instance_uid, status, error, transcoded and error is None, warning
    )


def _uncompressed(file: DicomFile, accepted: set[str]) -> Dataset:
    stored = UID(file.transfer_syntax_uid)
    if not accepted.intersection(map(str, UNCOMPRESSED)) or not stored.is_little_endian:
        name = UID(file.sop_class_uid).name
        raise NotAcceptedError(
            f"the peer takes {name} neither in {stored.name} nor uncompressed"
            if accepted
            else f"the peer does not take {name}",
            subject=file.sop_instance_uid,
            remedy="enable the SOP class and Explicit VR Little Endian at the peer",
        )
    dataset = dcmread(file.path)
    if stored.is_compressed and stored != DeflatedExplicitVRLittleEndian:
        try:
            dataset.decompress(generate_instance_uid=False)
        except Exception as failure:
            raise DeliveryRefusedError(
                f"it is stored as {stored.name}, which cannot be decoded here", subject=file.sop_instance_uid
            ) from failure
    elif stored == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def judge_store_status(status: int | None, sop_instance_uid: str, comment: str = "") -> tuple[str, NodeError | None]:
    """Warning text and error of a C-STORE status (PS3.4 B.2.3, PS3.7 9.1.1.1.9); ``None`` is no answer."""
    if status is None:
        return "", PeerFailedError("did not answer in time or broke off", subject=sop_instance_uid)
    said = in_few_words(comment)
    text = f"status {status:04X}" + (f", {said}" if said else "")
    if status == 0x0000:
        return "", None
    if status & 0xF000 == 0xB000 or status in (0x0001, 0x0107, 0x0116):
        return text, None
    if status & 0xFF00 == 0xA700 or status == 0x0213:
        return "", PeerOutOfResourcesError(f"cannot store it now: {text}", subject=sop_instance_uid)
    if status == 0x0110:
        return "", PeerFailedError(f"cannot store it now: {text}", subject=sop_instance_uid)
    if status == 0x0122:
        return "", NotAcceptedError(f"does not take objects of this kind: {text}", subject=sop_instance_uid)
    return "", DeliveryRefusedError(
        f"refuses it: {text}", subject=sop_instance_uid, remedy="see the peer's log, then requeue"
    )
