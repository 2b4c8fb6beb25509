"""TLS by the BCP 195 RFC 8996, 9325 profile (PS3.15 B.12): 1.3 or 1.2, both sides with a certificate."""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dicom_node.config import Peer, TlsSettings
from dicom_node.errors import ConfigurationError

__all__ = [
    "PeerCertificate",
    "check_credentials",
    "client_context",
    "expires_at",
    "peer_certificate",
    "server_context",
]

_log = structlog.get_logger(__name__)

CIPHERS_OF_TLS_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Forward secrecy and authenticated encryption, RFC 9325 4.2; TLS 1.3 knows no others."""
EXPIRES_SOON = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """Whom a verified certificate names."""

    fingerprint: str
    """SHA-256 of the DER encoding, lower-case hexadecimal digits."""
    common_name: str

    def is_that_of(self, pinned: str) -> bool:
        """Whether ``peers.X.certificate``, a fingerprint or a common name, is of this certificate."""
        digits = pinned.replace(":", "").lower()
        if re.fullmatch(r"[0-9a-f]{64}", digits):
            return digits == self.fingerprint
        return pinned == self.common_name


def peer_certificate(connection: ssl.SSLSocket) -> PeerCertificate:
    """The certificate of the other side of a connection, after a handshake that required one."""
    encoded = connection.getpeercert(binary_form=True)
    if encoded is None:
        raise ssl.SSLCertVerificationError("the peer sent no certificate")
    names = x509.load_der_x509_certificate(encoded).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return PeerCertificate(hashlib.sha256(encoded).hexdigest(), str(names[0].value) if names else "")


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Context for accepting connections; clients must have a certificate that ``node.tls.trusted`` signs.

    A certificate of this node that has expired is no obstacle: peers refuse it, but those without TLS go on.

    Raises
    ------
    ConfigurationError
        A file is absent or is not what it should be, or the key is not that of the certificate.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, settings)
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would be trusted without a look at its certificate.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    return context


def client_context(
    settings: TlsSettings, peer: Peer, failed: Callable[[OSError], None] = lambda _error: None
) -> ssl.SSLContext:
    """Context for calling a peer: its certificate must be signed by ``node.tls.trusted`` and be the peer's.

    It is the peer's when it is the one in ``peers.X.certificate``, or, without such an entry, names the peer's host.

    Parameters
    ----------
    failed
        Told why a handshake failed; pynetdicom keeps that to itself.

    Raises
    ------
    ConfigurationError
        As :func:`server_context`.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, settings)
    pinned = peer.certificate
    context.check_hostname = pinned is None

    class Checked(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
                if pinned is not None and not (shown := peer_certificate(self)).is_that_of(pinned):
                    raise ssl.SSLCertVerificationError(
                        f"it shows the certificate of {shown.common_name!r}, SHA-256 {shown.fingerprint}"
                    )
            except OSError as error:
                failed(error)
                raise

    context.sslsocket_class = Checked
    return context


def _context(protocol: int, settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS_OF_TLS_1_2)
    try:
        context.load_cert_chain(settings.certificate, settings.key, password="")
        context.load_verify_locations(settings.trusted)
    except OSError as error:
        # It says what is wrong in more than OpenSSL's words.
        check_credentials(settings)
        raise ConfigurationError(f"cannot be used: {error}", subject="node.tls", remedy="check its files") from error
    return context


def expires_at(settings: TlsSettings) -> datetime:
    """When the certificate of this node expires.

    Raises
    ------
    ConfigurationError
        It cannot be read.
    """
    return _certificates("certificate", settings.certificate)[0].not_valid_after_utc


def check_credentials(settings: TlsSettings, now: datetime | None = None) -> None:
    """Look whether the files of ``node.tls`` can be used.

    Raises
    ------
    ConfigurationError
        A file is absent or is not what it should be, a certificate is not valid at the moment, or the key is not that
        of the certificate.
    """
    now = now or datetime.now().astimezone()
    own = _certificates("certificate", settings.certificate)[0]
    _within_validity("certificate", settings.certificate, own, now)
    try:
        key = load_pem_private_key(_content("key", settings.key), password=None)
    except TypeError as error:
        raise _unusable("key", settings.key, "is protected by a password", "store it without one, mode 600") from error
    except ValueError as error:
        raise _unusable(
            "key", settings.key, "is not a private key in PEM", "give the key of the certificate"
        ) from error
    if key.public_key() != own.public_key():
        raise _unusable("key", settings.key, f"does not belong to {settings.certificate}", "give the key made with it")
    trusted = _certificates("trusted", settings.trusted)
    if all(certificate.not_valid_after_utc < now for certificate in trusted):
        _within_validity("trusted", settings.trusted, trusted[0], now)
    if settings.key.stat().st_mode & 0o077:
        _log.warning("others on this machine can read the private key", file=str(settings.key), remedy="chmod 600")
    if own.not_valid_after_utc - now < EXPIRES_SOON:
        _log.warning(
            "the certificate of this node expires soon",
            file=str(settings.certificate),
            at=own.not_valid_after_utc.isoformat(),
            remedy="renew it; peers will refuse this node",
        )


def _certificates(key: str, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_content(key, path))
    except ValueError as error:
        raise _unusable(key, path, "holds no certificate in PEM", "convert it: openssl x509 -inform DER") from error


def _within_validity(key: str, path: Path, certificate: x509.Certificate, now: datetime) -> None:
    if now > certificate.not_valid_after_utc:
        raise _unusable(key, path, f"expired at {certificate.not_valid_after_utc.isoformat()}", "renew it")
    if now < certificate.not_valid_before_utc:
        raise _unusable(
            key,
            path,
            f"is not valid before {certificate.not_valid_before_utc.isoformat()}",
            "check the clock of this machine",
        )


def _content(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(
            key, path, f"cannot be read: {error.strerror}", "correct the path or its permissions"
        ) from error


def _unusable(key: str, path: Path, what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(what, subject=f"node.tls.{key} {path}", remedy=remedy)
