"""Two hosts that share a ledger and a bucket and no directory: images in at one, analysed at the other, results out at
the first; the bucket is cut off and hosts are killed meanwhile.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from absence import absent
from cluster_parts import BACK, FRONT, START_S, HostProcess, cluster_configuration, running_hosts
from crash_parts import PHASES, SLICES, NotingPacs, write_cine
from interop.ports import free_port, wait_until
from own_packages import crash_packages
from postgresql_server import MISSING, is_installed, running_postgresql
from pydicom import dcmread
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server, running_s3
from sqlalchemy import select

from dicom_node import doctor, node_status
from dicom_node.config import BucketSettings, Configuration, Peer, Secret
from dicom_node.network.pacs import PacsSettings
from dicom_node.network.sender import ScuSettings, send_files
from storage.bucket_files import CACHE
from storage.closing import FRONT_PAGE
from storage.ledger import Ledger, open_ledger, utc_now
from storage.overview import delivery_overviews, job_overviews
from storage.schema import DeliveryState, InstanceRow, JobState

SETTLE_S = 300.0
IMAGES = SLICES * PHASES
SCANNER = ScuSettings("MR1")


@pytest.fixture
def database() -> Iterator[str]:
    if not is_installed():
        absent(MISSING)
    with running_postgresql(fsync=False) as url:
        yield url


@pytest.fixture
def server() -> Iterator[S3Server]:
    with running_s3() as one:
        yield one


@pytest.fixture
def analyses(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    with crash_packages(tmp_path / "packages") as names:
        yield names[:1]


def _on(configuration: Configuration, folder: Path) -> Configuration:
    """The same with a storage directory of its own."""
    storage = configuration.storage.model_copy(update={"directory": folder})
    return configuration.model_copy(update={"storage": storage})


def _settled(ledger: Ledger, studies: int, analyses: int) -> bool:
    jobs = job_overviews(ledger, limit=1000)
    ended = [job for job in jobs if job.state is JobState.SUCCEEDED]
    deliveries = delivery_overviews(ledger, limit=1000)
    return (
        len(ended) == len(jobs) == studies * (analyses + 1)
        and bool(deliveries)
        and all(one.state is DeliveryState.COMMITTED for one in deliveries)
    )


def _ready_of_both(configuration: Configuration, ledger: Ledger) -> bool:
    found = node_status.node_status(configuration, ledger)
    names = {one.name for one in found.processes if one.ready}
    return (
        found.alarms == ()
        and len(found.other_disks) == 1
        and {"front/receiver-0", "front/uploader", "back/executor", "back/uploader"} <= names
    )


def _held(ledger: Ledger) -> Counter[str | None]:
    with ledger.reading() as session:
        return Counter(session.scalars(select(InstanceRow.held_by)))


def _said_of_bucket(configuration: Configuration) -> doctor.Finding:
    return next(_said_of("bucket", configuration))


def _said_of(about: str, configuration: Configuration) -> Iterator[doctor.Finding]:
    return (one for one in doctor.examine(configuration, now=utc_now(), call_peers=False) if one.about == about)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hosts_without_a_common_directory_lose_nothing_and_do_nothing_twice(
    database: str, server: S3Server, analyses: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.bucket("images")
    (tmp_path / "secret").write_text(f"{SECRET_KEY}\n", encoding="utf-8")
    monkeypatch.setenv("S3_ACCESS_KEY", ACCESS_KEY)
    bucket = BucketSettings(
        url="s3://images/node",
        endpoint=server.endpoint,
        region="us-east-1",
        access_key=Secret(environment="S3_ACCESS_KEY"),
        secret_key=Secret(file=tmp_path / "secret"),
    )
    port, pacs_port = free_port(), free_port()
    shared = cluster_configuration(
        tmp_path, database, {"front": FRONT, "back": BACK}, pacs_port=pacs_port, analyses=analyses
    )
    shared = shared.model_copy(update={"storage": shared.storage.model_copy(update={"bucket": bucket})})
    callers = {"NODE": Peer(ae_title="NODE", host="127.0.0.1", port=port)}
    pacs = NotingPacs(PacsSettings(directory=tmp_path / "pacs", port=pacs_port, callers=callers))
    # The first binds ledger and bucket; the other takes their identity.
    front = HostProcess(_on(shared, tmp_path / "front"), "front", port=port)
    assert front.ready.wait(START_S)
    back = HostProcess(_on(shared, tmp_path / "back"), "back")
    images = write_cine(tmp_path / "a", "a")

    with pacs, running_hosts([front, back]), contextlib.closing(open_ledger(database)) as ledger:
        here = front.configuration
        # Each tells of the processes of both, as does a person who asks there.
        for one in (here, back.configuration):
            wait_until(partial(_ready_of_both, one, ledger), seconds=START_S, what="both are told of", every=0.2)
        assert [one.sentence.rpartition("; ")[2] for one in _said_of("hosts", here)] == ["runs", "runs"]
        server.gate.shut()
        outcomes = list(send_files(images, Peer(ae_title="NODE", host="127.0.0.1", port=port), SCANNER))
        assert [one.status for one in outcomes] == [0x0000] * IMAGES
        assert _held(ledger) == {"front": IMAGES}
        monkeypatch.setattr(node_status, "UPLOAD_ALARM", dt.timedelta(0))
        (alarm,) = node_status.node_status(here, ledger).alarms
        assert f"{IMAGES} image(s) wait on the disk of host front" in alarm.sentence
        found = _said_of_bucket(here)
        assert found.level is doctor.Level.BROKEN
        assert SECRET_KEY not in str(found)
        # The host is killed and starts without its bucket.
        below = psutil.Process(front.process.pid).children(recursive=True)
        front.process.kill()
        front.process.join()
        front.wait_for_the_end_of(below)
        front.start()
        assert front.ready.wait(START_S)
        assert _held(ledger) == {"front": IMAGES}
        assert not job_overviews(ledger, limit=1000)

        # Cut off again in the middle, and the uploader killed.
        server.gate.bytes_until_shut = 20_000
        server.gate.open()
        wait_until(lambda: server.gate.bytes_until_shut is None, seconds=SETTLE_S, what="uploads are cut off")
        front.processes()["front uploader"].send_signal(signal.SIGKILL)
        server.gate.open()
        wait_until(lambda: _settled(ledger, 1, len(analyses)), seconds=SETTLE_S, what="it is analysed", every=0.2)
        assert _held(ledger) == {None: IMAGES}
        assert node_status.node_status(here, ledger).alarms == ()
        assert _said_of_bucket(here).level is doctor.Level.WELL
        # Nothing came to the other host but what it asked the bucket for.
        assert list((tmp_path / "back" / "instances").rglob("*.dcm")) == []
        assert len(list((tmp_path / "back" / CACHE / "instances").rglob("*.dcm"))) == IMAGES
        _check(ledger, server, images)
        jobs = Counter((job.study_instance_uid, job.package) for job in job_overviews(ledger, limit=1000))
        assert set(jobs.values()) == {1}
        assert {package for _, package in jobs} == {*analyses, FRONT_PAGE}
        deliveries = delivery_overviews(ledger, limit=1000)
        made = Counter((one.job_id, one.role, one.sop_class_uid) for one in deliveries)
        assert set(made.values()) == {1}
        assert {uid for uid, _ in pacs.arrivals} == {one.sop_instance_uid for one in deliveries} == set(pacs.held())
        assert len(set(pacs.arrivals)) == len(deliveries)
        # One that is gone is told of, with what it said last.
        back.process.terminate()
        assert back.end() == 0
        for module in (node_status, doctor):
            monkeypatch.setattr(module, "HOST_SILENT", dt.timedelta(0))
        found = node_status.node_status(here, ledger)
        (silent,) = found.silent_hosts
        assert (silent.name, "back/executor" in {one.name for one in silent.processes}) == ("back", True)
        assert "host back has said nothing since" in " ".join(one.sentence for one in found.alarms)
        assert [
            one
            for one in _said_of("hosts", here)
            if one.sentence.startswith("back: executor, scheduler; has said nothing")
        ]
    assert {one.process.exitcode for one in (front, back)} == {0}


def _check(ledger: Ledger, server: S3Server, sent: list[Path]) -> None:
    """Every image once in the ledger, and in the bucket as it was sent."""
    with ledger.reading() as session:
        held = {row.sop_instance_uid: row for row in session.scalars(select(InstanceRow))}
    objects = server.contents("images")
    assert len(held) == len(sent)
    for path in sent:
        image = dcmread(path)
        content = objects[f"node/{held[str(image.SOPInstanceUID)].path}"]
        assert dcmread(io.BytesIO(content)) == image
