"""The numbers and the audit trail of a node that runs, before and after what a scanner, a stranger and a prober do."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from deliver.results_due import result_objects, results_due
from interop import dcmtk as scanner
from interop.ports import free_port, wait_ready, wait_until
from interop.rsyslog import Rsyslog
from network.objects import MR, SECONDARY_CAPTURE, mr_image, save
from network.running_node import NODE, configuration, destination_sections, pacs_peer
from prometheus_client.parser import text_string_to_metric_families
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification

from audit.reading import ReadMessage, read_trail
from audit.serving import serve
from dicom_node.config import AuditSettings, Configuration, MetricsSettings, Peer
from dicom_node.exposition import shared_numbers
from dicom_node.network.sender import ScuSettings, send_files
from storage.ledger import open_ledger

SENT, STUDY = "1.2.3", "1.2.3.4"
"""Study of the results that wait at the start, and of what the scanner sends."""
PATIENCE_S = 300
"""For what a busy machine does at last: no time is asked about here."""
_spawn = multiprocessing.get_context("spawn")


class Numbers(dict[str, float]):
    """Samples of ``/metrics`` by name and labels: ``dicom_node_jobs{state=failed}``."""

    def __missing__(self, key: str) -> float:
        return 0.0


def scrape(port: int) -> Numbers:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return Numbers(
        (name + ("{" + ",".join(f"{k}={v}" for k, v in sorted(labels.items())) + "}" if labels else ""), value)
        for family in text_string_to_metric_families(text)
        for name, labels, value, *_ in family.samples
    )


@contextlib.contextmanager
def running(settings: Configuration, log: Path) -> Iterator[None]:
    ready = _spawn.Event()
    process = _spawn.Process(target=serve, args=(settings, log, ready))
    process.start()
    try:
        wait_ready(ready, process.is_alive, log)
        yield
        process.terminate()
        process.join()
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


def kill_receiver(log: Path) -> None:
    (found,) = re.findall(r'"process": "receiver-0", "pid": (\d+)', log.read_text())
    os.kill(int(found), signal.SIGKILL)


@pytest.mark.peers
def test_what_happens_is_counted_and_told(dcmtk: None, rsyslog: Rsyslog, tmp_path: Path) -> None:
    metrics_port, log, trail = free_port(), tmp_path / "node.log", tmp_path / "audit" / "trail.log"
    pacs = free_port()
    rsyslog.start()
    with scanner.storescp(tmp_path / "pacs", port=pacs):
        settings = configuration(
            tmp_path,
            **destination_sections(pacs_peer(pacs), storage_commitment=False),
            metrics=MetricsSettings(port=metrics_port),
            audit=AuditSettings(file=trail, syslog=rsyslog.settings),
        )
        ledger = open_ledger(settings.storage.database)
        results_due(settings, ledger, result_objects(2), study=SENT)
        ledger.close()
        with running(settings, log):
            port = settings.node.port
            wait_until(
                lambda: scrape(metrics_port)["dicom_node_turnaround_seconds_count"] == 1,
                seconds=PATIENCE_S,
                what="results delivered",
            )
            before, begun = scrape(metrics_port), time.monotonic()
            _use(settings, tmp_path, metrics_port)
            took_s = time.monotonic() - begun
            with _open_association(port):
                held = scrape(metrics_port)
            kill_receiver(log)
            wait_until(
                lambda: scrape(metrics_port)["dicom_node_process_restarts_total{process=receiver-0}"] == 1,
                seconds=PATIENCE_S,
                what="the receiver is started again",
            )
            wait_until(lambda: _told(trail) >= 8, seconds=PATIENCE_S, what="all is told")
            after = scrape(metrics_port)
            assert shared_numbers(settings.storage.directory).is_dir()
    assert not shared_numbers(settings.storage.directory).exists()
    _check_numbers(before, held, after, tmp_path / "instances", took_s)
    _check_trail(read_trail(trail))
    _check_secrets(log, trail)
    # The last of them too, that the node has stopped.
    wait_until(lambda: len(rsyslog.received()) >= _told(trail), seconds=PATIENCE_S, what="the collector has all")
    assert list(dict.fromkeys(rsyslog.received())) == trail.read_bytes().splitlines()


def _use(settings: Configuration, folder: Path, metrics_port: int) -> None:
    port = settings.node.port
    images = [mr_image(study=STUDY, series=f"{STUDY}.1", seed=seed) for seed in range(3)]
    paths = [save(image, folder) for image in images]
    for _ in range(2):
        assert scanner.storescu(paths, port=port, called=NODE).returncode == 0
    changed = images[0]
    changed.InstanceNumber = 77
    nameless = mr_image(study=STUDY, series=f"{STUDY}.1", seed=9)
    nameless.StudyInstanceUID = ""
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=port)
    conflict, mismatch = send_files(
        [save(changed, folder, "changed"), save(nameless, folder)], peer, ScuSettings("MR1")
    )
    assert conflict.status == 0x0000
    assert mismatch.status == 0xA900
    for _ in range(2):
        assert scanner.echoscu(port=port, called=NODE).returncode == 0
    assert scanner.echoscu(port=port, called=NODE, calling="EVIL").returncode != 0
    before = scrape(metrics_port)["dicom_node_connections_refused_total{reason=probe}"]
    for _ in range(3):
        socket.create_connection(("127.0.0.1", port)).close()
    # A prober is noticed when the connection is found closed.
    probes = "dicom_node_connections_refused_total{reason=probe}"
    wait_until(lambda: scrape(metrics_port)[probes] >= before + 3, seconds=PATIENCE_S, what="the probers are counted")


@contextlib.contextmanager
def _open_association(port: int) -> Iterator[None]:
    association = AE("MR1").associate("127.0.0.1", port, [build_context(Verification)], ae_title=NODE)
    assert association.is_established
    yield
    association.release()


def _told(trail: Path) -> int:
    return len(trail.read_bytes().splitlines())


def _check_numbers(before: Numbers, held: Numbers, after: Numbers, instances: Path, took_s: float) -> None:
    def rise(name: str) -> float:
        return after[f"dicom_node_{name}"] - before[f"dicom_node_{name}"]

    assert rise("instances_received_total{outcome=new}") == 3
    assert rise("instances_received_total{outcome=duplicate}") == 3
    assert rise("instances_received_total{outcome=conflict}") == 1
    sizes = [path.stat().st_size for path in instances.glob("instances/*/*.dcm")]
    assert len(sizes) == 4
    # Three came twice, and the changed one once.
    assert 2 * sum(sizes) - rise("received_bytes_total") in sizes
    assert rise("store_responses_total{status=0000}") == 7
    assert rise("store_responses_total{status=A900}") == 1
    assert rise("store_refusals_total{reason=mismatch}") == 1
    assert rise("store_duration_seconds_count") == 8
    assert rise("flush_duration_seconds_count") == 7
    assert rise("ledger_commit_duration_seconds_count") == 7
    assert 0 < rise("ledger_commit_duration_seconds_sum") <= rise("store_duration_seconds_sum") < took_s
    assert rise("objects_quarantined_total") == rise("quarantined_objects") == 2
    assert rise("echoes_total") == 2
    assert rise("associations_accepted_total") == 6
    assert rise("associations_ended_total{outcome=released}") == 6
    assert rise("connections_refused_total{reason=calling_ae_title}") == 1
    assert rise("connections_refused_total{reason=probe}") == 3
    assert (held["dicom_node_associations_open"], after["dicom_node_associations_open"]) == (1, 0)
    assert held["dicom_node_peer_associations_open{peer=scanner}"] == 1
    assert after["dicom_node_studies_waiting"] >= 1
    assert after["dicom_node_last_received_timestamp_seconds"] > before["dicom_node_last_received_timestamp_seconds"]
    # What waited at the start was delivered.
    assert after["dicom_node_delivery_attempts_total{destination=pacs,outcome=sent}"] == 2
    assert after["dicom_node_commitment_duration_seconds_count{destination=pacs}"] == 2
    assert after["dicom_node_deliveries{destination=pacs,state=queued}"] == 0
    assert after["dicom_node_ledger_up"] == 1
    assert after["dicom_node_storage_free_bytes"] > 0
    assert [name for name in after if name.startswith("dicom_node_build_info")]
    assert rise("audit_messages_total{event=DICOM Instances Transferred}") == 3
    assert rise("audit_messages_total{event=Security Alert}") == 1


def _check_trail(messages: list[ReadMessage]) -> None:
    assert (messages[0].event, messages[0].kind, messages[0].process) == ("110100", "110120", "supervisor")
    assert (messages[-1].event, messages[-1].kind, messages[-1].process) == ("110100", "110121", "supervisor")
    assert [one.event for one in messages].count("110100") == 2
    (begun,) = [one for one in messages if one.event == "110102"]
    delivered, *received = sorted(
        (one for one in messages if one.event == "110104"), key=lambda one: one.process != "deliverer"
    )
    for one in (begun, delivered):
        assert (one.studies, one.patients, one.instances()) == ([SENT], ["P1"], {SECONDARY_CAPTURE: 2})
        assert one.participants("110153")[0]["UserID"] == "deliverer"
        assert one.participants("110152")[0]["UserID"] == "PACS"
    assert (delivered.action, delivered.outcome) == ("R", 0)
    assert messages.index(begun) < messages.index(delivered)
    # Of the association of an earlier life that brought the study; no file of it is there.
    assert [(one.studies, one.patients) for one in received[:1]] == [([SENT], [""])]
    assert [(one.studies, one.patients, one.action, one.instances()) for one in received[1:]] == [
        ([STUDY], ["P1"], "C", {MR: 3}),
        ([STUDY], ["P1"], "R", {}),
        ([STUDY], ["P1"], "R", {}),
    ]
    (alert,) = [one for one in messages if one.event == "110113"]
    assert alert.kind == "110126"
    assert "EVIL" in alert.detail("Alert Description")
    assert [one.get("ParticipantObjectID") for one in alert.objects("110182")] == ["127.0.0.1"]


def _check_secrets(log: Path, trail: Path) -> None:
    logged, told = log.read_text(), trail.read_text()
    assert "association ended" in logged
    for text in (logged, told):
        assert "Test" not in text
        assert "Πατρίκιος" not in text
        assert "&#928;" not in text
        assert "\\u03a0" not in text
    assert '"P1"' not in logged
