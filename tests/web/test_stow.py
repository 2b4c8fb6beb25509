"""STOW-RS in: what is answered, what is on disk and in the ledger afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi import APIRouter
from interop.fixtures import require
from interop.orthanc import DICOM_WEB_PLUGIN
from interop.ports import free_port, wait_until
from interop.tools import tool
from network.certificates import Authority
from network.objects import MR, data_set_bytes, encoded, mr_image, save, with_meta
from network.running_node import configuration
from pydicom import dcmread
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit
from structlog.testing import capture_logs

import storage.ledger
from dicom_node.config import (
    AuditSettings,
    Configuration,
    NodeSettings,
    Secret,
    StorageSettings,
    WebDestination,
    WebPeer,
    WebSettings,
)
from dicom_node.errors import PeerUnavailableError
from dicom_node.logs import configure_logging
from dicom_node.network.file_meta import encode_file_meta
from dicom_node.network.listening_ports import open_listening_ports
from dicom_node.network.reception import IncomingInstance
from dicom_node.network.sender import read_dicom_file
from dicom_node.node import node_roles
from dicom_node.web import connections, http_server
from dicom_node.web.app import web_application
from dicom_node.web.client import DicomWebClient
from dicom_node.web.serve import serve_web
from storage.jobs import studies_to_consider
from storage.ledger import open_ledger
from web.bodies import BOUNDARY, multipart, other_failures, part10, reasons, related
from web.running_web import CALLER, TOKEN, RunningWeb, web_node, web_settings, web_thread
from web.web_orthanc import WebOrthanc

STUDY = "1.2.3"


def incoming(web: RunningWeb) -> list[Path]:
    return list((web.configuration.storage.directory / "incoming").iterdir())


@pytest.mark.peers
def test_dicomweb_client_stores_and_it_is_on_disk_and_in_the_ledger(web: RunningWeb) -> None:
    images = [mr_image(study=STUDY, seed=seed) for seed in range(5)]
    answer = web.client().store_instances(images)
    assert {item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence} == {
        image.SOPInstanceUID for image in images
    }
    assert "FailedSOPSequence" not in answer
    rows = {row.sop_instance_uid: row for row in web.instances()}
    for image in images:
        row = rows.pop(image.SOPInstanceUID)
        assert data_set_bytes(web.file_of(row)) == encoded(image)
        assert dcmread(web.file_of(row)).file_meta.SourceApplicationEntityTitle == CALLER
    assert not rows
    (association,) = web.associations()
    assert (association.calling_ae_title, association.outcome) == (CALLER, "released")
    assert association.address == "127.0.0.1"
    assert web.client().store_instances(images, study_instance_uid=STUDY).get("FailedSOPSequence") is None
    assert len(web.instances()) == 5


@pytest.mark.peers
def test_curl_stores_a_large_and_a_small_file(web: RunningWeb, tmp_path: Path) -> None:
    require("curl")
    images = [mr_image(study=STUDY, seed=seed, side=side) for seed, side in enumerate((1500, 16))]
    body = tmp_path / "body"
    transfer_syntax = "1.2.840.10008.1.2.1"
    headers = f'Content-Type: application/dicom; transfer-syntax="{transfer_syntax}"\r\n'
    body.write_bytes(multipart(*map(part10, images), headers=headers))
    for chunked in ((), ("-H", "Transfer-Encoding: chunked")):
        command = [tool("curl"), "-sS", "-w", "%{http_code}", "--data-binary", f"@{body}", *chunked]
        command += ["-H", f"Content-Type: {related()}", "-H", f"Authorization: Bearer {TOKEN}", web.studies]
        sent = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert sent.stdout.endswith("200"), sent.stdout
        assert reasons(json.loads(sent.stdout[:-3])) == {image.SOPInstanceUID: None for image in images}
    for row in web.instances():
        (image,) = (image for image in images if image.SOPInstanceUID == row.sop_instance_uid)
        assert data_set_bytes(web.file_of(row)) == encoded(image)


@pytest.mark.peers
def test_orthanc_stores_by_its_own_stow_client(web: RunningWeb, tmp_path: Path) -> None:
    require("Orthanc", DICOM_WEB_PLUGIN)
    with WebOrthanc(tmp_path / "orthanc", server=web.root, token=TOKEN) as orthanc:
        images = [mr_image(study=STUDY, seed=seed) for seed in range(4)]
        identifiers = [json.loads(orthanc._request("/instances", part10(image)))["ID"] for image in images]
        orthanc.post("/dicom-web/servers/node/stow", {"Resources": identifiers})
        assert {row.sop_instance_uid for row in web.instances()} == {image.SOPInstanceUID for image in images}


def test_a_caller_without_a_token_gets_nothing(tmp_path: Path) -> None:
    mute = WebPeer(token_sha256="0" * 64)
    node = web_node(tmp_path, peers={"mute": mute})
    with web_thread(node.model_copy(update={"audit": AuditSettings(file=tmp_path / "audit")})) as web:
        body = multipart(part10(mr_image()))
        for authorization in ("", "Bearer", f"Bearer {TOKEN}", "Basic Zm9vOmJhcg==", "Bearer é"):
            with web.session() as session:
                session.headers["Authorization"] = authorization.encode().decode("latin-1")
                answer = session.post(web.studies, data=body, headers={"Content-Type": related()}, timeout=10)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert web.instances() == web.associations() == []
    assert (tmp_path / "audit").read_text(encoding="utf-8").count("<AuditMessage>") == 5


def test_a_caller_that_may_not_send_is_told_so(tmp_path: Path) -> None:
    peer = web_settings().peers[CALLER].model_copy(update={"may": frozenset()})
    with web_thread(web_node(tmp_path, peers={CALLER: peer})) as web:
        answer = web.post(multipart(part10(mr_image())), related())
        assert (answer.status_code, web.instances()) == (403, [])


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/dicom", 415),
        ("multipart/form-data; boundary=x", 415),
        ('multipart/related; type="application/dicom+json"; boundary=x', 415),
        ("", 415),
        (related(""), 400),
        (related("x" * 201), 400),
        (related("other"), 400),
    ],
)
def test_what_is_not_a_body_of_dicom_files_is_told_apart(web: RunningWeb, content_type: str, status: int) -> None:
    answer = web.post(multipart(part10(mr_image())), content_type)
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert web.instances() == web.associations() == []


def test_the_answer_comes_in_the_type_that_is_asked_for(web: RunningWeb) -> None:
    body = multipart(part10(mr_image()))
    assert web.post(body, related(), Accept="application/dicom+json;q=0.9").headers["Content-Type"] == (
        "application/dicom+json"
    )
    xml = web.post(body, related(), Accept="text/html, application/dicom+xml")
    assert xml.headers["Content-Type"] == "application/dicom+xml"
    assert "ReferencedSOPInstanceUID" in xml.text
    assert web.post(body, related(), Accept="text/html").status_code == 406


def test_a_body_without_parts_is_malformed(web: RunningWeb) -> None:
    assert web.post(multipart(), related()).status_code == 400
    assert web.post(b"", related()).status_code == 400


def test_a_thousand_empty_parts_fill_no_log(web: RunningWeb) -> None:
    with capture_logs() as log:
        assert web.post(multipart(*[b""] * 1000), related()).status_code == 409
    refused = [entry for entry in log if entry["event"] == "part refused"]
    ended = next(entry for entry in log if entry["event"] == "upload ended")
    assert (len(refused), ended["failed"], ended["not_told"]) == (10, 1000, 990)


def test_each_instance_has_its_own_answer(web: RunningWeb) -> None:
    good, foreign, big_endian, lossy, broken, mismatched, typed, study = (
        mr_image(study=STUDY, seed=seed) for seed in range(8)
    )
    foreign.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    broken_file = part10(broken)[:-7]
    other_meta = encode_file_meta(MR, "1.2.999", "1.2.840.10008.1.2.1")
    answer = web.post(
        multipart(part10(good), part10(with_meta(foreign)))[: -len(BOUNDARY) - 6]
        + b"".join(
            f"--{BOUNDARY}\r\nContent-Type: {media_type}\r\n\r\n".encode() + file + b"\r\n"
            for media_type, file in (
                ("application/dicom", renamed(part10(big_endian), ExplicitVRBigEndian)),
                ("application/dicom", renamed(part10(lossy), JPEGBaseline8Bit)),
                ("application/dicom", broken_file),
                ("application/dicom", other_meta + encoded(mismatched)),
                (f"application/dicom; transfer-syntax={ImplicitVRLittleEndian}", part10(typed)),
                ("application/dicom", b"not DICOM at all"),
                ("application/dicom", b""),
                ("image/jpeg", part10(study)),
            )
        )
        + f"--{BOUNDARY}--".encode(),
        related(),
    )
    assert answer.status_code == 202
    assert reasons(answer.json()) == {
        good.SOPInstanceUID: None,
        foreign.SOPInstanceUID: 0x0122,
        big_endian.SOPInstanceUID: 0xC122,
        lossy.SOPInstanceUID: 0xC122,
        broken.SOPInstanceUID: 0xC000,
        "1.2.999": 0xA900,
        typed.SOPInstanceUID: 0xC000,
        study.SOPInstanceUID: 0xC000,
    }
    assert other_failures(answer.json()) == [0xC000, 0xC000]
    assert [row.sop_instance_uid for row in web.instances()] == [good.SOPInstanceUID]
    assert {row.sop_instance_uid for row in web.quarantine()} == {broken.SOPInstanceUID, "1.2.999"}


def renamed(file: bytes, syntax: str) -> bytes:
    """A file that claims another transfer syntax."""
    meta = encode_file_meta(MR, str(dcmread(io.BytesIO(file)).SOPInstanceUID), syntax)
    length = int.from_bytes(file[140:144], "little")
    return meta + file[144 + length :]


def test_an_instance_of_another_study_than_the_request_names_is_refused(web: RunningWeb) -> None:
    mine, other = mr_image(study=STUDY), mr_image(study="1.2.4")
    answer = web.post(multipart(part10(mine), part10(other)), related(), path=f"/{STUDY}")
    assert answer.status_code == 202
    assert reasons(answer.json()) == {mine.SOPInstanceUID: None, other.SOPInstanceUID: 0xA900}
    assert [row.sop_instance_uid for row in web.instances()] == [mine.SOPInstanceUID]
    nobody = web.post(multipart(part10(other)), related(), path="/not-a-uid")
    assert nobody.status_code == 409


@pytest.mark.parametrize(("conflicts", "status"), [("accept", 200), ("refuse", 409)])
def test_other_bytes_under_a_known_uid_are_quarantined(tmp_path: Path, conflicts: str, status: int) -> None:
    node = web_node(tmp_path)
    storage_settings = node.storage.model_copy(update={"conflicts": conflicts})
    with web_thread(node.model_copy(update={"storage": storage_settings})) as web:
        image = mr_image(study=STUDY)
        assert web.post(multipart(part10(image)), related()).status_code == 200
        image.SeriesDescription = "changed"
        assert web.post(multipart(part10(image)), related()).status_code == status
        assert len(web.instances()) == len(web.quarantine()) == 1


def test_an_instance_that_is_too_large_is_not_taken(tmp_path: Path) -> None:
    large, small = mr_image(study=STUDY, side=1200), mr_image(study=STUDY)
    with web_thread(web_node(tmp_path, maximum_object_mb=2)) as web:
        answer = web.post(multipart(part10(large), part10(small)), related())
        assert answer.status_code == 413
        assert "2000000 bytes" in answer.json()["detail"]
        assert (web.instances(), web.quarantine(), incoming(web)) == ([], [], [])
        answer = web.post(multipart(part10(small), part10(large)), related())
        assert answer.status_code == 202
        assert reasons(answer.json()) == {small.SOPInstanceUID: None}
        assert other_failures(answer.json()) == [0xA700]
        assert len(web.instances()) == 1
        assert incoming(web) == []
        assert [one.outcome for one in web.associations()] == ["aborted", "aborted"]


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    node = web_node(tmp_path)
    full = node.storage.model_copy(update={"low_watermark_mb": 10**9, "high_watermark_mb": 10**9})
    with web_thread(node.model_copy(update={"storage": full})) as web:
        image = mr_image()
        answer = web.post(multipart(part10(image)), related())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        assert reasons(answer.json()) == {image.SOPInstanceUID: 0xA700}
        assert (web.instances(), incoming(web)) == ([], [])


def test_a_locked_ledger_is_said_and_the_same_request_succeeds_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.ledger, "BUSY_TIMEOUT_S", 0.3)
    with web_thread(web_node(tmp_path)) as web:
        body = multipart(part10(mr_image()))
        other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answer = web.post(body, related())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        other.execute("ROLLBACK")
        # Locked once more, when the upload is in the ledger already.
        raw = Raw(web, len(body))
        raw.send(body[:-20])
        wait_until(lambda: len(web.associations()) == 1, seconds=10, what="the upload has begun")
        other.execute("BEGIN IMMEDIATE")
        raw.send(body[-20:])
        status, said = raw.answer()
        raw.socket.close()
        assert status == 503
        assert list(reasons(json.loads(said)).values()) == [0xA700]
        other.execute("ROLLBACK")
        other.close()
        assert web.post(body, related()).status_code == 200
        wait_until(lambda: all(one.closed_at for one in web.associations()), seconds=10, what="all ends are recorded")


class Raw:
    """A request that is sent by hand."""

    def __init__(self, web: RunningWeb, length: int, path: str = "/dicom-web/studies") -> None:
        self.socket = socket.create_connection(("127.0.0.1", int(web.configuration.web.port or 0)), timeout=60)
        head = f"POST {path} HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {TOKEN}\r\n"
        self.send(f"{head}Content-Type: {related()}\r\nContent-Length: {length}\r\n\r\n".encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, bytes]:
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        return response.status, response.read()


def test_an_upload_is_open_for_completeness_until_it_ends_and_what_broke_off_leaves_nothing(web: RunningWeb) -> None:
    whole, half = part10(mr_image(study=STUDY)), part10(mr_image(study=STUDY, side=1000))
    body = multipart(whole, half)
    raw = Raw(web, len(body))
    raw.send(body[: len(body) - 1000])
    wait_until(lambda: len(web.instances()) == 1, seconds=10, what="the first part is taken in")
    wait_until(lambda: len(incoming(web)) == 1, seconds=10, what="the second goes to the disk")
    assert studies_to_consider(web.ledger)[0].open_associations == 1
    raw.socket.close()
    wait_until(lambda: web.associations()[0].closed_at is not None, seconds=10, what="the upload ends")
    assert web.associations()[0].outcome == "aborted"
    assert studies_to_consider(web.ledger)[0].open_associations == 0
    assert (len(web.instances()), incoming(web), web.quarantine()) == (1, [], [])


def patient(node: Configuration, seconds: float) -> Configuration:
    settings = NodeSettings(**{**node.node.model_dump(), "network_timeout_s": seconds})
    return node.model_copy(update={"node": settings})


def test_an_upload_that_stalls_is_ended(tmp_path: Path) -> None:
    with web_thread(patient(web_node(tmp_path), 0.5)) as web:
        body = multipart(part10(mr_image()))
        raw = Raw(web, len(body))
        raw.send(body[:100])
        assert raw.answer()[0] == 408
        raw.socket.close()
        raw = Raw(web, 2 * len(body))
        raw.send(body.removesuffix(f"--{BOUNDARY}--\r\n".encode()))
        raw.send(f"--{BOUNDARY}\r\n".encode())
        status, answer = raw.answer()
        assert status == 202
        assert other_failures(json.loads(answer)) == [0xC000]
        raw.socket.close()


def test_callers_that_send_no_request_are_let_go_and_honest_ones_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 1.0)
    with web_thread(web_node(tmp_path)) as web:
        address = ("127.0.0.1", int(web.configuration.web.port or 0))
        idle = [socket.create_connection(address, timeout=60) for _ in range(50)]
        for one in idle[:25]:
            one.sendall(b"POST /dicom-web/studies HTTP/1.1\r\nHost: n")
        assert web.post(multipart(part10(mr_image())), related()).status_code == 200
        for one in idle:
            # Closed or reset, whichever the kernel says.
            try:
                assert one.recv(1) == b""
            except ConnectionResetError:
                continue
            finally:
                one.close()
        again = Raw(web, 0)
        assert again.answer()[0] == 400
        again.send(b"POST /dicom")
        assert again.socket.recv(1) == b""
        again.socket.close()


def test_requests_beyond_the_limit_are_told_to_come_again(tmp_path: Path) -> None:
    with web_thread(web_node(tmp_path, maximum_requests=2)) as web:
        body = multipart(part10(mr_image()))
        held = [Raw(web, len(body)) for _ in range(2)]
        for one in held:
            one.send(body[:-9])
        wait_until(lambda: len(web.associations()) == 2, seconds=10, what="both are at work")
        busy = web.post(body, related())
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "10")
        for one in held:
            one.send(body[-9:])
            assert one.answer()[0] == 200
            one.socket.close()
        assert web.post(body, related()).status_code == 200


def test_a_request_in_flight_is_finished_when_the_node_stops(tmp_path: Path) -> None:
    image = mr_image()
    body = multipart(part10(image))
    with web_thread(web_node(tmp_path)) as web:
        raw = Raw(web, len(body))
        raw.send(body[:-20])
        wait_until(lambda: len(web.associations()) == 1, seconds=10, what="it is at work")
        late = threading.Timer(1.0, raw.send, [body[-20:]])
        late.start()
    late.join()
    status, answer = raw.answer()
    raw.socket.close()
    assert status == 200
    assert reasons(json.loads(answer)) == {image.SOPInstanceUID: None}


class Stalled:
    """A step of instances on their way in that does not end before it is told to; notes which steps meet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        self.begun, self.go_on, self.met = threading.Event(), threading.Event(), list[str]()
        self._under_way = set[int]()
        for name in ("write", "finish", "abandon"):
            monkeypatch.setattr(IncomingInstance, name, self._noted(name, getattr(IncomingInstance, name), step))

    def _noted(self, name: str, work: Callable[..., Any], step: str) -> Callable[..., Any]:
        def noted(instance: IncomingInstance, *arguments: Any) -> Any:
            if id(instance) in self._under_way:
                self.met.append(name)
            if name != step:
                return work(instance, *arguments)
            self._under_way.add(id(instance))
            self.begun.set()
            self.go_on.wait()
            try:
                return work(instance, *arguments)
            finally:
                self._under_way.remove(id(instance))

        return noted

    def lets_go_after(self, seconds: float) -> None:
        threading.Timer(seconds, self.go_on.set).start()


