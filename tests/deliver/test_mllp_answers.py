"""Answers of HL7 receivers, right and wrong ones, and what is kept of them."""

from __future__ import annotations

import socket
import threading

import pytest

from dicom_node.config import Hl7Destination
from dicom_node.deliver.mllp import MllpConnection
from dicom_node.errors import DeliveryRefusedError, NodeError, PeerFailedError

MESSAGE = "MSH|^~\\&|DICOMNODE||RIS||20260301113000||ORU^R01|7|P|2.5.1\r"


HEADER = "MSH|^~\\&|RIS||NODE||2026||ACK|1|P|2.5.1"


def sent(msa: str, header: str = HEADER) -> None:
    """Send a message to a receiver that gives an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                received = b""
                while not received.endswith(b"\x1c\r"):
                    received += connection.recv(4096)
                connection.sendall(f"\x0b{header}\r{msa}\r\x1c\r".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            receiver = Hl7Destination(host="127.0.0.1", port=listening.getsockname()[1])
            with MllpConnection(receiver, 60) as connection:
                connection.send(MESSAGE, "7")
        finally:
            thread.join()


@pytest.mark.parametrize("msa", ["MSA|AA|7", "MSA|CA|7", "MSA|AA", "MSA|AA||Meier"])
def test_an_acknowledgement_of_the_message_ends_it(msa: str) -> None:
    sent(msa)


@pytest.mark.parametrize(
    ("msa", "kind", "said"),
    [
        ("MSA|AA|8", PeerFailedError, "acknowledged another message (MSA-2)"),
        ("MSA|AE|7|Patient Meier^Hans 4711 unknown", PeerFailedError, "answered AE: Patient … unknown"),
        ("MSA|AR|7|no order for Hans Meier", DeliveryRefusedError, "answered AR: no order for …"),
        ("MSA|Meier^Hans|7", PeerFailedError, "answered nothing that is an acknowledgement"),
        ("ERR|Meier^Hans", PeerFailedError, "answered nothing that is an acknowledgement"),
    ],
)
def test_what_is_kept_of_another_answer_says_what_is_wrong_and_names_nobody(
    msa: str, kind: type[NodeError], said: str
) -> None:
    with pytest.raises(kind) as failed:
        sent(msa)
    assert type(failed.value) is kind
    assert failed.value.what == said


@pytest.mark.parametrize("header", ["", "MSH", "MSH|", "MSH|^~\\", "MSH^^^^^|", "MSA|AA|7"])
def test_an_answer_with_a_broken_header_is_a_failure_of_the_receiver(header: str) -> None:
    """One that the library asserts about ended the round, and all messages of it were sent again for ever."""
    with pytest.raises(PeerFailedError, match="answered nothing that is an acknowledgement"):
        sent("MSA", header)
