"""Anything at all is sent to one receiver; it stays up, says only what PS3.8 allows, and keeps what it acknowledged.

``DICOM_NODE_FUZZ_INPUTS`` is how many inputs are sent (messages or PDUs; several on a connection), and
``DICOM_NODE_FUZZ_SEED`` where they begin. One in ten is drawn by Hypothesis; the others are made of those that were
answered as none before, which are kept in the folder ``DICOM_NODE_FUZZ_CORPUS`` for later runs, where it is set. Every
other connection is under TLS.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import itertools
import os
import random
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from interop.ports import free_port, wait_until
from sqlalchemy import select

from dicom_node.config import Peer, PeerPermission, StorageSettings
from network.certificates import Authority
from network.corpus import ITEM, Corpus, damaged_bytes
from network.legality import IllegalReplyError, Message, Reply, continued, judged
from network.mutations import EXPLICIT, PROPOSALS, REQUEST, Conversation, Store, conversations, last_words
from network.objects import MR, data_set_bytes, encoded, mr_image
from network.running_node import NODE, SCANNER, ReceiverProcess, RunningReceiver, configuration, with_node
from network.secured import Secured, client_context
from network.wire import (
    Scripted,
    command_set,
    connected,
    data_pdus,
    echo_request,
    element,
    pdu,
    pdv,
    store_request,
    us,
)
from storage.ledger import open_ledger
from storage.schema import InstanceRow, ReleasedFileRow

INPUTS = int(os.environ.get("DICOM_NODE_FUZZ_INPUTS", "600"))
SEED = int(os.environ.get("DICOM_NODE_FUZZ_SEED", "1"))
CORPUS = os.environ.get("DICOM_NODE_FUZZ_CORPUS")
PARALLEL = 8
"""Connections at once."""
EXAMPLES = 2
"""Of a round of Hypothesis, each of so many connections; an honest sender comes after each round."""
DRAWN = 0.1
"""Part of all inputs that Hypothesis draws."""
PATIENCE_S = 400.0
LISTENING_S = 0.2
POOLED_THREADS = 2
"""Threads that tell of security alerts, started with the first."""
POOLED = 3 * 15
"""Descriptors that connections to the ledger may keep: a file, its log and its index each."""
LAST_PDUS = tuple(
    bytes.fromhex(pdu) for pdu in ("06000000000400000000", "07000000000400000000", "07000000000400000200")
)
"""A-RELEASE-RP, and the A-ABORTs that are usual."""
SILENCE_S = 180.0
"""After which the receiver gives a peer up: longer than a sender has ever stood still on a machine that does much else.
Nothing here waits for it, as each sender says in the end that no more comes."""


@dataclass
class Fuzzed:
    """A receiver and what it was sent."""

    process: ReceiverProcess
    running: RunningReceiver
    corpus: Corpus
    secured: ssl.SSLContext
    tls_port: int
    drawn: int = 0
    """Inputs that Hypothesis drew."""
    under_tls: int = 0
    """Inputs that came over TLS."""
    broken_records: int = 0
    """Connections whose TLS records were damaged on the way; none of the inputs."""
    depth: int = 0
    """Items of sequences in one data set, at most."""
    inputs: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[str, Store] = field(default_factory=dict)
    """By digest; not yet looked for in the ledger."""
    unsure: set[str] = field(default_factory=set)
    """Digests of what was whole but whose sender did not stay for the answer, or broke the protocol later on."""
    rows: int = 0
    last_row: int = 0
    log_read: int = 0


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[Fuzzed]:
    everything = frozenset({PeerPermission.SEND, PeerPermission.RECEIVE, PeerPermission.QUERY})
    authority = Authority(tmp_path)
    peers = {"scanner": Peer(ae_title=SCANNER, host="127.0.0.1", port=free_port(), may=everything)}
    node = with_node(
        configuration(tmp_path, peers=peers),
        receiver_processes=1,
        network_timeout_s=SILENCE_S,
        acse_timeout_s=SILENCE_S,
        commitment=True,
        tls=authority.settings(authority.signs("node"), port=free_port()),
    )
    assert node.node.tls is not None
    assert node.node.tls.port is not None
    # The flushes are not what is tested here, and most of the time.
    storage = StorageSettings(**{**node.storage.model_dump(), "durable": False})
    node = node.model_copy(update={"storage": storage})
    process = ReceiverProcess(node)
    ledger = open_ledger(node.storage.database)
    try:
        yield Fuzzed(
            process,
            RunningReceiver(node, ledger),
            Corpus(Path(CORPUS or tmp_path / "corpus")),
            client_context(authority.signs("scanner"), authority),
            node.node.tls.port,
        )
    finally:
        ledger.close()
        process.kill()


def digest(store: Store) -> str:
    return hashlib.sha256(store.syntax.encode() + b"\0" + store.data).hexdigest()


def talk(fuzzed: Fuzzed, conversation: Conversation, under_tls: bool) -> bytes:
    """Send all of it, and return what came back until the node closed the connection."""
    sent = b"".join(move.sent for move in conversation.moves) + last_words(conversation.end)
    with connected(fuzzed.tls_port if under_tls else fuzzed.running.port, timeout_s=PATIENCE_S) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection: socket.socket | Secured = plain
        if under_tls:
            connection = Secured(plain, fuzzed.secured)
            connection.handshake()
        connection.sendall(conversation.request)
        received = b""
        if conversation.awaits_acceptance:
            peer = Scripted(connection)
            received = peer.exactly(6)
            received += peer.exactly(int.from_bytes(received[2:], "big"))
        with contextlib.suppress(ConnectionError):
            for cut in conversation.cuts:
                connection.sendall(sent[:cut])
                sent = sent[cut:]
            connection.sendall(sent)
        if conversation.end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if conversation.end in ("reset", "close"):
            return received
        return received + listen(connection, PATIENCE_S if conversation.is_clean else LISTENING_S)


def listen(connection: socket.socket | Secured, patience_s: float) -> bytes:
    """All that comes until the node closes; it is told that there is nothing more when it has said its last, or nothing
    for a while: it may wait for the rest of a PDU that is never sent."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        connection.settimeout(patience_s)
        with contextlib.suppress(TimeoutError):
            while not received.endswith(LAST_PDUS):
                data = connection.recv(65536)
                if not data:
                    return received
                received += data
        connection.settimeout(PATIENCE_S)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        # The node may close while there is more to read than it cares for; what came before is lost then.
        while data := connection.recv(65536):
            received += data
    return received


