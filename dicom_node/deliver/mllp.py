"""Minimal lower layer protocol (HL7 v2.x appendix C.4): one message, one acknowledgement."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from types import TracebackType

import hl7

from dicom_node.config import Hl7Destination
from dicom_node.errors import DeliveryRefusedError, PeerFailedError, PeerUnavailableError
from dicom_node.peer_words import in_few_words

__all__ = ["MllpConnection"]

_BEGIN, _END = b"\x0b", b"\x1c\x0d"
_LONGEST_ANSWER = 1 << 20
_CODES = frozenset({"AA", "AE", "AR", "CA", "CE", "CR"})
"""Table 0008."""


class MllpConnection:
    """A connection to a receiver; use it as a context.

    Raises
    ------
    PeerUnavailableError
        It cannot be reached, or a certificate cannot be used.
    """

    def __init__(self, receiver: Hl7Destination, response_timeout_s: float) -> None:
        self._subject = f"{receiver.host}:{receiver.port}"
        self._response_timeout_s = response_timeout_s
        try:
            with contextlib.ExitStack() as unless_it_works:
                connection = unless_it_works.enter_context(
                    socket.create_connection((receiver.host, receiver.port), receiver.connect_timeout_s)
                )
                if receiver.tls is not None:
                    context = ssl.create_default_context(cafile=receiver.tls.trusted)
                    context.minimum_version = ssl.TLSVersion.TLSv1_2
                    if receiver.tls.certificate is not None:
                        context.load_cert_chain(receiver.tls.certificate, receiver.tls.key)
                    connection = unless_it_works.enter_context(
                        context.wrap_socket(connection, server_hostname=receiver.host)
                    )
                unless_it_works.pop_all()
        except OSError as error:
            raise PeerUnavailableError(
                f"cannot be reached: {error.strerror or error}",
                subject=self._subject,
                remedy="check host, port and certificates of this destination, and that the receiver runs",
            ) from error
        self._connection = connection

    def __enter__(self) -> MllpConnection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()

    def send(self, message: str, control_id: str) -> None:
        """Send a message and wait for the acknowledgement that accepts it (MSA-1 AA or CA).

        Raises
        ------
        PeerFailedError
            It breaks off, answers nothing that can be understood, or says that it failed (AE, CE).
        DeliveryRefusedError
            It rejects the message (AR, CR).
        """
        try:
            self._connection.settimeout(self._response_timeout_s)
            self._connection.sendall(_BEGIN + message.encode("utf-8") + _END)
            answer = self._answer()
        except OSError as error:
            raise PeerFailedError(
                f"no acknowledgement: {error.strerror or error}", subject=self._subject, remedy="see its log"
            ) from error
        code, acknowledged, text = _acknowledgement(answer)
        if code in ("AA", "CA"):
            if acknowledged in ("", control_id):
                return
            raise PeerFailedError("acknowledged another message (MSA-2)", subject=self._subject, remedy="see its log")
        said = f"answered {code or 'nothing that is an acknowledgement'}{f': {text}' if text else ''}"
        if code in ("AR", "CR"):
            raise DeliveryRefusedError(said, subject=self._subject, remedy="see its log, then requeue")
        raise PeerFailedError(said, subject=self._subject, remedy="see its log")

    def _answer(self) -> bytes:
        give_up = time.monotonic() + self._response_timeout_s
        received = b""
        while _END not in received:
            left = give_up - time.monotonic()
            if left <= 0:
                raise TimeoutError("it took too long")
            self._connection.settimeout(left)
            part = self._connection.recv(65536)
            if not part:
                raise ConnectionError("the connection was closed")
            received += part
            if len(received) > _LONGEST_ANSWER:
                raise ConnectionError("it does not end")
        return received[received.find(_BEGIN) + 1 : received.find(_END)]


def _acknowledgement(answer: bytes) -> tuple[str, str, str]:
    """MSA-1, MSA-2 and a few words of what was wrong (MSA-3); empty where they cannot be found, or are none."""
    try:
        message = hl7.parse(answer.decode("utf-8", "replace"))
        segment = message.segment("MSA")
        fields = [str(segment[number]) if number < len(segment) else "" for number in range(1, 4)]
    except (hl7.HL7Exception, AssertionError, KeyError, IndexError, ValueError):
        # The library asserts what a header must have.
        return "", "", ""
    code = fields[0].strip()
    # Whatever else stands there goes into the ledger as little as other free text of a peer.
    return code if code in _CODES else "", fields[1].strip(), in_few_words(fields[2])
