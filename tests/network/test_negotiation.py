"""What PS3.8 has ignored is ignored, in requests and in answers, and nothing is left behind by an association."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from interop.ports import wait_until
from pydicom.uid import MRImageStorage
from pynetdicom.acse import ACSE
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ

from dicom_node.config import Peer
from dicom_node.network.negotiation import MalformedPduError, cleaned
from dicom_node.network.sender import ScuSettings, echo
from network.odd_peer import IVLE, OddPeer, answer, echo_command, item, receive
from network.running_node import NODE, SCANNER, RunningReceiver, configuration, receiver_thread
from network.wire import ABORT_BY_USER, RELEASE_RQ, VERIFICATION, data_pdus, pdu

NAME_OF_17 = (0x55, b"A" * 17)


def context(context_id: int, abstract: str, *syntaxes: bytes) -> bytes:
    inner = item(0x30, abstract.encode()) + b"".join(item(0x40, one) for one in syntaxes)
    return item(0x20, bytes((context_id, 0, 0, 0)) + inner)


def request(
    *extra: tuple[int, bytes],
    contexts: bytes = context(1, VERIFICATION, IVLE.encode()),
    maximum: bool = True,
    fill: bytes = b" ",
) -> bytes:
    user = (item(0x51, struct.pack(">L", 16384)) if maximum else b"") + item(0x52, b"1.2.3")
    user += b"".join(item(*one) for one in extra)
    titles = NODE.encode().ljust(16, fill) + SCANNER.encode().ljust(16, fill)
    application = item(0x10, b"1.2.840.10008.3.1.1.1")
    return pdu(0x01, b"\0\1\0\0" + titles + bytes(32) + application + contexts + item(0x50, user))


SUB_ITEMS = st.tuples(st.integers(0x51, 0x5F), st.binary(max_size=40)) | st.tuples(st.integers(0, 255), st.binary())
IDENTITY_9 = (0x58, b"\x09\0" + struct.pack(">H", 2) + b"ab" + struct.pack(">H", 0))


@given(st.lists(SUB_ITEMS, max_size=6), st.booleans(), st.sampled_from([b" ", b"\0"]))
@example([NAME_OF_17], True, b" ")
@example([(0x55, b"V8\0\0")], True, b"\0")
@example([(0x55, "Müller".encode("latin-1"))], True, b" ")
@example([(0x5F, b"abcd"), IDENTITY_9], False, b" ")
def test_any_user_information_can_be_decoded(extra: list[tuple[int, bytes]], maximum: bool, fill: bytes) -> None:
    decoded = A_ASSOCIATE_RQ()
    decoded.decode(cleaned(request(*extra, maximum=maximum, fill=fill)))
    asked = decoded.to_primitive()
    assert str(asked.calling_ae_title).strip() == SCANNER
    assert [one.context_id for one in asked.presentation_context_definition_list] == [1]
    assert asked.maximum_length_received is not None
    answered = A_ASSOCIATE_AC()
    answered.decode(cleaned(answer(*extra, maximum=maximum, titles=fill * 32)))
    given_back = answered.to_primitive()
    assert [one.result for one in given_back.presentation_context_definition_results_list] == [0]
    assert given_back.maximum_length_received is not None


@given(
    st.lists(
        st.tuples(
            st.binary(max_size=70), st.lists(st.binary(max_size=70) | st.just(IVLE.encode() + b"\0"), max_size=4)
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_presentation_context_can_be_decoded_and_has_a_transfer_syntax(
    proposed: list[tuple[bytes, list[bytes]]],
) -> None:
    contexts = b"".join(
        item(0x20, bytes((2 * i + 1, 0, 0, 0)) + item(0x30, abstract) + b"".join(item(0x40, one) for one in syntaxes))
        for i, (abstract, syntaxes) in enumerate(proposed)
    )
    decoded = A_ASSOCIATE_RQ()
    decoded.decode(cleaned(request(contexts=contexts)))
    asked = decoded.to_primitive().presentation_context_definition_list
    assert [one.context_id for one in asked] == [2 * i + 1 for i in range(len(proposed))]
    assert all(one.transfer_syntax and one.abstract_syntax for one in asked)


@given(st.binary(max_size=300), st.sampled_from([1, 2]))
def test_any_bytes_are_cleaned_or_told_malformed(body: bytes, kind: int) -> None:
    whole = pdu(kind, body)
    try:
        made = cleaned(whole)
    except MalformedPduError:
        return
    assert cleaned(made) == made


@given(st.sampled_from([A_ASSOCIATE_RJ, A_ABORT_RQ]), st.binary(max_size=12))
@example(A_ASSOCIATE_RJ, bytes((0, 1, 1, 0)))
@example(A_ASSOCIATE_RJ, bytes((0, 3, 4, 99)))
@example(A_ABORT_RQ, bytes((0, 0, 2, 3)))
@example(A_ABORT_RQ, bytes((0, 0, 9, 0)))
def test_any_rejection_and_any_abort_can_be_decoded(kind: type[A_ASSOCIATE_RJ] | type[A_ABORT_RQ], body: bytes) -> None:
    ended = kind()
    ended.decode(cleaned(pdu(ended.pdu_type, body)))
    assert ended.to_primitive() is not None
    if isinstance(ended, A_ASSOCIATE_RJ):
        told = ended.to_primitive()
        assert (told.result == 1) == (body[1:2] == b"\1")
        assert "Reserved" not in f"{told.reason_str} {told.source_str}"
        if body[1:4] in (b"\1\1\7", b"\2\3\1"):
            assert (told.result_source, told.diagnostic) == tuple(body[2:4])


@given(st.integers(4, 6), st.binary(max_size=40))
def test_other_pdus_are_left_alone(kind: int, body: bytes) -> None:
    assert cleaned(pdu(kind, body)) == pdu(kind, body)


# -- as acceptor -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReceiver]:
    settings = configuration(tmp_path_factory.mktemp("node"))
    with receiver_thread(settings) as running:
        yield running


def _dialogue(port: int, asked: bytes, command: bytes | None = None) -> tuple[bytes, int]:
    """Body of the A-ASSOCIATE-AC and status of the echo."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(asked)
        kind, body = receive(connection)
        assert kind == 0x02, f"PDU of type {kind}"
        connection.sendall(b"".join(data_pdus(1, command or echo_command(VERIFICATION), None)))
        kind, data = receive(connection)
        assert kind == 0x04
        status = data[data.index(struct.pack("<HHL", 0, 0x0900, 2)) + 8 :][:2]
        connection.sendall(RELEASE_RQ)
        assert receive(connection)[0] == 0x06
    return body, int.from_bytes(status, "little")


