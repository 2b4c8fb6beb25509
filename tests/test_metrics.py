"""What counting costs, and what a scrape says when parts of the node are away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ledger_rows import DELIVERED, NOW, a_result, receive_and_schedule
from network.running_node import configuration, destination_sections, pacs_peer
from prometheus_client import CollectorRegistry

from dicom_node.config import Configuration
from dicom_node.exposition import NodeState, exposed
from dicom_node.metrics import STORAGE_CLOSED
from dicom_node.network.places import PlaceTable
from dicom_node.network.watermarks import Watermarks
from storage.deliveries import claim_deliveries, commitment_reported, delivery_sent
from storage.jobs import claim_job, complete_job
from storage.ledger import Ledger, open_ledger
from storage.overview import Commitment, commitments

_COST = """
import sys, timeit
before = set(sys.modules)
from dicom_node import metrics
heavy = {"fastapi", "sqlalchemy", "pydicom", "pynetdicom"} & (set(sys.modules) - before)
assert not heavy, heavy

def image():
    metrics.STORE_RESPONSES.labels("0000").inc()
    metrics.STORE_SECONDS.observe(0.003)
    metrics.FLUSH_SECONDS.observe(0.002)
    metrics.LEDGER_COMMIT_SECONDS.observe(0.001)
    metrics.INSTANCES_RECEIVED.labels("new").inc()
    metrics.RECEIVED_BYTES.inc(131072)

print(min(timeit.repeat(image, number=2000, repeat=5)) / 2000)
"""


def test_an_image_is_counted_in_microseconds_by_a_process_that_imports_little_for_it(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _COST],
        env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    # 20 µs on an idle core.
    assert float(answer.stdout) < 200e-6
    assert {path.name for path in tmp_path.iterdir()} >= {"counter_MainProcess.db", "histogram_MainProcess.db"}


def test_the_program_loads_no_numbers_before_it_is_said_where_they_go() -> None:
    """Else ``serve`` cannot start with ``metrics.port``."""
    loaded = "import sys; from dicom_node import cli, node; sys.exit('dicom_node.metrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0


_CERTIFICATE = """
import sys
from dicom_node import metrics
if sys.argv[1] == "tls":
    metrics.CERTIFICATE_EXPIRES.labels("dicom").set(2e9)
