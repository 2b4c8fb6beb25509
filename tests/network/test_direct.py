"""The direct C-STORE data path, byte by byte, and that nobody can tell it from pynetdicom's own."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import socket
import ssl
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from interop.ports import free_port, wait_until
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1
from pynetdicom.dul import DULServiceProvider
from structlog.testing import capture_logs

from dicom_node.config import Peer, PeerPermission
from dicom_node.network import direct as direct_path
from dicom_node.network.direct import MAXIMUM_COMMAND, MAXIMUM_IDENTIFIER, MAXIMUM_WAITING, DirectAssociation
from network.certificates import Authority
from network.legality import Reply, continued
from network.objects import MR, SECONDARY_CAPTURE, data_set_bytes, encoded, mr_image, new_uid
from network.running_node import (
    NODE,
    SCANNER,
    RunningReceiver,
    configuration,
    left_behind,
    receiver_thread,
    with_node,
)
from network.wire import (
    A_RELEASE_RP,
    ABORT_BY_USER,
    ASSOCIATE_AC,
    COMMAND,
    DATA,
    ECHO,
    LAST,
    P_DATA_TF,
    RELEASE_RQ,
    Proposal,
    Response,
    Scripted,
    answer,
    associate_request,
    command_set,
    connected,
    data_pdus,
    drip,
    echo_request,
    element,
    pdu,
    pdv,
    read_elements,
    store_request,
    uid,
    us,
)

CLASSIC = Proposal(3, MR)
IMPLICIT = Proposal(5, MR, (ImplicitVRLittleEndian,))
CAPTURE = Proposal(7, SECONDARY_CAPTURE)
FIND = Proposal(9, "1.2.840.10008.5.1.4.1.2.2.1")
SERVICE_PROVIDER, SERVICE_USER = 2, 0
"""Sources of an A-ABORT (PS3.8 table 9-26)."""
MAXIMUM_PDU = 16384
NETWORK_TIMEOUT_S = 2.0

Split = Callable[[int, bytes, bytes], list[bytes]]


@pytest.fixture(params=["direct", "stock"], scope="module")
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReceiver]:
    """A receiver on one data path, and then on the other."""
    node = with_node(configuration(tmp_path_factory.mktemp("either")), data_path=request.param)
    with receiver_thread(node) as running:
        yield running


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReceiver]:
    """A receiver with small PDUs and little patience."""
    node = with_node(
        configuration(tmp_path_factory.mktemp("direct")),
        data_path="direct",
        maximum_pdu=MAXIMUM_PDU,
        network_timeout_s=NETWORK_TIMEOUT_S,
    )
    with receiver_thread(node) as running:
        yield running


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReceiver]:
    """A receiver with small PDUs that waits for longer than :func:`connected` does."""
    node = with_node(
        configuration(tmp_path_factory.mktemp("patient")),
        data_path="direct",
        maximum_pdu=MAXIMUM_PDU,
        network_timeout_s=120,
    )
    with receiver_thread(node) as running:
        yield running


@contextlib.contextmanager
def scripted(receiver: RunningReceiver, *proposals: Proposal) -> Iterator[Scripted]:
    with connected(receiver.port) as connection:
        peer = Scripted(connection)
        peer.associate(*(proposals or (ECHO, CLASSIC)), calling=SCANNER, called=NODE)
        yield peer


def stored(receiver: RunningReceiver, sop_instance: str) -> bytes | None:
    """The data set that is kept under a UID."""
    for row in receiver.instances():
        if row.sop_instance_uid == sop_instance:
            return data_set_bytes(receiver.file_of(row))
    return None


# Ways to cut one message.


def one_pdu_each(context_id: int, command: bytes, data: bytes) -> list[bytes]:
    return data_pdus(context_id, command, data, size=len(data))


def small_pdus(context_id: int, command: bytes, data: bytes) -> list[bytes]:
    return data_pdus(context_id, command, data, size=4090)


def fragments_of_one_byte(context_id: int, command: bytes, data: bytes) -> list[bytes]:
    """A fragment for each byte of the command and of both ends of the data set, each in a PDU of its own."""
    head, body, tail = data[:200], data[200:-50], data[-50:]
    parts = [(COMMAND, command[at : at + 1]) for at in range(len(command))]
    parts += [(DATA, head[at : at + 1]) for at in range(200)]
    parts += [(DATA, body)]
    parts += [(DATA, tail[at : at + 1]) for at in range(50)]
    return [pdu(P_DATA_TF, item) for item in items(context_id, parts)]


def items(context_id: int, parts: list[tuple[int, bytes]]) -> list[bytes]:
    """Fragments, the last of the command and of the data set marked."""
    lasts = {max(at for at, (kind, _) in enumerate(parts) if kind == which) for which in (COMMAND, DATA)}
    return [pdv(context_id, kind | (LAST if at in lasts else 0), fragment) for at, (kind, fragment) in enumerate(parts)]


def many_values_in_a_pdu(context_id: int, command: bytes, data: bytes) -> list[bytes]:
    step = len(data) // 37
    parts = [(COMMAND, command[:10]), (COMMAND, b""), (COMMAND, command[10:])]
    parts += [(DATA, data[start : start + step]) for start in range(0, len(data), step)]
    return [pdu(P_DATA_TF, b"".join(items(context_id, parts)))]


def command_and_data_share_a_pdu(context_id: int, command: bytes, data: bytes) -> list[bytes]:
    first, *others = items(context_id, [(COMMAND, command), (DATA, data[:1000]), (DATA, data[1000:])])
    return [pdu(P_DATA_TF, first + others[0]), pdu(P_DATA_TF, others[1])]


def empty_fragments(context_id: int, command: bytes, data: bytes) -> list[bytes]:
    parts = [(COMMAND, command), (COMMAND, b""), (DATA, b""), (DATA, data), (DATA, b"")]
    return [pdu(P_DATA_TF, item) for item in items(context_id, parts)]


def empty_pdus_between(context_id: int, command: bytes, data: bytes) -> list[bytes]:
    return [part for message in small_pdus(context_id, command, data) for part in (message, pdu(P_DATA_TF, b""))]


def one_stream(context_id: int, command: bytes, data: bytes) -> list[bytes]:
    return [b"".join(small_pdus(context_id, command, data))]


def odd_segments(context_id: int, command: bytes, data: bytes) -> list[bytes]:
    """TCP segments that respect no boundary."""
    whole = b"".join(small_pdus(context_id, command, data))
    cuts = sorted({0, 1, 3, 7, 13, 500, 4095, 4097, len(whole) - 3, len(whole) - 1, len(whole)})
    return [whole[start:end] for start, end in itertools.pairwise(cuts)]


SPLITS: tuple[Split, ...] = (
    one_pdu_each,
    small_pdus,
    fragments_of_one_byte,
    many_values_in_a_pdu,
    command_and_data_share_a_pdu,
    empty_fragments,
    empty_pdus_between,
    one_stream,
    odd_segments,
)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("context", [CLASSIC, IMPLICIT], ids=["explicit", "implicit"])
def test_however_it_is_cut_it_is_stored_byte_for_byte(either: RunningReceiver, split: Split, context: Proposal) -> None:
    (syntax,) = context.transfer_syntaxes
    image = mr_image(side=100)
    data = encoded(image, syntax)
    with scripted(either, ECHO, CLASSIC, IMPLICIT) as peer:
        peer.send(*split(context.context_id, store_request(7, MR, image.SOPInstanceUID), data))
        assert peer.response() == Response(7, 0x0000, image.SOPInstanceUID)
        peer.release()
    assert stored(either, image.SOPInstanceUID) == data
    assert left_behind(either) == []


def test_echoes_between_stores(either: RunningReceiver) -> None:
    images = [mr_image(side=60, seed=seed) for seed in range(3)]
    with scripted(either) as peer:
        for number, image in enumerate(images):
            peer.send(*data_pdus(1, echo_request(2 * number + 1), None))
            assert peer.response()[:2] == (2 * number + 1, 0x0000)
            peer.send(*data_pdus(3, store_request(2 * number + 2, MR, image.SOPInstanceUID), encoded(image), size=1000))
            assert peer.response()[:2] == (2 * number + 2, 0x0000)
        peer.release()
    assert [stored(either, image.SOPInstanceUID) for image in images] == [encoded(image) for image in images]


def test_requests_that_do_not_wait_for_each_other_are_all_answered(either: RunningReceiver) -> None:
    images = [mr_image(side=60, seed=seed) for seed in range(6)]
    with scripted(either) as peer:
        peer.send(
            b"".join(
                part
                for number, image in enumerate(images)
                for part in data_pdus(3, store_request(number, MR, image.SOPInstanceUID), encoded(image), size=4000)
            )
        )
        assert [peer.response()[:2] for _ in images] == [(number, 0x0000) for number in range(6)]
        peer.release()


# The same inputs give the same answers and leave the same behind on either path.


def answered_and_kept(receiver: RunningReceiver, seed: int) -> tuple[list[Response], list[object]]:
    generator = random.Random(seed)
    study, series = f"1.2.3.{seed}", f"1.2.3.{seed}.1"
    images = [
        mr_image(side=generator.choice([20, 64, 90]), seed=seed + n, study=study, series=series) for n in range(8)
    ]
    for number, image in enumerate(images):
        image.SOPInstanceUID = f"{series}.{number}"
    answers = []
    proposals = (ECHO, CLASSIC, IMPLICIT, CAPTURE)
    with scripted(receiver, *proposals) as peer:
        for number, image in enumerate(images):
            context = generator.choice(proposals[1:])
            data = encoded(image, generator.choice([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
            for _ in range(generator.choice([0, 0, 1, 3])):
                at = generator.randrange(len(data))
                data = data[:at] + bytes((generator.randrange(256),)) + data[at + 1 :]
            data = data[: generator.choice([len(data), len(data), generator.randrange(2, len(data)) // 2 * 2])]
            split = generator.choice(SPLITS)
            if len(data) < 400:
                split = one_pdu_each
            command = store_request(number, generator.choice([MR, SECONDARY_CAPTURE]), image.SOPInstanceUID)
            peer.send(*split(context.context_id, command, data))
            answers.append(peer.response())
        peer.release()
    directory = receiver.configuration.storage.directory
    kept: list[object] = sorted(
        (
            row.sop_instance_uid,
            row.digest,
            row.transfer_syntax_uid,
            row.sop_class_uid,
            data_set_bytes(directory / row.path),
        )
        for row in receiver.instances()
        if row.sop_instance_uid.startswith(series)
    )
    kept += sorted(
        (row.digest, row.reason, data_set_bytes(directory / row.path))
        for row in receiver.quarantine()
        if (row.sop_instance_uid or "").startswith(series)
    )
    return answers, kept


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningReceiver, RunningReceiver]]:
    """A receiver on each data path."""
    with contextlib.ExitStack() as stack:
        direct, stock = (
            stack.enter_context(
                receiver_thread(with_node(configuration(tmp_path_factory.mktemp(path)), data_path=path))
            )
            for path in ("direct", "stock")
        )
        yield direct, stock


@pytest.mark.parametrize("seed", range(12))
def test_both_paths_say_and_keep_the_same(both: tuple[RunningReceiver, RunningReceiver], seed: int) -> None:
    direct, stock = both
    found = answered_and_kept(direct, 1000 * seed)
    assert len(found[0]) == 8
    assert answered_and_kept(stock, 1000 * seed) == found
    assert left_behind(direct) == left_behind(stock) == []


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_data_set_of_next_to_nothing_is_answered(either: RunningReceiver, size: int) -> None:
    with scripted(either) as peer:
        peer.send(*data_pdus(3, store_request(1, MR, new_uid()), bytes(size)))
        assert peer.response().status == 0xC000
        peer.release()


def test_the_sop_class_of_another_context_is_0122(either: RunningReceiver) -> None:
    image = mr_image()
    with scripted(either, CAPTURE) as peer:
        peer.send(*data_pdus(7, store_request(1, MR, image.SOPInstanceUID), encoded(image)))
        assert peer.response() == Response(1, 0x0122, image.SOPInstanceUID)
        peer.release()
    assert stored(either, image.SOPInstanceUID) is None


@pytest.mark.parametrize("end", ["abort", "close", "reset"])
def test_what_breaks_off_leaves_nothing(either: RunningReceiver, end: str) -> None:
    image = mr_image(side=300)
    before = len(either.instances())
    with scripted(either) as peer:
        pdus = data_pdus(3, store_request(1, MR, image.SOPInstanceUID), encoded(image), size=4000)
        peer.send(*pdus[:-1])
        if end == "abort":
            peer.send(bytes.fromhex("07000000000400000000"))
        elif end == "reset":
            peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if end != "abort":
            peer.connection.close()
        else:
            assert peer.is_closed()
    wait_until(lambda: left_behind(either) == [], seconds=30, what="the unfinished file is removed")
    assert len(either.instances()) == before


def test_a_release_in_mid_message_does_not_store_it(either: RunningReceiver) -> None:
    image = mr_image(side=64)
    with scripted(either) as peer:
        pdus = data_pdus(3, store_request(1, MR, image.SOPInstanceUID), encoded(image), size=4000)
        peer.send(*pdus[:-1])
        peer.release()
    wait_until(lambda: left_behind(either) == [], seconds=30, what="the unfinished file is removed")
    assert stored(either, image.SOPInstanceUID) is None


@pytest.mark.parametrize("sent", [b"", RELEASE_RQ], ids=["established", "releasing"])
@pytest.mark.parametrize("abort", [ABORT_BY_USER, pdu(0x07, bytes((0, 0, 2, 3))), pdu(0x07, bytes((0, 0, 9, 9)))])
def test_a_peer_that_aborts_is_no_fault_of_the_node(direct: RunningReceiver, sent: bytes, abort: bytes) -> None:
    with capture_logs() as lines:
        for _ in range(5):
            with scripted(direct) as peer:
                peer.send(sent + abort)
                peer.connection.settimeout(20)
                while peer.connection.recv(1000):
                    pass
        wait_until(lambda: not associations(), seconds=30, what="the associations end")
    assert [line for line in lines if line["log_level"] == "error" or "protocol error" in line["event"]] == []


def associations() -> list[str]:
    """Names of the threads that serve one."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("association ")]