@pytest.mark.parametrize(
    "asked",
    [
        request(NAME_OF_17),
        request((0x55, b"V8\0\0")),
        request((0x55, "Müller".encode("latin-1"))),
        request((0x5F, b"abcd")),
        request(IDENTITY_9),
        request(maximum=False),
        request(fill=b"\0"),
        request(contexts=context(3, MRImageStorage) + context(1, VERIFICATION, IVLE.encode())),
        request(contexts=context(3, MRImageStorage, b"") + context(1, VERIFICATION, IVLE.encode() + b"\0")),
    ],
    ids=[
        "long name",
        "NUL in name",
        "latin name",
        "unknown item",
        "identity 9",
        "no maximum",
        "NUL titles",
        "no syntax",
        "empty syntax",
    ],
)
def test_the_node_accepts_and_answers(node: RunningReceiver, asked: bytes) -> None:
    body, status = _dialogue(node.configuration.node.port, asked)
    assert status == 0
    if body.count(b"\x21\0") > 1:
        # Context 3: result 4, transfer syntaxes not supported.
        assert b"\3\0\4\0" in body


def test_an_echo_without_class_uid_is_answered(node: RunningReceiver) -> None:
    assert _dialogue(node.configuration.node.port, request(), echo_command(None))[1] == 0


