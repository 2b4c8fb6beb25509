"""``dicom-node backup`` of a node that receives, and ``restore``."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import yaml
from crash_parts import encoded, write_cine
from interop.ports import free_port, wait_until
from network.running_node import ReceiverProcess
from orders.order_messages import cancelled, infarct_order
from orders.order_server import Sender, order_server
from pydicom import dcmread
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server, running_s3
from sqlalchemy import select

from dicom_node import cli, node
from dicom_node.commands.terminal import ExitCode
from dicom_node.config import Configuration, Peer
from dicom_node.config_file import load_configuration
from dicom_node.instance_files import instance_files
from dicom_node.network.sender import ScuSettings, SendOutcome, send_files
from dicom_node.schedule.scheduler import StudyScheduler
from dicom_node.uploader import Uploader
from storage import backup
from storage.bucket_files import BucketFiles
from storage.jobs import studies_to_consider
from storage.journal import JOURNAL, await_filed, unfiled
from storage.ledger import open_ledger, utc_now
from storage.overview import events_of_study, job_overviews
from storage.schema import InstanceRow

CONFIGURATION = """
node: {{ae_title: NODE, address: 127.0.0.1, port: {port}}}
peers: {{scanner: {{ae_title: MR1}}}}
routes: {{cine: {{destinations: []}}}}
storage: {{low_watermark_mb: 0, high_watermark_mb: 0}}
"""
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    def ran(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["dicom-node", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out + said.err

    yield ran
    structlog.reset_defaults()


class Scanner(threading.Thread):
    """Sends one study after the other, and notes what was acknowledged."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.peer = folder, Peer(ae_title="NODE", host="127.0.0.1", port=port)
        self.acknowledged: dict[str, Path] = {}
        self.enough = threading.Event()
        folder.mkdir()

    def run(self) -> None:
        number = 0
        while not self.enough.is_set():
            images = write_cine(self.folder / f"study {number}", f"study {number}")
            # In parts, so that studies are begun and not ended at any moment.
            for start in range(0, len(images), 10):
                for outcome in send_files(images[start : start + 10], self.peer, ScuSettings("MR1")):
                    if outcome.status == 0x0000:
                        self.acknowledged[outcome.sop_instance_uid] = outcome.path
            number += 1


