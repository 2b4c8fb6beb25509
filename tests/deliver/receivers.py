"""Receivers of messages: a real MLLP server, and a small FHIR server that validates what it gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import hl7
import hl7.mllp
from fhir.resources.R4B.bundle import Bundle
from pydantic import ValidationError


@dataclass
class MllpReceiver:
    """What came, and what is answered."""

    port: int
    answers: list[str] = field(default_factory=list)
    """Acknowledgement codes for the next messages; then AA."""
    messages: list[hl7.Message] = field(default_factory=list)


@contextlib.contextmanager
def mllp_receiver(port: int, secured: ssl.SSLContext | None = None) -> Iterator[MllpReceiver]:
    """The server of the package ``hl7``, in a thread."""
    receiver = MllpReceiver(port)
    loop, started = asyncio.new_event_loop(), threading.Event()

    async def answer(reader: hl7.mllp.HL7StreamReader, writer: hl7.mllp.HL7StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = await reader.readmessage()
                code = receiver.answers.pop(0) if receiver.answers else "AA"
                if code == "silence":
                    break
                if code == "AA":
                    receiver.messages.append(message)
                writer.writemessage(message.create_ack(ack_code=code))
                await writer.drain()
        writer.close()

    async def serve(stop: asyncio.Event) -> None:
        async with await hl7.mllp.start_hl7_server(answer, host="127.0.0.1", port=port, encoding="utf-8", ssl=secured):
            started.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(stop)), daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield receiver
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


@dataclass
class FhirReceiver:
    """What came, and what is answered."""

    url: str
    statuses: list[int] = field(default_factory=list)
    """HTTP statuses of the next answers; then 200."""
    bundles: list[Bundle] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def fhir_receiver(port: int) -> Iterator[FhirReceiver]:
    """A server that takes transactions that ``fhir.resources`` finds valid."""
    receiver = FhirReceiver(f"http://127.0.0.1:{port}/fhir")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = receiver.statuses.pop(0) if receiver.statuses else 200
            outcome: dict[str, Any] = {
                "resourceType": "OperationOutcome",
                "issue": [{"severity": "error", "code": "x"}],
            }
            if status == 200:
                try:
                    bundle = Bundle.model_validate_json(body)
                except ValidationError as error:
                    status = 400
                    outcome["issue"][0]["diagnostics"] = str(error)
                else:
                    receiver.bundles.append(bundle)
                    receiver.headers.append(dict(self.headers))
                    outcome = {"resourceType": "Bundle", "type": "transaction-response"}
            answer = json.dumps(outcome).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/fhir+json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)
