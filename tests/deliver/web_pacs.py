"""A web PACS that misbehaves as told: a real HTTP server whose answers a test writes."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.parse import parse_qs, urlsplit

from pydicom import dcmread


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def files(self) -> dict[str, bytes]:
        """The parts of a store request, by SOP Instance UID."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = BytesParser().parsebytes(head + self.body)
        parts = [part.get_payload(decode=True) for part in message.get_payload()]  # type: ignore[union-attr]
        return {str(dcmread(BytesIO(part), stop_before_pixels=True).SOPInstanceUID): part for part in parts}


@dataclass(frozen=True)
class Said:
    """One answer."""

    status: int
    body: object = None
    """JSON, or bytes."""
    headers: dict[str, str] = field(default_factory=dict)


Behaviour = Callable[[Asked], Said]


def store_response(stored: dict[str, int | None], failed: dict[str, int]) -> dict[str, object]:
    """Store Instances Response Module in JSON: warning and failure reasons by SOP Instance UID."""

    def items(reasons: dict[str, int] | dict[str, int | None], keyword: str) -> dict[str, object]:
        values = []
        for uid, reason in reasons.items():
            item: dict[str, object] = {
                "00081150": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.7"]},
                "00081155": {"vr": "UI", "Value": [uid]},
            }
            if reason is not None:
                item[keyword] = {"vr": "US", "Value": [reason]}
            values.append(item)
        return {"vr": "SQ", "Value": values}

    module: dict[str, object] = {}
    if stored:
        module["00081199"] = items(stored, "00081196")
    if failed:
        module["00081198"] = items(failed, "00081197")
    return module


class WebPacs:
    """What it holds, what it was asked, and how it answers.

    Attributes
    ----------
    on_store, on_query
        Answers instead of storing, or of saying what is held; may be changed at any time.
    """

    def __init__(self, port: int, scheme: str) -> None:
        self.port, self.scheme = port, scheme
        self.held: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.on_store: Behaviour = self.store
        self.on_query: Behaviour = self.query

    @property
    def root(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/dicom-web"

    def stores(self) -> list[Asked]:
        return [one for one in self.asked if one.method == "POST"]

    def store(self, asked: Asked) -> Said:
        files = asked.files()
        self.held.update(files)
        return Said(200, store_response(dict.fromkeys(files), {}))

    def query(self, asked: Asked) -> Said:
        url = urlsplit(asked.path)
        if url.query == "":
            uid = url.path.split("/")[-2]
            return Said(200, [{}]) if uid in self.held else Said(404)
        (offset,) = parse_qs(url.query).get("offset", ["0"])
        uids = sorted(self.held)[int(offset) :]
        return Said(200, [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids])

    def answer(self, asked: Asked) -> Said:
        self.asked.append(asked)
        return (self.on_store if asked.method == "POST" else self.on_query)(asked)


@contextmanager
def web_pacs(tls: ssl.SSLContext | None = None) -> Iterator[WebPacs]:
    """A web PACS on the loopback interface."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            said = pacs.answer(Asked(self.command, self.path, headers, body))
            if said.status == 0:
                self.close_connection = True
                return
            content = said.body if isinstance(said.body, bytes) else b"" if said.body is None else None
            encoded = json.dumps(said.body).encode() if content is None else content
            self.send_response(said.status)
            for name, value in {"Content-Type": "application/dicom+json", **said.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *args: object) -> None:
            """Be silent."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Be silent: some clients do not wait for an answer."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        pacs = WebPacs(server.server_address[1], "http" if tls is None else "https")
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            yield pacs
        finally:
            server.shutdown()
            serving.join()