@pytest.fixture(params=["directory", "bucket"])
def kept_in(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[S3Server | None]:
    """Where instance files lie: on the disk alone, or in a bucket behind it."""
    if request.param == "directory":
        yield None
        return
    for name, said in (("access", ACCESS_KEY), ("secret", SECRET_KEY)):
        (tmp_path / name).write_text(said)
    with running_s3() as server:
        server.bucket("held")
        yield server


def write_config(file: Path, port: int, server: S3Server | None) -> Configuration:
    """The configuration of a node, in a folder of its own."""
    file.parent.mkdir()
    sections = yaml.safe_load(CONFIGURATION.format(port=port))
    if server is not None:
        sections["storage"]["bucket"] = {
            "url": f"s3://held/{file.parent.name}",
            "endpoint": server.endpoint,
            "access_key": {"file": "../access"},
            "secret_key": {"file": "../secret"},
        }
    file.write_text(yaml.safe_dump(sections))
    return load_configuration(file)


@contextlib.contextmanager
def uploading(configuration: Configuration) -> Iterator[None]:
    """The uploader of a node with a bucket, in a thread of this process."""
    if configuration.storage.bucket is None:
        yield
        return
    enough = threading.Event()

    def upload() -> None:
        files = instance_files(configuration)
        assert isinstance(files, BucketFiles)
        with contextlib.closing(open_ledger(configuration.storage.database)) as ledger:
            uploader = Uploader(ledger, files)
            # Slower than images come, so that some wait and some do not at any moment.
            while not enough.wait(0.3):
                uploader.upload()
            uploader.close()

    thread = threading.Thread(target=upload, daemon=True)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join(60)


def test_a_backup_under_load_loses_nothing_that_was_acknowledged_before(
    tmp_path: Path, run: Run, kept_in: S3Server | None
) -> None:
    config = tmp_path / "node" / "config.yaml"
    port = free_port()
    configuration = write_config(config, port, kept_in)
    node._prepare(configuration)
    receiver = ReceiverProcess(configuration)
    scanner = Scanner(tmp_path / "scanner", port)
    scanner.start()
    try:
        with uploading(configuration):
            wait_until(lambda: len(scanner.acknowledged) > 60, seconds=120, what="images are acknowledged")
            if kept_in is not None:
                wait_until(lambda: len(kept_in.contents("held")) > 20, seconds=120, what="images are uploaded")
            before = dict(scanner.acknowledged)
            status, said = run("backup", tmp_path / "backup", "--config", config, "--json")
            assert status == ExitCode.OK, said
            record = json.loads(said)
            during = len(scanner.acknowledged)
            wait_until(lambda: len(scanner.acknowledged) > during, seconds=60, what="images are taken after it, too")
    finally:
        scanner.enough.set()
        scanner.join(60)
        receiver.kill()
    assert record["files"] >= len(before)

    assert (tmp_path / "backup" / "config.yaml").read_text() == config.read_text()
    elsewhere = tmp_path / "restored" / "config.yaml"
    restored = write_config(elsewhere, port, kept_in)
    status, said = run("restore", tmp_path / "backup", "--config", elsewhere)
    assert status == ExitCode.OK, said
    assert restored.storage.directory != configuration.storage.directory
    ledger = open_ledger(restored.storage.database)
    with ledger.reading() as session:
        rows = {one.sop_instance_uid: one for one in session.scalars(select(InstanceRow))}
    ledger.close()
    assert set(before) <= set(rows)
    assert record["files"] == len(rows)
    files = instance_files(restored)
    for uid, path in before.items():
        assert dcmread(files.readable(rows[uid].path)) == dcmread(path)

    status, said = run("check", "--config", elsewhere, "--no-peers")
    assert status == ExitCode.OK, said
    status, said = run("status", "--config", elsewhere, "--json")
    document = json.loads(said)
    assert document["ledger"]["instances"] == len(rows)
    assert [alarm["sentence"] for alarm in document["alarms"]] == ["the node is not running"]
    if kept_in is not None:
        assert len([key for key in kept_in.contents("held") if key.startswith("restored/instances/")]) == len(rows)
    node._prepare(restored)
    receiver = ReceiverProcess(restored)
    try:
        # What was sent while the backup ran, or after it, is sent again by a scanner that kept it: nothing is twice.
        again = list(scanner.acknowledged.values())[-20:]
        outcomes = list(send_files(again, scanner.peer, ScuSettings("MR1")))
    finally:
        receiver.kill()
    assert {one.status for one in outcomes} == {0}


@contextlib.contextmanager
def journal_that_fills(tmp_path: Path) -> Iterator[tuple[Path, dict[str, Path], Callable[[], None]]]:
    """A node whose ledger somebody else holds, so that all that it acknowledges stays in its journal.

    Yields its configuration file, what it has acknowledged so far, and what lets go of the ledger.
    """
    config = tmp_path / "node" / "config.yaml"
    config.parent.mkdir()
    port = free_port()
    config.write_text(CONFIGURATION.format(port=port))
    configuration = load_configuration(config)
    node._prepare(configuration)
    receiver = ReceiverProcess(configuration)
    peer = Peer(ae_title="NODE", host="127.0.0.1", port=port)
    holder = sqlite3.connect(tmp_path / "node" / "var" / "ledger.sqlite", isolation_level=None, check_same_thread=False)
    acknowledged: dict[str, Path] = {}
    _send_until_the_journal_is_used(tmp_path / "before", configuration.storage.directory, peer)
    images = write_cine(tmp_path / "scanner", "study")
    full, over = threading.Event(), threading.Event()

    def taken(outcome: SendOutcome) -> None:
        assert outcome.status == 0x0000
        acknowledged[outcome.sop_instance_uid] = outcome.path
        if len(acknowledged) == 5:
            # The first image of a series is filed before it is acknowledged.
            holder.execute("BEGIN IMMEDIATE")
        if len(acknowledged) == len(images) - 2:
            full.set()
            # The association stays open.
            over.wait(120)

    sending = threading.Thread(target=send_files, args=(images, peer, ScuSettings("MR1")), kwargs={"progress": taken})
    sending.start()
    try:
        assert full.wait(120)
        # What the scanner sent while the ledger was still free may be filed.
        assert unfiled(configuration.storage.directory)[0] >= 5
        yield config, dict(acknowledged), holder.rollback
    finally:
        over.set()
        holder.close()
        sending.join(60)
        receiver.kill()


def _send_until_the_journal_is_used(folder: Path, directory: Path, peer: Peer) -> None:
    """The journal is made when images come: until it is there, they take the way that waits for the ledger."""
    folder.mkdir()

    def sent() -> bool:
        number = len(list(folder.iterdir()))
        list(send_files(write_cine(folder / f"study {number}", f"before {number}"), peer, ScuSettings("MR1")))
        return any(_begins_with(path, b"DNJ1") for path in (directory / JOURNAL).glob("*"))

    wait_until(sent, seconds=120, what="the journal is in use")


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def test_a_backup_taken_with_a_full_journal_loses_nothing(tmp_path: Path, run: Run) -> None:
    with journal_that_fills(tmp_path) as (config, acknowledged, let_go):
        later = threading.Timer(1.0, let_go)
        later.start()
        status, said = run("backup", tmp_path / "backup", "--config", config, "--json")
        later.join()
    assert status == ExitCode.OK, said
    assert json.loads(said)["unfiled"] == 0
    elsewhere = tmp_path / "restored" / "config.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text((tmp_path / "backup" / "config.yaml").read_text())
    status, said = run("restore", tmp_path / "backup", "--config", elsewhere)
    assert status == ExitCode.OK, said
    restored = load_configuration(elsewhere)
    ledger = open_ledger(restored.storage.database)
    with ledger.reading() as session:
        rows = {one.sop_instance_uid: one.path for one in session.scalars(select(InstanceRow))}
    ledger.close()
    assert set(acknowledged) <= set(rows)
    for uid, path in acknowledged.items():
        assert dcmread(restored.storage.directory / rows[uid]) == dcmread(path)
    node._prepare(restored)


def test_a_backup_that_lacks_what_is_in_a_journal_says_so(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.backup.FILED_S", 0.3)
    with journal_that_fills(tmp_path) as (config, acknowledged, let_go):
        # Whoever holds the ledger lets go of it once the backup has read it, and before it writes that it ended.
        monkeypatch.setattr(
            "storage.backup._write_record", lambda *given, of=backup._write_record: (let_go(), of(*given))
        )
        status, said = run("backup", tmp_path / "backup", "--config", config)
    assert status == ExitCode.FAILED, said
    assert "acknowledged images that wait in the journal of a receiver" in said
    assert 5 <= backup.read_backup(tmp_path / "backup").unfiled <= len(acknowledged) + 5


def test_an_order_of_before_the_backup_counts_for_images_that_come_after_it_was_restored(
    tmp_path: Path, run: Run
) -> None:
    def written(name: str) -> tuple[Path, Configuration]:
        config = tmp_path / name / "config.yaml"
        config.parent.mkdir()
        sections = yaml.safe_load(CONFIGURATION.format(port=free_port()))
        sections["orders"] = {"address": "127.0.0.1", "port": free_port(), "senders": ["127.0.0.1"]}
        sections["routes"] = {
            "infarct": {"destinations": [], "series": [{"minimum_phases": None, "order": {"diagnosis": "I21.*"}}]}
        }
        config.write_text(yaml.safe_dump(sections))
        return config, load_configuration(config)

    config, configuration = written("node")
    node._prepare(configuration)
    with order_server(configuration) as port, Sender(port) as sender:
        for number, accession in enumerate(("A1", "A2", "A3"), start=1):
            assert sender.send(infarct_order(accession, number=str(number), control_id=accession))[1][1] == "AA"
        assert sender.send(cancelled("2", control_id="4"))[1][1] == "AA"
    assert run("backup", tmp_path / "backup", "--config", config)[0] == ExitCode.OK
    elsewhere, restored = written("restored")
    assert run("restore", tmp_path / "backup", "--config", elsewhere)[0] == ExitCode.OK
    node._prepare(restored)
    with order_server(restored) as port, Sender(port) as sender:
        # Sent again, as its answer was lost with the node: it brings nothing back.
        assert sender.send(infarct_order("A2", number="2", control_id="A2"))[1][1] == "AA"
    studies = {}
    receiver = ReceiverProcess(restored)
    try:
        peer = Peer(ae_title="NODE", host="127.0.0.1", port=restored.node.port)
        # The third is another patient's, of a hospital that counts as this one does.
        for accession, patient in (("A1", "P1"), ("A2", "P1"), ("A3", "P3")):
            images = write_cine(tmp_path / accession, accession)
            for path in images:
                image = dcmread(path)
                image.AccessionNumber, image.PatientID = accession, patient
                path.write_bytes(encoded(image))
            studies[accession] = str(image.StudyInstanceUID)
            assert {one.status for one in send_files(images, peer, ScuSettings("MR1"))} == {0}
        assert await_filed(restored.storage.directory, 60)
    finally:
        receiver.kill()
    with contextlib.closing(open_ledger(restored.storage.database)) as ledger:
        # The association's end is filed behind its images.
        wait_until(
            lambda: {one.open_associations for one in studies_to_consider(ledger)} == {0}, seconds=60, what="ends"
        )
        StudyScheduler(ledger, restored).consider(utc_now() + dt.timedelta(hours=1))
        ran = {(one.study_instance_uid, one.route) for one in job_overviews(ledger)}
        told = {name: [one.kind for one in events_of_study(ledger, uid)] for name, uid in studies.items()}
    assert ran == {(studies["A1"], "infarct")}
    assert [name for name, kinds in told.items() if "order not used" in kinds] == ["A3"]


def test_what_a_backup_or_a_restoration_cannot_do_is_said(tmp_path: Path, run: Run) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIGURATION.format(port=free_port()))
    status, said = run("backup", tmp_path / "backup", "--config", config)
    assert status == ExitCode.FAILED
    assert "start the node once" in " ".join(said.split())
    node._prepare(load_configuration(config))
    status, said = run("backup", tmp_path / "var" / "instances" / "backup", "--config", config)
    assert status == ExitCode.FAILED
    assert "lies in the storage directory" in said
    status, said = run("restore", tmp_path / "nothing", "--config", config)
    assert status == ExitCode.FAILED
    assert "is no backup" in said
    with node.alone(load_configuration(config).storage.directory):
        status, said = run("restore", tmp_path / "nothing", "--config", config)
    assert status == ExitCode.FAILED
    assert "already serves" in said


def test_a_damaged_image_is_told_and_the_rest_is_kept(tmp_path: Path, run: Run) -> None:
    config = tmp_path / "config.yaml"
    port = free_port()
    config.write_text(CONFIGURATION.format(port=port))
    configuration = load_configuration(config)
    node._prepare(configuration)
    receiver = ReceiverProcess(configuration)
    try:
        images = write_cine(tmp_path / "cine", "cine")
        list(send_files(images, Peer(ae_title="NODE", host="127.0.0.1", port=port), ScuSettings("MR1")))
        assert await_filed(configuration.storage.directory, 60)
    finally:
        receiver.kill()
    stored = sorted(configuration.storage.directory.glob("instances/*/*.dcm"))
    assert len(stored) == len(images)
    with stored[0].open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\xff")
    status, said = run("backup", tmp_path / "backup", "--config", config, "--copy")
    assert status == ExitCode.FAILED
    assert stored[0].name in said.replace("\n", "")
    assert len(list((tmp_path / "backup").glob("files/instances/*/*.dcm"))) == len(images) - 1