"""

_COLLECTED = """
import sys
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry, sys.argv[1])
print(generate_latest(registry).decode())
"""


def test_the_certificate_is_told_by_the_process_that_has_one_and_by_no_other(tmp_path: Path) -> None:
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}

    def run(*command: str) -> str:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def told() -> list[str]:
        said = run(sys.executable, "-c", _COLLECTED, str(tmp_path)).splitlines()
        return [line for line in said if line.startswith("dicom_node_certificate_not_after")]

    run(sys.executable, "-c", _CERTIFICATE, "none")
    assert told() == []
    run(sys.executable, "-c", _CERTIFICATE, "tls")
    run(sys.executable, "-c", _CERTIFICATE, "none")
    assert told() == ['dicom_node_certificate_not_after_timestamp_seconds{service="dicom"} 2e+09']


def test_the_watermarks_show() -> None:
    STORAGE_CLOSED.set(1)
    free = [10_000_000]
    watermarks = Watermarks(lambda: free[0], low_watermark_mb=5, high_watermark_mb=8)
    seen = []
    for free[0] in (10_000_000, 5_500_000, 7_000_000, 8_000_000):
        watermarks.admits(1_000_000)
        seen.append(STORAGE_CLOSED._value.get())
    assert seen == [0, 1, 1, 0]


def scraped(settings: Configuration, ledger: Ledger) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(NodeState(settings, ledger, PlaceTable(1, settings.peers)))
    return {
        name + "".join(f" {value}" for value in labels.values()): value
        for family in registry.collect()
        for name, labels, value, *_ in family.samples
    }


def test_a_scrape_tells_what_waits_and_what_failed(tmp_path: Path) -> None:
    settings = configuration(tmp_path, **destination_sections(pacs_peer(104)))
    settings.storage.directory.mkdir()
    ledger = open_ledger(settings.storage.database)
    receive_and_schedule(ledger)
    (job,) = receive_and_schedule(ledger, "1.2.4")
    first = claim_job(ledger, "w", NOW)
    assert first is not None
    complete_job(ledger, first, [a_result(1, "pacs", "removed")], DELIVERED, now=NOW)
    claim_deliveries(ledger, "pacs", 1, "me", NOW, 60)
    seen = scraped(settings, ledger)
    # One of the second study, and the closing job of the first.
    assert seen["dicom_node_jobs queued"] == 2
    assert seen["dicom_node_jobs failed"] == 0
    assert seen["dicom_node_jobs_late"] == 2
    assert seen["dicom_node_destination_unreachable pacs"] == 0
    assert seen["dicom_node_jobs_oldest_timestamp_seconds"] == NOW.timestamp()
    assert seen["dicom_node_deliveries pacs sending"] == 1
    assert seen["dicom_node_deliveries pacs dead"] == 0
    assert seen["dicom_node_deliveries removed queued"] == 1
    assert seen["dicom_node_deliveries_oldest_timestamp_seconds pacs"] == NOW.timestamp()
    assert seen["dicom_node_peer_associations_open scanner"] == 0
    assert seen["dicom_node_ledger_up"] == 1
    assert job > first.id
    ledger.close()


def test_a_scrape_answers_without_ledger_and_storage(tmp_path: Path) -> None:
    settings = configuration(tmp_path)
    settings.storage.directory.mkdir()
    ledger = open_ledger(settings.storage.database)
    state_of = scraped(settings, ledger)
    assert state_of["dicom_node_ledger_up"] == 1
    with ledger.engine.connect() as connection:
        connection.exec_driver_sql("DROP TABLE quarantine")
        connection.commit()
    state_of = scraped(settings, ledger)
    assert state_of["dicom_node_ledger_up"] == 0
    assert state_of["dicom_node_storage_free_bytes"] > 0
    assert "dicom_node_jobs queued" not in state_of
    ledger.close()


def test_the_last_commitment_of_a_job_ends_the_turnaround_of_its_study(tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    receive_and_schedule(ledger)
    job = claim_job(ledger, "w", NOW)
    assert job is not None
    complete_job(ledger, job, [a_result(1), a_result(2)], DELIVERED, now=NOW)
    sent, committed, later = (NOW.replace(second=second) for second in (10, 15, 40))
    ids = [one.id for one in claim_deliveries(ledger, "pacs", 2, "me", NOW, 60)]
    delivery_sent(ledger, ids, "2.25.1", later, now=sent)

    def report(uid: str, now: object) -> None:
        commitment_reported(
            ledger,
            "2.25.1",
            {uid},
            {},
            destinations={"pacs"},
            now=now,
            retry_at=lambda _attempts: None,  # type: ignore[arg-type]
        )

    report("2.25.1", committed)
    assert commitments(ledger, at=committed, transaction_uid="2.25.1") == (Commitment("pacs", 5.0, None),)
    report("2.25.2", later)
    assert commitments(ledger, at=later, transaction_uid="2.25.1") == (Commitment("pacs", 30.0, 40.0),)
    assert commitments(ledger, at=later, delivery_ids=ids) == (Commitment("pacs", 30.0, 40.0),)
    ledger.close()


def test_numbers_that_would_go_nowhere_are_refused(tmp_path: Path) -> None:
    settings = configuration(tmp_path).model_copy(
        update={"metrics": Configuration().metrics.model_copy(update={"port": 1})}
    )
    with pytest.raises(RuntimeError, match="imported before"), exposed(settings, PlaceTable(1)):
        pass