def test_an_association_whose_thread_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_self: ACSE) -> None:
        raise IndexError("a defect")

    settings = configuration(tmp_path)
    with receiver_thread(settings) as running:
        port = running.configuration.node.port
        _dialogue(port, request())
        monkeypatch.setattr(ACSE, "_negotiate_as_acceptor", failing)
        before = psutil.Process().num_fds()
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(request())
                received = connection.recv(16)
                assert received[0] == ABORT_BY_USER[0]
                assert connection.recv(16) == b""

        def gone() -> bool:
            threads = [one for one in threading.enumerate() if one.name.startswith("association ")]
            return not threads and psutil.Process().num_fds() <= before

        wait_until(gone, seconds=30, what="threads and descriptors of the associations are let go of")
        monkeypatch.undo()
        # None of their places is taken any more.
        for _ in range(3):
            assert _dialogue(port, request())[1] == 0


# -- as requestor ------------------------------------------------------------------------------------------------------


def test_a_refusal_that_comes_before_the_caller_looks_at_the_connection_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send = ACSE.send_request

    def and_be_held_up(acse: ACSE) -> None:
        send(acse)
        wait_until(lambda: acse.dul._kill_thread, seconds=60, what="the refusal is read and the connection closed")

    monkeypatch.setattr(ACSE, "send_request", and_be_held_up)
    with OddPeer(pdu(0x03, bytes((0, 2, 3, 2)))) as peer:
        result = echo(Peer(ae_title="PACS", host="127.0.0.1", port=peer.port), ScuSettings(NODE, acse_timeout_s=60))
    assert "rejects the association: Rejected Transient, Local limit exceeded" in str(result.error)


@pytest.mark.parametrize(
    "reply",
    [
        lambda: answer(NAME_OF_17),
        lambda: answer((0x55, b"V8\0\0")),
        lambda: answer((0x55, "Müller".encode("latin-1"))),
        lambda: answer((0x5F, b"abcd"), (0x59, b"\0\0\0")),
        lambda: answer(maximum=False),
        lambda: answer(titles=bytes(32)),
        lambda: answer(titles=b"\xff" * 32, syntax=IVLE.encode() + b"\0"),
    ],
    ids=["long name", "NUL in name", "latin name", "unknown items", "no maximum", "NUL titles", "odd titles"],
)
def test_the_node_understands_the_answer(reply: Callable[[], bytes]) -> None:
    with OddPeer(reply()) as peer:
        result = echo(Peer(ae_title="PACS", host="127.0.0.1", port=peer.port), ScuSettings(NODE, acse_timeout_s=20))
    assert result.error is None


@pytest.mark.parametrize("context_id", [0, 2, 99])
def test_an_answer_to_what_was_not_proposed_is_told_at_once(context_id: int) -> None:
    odd = answer().replace(b"\x21\0\0\x19\1\0\0\0", b"\x21\0\0\x19" + bytes((context_id, 0, 0, 0)))
    assert odd != answer()
    started = time.monotonic()
    with OddPeer(odd) as peer:
        result = echo(Peer(ae_title="PACS", host="127.0.0.1", port=peer.port), ScuSettings(NODE, acse_timeout_s=60))
    assert "accepts none of the presentation contexts" in str(result.error)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (pdu(0x03, bytes((0, 1, 1, 0))), "rejects the association: Rejected Permanent, No reason given"),
        (pdu(0x03, bytes((0, 2, 3, 5))), "rejects the association: Rejected Transient, No reason given"),
        (pdu(0x03, bytes((0, 0, 0, 0))), "rejects the association: Rejected Transient, No reason given"),
        (pdu(0x03, bytes((0, 1, 1, 7))), "rejects the association: Rejected Permanent, Called AE title not recognised"),
        (pdu(0x07, bytes((0, 0, 2, 3))), "breaks off"),
        (pdu(0x07, bytes((0, 0, 7, 7))), "breaks off"),
    ],
)
def test_a_refusal_for_a_reason_that_there_is_not_is_told_at_once(reply: bytes, said: str) -> None:
    started = time.monotonic()
    with OddPeer(reply) as peer:
        result = echo(Peer(ae_title="PACS", host="127.0.0.1", port=peer.port), ScuSettings(NODE, acse_timeout_s=60))
    assert said in str(result.error)
    assert time.monotonic() - started < 30
