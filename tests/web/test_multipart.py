"""Multipart framing: bytes go in any pieces and come out unchanged; nothing malformed is more than a refusal."""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Iterator
from email.parser import BytesParser
from http.client import HTTPResponse
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from network.objects import mr_image
from sqlalchemy import func, select

from dicom_node.errors import CannotUnderstandError
from dicom_node.web.multipart import MediaType, MultipartReader, MultipartWriter, PartBegins, PartEnds
from storage.schema import Association, InstanceRow
from web.bodies import BOUNDARY, multipart, part10, reasons, related
from web.running_web import TOKEN, RunningWeb, web_node, web_thread

EXAMPLES = int(os.environ.get("DICOM_NODE_MULTIPART_EXAMPLES", "60"))
"""Bodies that are sent to a running service; many thousands in the long mode."""

DELIMITER = f"\r\n--{BOUNDARY}".encode()
FRAGMENTS = [DELIMITER[:n] for n in range(1, len(DELIMITER))] + [DELIMITER[2:], b"\r", b"\n", b"-", b"--", b"\0"]
# A line that begins with the delimiter is the one thing that a part cannot hold.
payloads = (
    st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=9), max_size=12)
    .map(b"".join)
    .filter(lambda payload: DELIMITER not in b"\r\n" + payload + b"\r")
)


def read(body: bytes, cuts: list[int]) -> list[tuple[str, bytes]]:
    """Content type and content of each whole part of a body that comes in pieces."""
    reader = MultipartReader(BOUNDARY)
    parts: list[tuple[str, bytes]] = []
    content_type, content = "", b""
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for start, end in itertools.pairwise(edges):
        for found in reader.feed(body[start:end]):
            if isinstance(found, PartBegins):
                content_type, content = found.content_type, b""
            elif isinstance(found, PartEnds):
                parts.append((content_type, content))
            else:
                content += found
    assert reader.ended
    return parts


@given(st.lists(payloads, min_size=1, max_size=4), st.lists(st.integers(0, 5000), max_size=12))
@example([b"\r\n--a-boundar", b""], list(range(200)))
@settings(max_examples=400, deadline=None)
def test_parts_come_out_as_they_went_in_whatever_the_pieces(parts: list[bytes], cuts: list[int]) -> None:
    assert read(multipart(*parts), cuts) == [("application/dicom", part) for part in parts]


@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_framing_that_rfc_2046_allows(before: bytes) -> None:
    begin = DELIMITER[2:] + b"\r\nX-Other: 1\r\ncontent-TYPE:  application/dicom \r\n\r\n"
    body = before + begin + b"one" + DELIMITER + b" \t\r\n\r\ntwo" + DELIMITER + b"--\r\nepilogue\r\n"
    assert read(body, []) == [("application/dicom", b"one"), ("", b"two")]


def test_the_writers_body_is_what_it_says(tmp_path: Path) -> None:
    files = []
    for number, content in enumerate([b"", b"one", os.urandom(1_000_000), b"\r\n--"]):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(content)
    called: list[None] = []
    writer = MultipartWriter(files, lambda: called.append(None))
    body = b"".join(writer)
    assert len(body) == writer.content_length
    assert len(called) >= 4
    message = BytesParser().parsebytes(f"Content-Type: {writer.content_type}\r\n\r\n".encode() + body)
    payload = message.get_payload()
    assert isinstance(payload, list)
    assert [part.get_payload(decode=True) for part in payload] == [file.read_bytes() for file in files]  # type: ignore[union-attr]


@given(st.text(max_size=80))
@example('multipart/related; type="application/dicom"; boundary="a b"')
@example("Multipart/Related;TYPE=application/dicom;boundary=x")
@settings(max_examples=300, deadline=None)
def test_any_content_type_is_read(value: str) -> None:
    read = MediaType.of(value)
    assert read.name == read.name.lower()


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes, cuts: list[int]) -> None:
    reader = MultipartReader(BOUNDARY)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    ended = False
    try:
        for start, end in itertools.pairwise(edges):
            list(reader.feed(data[start:end]))
        ended = reader.ended
    except CannotUnderstandError:
        pass
    assert not ended or BOUNDARY.encode() in data


class Change(NamedTuple):
    """Some bytes of a body in the place of others."""

    where: int
    removed: int
    inserted: bytes


changes = st.builds(
    Change,
    st.integers(0, 100_000),
    st.integers(0, 40) | st.integers(0, 4000),
    st.sampled_from(FRAGMENTS) | st.sampled_from([DELIMITER + b"\r\n", DELIMITER + b"--"]) | st.binary(max_size=20),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWeb]:
    with web_thread(web_node(tmp_path_factory.mktemp("fuzzed"))) as running:
        yield running


def files(count: int) -> list[bytes]:
    """Small files, each with identifiers that nobody has."""
    return [part10(mr_image(study="1.2.3", series="1.2.3.4", seed=seed, side=8)) for seed in range(count)]


def _newest(served: RunningWeb) -> int:
    with served.ledger.reading() as session:
        return session.scalar(select(func.max(InstanceRow.id))) or 0


def _recorded(served: RunningWeb, after: int) -> set[str]:
    with served.ledger.reading() as session:
        return set(session.scalars(select(InstanceRow.sop_instance_uid).where(InstanceRow.id > after)))


def _open_uploads(served: RunningWeb) -> int:
    with served.ledger.reading() as session:
        return session.scalar(select(func.count()).where(Association.closed_at.is_(None))) or 0


@given(
    st.integers(1, 3),
    st.lists(changes, max_size=3),
    st.booleans(),
    st.lists(st.integers(0, 100_000), max_size=3),
)
@example(2, [], False, [])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_recorded_is_what_was_answered_as_stored(
    served: RunningWeb, count: int, changed: list[Change], near: bool, cuts: list[int]
) -> None:
    last_instance = _newest(served)
    body = multipart(*files(count))
    for change in changed:
        where = change.where % len(body) if body else 0
        if near and DELIMITER[2:] in body:
            # Most bytes are pixels; what is fragile lies at the delimiters.
            at = [i for i in range(len(body)) if body.startswith(DELIMITER[2:], i)]
            where = max(0, at[change.where % len(at)] - 3 + change.where % 60)
        body = body[:where] + change.inserted + body[where + change.removed :]
    with socket.create_connection(("127.0.0.1", int(served.configuration.web.port or 0)), timeout=30) as connection:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Content-Type: {related()}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head.encode())
        edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
        for start, end in itertools.pairwise(edges):
            connection.sendall(body[start:end])
        answer = HTTPResponse(connection)
        answer.begin()
        content = answer.read()
    assert answer.status in (200, 202, 400, 409), content
    said = json.loads(content)
    stored = {uid for uid, reason in reasons(said).items() if reason is None}
    assert _recorded(served, last_instance) == stored
    assert (answer.status in (200, 202)) == bool(stored)
    if not changed:
        assert (answer.status, len(stored)) == (200, count)
    incoming = served.configuration.storage.directory / "incoming"
    assert list(incoming.iterdir()) == []
    assert _open_uploads(served) == 0
