"""Before the association: what has not sent a whole request costs next to nothing, and nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interop.ports import wait_until
from structlog.testing import capture_logs

from dicom_node.config import Peer
from dicom_node.network.admission import Rejection
from dicom_node.network.first_pdu import (
    LONGEST_REQUEST,
    SHORTEST_REQUEST,
    FirstPduError,
    ae_titles,
    missing_bytes,
    reject,
)
from dicom_node.network.listening_ports import listening_socket
from dicom_node.network.pending import Arrival, Endpoint, PendingConnections, PendingLimits
from dicom_node.network.refusals import RefusalReason, Refusals
from dicom_node.network.sender import ScuSettings, echo, send_files
from network.objects import mr_image, save
from network.running_node import (
    NODE,
    SCANNER,
    ReceiverProcess,
    RunningReceiver,
    configuration,
    shared_receivers,
    with_node,
)
from network.wire import ABORT_BY_USER, ASSOCIATE_AC, answer, associate_request, connected, drip, seconds_until_closed
from storage.ledger import open_ledger

SETTINGS = ScuSettings(SCANNER, acse_timeout_s=20, response_timeout_s=60)
REQUEST = associate_request(SCANNER.encode(), NODE.encode())
CALLED_NOT_RECOGNISED = reject(*Rejection.CALLED_NOT_RECOGNISED.value)


class Acceptor:
    """Pending connections on a port of its own, whose requests nobody answers."""

    def __init__(self, **limits: float) -> None:
        self.refusals = Refusals()
        self.arrivals: list[Arrival] = []
        self.refusal = b""
        listening = listening_socket("127.0.0.1", 0)
        self.port: int = listening.getsockname()[1]
        self.pending = PendingConnections(
            (Endpoint(listening),),
            self._receive,
            PendingLimits(**{"artim_s": 5, **limits}),  # type: ignore[arg-type]
            self.refusals,
        )

    def _receive(self, arrival: Arrival) -> bytes | None:
        self.arrivals.append(arrival)
        return self.refusal or None

    def counted(self, reason: RefusalReason, number: int = 1) -> None:
        wait_until(lambda: self.refusals.counts[reason] == number, seconds=30, what=f"{number} x {reason} counted")
        assert set(self.refusals.counts) == {reason}


@pytest.fixture
def accepting() -> Iterator[Callable[..., Acceptor]]:
    with contextlib.ExitStack() as stack:

        def start(**limits: float) -> Acceptor:
            acceptor = Acceptor(**limits)
            acceptor.pending.start()
            stack.callback(acceptor.pending.stop)
            return acceptor

        yield start


@given(length=st.integers(SHORTEST_REQUEST, LONGEST_REQUEST), cut=st.floats(0, 1), reserved=st.integers(0, 255))
def test_a_request_is_read_to_its_end_and_no_further(length: int, cut: float, reserved: int) -> None:
    whole = bytes((1, reserved)) + length.to_bytes(4, "big") + bytes(length)
    part = whole[: int(cut * len(whole))]
    missing = missing_bytes(part)
    assert missing <= len(whole) - len(part)
    assert (missing == 0) == (len(part) == len(whole))
    read = bytearray()
    while missing := missing_bytes(read):
        read += whole[len(read) : len(read) + missing]
    assert read == whole


@given(st.binary(max_size=200))
def test_whatever_comes_is_waited_for_or_refused(received: bytes) -> None:
    length = int.from_bytes(received[2:6], "big")
    credible = len(received) < 6 or SHORTEST_REQUEST <= length <= LONGEST_REQUEST
    if received[:1] in (b"", b"\x01") and credible:
        assert missing_bytes(received) <= 6 + LONGEST_REQUEST - len(received)
    else:
        with pytest.raises(FirstPduError) as refusal:
            missing_bytes(received)
        assert refusal.value.answer == (b"" if received[0] == 7 else ABORT_BY_USER)


@given(calling=st.text("ABC 019", max_size=16), called=st.text("ABC 019", max_size=16))
def test_titles_are_read_where_they_lie(calling: str, called: str) -> None:
    request = associate_request(calling.encode().ljust(16), called.encode().ljust(16))
    assert missing_bytes(request) == 0
    assert ae_titles(request) == (calling.strip(), called.strip())


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", RefusalReason.NOT_DICOM),
        (b"\x16\x03\x01\x02\x00\x01", RefusalReason.NOT_DICOM),
        (b"\x04\x00\x00\x00\x00\x04", RefusalReason.UNEXPECTED_PDU),
        (b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00", RefusalReason.UNEXPECTED_PDU),
        (b"\x01\x00\xff\xff\xff\xff", RefusalReason.PDU_LENGTH),
        (b"\x01\x00\x00\x00\x00\x00", RefusalReason.PDU_LENGTH),
        (b"\x01\x00" + (LONGEST_REQUEST + 1).to_bytes(4, "big") + bytes(30_000), RefusalReason.PDU_LENGTH),
    ],
    ids=["http", "tls", "data", "release", "four-gigabytes", "empty", "too-long"],
)
def test_a_wrong_first_pdu_is_answered_by_an_abort(
    accepting: Callable[..., Acceptor], first: bytes, reason: RefusalReason
) -> None:
    acceptor = accepting()
    with connected(acceptor.port) as connection:
        connection.sendall(first)
        assert answer(connection) == ABORT_BY_USER
    acceptor.counted(reason)
    assert acceptor.arrivals == []


def test_an_abort_is_not_answered(accepting: Callable[..., Acceptor]) -> None:
    acceptor = accepting()
    with connected(acceptor.port) as connection:
        connection.sendall(ABORT_BY_USER)
        assert answer(connection) == b""
    acceptor.counted(RefusalReason.ABORTED)


def test_a_refused_peer_that_does_not_go_is_put_out(accepting: Callable[..., Acceptor]) -> None:
    acceptor = accepting(artim_s=0.5)
    with connected(acceptor.port) as connection:
        connection.sendall(b"GET /")
        assert connection.recv(100) == ABORT_BY_USER
        time.sleep(1)
        with pytest.raises(OSError, match=r"reset|pipe"):
            drip(connection, b"there is more to say", every_s=0.05)


@pytest.mark.parametrize("sent", [b"", REQUEST[:3], REQUEST[:-1]], ids=["nothing", "three-bytes", "all-but-one"])
def test_who_is_too_slow_is_closed_without_a_word(accepting: Callable[..., Acceptor], sent: bytes) -> None:
    acceptor = accepting(artim_s=0.6)
    with connected(acceptor.port) as connection:
        connection.sendall(sent)
        assert seconds_until_closed(connection) > 0.3
    acceptor.counted(RefusalReason.SILENT)


def test_dripping_a_request_does_not_extend_the_time_for_it(accepting: Callable[..., Acceptor]) -> None:
    acceptor = accepting(artim_s=1)
    with connected(acceptor.port) as connection, pytest.raises(OSError, match=r"reset|pipe"):
        drip(connection, REQUEST, every_s=0.1)
    acceptor.counted(RefusalReason.SILENT)
    assert acceptor.arrivals == []


def test_a_request_in_pieces_arrives_whole_and_what_follows_stays_in_the_connection(
    accepting: Callable[..., Acceptor],
) -> None:
    acceptor = accepting()
    with connected(acceptor.port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (REQUEST[:1], REQUEST[1:7], REQUEST[7:50], REQUEST[50:] + b"next"):
            connection.sendall(piece)
            time.sleep(0.05)
        wait_until(lambda: len(acceptor.arrivals) == 1, seconds=30, what="the request arrives")
        (arrival,) = acceptor.arrivals
        assert arrival.request == REQUEST
        assert arrival.address == connection.getsockname()
        assert arrival.connection.recv(100) == b"next"
        arrival.connection.sendall(b"taken")
        assert connection.recv(100) == b"taken"
        arrival.connection.close()
    assert not acceptor.refusals.counts


def test_a_refused_request_is_answered_and_the_connection_closed(accepting: Callable[..., Acceptor]) -> None:
    acceptor = accepting()
    acceptor.refusal = CALLED_NOT_RECOGNISED
    with connected(acceptor.port) as connection:
        connection.sendall(REQUEST + b"and more that nobody reads")
        assert answer(connection) == CALLED_NOT_RECOGNISED


def test_newcomers_take_the_place_of_who_has_waited_longest(accepting: Callable[..., Acceptor]) -> None:
    acceptor = accepting(artim_s=30, waiting=6, waiting_of_address=4)
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(connected(acceptor.port, "127.0.0.2")) for _ in range(5)]
        # The fifth of an address costs the first of that address its place,
        assert answer(many[0]) == b""
        others = [stack.enter_context(connected(acceptor.port, "127.0.0.3")) for _ in range(3)]
        # and the seventh of all the one that is now the oldest.
        assert answer(many[1]) == b""
        acceptor.counted(RefusalReason.EVICTED, 2)
        for connection in (*many[2:], *others):
            connection.sendall(REQUEST)
        wait_until(lambda: len(acceptor.arrivals) == 6, seconds=30, what="the others are served")
        for arrival in acceptor.arrivals:
            arrival.connection.close()


@pytest.fixture(scope="module")
def lone_receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverProcess]:
    """A receiver process with room for one association."""
    node = configuration(tmp_path_factory.mktemp("lone"))
    with shared_receivers(with_node(node, receiver_processes=1, maximum_associations=1)) as (receiver,):
        yield receiver


def test_probes_leave_no_trace_but_a_count(lone_receiver: ReceiverProcess) -> None:
    node = lone_receiver.configuration
    said = lone_receiver.log.read_text()
    for sent in (b"", b"\x01", b"GET / HTTP/1.0\r\n\r\n", REQUEST[:-1], b"\x01\x00\xff\xff\xff\xff"):
        for _ in range(5):
            with connected(node.node.port) as probe:
                probe.sendall(sent)
    assert echo(Peer(ae_title=NODE, host="127.0.0.1", port=node.node.port), SETTINGS).reachable
    assert lone_receiver.log.read_text() == said
    ledger = open_ledger(node.storage.database)
    assert RunningReceiver(node, ledger).associations() == []
    ledger.close()


def test_a_refusal_is_told_once_a_minute_with_what_to_do(lone_receiver: ReceiverProcess) -> None:
    said = lone_receiver.log.read_text()
    for _ in range(30):
        with connected(lone_receiver.configuration.node.port) as stranger:
            stranger.sendall(associate_request(b"NOBODY", NODE.encode()))
            assert stranger.recv(20) == reject(*Rejection.CALLING_NOT_RECOGNISED.value)
    (line,) = lone_receiver.log.read_text().removeprefix(said).splitlines()
    assert "no peer has the AE title 'NOBODY' (section peers)" in line


def test_an_unreadable_request_is_aborted_and_keeps_no_place(lone_receiver: ReceiverProcess) -> None:
    port = lone_receiver.configuration.node.port
    body = bytearray(REQUEST)
    # The presentation context item claims to be longer than what is left.
    body[REQUEST.index(b"\x20\x00", 74) + 2] = 0xFF

    def aborted() -> bool:
        with connected(port) as connection:
            connection.sendall(body)
            return answer(connection) == ABORT_BY_USER

    for _ in range(3):
        # The association of the test before may still hold the place for a moment.
        wait_until(aborted, seconds=30, what="it is aborted")

    def admitted() -> bool:
        with connected(port) as connection:
            connection.sendall(REQUEST)
            return connection.recv(1) == ASSOCIATE_AC

    wait_until(admitted, seconds=30, what="the place is free")


def test_suppressed_refusals_are_counted_in_the_next_line() -> None:
    now, alerts = [0.0], []
    refusals = Refusals(security_alert=lambda *alert: alerts.append(alert), clock=lambda: now[0])
    with capture_logs() as lines:
        for moment in (0, 1, 2, 61, 62):
            now[0] = moment
            refusals.tell(RefusalReason.HOST, "192.0.2.1", "because")
        refusals.tell(RefusalReason.HOST, "192.0.2.2", "because")
        refusals.tell(RefusalReason.NODE_LIMIT, "192.0.2.1", "full")
    assert [line.get("suppressed", 0) for line in lines] == [0, 2, 0, 0]
    refusals.close()
    assert alerts == [("host", address, "because") for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2")]
    assert refusals.counts == {RefusalReason.HOST: 6, RefusalReason.NODE_LIMIT: 1}


def test_an_attacker_with_many_addresses_cannot_fill_log_or_memory() -> None:
    refusals = Refusals(clock=lambda: 0.0)
    with capture_logs() as lines:
        for number in range(5000):
            refusals.tell(RefusalReason.CALLING_AE_TITLE, f"2001:db8::{number:x}", "stranger")
    assert len(lines) <= 1100
    assert len(refusals._told) <= 1100


def stalled(port: int, number: int, sent: tuple[bytes, ...]) -> list[socket.socket]:
    """Connections from several addresses that send some bytes and then nothing."""
    connections = []
    for each in range(number):
        connection = connected(port, f"127.0.1.{each // 100 + 1}")
        connection.sendall(sent[each % len(sent)])
        connections.append(connection)
    return connections


def test_hundreds_of_stalled_connections_cost_neither_threads_nor_time(tmp_path: Path) -> None:
    node = with_node(configuration(tmp_path), receiver_processes=1, acse_timeout_s=60)
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=node.node.port)
    images = [save(mr_image(seed=seed, side=256), tmp_path) for seed in range(10)]

    with shared_receivers(node) as (receiver,):
        process = psutil.Process(receiver.pid)

        def busy_s() -> float:
            return sum(process.cpu_times()[:2])

        def honest() -> float:
            """Seconds of processor that the receiver spends on a peer that does not stall."""
            before = busy_s()
            for _ in range(5):
                assert echo(peer, SETTINGS).reachable
            assert all(outcome.status == 0 for outcome in send_files(images, peer, SETTINGS))
            return busy_s() - before

        honest()
        alone = min(honest() for _ in range(3))
        threads = process.num_threads()
        waiting = stalled(node.node.port, 360, (b"", REQUEST[:3], REQUEST[:-1]))
        wait_until(lambda: len(process.net_connections()) > 360, seconds=30, what="all are accepted")
        assert process.num_threads() <= threads
        before = busy_s()
        time.sleep(1)
        assert busy_s() - before < 0.1
        assert min(honest() for _ in range(3)) < 3 * alone + 0.1
        for connection in waiting:
            connection.close()
        wait_until(lambda: len(process.net_connections()) < 10, seconds=30, what="all are forgotten")


def test_when_file_descriptors_run_out_those_that_stall_make_room(tmp_path: Path) -> None:
    node = with_node(configuration(tmp_path), receiver_processes=1, acse_timeout_s=60)
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=node.node.port)
    image = save(mr_image(), tmp_path)
    with shared_receivers(node) as (receiver,):
        process = psutil.Process(receiver.pid)
        assert [outcome.status for outcome in send_files([image], peer, SETTINGS)] == [0x0000]
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 40,) * 2)
        waiting = stalled(node.node.port, 100, (b"", REQUEST[:3]))
        for _ in range(3):
            assert [outcome.status for outcome in send_files([image], peer, SETTINGS)] == [0x0000]
        assert "Too many open files (raise the limit of open files)" in receiver.log.read_text()
        for connection in waiting:
            connection.close()


def test_the_less_busy_process_accepts(tmp_path: Path) -> None:
    node = with_node(configuration(tmp_path), receiver_processes=2)
    with shared_receivers(node) as receivers, contextlib.ExitStack() as stack:
        for _ in range(12):
            connection = stack.enter_context(connected(node.node.port))
            connection.sendall(REQUEST)
            assert connection.recv(1) == ASSOCIATE_AC
        served = [
            sum(one.status == psutil.CONN_ESTABLISHED for one in psutil.Process(receiver.pid).net_connections())
            for receiver in receivers
        ]
        assert sum(served) == 12
        assert min(served) >= 4


def test_limits_hold_over_all_processes_and_a_killed_one_frees_its_places(tmp_path: Path) -> None:
    peers = {
        "scanner": Peer(ae_title=SCANNER, maximum_associations=6),
        "other": Peer(ae_title="MR2", maximum_associations=2),
    }
    node = with_node(
        configuration(tmp_path, peers=peers),
        receiver_processes=2,
        maximum_associations=6,
        maximum_associations_per_address=6,
    )
    refused = reject(*Rejection.LOCAL_LIMIT_EXCEEDED.value)

    def asks(stack: contextlib.ExitStack, title: str) -> bytes:
        connection = stack.enter_context(connected(node.node.port))
        connection.sendall(associate_request(title.encode(), NODE.encode()))
        first = connection.recv(10)
        return first if first == refused else first[:1]

    with shared_receivers(node) as receivers:
        with contextlib.ExitStack() as stack:
            assert [asks(stack, "MR2") for _ in range(3)] == [ASSOCIATE_AC, ASSOCIATE_AC, refused]
            assert [asks(stack, SCANNER) for _ in range(5)] == [*[ASSOCIATE_AC] * 4, refused]
        with contextlib.ExitStack() as stack:
            wait_until(lambda: asks(stack, "MR2") == ASSOCIATE_AC, seconds=30, what="places are free again")
            log = "".join(receiver.log.read_text() for receiver in receivers)
            assert "peers.other.maximum_associations" in log
            assert "(node.maximum_associations)" in log
        with contextlib.ExitStack() as stack:
            opened = 0

            def fill() -> bool:
                nonlocal opened
                opened += asks(stack, SCANNER) == ASSOCIATE_AC
                return opened == 6

            wait_until(fill, seconds=30, what="the node is full")
            assert asks(stack, SCANNER) == refused
            receivers[0].kill()
            receivers[0].start()
            assert asks(stack, SCANNER) == ASSOCIATE_AC


def test_who_is_told_to_stop_takes_what_waits_in_its_backlog_and_nothing_after() -> None:
    acceptor = Acceptor()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(connected(acceptor.port))
            connection.sendall(REQUEST)
        # As if it had been told before it took the first.
        acceptor.pending._stopping = True
        acceptor.pending.start()
        acceptor.pending.stop()
        assert [one.request for one in acceptor.arrivals] == 20 * [REQUEST]
        for one in acceptor.arrivals:
            one.connection.close()
        with pytest.raises(ConnectionRefusedError):
            connected(acceptor.port)


def test_a_request_that_is_under_way_at_the_stop_is_still_taken() -> None:
    acceptor = Acceptor()
    with connected(acceptor.port) as connection:
        connection.sendall(REQUEST[:10])
        acceptor.pending._stopping = True
        acceptor.pending.start()
        stopping = threading.Thread(target=acceptor.pending.stop)
        stopping.start()
        connection.sendall(REQUEST[10:])
        stopping.join(20)
        assert [one.request for one in acceptor.arrivals] == [REQUEST]
        acceptor.arrivals[0].connection.close()
