"""Fetching from a real PACS what is missing: by C-GET and by C-MOVE, whole series and single images, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from interop.fixtures import require
from interop.orthanc import AE_TITLE as ORTHANC
from interop.orthanc import DICOM_WEB_PLUGIN, Modality, Orthanc
from interop.ports import free_port
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.commands.terminal import ExitCode
from dicom_node.config import Configuration, Peer, PeerPermission
from dicom_node.config_file import load_configuration
from dicom_node.errors import ConfigurationError, DeliveryRefusedError, PeerUnavailableError
from dicom_node.network.fetch import FetchedSeries, Way, fetch_study
from dicom_node.network.sender import ScuSettings, send_files
from network.objects import data_set_bytes, mr_image, save
from network.running_node import NODE, RunningReceiver, receiver_thread
from storage.ledger import open_ledger
from storage.schema import Association

pytestmark = pytest.mark.peers

STUDY = "1.2.77"
COUNTS = {f"{STUDY}.1": 3, f"{STUDY}.2": 2}


@dataclass(frozen=True)
class Archive:
    """An Orthanc that holds a study of two series and knows the node."""

    orthanc: Orthanc
    node_port: int
    files: dict[str, Path]

    @property
    def peer(self) -> Peer:
        may = frozenset({PeerPermission.SEND})
        return Peer(ae_title=ORTHANC, host="127.0.0.1", port=self.orthanc.dicom_port, may=may)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    require("Orthanc", DICOM_WEB_PLUGIN)
    folder, node_port = tmp_path_factory.mktemp("archive"), free_port()
    images = {}
    for series, count in COUNTS.items():
        for number in range(1, count + 1):
            image = mr_image(study=STUDY, series=series, seed=number)
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{series}.{number}"
            images[f"{series}.{number}"] = save(image, folder)
    with Orthanc(folder / "orthanc", (Modality(NODE, node_port),)) as orthanc:
        running = Archive(orthanc, node_port, images)
        sent = send_files(list(images.values()), running.peer, ScuSettings(NODE))
        assert all(outcome.error is None for outcome in sent)
        yield running


@pytest.fixture
def node(archive: Archive, tmp_path: Path) -> Configuration:
    """Where the archive knows it."""
    path = tmp_path / "config.yaml"
    settings = {
        "node": {"ae_title": NODE, "address": "127.0.0.1", "port": archive.node_port},
        "peers": {
            "pacs": {
                "ae_title": ORTHANC,
                "host": "127.0.0.1",
                "port": archive.orthanc.dicom_port,
                "may": ["send"],
            }
        },
        "storage": {"low_watermark_mb": 0, "high_watermark_mb": 0},
    }
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return load_configuration(path, {})


def fetched(node: Configuration, way: Way, *series: str) -> dict[str, FetchedSeries]:
    ledger = open_ledger(node.storage.database)
    try:
        answer = fetch_study(node, ledger, node.peers["pacs"], STUDY, series_instance_uids=series, way=way)
    finally:
        ledger.close()
    return {one.series_instance_uid: one for one in answer}


@pytest.mark.parametrize("way", Way)
def test_only_what_is_missing_comes(archive: Archive, node: Configuration, way: Way) -> None:
    with receiver_thread(node) as receiver:
        # One image is here already: the rest of its series is fetched one by one, the other series as a whole.
        first = f"{STUDY}.1.1"
        peer = Peer(ae_title=NODE, host="127.0.0.1", port=receiver.port)
        (sent,) = send_files([archive.files[first]], peer, ScuSettings(ORTHANC))
        assert sent.error is None
        answer = fetched(node, way)
        assert {uid: (one.at_peer, one.held_before, one.fetched, one.missing) for uid, one in answer.items()} == {
            f"{STUDY}.1": (3, 1, 2, ()),
            f"{STUDY}.2": (2, 0, 2, ()),
        }
        assert_held(receiver, archive)
        associations = len(receiver.associations())
        assert all((one.fetched, one.missing) == (0, ()) for one in fetched(node, way).values())
        assert len(receiver.associations()) == associations


def assert_held(receiver: RunningReceiver, archive: Archive) -> None:
    rows = receiver.instances()
    assert {row.sop_instance_uid for row in rows} == set(archive.files)
    for row in rows:
        assert data_set_bytes(receiver.file_of(row)) == data_set_bytes(archive.files[row.sop_instance_uid])
    with receiver.ledger.reading() as session:
        associations = [session.get_one(Association, row.association_id) for row in rows]
    assert {one.calling_ae_title for one in associations} == {ORTHANC}


def test_the_command_fetches_a_series_without_a_running_node(archive: Archive, node: Configuration) -> None:
    config = node.storage.directory.parent.parent / "config.yaml"
    arguments = ["fetch", STUDY, "--from", "pacs", "--series", f"{STUDY}.2", "--config", str(config), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == ExitCode.OK, done.output
    (series,) = json.loads(done.stdout)["series"]
    assert (series["series_instance_uid"], series["fetched"], series["missing"]) == (f"{STUDY}.2", 2, [])
    ledger = open_ledger(node.storage.database)
    with ledger.reading() as session:
        (association,) = session.query(Association).all()
        assert (association.outcome, association.address) == ("released", "127.0.0.1")
    ledger.close()


def test_a_study_that_the_peer_does_not_hold(node: Configuration) -> None:
    config = node.storage.directory.parent.parent / "config.yaml"
    done = CliRunner().invoke(app, ["fetch", "9.9", "--from", "pacs", "--config", str(config)])
    assert (done.exit_code, "does not hold it" in done.output) == (ExitCode.PEER, True)


def test_a_move_to_a_node_that_does_not_run_is_missing(node: Configuration) -> None:
    ledger = open_ledger(node.storage.database)
    try:
        with pytest.raises(DeliveryRefusedError, match="fails C-MOVE"):
            fetch_study(node, ledger, node.peers["pacs"], STUDY, way=Way.MOVE)
    finally:
        ledger.close()


def test_peers_that_may_not_send_or_do_not_answer(node: Configuration) -> None:
    ledger = open_ledger(node.storage.database)
    silent = Peer(ae_title="GONE", host="127.0.0.1", port=free_port(), may=frozenset({PeerPermission.SEND}))
    mute = Peer(ae_title="MUTE", host="127.0.0.1", port=1, may=frozenset())
    try:
        with pytest.raises(PeerUnavailableError):
            fetch_study(node, ledger, silent, STUDY)
        with pytest.raises(ConfigurationError, match="may not send"):
            fetch_study(node, ledger, mute, STUDY)
    finally:
        ledger.close()
