"""MLLP over TLS, against the server of the package ``hl7``: who is trusted, and who is let in."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from interop.ports import free_port
from network.certificates import Authority

from deliver.receivers import mllp_receiver
from dicom_node.config import ClientTls, Hl7Destination
from dicom_node.deliver.mllp import MllpConnection
from dicom_node.errors import NodeError, PeerUnavailableError

MESSAGE = "MSH|^~\\&|DICOMNODE||RIS||20260301113000||ORU^R01|7|P|2.5.1\r"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def server(authority: Authority, *, wants: Path | None = None) -> ssl.SSLContext:
    """What a receiver shows, and whom it lets in: those whom an authority signs, or everybody."""
    made = authority.signs("ris")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    if wants is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(wants)
    return context


def send(port: int, tls: ClientTls | None) -> None:
    receiver = Hl7Destination(host="127.0.0.1", port=port, tls=tls)
    with MllpConnection(receiver, 10.0) as connection:
        connection.send(MESSAGE, "7")


def test_a_message_goes_over_tls_to_a_receiver_that_is_trusted(authority: Authority) -> None:
    port = free_port()
    with mllp_receiver(port, server(authority)) as receiver:
        send(port, ClientTls(trusted=authority.certificate))
        assert str(receiver.messages[0].segment("MSH")[10]) == "7"


def test_a_receiver_that_nobody_vouches_for_gets_nothing(authority: Authority, tmp_path: Path) -> None:
    port = free_port()
    other = Authority(tmp_path, "stranger")
    with mllp_receiver(port, server(authority)) as receiver:
        with pytest.raises(PeerUnavailableError, match="cannot be reached"):
            send(port, ClientTls(trusted=other.certificate))
        assert receiver.messages == []


def test_a_receiver_that_wants_a_certificate_is_shown_one(authority: Authority) -> None:
    port = free_port()
    own = authority.signs("node")
    with mllp_receiver(port, server(authority, wants=authority.certificate)) as receiver:
        # TLS 1.3 lets the client in before its certificate was looked at: what then breaks off is told as well.
        with pytest.raises(NodeError):
            send(port, ClientTls(trusted=authority.certificate))
        assert receiver.messages == []
        send(port, ClientTls(trusted=authority.certificate, certificate=own.certificate, key=own.key))
        assert len(receiver.messages) == 1


def test_a_receiver_of_tls_that_is_spoken_to_in_clear_text_gets_nothing(authority: Authority) -> None:
    port = free_port()
    with mllp_receiver(port, server(authority)) as receiver:
        with pytest.raises(NodeError):
            send(port, None)
        assert receiver.messages == []