def judge(conversation: Conversation, received: bytes) -> Reply:
    stays = conversation.end in ("release", "lone release")
    try:
        reply = judged(
            received,
            conversation.proposals if conversation.is_request_whole else None,
            conversation.maximum_length if conversation.is_request_whole else 0,
            # A damaged message may hold what reads as a request for release.
            may_release=stays or not conversation.is_clean,
            may_break_off=not stays or not conversation.is_clean,
        )
        if conversation.is_clean and stays:
            check_answers(reply, conversation)
    except (AssertionError, LookupError) as error:
        sent = [f"{move.kind}: {move.sent[-4000:].hex()}" for move in conversation.moves if not move.is_clean]
        raise AssertionError(
            f"{error} {conversation}: {conversation.request.hex()} {sent} was answered {received[-400:].hex()}"
        ) from error
    return reply


def check_answers(reply: Reply, conversation: Conversation) -> None:
    """Nothing that was sent broke PS3.8, so each request has its answer and the association its proper end."""
    assert reply.established
    assert reply.end == "released", reply.end
    assert len(reply.messages) == len(conversation.moves)
    stores = [move.store for move in conversation.moves if move.store]
    answers = [message for message in reply.messages if message.unsigned(0x0100) == 0x8001]
    assert [message.unsigned(0x0120) for message in answers] == [store.message_id for store in stores]
    assert [text(message, 0x1000) for message in answers] == [store.sop_instance for store in stores]


def text(message: Message, number: int) -> str:
    return message.fields.get(number, b"").rstrip(b"\0").decode("latin-1")


def note(fuzzed: Fuzzed, conversation: Conversation, reply: Reply) -> None:
    fuzzed.inputs.update(move.kind for move in conversation.moves)
    fuzzed.inputs["request"] += not conversation.is_request_whole
    fuzzed.ends[reply.end] += 1
    items = [move.store.data.count(ITEM) for move in conversation.moves if move.store]
    fuzzed.depth = max([fuzzed.depth, *items])
    status = {
        text(message, 0x1000): message.unsigned(0x0900)
        for message in reply.messages
        if message.unsigned(0x0100) == 0x8001
    }
    fuzzed.statuses.update(f"{one:04X}" for one in status.values())
    for move in conversation.moves:
        if move.store is None:
            continue
        if status.get(move.store.sop_instance) == 0x0000:
            fuzzed.acknowledged[digest(move.store)] = move.store
        elif not conversation.is_clean or conversation.end not in ("release", "lone release"):
            fuzzed.unsure.add(digest(move.store))