@pytest.mark.parametrize("step", ["write", "finish"])
def test_a_request_that_is_cancelled_waits_for_the_thread_that_is_at_work_on_its_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Of a node that stops, and whose disk does not answer for longer than requests in flight are waited for."""
    monkeypatch.setattr(http_server, "GRACE_S", 0.1)
    stalled = Stalled(monkeypatch, step)
    whole = part10(mr_image(side=1500))
    body = multipart(whole, whole)
    with web_thread(web_node(tmp_path)) as web:
        raw = Raw(web, len(body))
        raw.send(body[: len(whole) - 1000 if step == "write" else len(body) - 1000])
        assert stalled.begun.wait(300)
        stalled.lets_go_after(2.0)
    raw.socket.close()
    assert stalled.met == []
    with contextlib.closing(open_ledger(web.configuration.storage.database)) as ledger:
        after = RunningWeb(web.configuration, ledger)
        assert [one.outcome for one in after.associations()] == ["aborted"]
        assert len(after.instances()) == (0 if step == "write" else 1)
    assert incoming(web) == []


def test_over_tls_for_any_caller_and_for_this_node_as_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    shown = authority.signs("node")
    with web_thread(web_node(tmp_path, certificate=shown.certificate, key=shown.key)) as web:
        with web.session() as session:
            session.verify = str(authority.certificate)
            body = multipart(part10(mr_image()))
            answer = session.post(web.studies, data=body, headers={"Content-Type": related()}, timeout=10)
            assert answer.status_code == 200
        token = tmp_path / "token"
        token.write_text(TOKEN, encoding="ascii")
        service = WebDestination(url=web.root, token=Secret(file=token), trusted=authority.certificate)
        file = read_dicom_file(save(mr_image(), tmp_path))
        with DicomWebClient(service, 10) as client:
            assert client.store([file]) == {file.sop_instance_uid: ("", None)}
            client.ask()
        stored = {row.sop_instance_uid: row for row in web.instances()}[file.sop_instance_uid]
        assert data_set_bytes(web.file_of(stored)) == data_set_bytes(file.path)
        strangers = service.model_copy(update={"trusted": Authority(tmp_path, "elsewhere").certificate})
        with DicomWebClient(strangers, 10) as client, pytest.raises(PeerUnavailableError, match="CERTIFICATE_VERIFY"):
            client.ask()


def test_what_nobody_foresaw_is_told_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    router = APIRouter()

    @router.get("/")
    def broken() -> None:
        raise ValueError("Doe^Jane")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(web_application([router]), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.get("/")

    configure_logging(json=True)
    answer = asyncio.run(ask())
    structlog.reset_defaults()
    said = answer.text + "".join(capsys.readouterr())
    assert answer.status_code == 500
    assert "ValueError at" in said
    assert "Doe" not in said


@pytest.mark.parametrize("web", [None, web_settings()])
def test_without_a_port_there_is_no_process(tmp_path: Path, web: WebSettings | None) -> None:
    node = configuration(tmp_path, **({} if web is None else {"web": web}))
    with contextlib.closing(open_listening_ports(node)) as ports:
        assert ("web" in [role.name for role in node_roles(node, ports)]) == (web is not None)


def test_no_other_process_loads_the_web_server() -> None:
    modules = "network.receiver deliver.deliver schedule.scheduler node"
    program = "; ".join(f"import dicom_node.{one}" for one in modules.split())
    program += "; import sys; print([one for one in ('fastapi', 'starlette', 'uvicorn') if one in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert said.stdout.strip() == "[]"


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    node = web_node(tmp_path, port=free_port())
    with socket.create_server(("127.0.0.1", int(node.web.port or 0))), pytest.raises(OSError, match="in use"):
        serve_web(node, threading.Event())


def test_storage_that_vanished_is_said_and_comes_back(tmp_path: Path) -> None:
    node = configuration(
        tmp_path,
        web=web_settings(),
        storage=StorageSettings(
            database=f"sqlite:///{tmp_path}/ledger.sqlite",
            directory=tmp_path / "elsewhere",
            low_watermark_mb=0,
            high_watermark_mb=0,
        ),
    )
    with web_thread(node) as web:
        body = multipart(part10(mr_image()))
        (tmp_path / "elsewhere").rename(tmp_path / "away")
        assert web.post(body, related()).status_code == 503
        (tmp_path / "away").rename(tmp_path / "elsewhere")
        assert web.post(body, related()).status_code == 200
