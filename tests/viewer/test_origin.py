"""The web origin of the viewer test: OHIF's files and the archive, and nothing else of this machine."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop.ports import free_port

from viewer.origin import ViewerOrigin


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[ViewerOrigin]:
    files = tmp_path / "dist"
    files.mkdir()
    (files / "index.html").write_text("<html>viewer</html>")
    (files / "decoder.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.txt").write_text("secret")
    with ViewerOrigin(files, free_port()) as running:
        yield running


def get(origin: ViewerOrigin, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", origin.server_port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_pages_are_isolated_from_other_origins(origin: ViewerOrigin) -> None:
    status, headers, body = get(origin, "/viewer?StudyInstanceUIDs=1.2.3")
    assert (status, body) == (200, b"<html>viewer</html>")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_decoders_have_their_content_type(origin: ViewerOrigin) -> None:
    assert get(origin, "/decoder.wasm")[1]["Content-Type"] == "application/wasm"


def test_configuration_points_at_this_origin(origin: ViewerOrigin) -> None:
    assert b'"wadoRoot": "/dicom-web"' in get(origin, "/app-config.js")[2]


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/missing.js"])
def test_nothing_else_is_served(origin: ViewerOrigin, path: str) -> None:
    status, _, body = get(origin, path)
    assert status == 404
    assert b"secret" not in body


def test_an_archive_that_is_down_is_an_error_to_the_viewer(origin: ViewerOrigin) -> None:
    assert get(origin, "/dicom-web/studies")[0] == 502