def honest_sender_is_served(fuzzed: Fuzzed) -> None:
    image = mr_image(side=24)
    with connected(fuzzed.running.port) as connection:
        peer = Scripted(connection)
        peer.associate(*PROPOSALS, calling=SCANNER, called=NODE)
        peer.send(*data_pdus(1, echo_request(1), None))
        assert peer.response().status == 0x0000
        peer.send(*data_pdus(EXPLICIT, store_request(2, MR, image.SOPInstanceUID), encoded(image)))
        assert peer.response().status == 0x0000
        peer.release()
    store = Store(2, "1.2.840.10008.1.2.1", image.SOPInstanceUID, encoded(image))
    fuzzed.acknowledged[digest(store)] = store


def check_ledger(fuzzed: Fuzzed) -> None:
    """Everything acknowledged is there, byte for byte, and nothing that was refused."""
    with fuzzed.running.ledger.reading() as session:
        rows = list(session.scalars(select(InstanceRow).where(InstanceRow.id > fuzzed.last_row)))
    for row in rows:
        fuzzed.last_row = max(fuzzed.last_row, row.id)
        store = fuzzed.acknowledged.pop(row.digest, None)
        if store is not None:
            assert data_set_bytes(fuzzed.running.file_of(row)) == store.data
            assert row.sop_instance_uid == store.sop_instance
        elif row.digest not in fuzzed.unsure:
            # What a damaged message stored must at least be what its file says.
            stored = data_set_bytes(fuzzed.running.file_of(row))
            assert hashlib.sha256(row.transfer_syntax_uid.encode() + b"\0" + stored).hexdigest() == row.digest
            assert row.sop_instance_uid.encode() in stored
    fuzzed.rows += len(rows)
    assert fuzzed.acknowledged == {}


def check_files(fuzzed: Fuzzed) -> None:
    directory = fuzzed.running.configuration.storage.directory
    assert list((directory / "incoming").iterdir()) == []
    with fuzzed.running.ledger.reading() as session:
        # Other bytes under a UID that is known lie in quarantine, and here until the sweep takes them.
        released = set(session.scalars(select(ReleasedFileRow.path)))
    held = {str(path.relative_to(directory)) for path in directory.glob("instances/*/*.dcm")} - released
    assert len(held) == fuzzed.rows
    quarantined = {row.path for row in fuzzed.running.quarantine()}
    assert {str(path.relative_to(directory)) for path in directory.glob("quarantine/*/*.dcm")} == quarantined