def test_what_comes_after_a_request_in_no_context_is_not_kept(direct: RunningReceiver) -> None:
    """The thread that serves aborts the association while the other one still takes what comes."""
    images = [mr_image(seed=seed) for seed in range(3)]
    stores = b"".join(
        part for image in images for part in data_pdus(3, store_request(1, MR, image.SOPInstanceUID), encoded(image))
    )
    with capture_logs() as lines:
        for _ in range(20):
            with scripted(direct) as peer:
                peer.send(*data_pdus(255, echo_request(1), None), stores)
                received = answer(peer.connection)
                assert received.endswith(ABORT_BY_USER)
    assert [line for line in lines if line["log_level"] == "error"] == []


# Limits, which only the direct path knows.


def test_a_pdu_over_the_negotiated_length_is_aborted(direct: RunningReceiver) -> None:
    with scripted(direct) as peer:
        # With the slack that is given to senders that forget their headers.
        peer.send(pdu(P_DATA_TF, pdv(3, COMMAND, bytes(MAXIMUM_PDU + 1))))
        assert peer.abort_source() == SERVICE_PROVIDER


@pytest.mark.parametrize("extra", [0, 6])
def test_a_pdu_of_the_negotiated_length_is_taken(direct: RunningReceiver, extra: int) -> None:
    image = mr_image(side=128)
    with scripted(direct) as peer:
        data = encoded(image)
        peer.send(*data_pdus(3, store_request(1, MR, image.SOPInstanceUID), data, size=MAXIMUM_PDU - 6 + extra))
        assert peer.response().status == 0x0000
        peer.release()
    assert stored(direct, image.SOPInstanceUID) == data


