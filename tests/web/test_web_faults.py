"""The web process as a process: killed in mid-upload, and fed what is larger than its memory should grow."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil
import pytest
from interop.ports import free_port, listening, wait_ready, wait_until
from network.objects import data_set_bytes, encoded, mr_image
from pydicom.dataset import Dataset

from dicom_node.config import Configuration
from dicom_node.network.listening_ports import open_listening_ports
from dicom_node.node import node_roles
from dicom_node.roles import Role, RoleKeeper
from dicom_node.web.serve import serve_web
from storage.ledger import open_ledger
from web.bodies import BOUNDARY, multipart, part10, reasons, related
from web.running_web import TOKEN, RunningWeb, web_node

ROUNDS = int(os.environ.get("DICOM_NODE_WEB_KILLS", "2"))
"""Kills; a thousand in the long mode."""
LARGE_MB = 192

_spawn = multiprocessing.get_context("spawn")


def _serve_until_killed(configuration: Configuration, ready: Event) -> None:
    serve_web(configuration, threading.Event(), ready=ready.set)


class WebProcess:
    """The web role in a process of its own, to be killed."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.port = int(configuration.web.port or 0)
        self.start()

    def start(self) -> None:
        ready = _spawn.Event()
        self.process = _spawn.Process(target=_serve_until_killed, args=(self.configuration, ready))
        self.process.start()
        wait_ready(ready, self.process.is_alive)

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        wait_until(lambda: not listening(self.port), seconds=5, what="the port is closed")


def head(length: int) -> bytes:
    """Head of a store request."""
    begin = f"POST /dicom-web/studies HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\n"
    return f"{begin}Content-Type: {related()}\r\nContent-Length: {length}\r\n\r\n".encode()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[WebProcess]:
    running = WebProcess(web_node(tmp_path, port=free_port()))
    yield running
    running.kill()


def upload(process: WebProcess, images: list[Dataset], told: list[str]) -> None:
    """Send images in one request; adds those that were answered as stored to ``told``."""
    body = multipart(*map(part10, images))
    try:
        with socket.create_connection(("127.0.0.1", process.port), timeout=20) as connection:
            connection.sendall(head(len(body)) + body)
            answer = HTTPResponse(connection)
            answer.begin()
            said = json.loads(answer.read())
    except (OSError, HTTPException, ValueError):
        # Killed before it could answer.
        return
    told += [uid for uid, reason in reasons(said).items() if reason is None]


def test_nothing_that_was_answered_as_stored_is_lost_when_it_is_killed(process: WebProcess) -> None:
    generator = random.Random(0)
    sent: dict[str, Dataset] = {}
    told: list[str] = []
    for _ in range(ROUNDS):
        batches = [[mr_image(study="1.2.3", seed=generator.randrange(10**6)) for _ in range(6)] for _ in range(4)]
        sent.update({image.SOPInstanceUID: image for batch in batches for image in batch})
        senders = [threading.Thread(target=upload, args=(process, batch, told)) for batch in batches]
        for sender in senders:
            sender.start()
        time.sleep(generator.uniform(0.01, 0.25))
        process.kill()
        for sender in senders:
            sender.join()
        process.start()
    again: list[str] = []
    upload(process, list(sent.values()), again)
    assert set(again) == set(sent)
    ledger = open_ledger(process.configuration.storage.database)
    web = RunningWeb(process.configuration, ledger)
    rows = {row.sop_instance_uid: row for row in web.instances()}
    assert set(told) <= set(rows) == set(sent)
    for uid, row in rows.items():
        assert data_set_bytes(web.file_of(row)) == encoded(sent[uid])
    assert web.quarantine() == []
    assert all(one.closed_at is not None for one in web.associations())
    assert {one.outcome for one in web.associations()} <= {"released", "aborted", "receiver died"}
    ledger.close()


def test_the_role_finishes_what_is_in_flight_when_the_node_stops(tmp_path: Path) -> None:
    node = web_node(tmp_path)
    keeper = RoleKeeper([role for role in roles_of(node) if role.name == "web"])

    def ready() -> bool:
        keeper.tend()
        return keeper.all_ready()

    wait_until(ready, seconds=120, what="the web role is ready")
    image = mr_image(study="1.2.3")
    body = multipart(part10(image))
    with socket.create_connection(("127.0.0.1", int(node.web.port or 0)), timeout=60) as connection:
        connection.sendall(head(len(body)) + body[:-20])
        time.sleep(0.5)
        late = threading.Timer(1.0, connection.sendall, [body[-20:]])
        late.start()
        keeper.stop(grace_s=60)
        late.join()
        answer = HTTPResponse(connection)
        answer.begin()
        assert reasons(json.loads(answer.read())) == {image.SOPInstanceUID: None}
    with contextlib.closing(open_ledger(node.storage.database)) as ledger:
        web = RunningWeb(node, ledger)
        assert [row.sop_instance_uid for row in web.instances()] == [image.SOPInstanceUID]
        assert [one.outcome for one in web.associations()] == ["released"]


def roles_of(node: Configuration) -> tuple[Role, ...]:
    with contextlib.closing(open_listening_ports(node)) as ports:
        return node_roles(node, ports)


def test_memory_does_not_grow_with_the_object(process: WebProcess) -> None:
    image = mr_image(study="1.2.3")
    upload(process, [mr_image(study="1.2.3")], [])
    before = psutil.Process(process.process.pid).memory_info().rss
    image.PixelData = b"\0\0"
    small = part10(image)[:-2]
    size = LARGE_MB * 1_000_000
    file = small[:-4] + size.to_bytes(4, "little")
    begin = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + file
    end = f"\r\n--{BOUNDARY}--\r\n".encode()
    peak = 0
    with socket.create_connection(("127.0.0.1", process.port), timeout=60) as connection:
        connection.sendall(head(len(begin) + size + len(end)) + begin)
        for _ in range(LARGE_MB):
            connection.sendall(bytes(1_000_000))
            peak = max(peak, psutil.Process(process.process.pid).memory_info().rss)
        connection.sendall(end)
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200, answer.read()
    assert peak - before < 40_000_000
    ledger = open_ledger(process.configuration.storage.database)
    web = RunningWeb(process.configuration, ledger)
    (row,) = (row for row in web.instances() if row.sop_instance_uid == image.SOPInstanceUID)
    assert row.size > size
    ledger.close()