@pytest.mark.slow
@pytest.mark.timeout(600 + INPUTS // 5)
def test_whatever_is_sent_the_receiver_stays_legal_honest_and_small(fuzzed: Fuzzed) -> None:
    process = psutil.Process(fuzzed.process.pid)
    honest_sender_is_served(fuzzed)
    threads, descriptors = process.num_threads(), process.num_fds()
    memory: list[int] = []
    number, started = 0, time.monotonic()
    draw = random.Random(SEED)
    while fuzzed.inputs.total() < INPUTS:
        if fuzzed.drawn <= DRAWN * fuzzed.inputs.total():
            drawn_round(fuzzed, SEED * 1_000_000 + number)
        else:
            kept_round(fuzzed, draw)
        damage_records(fuzzed, draw)
        number += 1
        assert fuzzed.process.is_alive()
        honest_sender_is_served(fuzzed)
        wait_until(
            lambda: process.num_threads() <= threads + POOLED_THREADS, seconds=PATIENCE_S, what="threads have ended"
        )
        wait_until(
            lambda: process.num_fds() <= descriptors + POOLED, seconds=PATIENCE_S, what="descriptors are given back"
        )
        check_ledger(fuzzed)
        check_log(fuzzed)
        memory.append(process.memory_info().rss >> 20)
        if number % 20 == 0:
            report(fuzzed, memory, time.monotonic() - started)
    check_files(fuzzed)
    report(fuzzed, memory, time.monotonic() - started)
    # Caches and the allocator take their share in the beginning.
    assert memory[-1] < memory[len(memory) // 4] + 60


def check_log(fuzzed: Fuzzed) -> None:
    """Nothing that came was more than a line of information or a refusal that was foreseen."""
    with fuzzed.process.log.open() as log:
        log.seek(fuzzed.log_read)
        lines = log.read().splitlines()
        fuzzed.log_read = log.tell()
    wrong = [line for line in lines if any(sign in line for sign in ('"level": "error"', "Traceback", "unforeseen"))]
    assert not wrong, "\n".join(wrong)


def report(fuzzed: Fuzzed, memory: list[int], seconds: float) -> None:
    total = fuzzed.inputs.total()
    print(f"\n{total} inputs in {seconds:.0f} s ({total / seconds:.0f}/s): {dict(fuzzed.inputs)}", flush=True)
    print(
        f"{fuzzed.under_tls} of them under TLS, {fuzzed.drawn} drawn anew; {len(fuzzed.corpus)} kept; sequences of up "
        f"to {fuzzed.depth} items; {fuzzed.broken_records} connections with damaged TLS records",
        flush=True,
    )
    print(f"ended {dict(fuzzed.ends)}, statuses {dict(fuzzed.statuses)}, {fuzzed.rows} stored", flush=True)
    print(f"memory {memory[0]} … {memory[-1]} MB, highest {max(memory)} MB", flush=True)


def exchanged(fuzzed: Fuzzed, at_once: Sequence[Conversation], pool: ThreadPoolExecutor) -> None:
    """Have all these conversations at once, every other one under TLS, and judge them."""
    under_tls = [number % 2 == 1 for number in range(len(at_once))]
    replies = list(pool.map(functools.partial(talk, fuzzed), at_once, under_tls))
    for conversation, received, secured in zip(at_once, replies, under_tls, strict=True):
        reply = judge(conversation, received)
        note(fuzzed, conversation, reply)
        fuzzed.under_tls += secured * (len(conversation.moves) + (not conversation.is_request_whole))
        fuzzed.corpus.consider(conversation, reply, received)


def drawn_round(fuzzed: Fuzzed, number: int) -> None:
    """Conversations that Hypothesis draws."""

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        # Smaller examples take longer to find than large ones take to read.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(conversations(), min_size=PARALLEL, max_size=PARALLEL))
    def some(at_once: list[Conversation]) -> None:
        exchanged(fuzzed, at_once, pool)

    before = fuzzed.inputs.total()
    with ThreadPoolExecutor(PARALLEL) as pool:
        some()
    fuzzed.drawn += fuzzed.inputs.total() - before


def kept_round(fuzzed: Fuzzed, draw: random.Random) -> None:
    """Conversations made of what is kept."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        exchanged(fuzzed, [fuzzed.corpus.conversation(draw) for _ in range(PARALLEL)], pool)


def damage_records(fuzzed: Fuzzed, draw: random.Random) -> None:
    """A sender whose TLS is damaged on the way, or none at all, gets nothing of DICOM, and the port stays open."""
    fuzzed.broken_records += 1
    flight = draw.randrange(4)
    """Which one: 0 is the ClientHello, 1 the certificate, later ones hold DICOM."""
    flights = itertools.count()

    def on_the_way(records: bytes) -> bytes:
        return damaged_bytes(draw, records) if next(flights) == flight else records

    with connected(fuzzed.tls_port, timeout_s=PATIENCE_S) as plain:
        # The node may wait for the rest of a record: told that there is none, it has to close.
        with contextlib.suppress(ssl.SSLError, ConnectionError, TimeoutError):
            connection = Secured(plain, fuzzed.secured, on_the_way)
            plain.settimeout(LISTENING_S)
            connection.handshake()
            connection.sendall(REQUEST)
            connection.recv(65536)
            connection.sendall(last_words("release"))
            connection.recv(65536)
        plain.settimeout(PATIENCE_S)
        with contextlib.suppress(OSError):
            plain.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while plain.recv(65536):
                pass


ACCEPTED = Reply(accepted={3: "1.2.840.10008.1.2.1"}, established=True)
ANSWER = command_set(
    element(0x0100, us(0x8001)) + element(0x0120, us(1)) + element(0x0800, us(0x0101)) + element(0x0900, us(0))
)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (pdu(0x04, pdv(5, 3, ANSWER)), "context that was not accepted"),
        (pdu(0x04, pdv(3, 0, b"xx")), "data set without a command"),
        (pdu(0x04, pdv(3, 7, ANSWER)), "reserved bits"),
        (pdu(0x04, pdv(3, 3, ANSWER[:-1])), "breaks off"),
        (pdu(0x04, pdv(3, 3, ANSWER[12:])), "group length"),
        (pdu(0x04, pdv(3, 3, ANSWER) + b"\0"), "breaks off"),
        (pdu(0x04, b""), "without a value"),
        (pdu(0x05, bytes(4)), "PDU of type 05"),
        (pdu(0x06, bytes(4)), "not asked for"),
        (pdu(0x07, b"\0\0\1\0"), "strange abort"),
        (pdu(0x07, bytes(4)) + pdu(0x04, pdv(3, 3, ANSWER)), "after the last"),
        (pdu(0x04, pdv(3, 3, ANSWER))[:-1], "breaks off"),
    ],
)
def test_the_judge_knows_what_is_illegal(said: bytes, what: str) -> None:
    continued(copy.deepcopy(ACCEPTED), pdu(0x04, pdv(3, 3, ANSWER)))
    with pytest.raises(IllegalReplyError, match=what):
        continued(copy.deepcopy(ACCEPTED), said)