def test_four_gigabytes_announced_are_aborted_at_once(direct: RunningReceiver) -> None:
    for kind in range(8):
        with scripted(direct) as peer:
            peer.send(bytes((kind, 0)) + b"\xff\xff\xff\xff")
            assert peer.abort_source() == SERVICE_PROVIDER


def test_a_command_set_that_is_too_long_is_aborted(direct: RunningReceiver) -> None:
    with scripted(direct) as peer:
        for _ in range(MAXIMUM_COMMAND // 8192):
            peer.send(pdu(P_DATA_TF, pdv(3, COMMAND, bytes(8192))))
        peer.send(pdu(P_DATA_TF, pdv(3, COMMAND, b"\0")))
        assert peer.abort_source() == SERVICE_PROVIDER


def test_an_identifier_that_is_too_long_is_aborted(direct: RunningReceiver) -> None:
    with scripted(direct) as peer:
        request = command_set(
            element(0x0002, uid(ECHO.abstract_syntax))
            + element(0x0100, us(0x0030))
            + element(0x0110, us(1))
            + element(0x0800, us(1))
        )
        peer.send(*data_pdus(1, request, None))
        fragment = pdu(P_DATA_TF, pdv(1, DATA, bytes(MAXIMUM_PDU - 6)))
        with contextlib.suppress(ConnectionError):
            for _ in range(MAXIMUM_IDENTIFIER // (MAXIMUM_PDU - 6) + 1):
                peer.send(fragment)
        assert peer.abort_source() == SERVICE_PROVIDER


@pytest.mark.parametrize(
    "sent",
    [
        pdu(P_DATA_TF, pdv(3, DATA, b"data without a command")),
        pdu(P_DATA_TF, pdv(3, DATA | LAST, b"")),
        pdu(P_DATA_TF, pdv(5, COMMAND | LAST, store_request(1, MR, "1.2.3"))),
        pdu(P_DATA_TF, pdv(4, COMMAND | LAST, store_request(1, MR, "1.2.3"))),
        pdu(P_DATA_TF, pdv(5, COMMAND | LAST, echo_request(1))),
        pdu(P_DATA_TF, pdv(3, COMMAND, b"a") + pdv(1, COMMAND, b"b")),
        pdu(P_DATA_TF, pdv(3, COMMAND | LAST, store_request(1, MR, "1.2.3")) + pdv(1, DATA, b"x")),
        pdu(P_DATA_TF, pdv(3, COMMAND | LAST, store_request(1, MR, "1.2.3")) + pdv(3, COMMAND, b"x")),
        pdu(P_DATA_TF, pdv(3, COMMAND | LAST, b"\1\2\3")),
        pdu(P_DATA_TF, pdv(3, COMMAND | LAST, b"")),
        pdu(P_DATA_TF, b"\0\0\0\1\3"),
        pdu(P_DATA_TF, b"\0\0\0\1\3\3"),
        pdu(P_DATA_TF, b"\0\0\0\0"),
        pdu(P_DATA_TF, b"\xff\xff\xff\xff\3\3"),
        pdu(P_DATA_TF, (10).to_bytes(4, "big") + b"\3\3short"),
        pdu(P_DATA_TF, pdv(1, COMMAND | LAST, echo_request(1)) + b"\0\0"),
        pdu(0x00, bytes(4)),
        pdu(0x08, bytes(4)),
        pdu(0x01, bytes(100)),
        pdu(0x02, bytes(100)),
        pdu(0x03, bytes(4)),
        pdu(0x06, bytes(4)),
    ],
    ids=[
        "data-without-command",
        "empty-data-without-command",
        "store-in-no-context",
        "store-in-even-context",
        "echo-in-no-context",
        "two-contexts-in-a-command",
        "data-in-another-context",
        "command-in-data",
        "command-breaks-off",
        "empty-command",
        "value-breaks-off",
        "value-of-one-byte",
        "value-of-nothing",
        "value-of-four-gigabytes",
        "value-beyond-its-pdu",
        "rest-that-is-no-value",
        "type-00",
        "type-08",
        "another-request",
        "accept",
        "reject",
        "release-response",
    ],
)
def test_a_broken_protocol_is_aborted(patient: RunningReceiver, sent: bytes) -> None:
    with scripted(patient) as peer:
        peer.send(sent)
        assert peer.abort_source() in (SERVICE_PROVIDER, SERVICE_USER)
    wait_until(lambda: left_behind(patient) == [], seconds=30, what="no file is left")


# Time limits.


def test_silence_in_mid_pdu_is_closed(direct: RunningReceiver) -> None:
    image = mr_image()
    whole = b"".join(data_pdus(3, store_request(1, MR, image.SOPInstanceUID), encoded(image)))
    for end in (3, 40, len(whole) - 1):
        with scripted(direct) as peer:
            started = time.monotonic()
            peer.send(whole[:end])
            assert peer.is_closed()
            assert time.monotonic() - started > 0.8 * NETWORK_TIMEOUT_S
    wait_until(lambda: left_behind(direct) == [], seconds=30, what="the unfinished file is removed")


def test_dripping_a_pdu_does_not_extend_the_time_for_it(direct: RunningReceiver) -> None:
    # Minutes, unless the connection is closed.
    message = pdu(P_DATA_TF, pdv(3, COMMAND, bytes(4000)))
    with scripted(direct) as peer, pytest.raises(OSError, match=r"reset|pipe"):
        drip(peer.connection, message, every_s=0.05)


def test_an_idle_association_is_aborted(direct: RunningReceiver) -> None:
    with scripted(direct) as peer:
        started = time.monotonic()
        assert peer.abort_source() in (SERVICE_PROVIDER, SERVICE_USER)
        assert time.monotonic() - started > 0.8 * NETWORK_TIMEOUT_S


def test_a_peer_that_reads_no_answers_is_closed(direct: RunningReceiver) -> None:
    echo = b"".join(data_pdus(1, echo_request(1), None))
    with connected(direct.port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer = Scripted(connection)
        peer.associate(calling=SCANNER, called=NODE)
        name = f"association 127.0.0.1:{connection.getsockname()[1]}"
        assert name in associations()
        connection.settimeout(0.5)
        started = time.monotonic()
        while name in associations():
            with contextlib.suppress(OSError):
                peer.send(echo * 100)
            assert time.monotonic() - started < 40


def test_a_peer_that_asks_for_more_than_it_is_answered_is_not_read_from(tmp_path: Path) -> None:
    """Requests wait in the socket, not in memory; nobody else notices."""
    node = with_node(configuration(tmp_path), receiver_processes=1)
    question = command_set(
        element(0x0002, uid(ECHO.abstract_syntax))
        + element(0x0100, us(0x0030))
        + element(0x0110, us(1))
        + element(0x0800, us(1))
    )
    size = 15_000_000
    message = data_pdus(1, question, bytes(size), size=60_000)
    with receiver_thread(node) as receiver, scripted(receiver) as peer:
        serving = held_up(peer)
        sending = threading.Thread(target=lambda: [peer.send(b"".join(message)) for _ in range(12)], daemon=True)
        sending.start()
        time.sleep(2)
        with scripted(receiver) as other:
            other.send(*data_pdus(1, echo_request(1), None))
            assert other.response().status == 0x0000
            other.release()
        assert serving.dimse.msg_queue.qsize() <= MAXIMUM_WAITING + 1
        serving._reactor_checkpoint.set()
        assert [peer.response().status for _ in range(12)] == [0x0000] * 12
        sending.join(20)
        peer.release()


def held_up(peer: Scripted) -> DirectAssociation:
    """The association of a peer, with the thread that serves it held up, as by a long service."""
    name = f"association 127.0.0.1:{peer.connection.getsockname()[1]}"
    (serving,) = (thread for thread in threading.enumerate() if thread.name == name)
    assert isinstance(serving, DirectAssociation)
    serving._reactor_checkpoint.clear()
    return serving


def test_a_peer_that_waits_for_a_long_service_is_not_silent(patient: RunningReceiver) -> None:
    with scripted(patient) as peer:
        serving = held_up(peer)
        silence = serving.dul._idle_timer
        last = silence._start_time
        assert last is not None
        peer.send(*data_pdus(1, echo_request(1), None))
        wait_until(lambda: silence._start_time != last, seconds=30, what="the request has been read")
        # As if it were served for longer than a peer may be silent.
        silence._start_time = last - 2 * patient.configuration.node.network_timeout_s
        serving._reactor_checkpoint.set()
        assert peer.response().status == 0x0000
        peer.release()


def test_a_service_that_fails_ends_its_association(direct: RunningReceiver) -> None:
    with scripted(direct) as peer:
        serving = held_up(peer)

        def fail(_request: object, _context_id: int) -> None:
            raise LookupError("as a bug would")

        serving._serve_request = fail
        peer.send(*data_pdus(1, echo_request(1), None))
        with capture_logs() as lines:
            serving._reactor_checkpoint.set()
            assert peer.abort_source() == SERVICE_USER
            wait_until(lambda: not serving.is_alive(), seconds=30, what="the association ends")
        assert [line["event"] for line in lines if line["log_level"] == "error"] == ["service failed"]


def test_answers_of_requests_that_do_not_wait_are_not_mixed(tmp_path: Path) -> None:
    """A query with many matches, and stores in the midst of it: each message comes whole."""
    everything = frozenset({PeerPermission.SEND, PeerPermission.QUERY})
    node = configuration(tmp_path, peers={"scanner": Peer(ae_title=SCANNER, may=everything)})
    images = [mr_image(study="1.2.3.5", series="1.2.3.5.6", seed=seed) for seed in range(120)]
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID, identifier.SeriesInstanceUID, identifier.SOPInstanceUID = "1.2.3.5", "1.2.3.5.6", ""
    question = command_set(
        element(0x0002, uid(FIND.abstract_syntax))
        + element(0x0100, us(0x0020))
        + element(0x0110, us(1))
        + element(0x0700, us(2))
        + element(0x0800, us(1))
    )
    proposals = (ECHO, CLASSIC, FIND)

    def store(number: int) -> bytes:
        image = images[number]
        return b"".join(data_pdus(3, store_request(number, MR, image.SOPInstanceUID), encoded(image)))

    with receiver_thread(node) as receiver, scripted(receiver, *proposals) as peer:
        peer.send(b"".join(store(number) for number in range(60)))
        assert [peer.response().status for _ in range(60)] == [0x0000] * 60
        peer.send(b"".join(data_pdus(9, question, encoded(identifier)) + [store(number) for number in range(60, 120)]))
        said = b""
        stored_responses = 0
        pending = True
        while pending or stored_responses < 60:
            kind, body = peer.receive()
            said += pdu(kind, body)
            if body[5] == COMMAND | LAST:
                fields = read_elements(body[6:])
                stored_responses += fields[0x0100] == us(0x8001)
                pending = pending and not (fields[0x0100] == us(0x8020) and fields[0x0900] == us(0x0000))
        peer.release()
    reply = Reply(accepted={1: "", 3: "", 9: ""}, established=True)
    continued(reply, said)
    matches = [message for message in reply.messages if message.data]
    assert len(matches) >= 60


def test_an_answer_is_cut_to_what_the_peer_takes(direct: RunningReceiver) -> None:
    image = mr_image()
    for longest in (8, 20, 200):
        with connected(direct.port) as connection:
            peer = Scripted(connection)
            peer.send(associate_request(SCANNER.encode(), NODE.encode(), (ECHO, CLASSIC), maximum_length=longest))
            assert peer.receive()[0] == ASSOCIATE_AC[0]
            peer.send(*data_pdus(3, store_request(1, MR, image.SOPInstanceUID), encoded(image)))
            command, control = b"", 0
            while not control & LAST:
                kind, body = peer.receive()
                assert kind == P_DATA_TF
                assert len(body) <= longest
                control = body[5]
                command += body[6:]
            assert int.from_bytes(read_elements(command)[0x0900], "little") == 0x0000
            peer.release()


def test_a_peer_that_takes_no_answers_at_all_is_aborted(direct: RunningReceiver) -> None:
    for longest in (1, 7):
        with connected(direct.port) as connection:
            connection.sendall(
                associate_request(SCANNER.encode(), NODE.encode(), (ECHO, CLASSIC), maximum_length=longest)
            )
            assert answer(connection) == ABORT_BY_USER


def test_a_uid_that_is_too_long_to_be_repeated_is_aborted(direct: RunningReceiver) -> None:
    with scripted(direct) as peer:
        peer.send(*data_pdus(3, store_request(1, MR, "1." * 20_000 + "1"), b"", size=16000))
        assert peer.abort_source() == SERVICE_PROVIDER


# Many at once.


def send_all(peer: Scripted, images: list[tuple[str, bytes]], size: int) -> None:
    for number, (sop_instance, data) in enumerate(images):
        peer.send(*data_pdus(3, store_request(number, MR, sop_instance), data, size=size))
        assert peer.response() == Response(number, 0x0000, sop_instance)
    peer.release()


def images_of(number: int, how_many: int) -> list[tuple[str, bytes]]:
    study, series = "1.2.3.99", f"1.2.3.99.{number}.{new_uid()[-12:].lstrip('0')}"
    images = [mr_image(study=study, series=series, seed=100 * number + seed, side=96) for seed in range(how_many)]
    return [(image.SOPInstanceUID, encoded(image)) for image in images]


def test_sixteen_associations_at_once_byte_for_byte(either: RunningReceiver) -> None:
    sent = [images_of(number, 6) for number in range(16)]
    start = threading.Barrier(16)

    def work(number: int) -> None:
        with scripted(either) as peer:
            start.wait(30)
            send_all(peer, sent[number], 1000 + 517 * number)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    held = {row.sop_instance_uid: row for row in either.instances()}
    for sop_instance, data in itertools.chain.from_iterable(sent):
        assert data_set_bytes(either.file_of(held[sop_instance])) == data


@pytest.mark.parametrize("data_path", ["direct", "stock"])
def test_over_tls_byte_for_byte(tmp_path: Path, data_path: str) -> None:
    authority = Authority(tmp_path)
    scanner = authority.signs("scanner")
    port = free_port()
    node = with_node(
        configuration(tmp_path), tls=authority.settings(authority.signs("node"), port), data_path=data_path
    )
    context = ssl.create_default_context(cafile=authority.certificate)
    context.check_hostname = False
    context.load_cert_chain(scanner.certificate, scanner.key)
    sent = [images_of(number, 3) for number in range(4)]
    with receiver_thread(node) as receiver:

        def work(number: int) -> None:
            with connected(port) as plain, context.wrap_socket(plain) as secured:
                peer = Scripted(secured)
                peer.associate(ECHO, CLASSIC, calling=SCANNER, called=NODE)
                send_all(peer, sent[number], (1000, 4000, 16378, 60000)[number])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        held = {row.sop_instance_uid: row for row in receiver.instances()}
        for sop_instance, data in itertools.chain.from_iterable(sent):
            assert data_set_bytes(receiver.file_of(held[sop_instance])) == data


def test_compressed_pixels_are_stored_as_they_come(either: RunningReceiver) -> None:
    image = mr_image()
    del image.PixelData
    header = encoded(image)
    frame = bytes(range(256)) * 20
    data = (
        header
        + bytes.fromhex("e07f1000") + b"OB\0\0\xff\xff\xff\xff"
        + b"\xfe\xff\x00\xe0\0\0\0\0"
        + b"\xfe\xff\x00\xe0" + len(frame).to_bytes(4, "little") + frame
        + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )  # fmt: skip
    with scripted(either, Proposal(3, MR, (JPEGLosslessSV1,))) as peer:
        peer.send(*small_pdus(3, store_request(1, MR, image.SOPInstanceUID), data))
        assert peer.response().status == 0x0000
        peer.release()
    assert stored(either, image.SOPInstanceUID) == data


def test_the_buffer_of_an_association_goes_when_it_ends(tmp_path: Path) -> None:
    # Its objects refer to each other, and stay until Python looks for such.
    associations, small = 5, 20_000
    with receiver_thread(with_node(configuration(tmp_path), data_path="direct")) as receiver:
        others = {thread for thread in threading.enumerate() if isinstance(thread, DULServiceProvider)}

        def ended() -> bool:
            return not {
                thread for thread in threading.enumerate() if isinstance(thread, DULServiceProvider)
            }.difference(others)

        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(associations):
                with scripted(receiver) as peer:
                    peer.send(RELEASE_RQ)
                    assert peer.receive()[0] == A_RELEASE_RP
            wait_until(ended, seconds=60, what="the associations have ended")
            kept = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, direct_path.__file__)])
        finally:
            tracemalloc.stop()
            gc.enable()
    assert sum(one.size for one in kept.statistics("filename")) < associations * small
