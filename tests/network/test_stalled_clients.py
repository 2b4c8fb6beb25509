"""A scanner sends at its usual rate while hundreds of clients stall before their association request.

What is held against a limit is the processor time that the receivers spend on an image: the rate on a machine that does
other things says little. ``DICOM_NODE_STALLED_IMAGES`` is how many images the scanner sends each time,
``DICOM_NODE_STALLED_ROUNDS`` how often, and ``DICOM_NODE_STALLED_RATE`` the part of its usual rate that it must have on
an idle machine.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from pathlib import Path

import psutil
import pytest
from interop.dcmtk import storescu
from interop.ports import free_port, wait_until

from network.certificates import Authority
from network.objects import mr_image, new_uid, save
from network.running_node import NODE, SCANNER, RunningReceiver, configuration, shared_receivers, with_node
from network.wire import associate_request, connected
from storage.ledger import open_ledger

pytestmark = pytest.mark.peers

IMAGES = int(os.environ.get("DICOM_NODE_STALLED_IMAGES", "100"))
ROUNDS = int(os.environ.get("DICOM_NODE_STALLED_ROUNDS", "3"))
LEAST_RATE = float(os.environ.get("DICOM_NODE_STALLED_RATE", "0"))
"""On an idle machine 0.8 holds."""
MOST_WORK = 3.0
"""Processor time of an image among stalled clients over that of an image alone; about 1.2 when nothing else runs."""
ACSE_TIMEOUT_S = 600
STALLED = 200
HELLO = bytes.fromhex("16030100c8010000c40303")
"""The beginning of a ClientHello (RFC 8446 4.1.2)."""


@pytest.mark.slow
def test_a_scanner_is_as_fast_among_stalled_clients(dcmtk: None, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    secure = free_port()
    node = with_node(
        configuration(tmp_path),
        receiver_processes=2,
        acse_timeout_s=ACSE_TIMEOUT_S,
        tls=authority.settings(authority.signs("node"), secure),
    )
    request = associate_request(SCANNER.encode(), NODE.encode())
    folders = [tmp_path / f"round {number}" for number in range(2 * ROUNDS + 1)]
    series = new_uid()
    for number, folder in enumerate(folders):
        folder.mkdir()
        for seed in range(IMAGES if number else 10):
            save(mr_image(study=series, series=series, seed=seed, side=128), folder)
    unsent = iter(folders)

    with shared_receivers(node) as receivers:
        processes = [psutil.Process(receiver.pid) for receiver in receivers]

        def busy_s() -> float:
            return sum(process.cpu_times().user + process.cpu_times().system for process in processes)

        def sends_a_folder() -> tuple[float, float]:
            """The seconds that it took, and the seconds of processor that the receivers spent."""
            folder = next(unsent)
            started, busy = time.monotonic(), busy_s()
            sent = storescu([folder], port=node.node.port, called=NODE)
            took = time.monotonic() - started
            assert sent.stderr.count("Received Store Response (Success)") == len(list(folder.iterdir()))
            return took, busy_s() - busy

        def open_connections() -> int:
            return sum(len(process.net_connections()) for process in processes)

        sends_a_folder()
        alone, among_stalled = [], []
        for _ in range(ROUNDS):
            alone.append(sends_a_folder())
            with contextlib.ExitStack() as stalled_clients:
                for number in range(STALLED):
                    for port, starts in ((node.node.port, request), (secure, HELLO)):
                        stalled = stalled_clients.enter_context(connected(port, f"127.0.2.{number // 50 + 1}"))
                        stalled.sendall(starts[: (0, 1, 7, -1)[number % 4]])
                wait_until(lambda: open_connections() >= 2 * STALLED, seconds=30, what="all are connected")
                among_stalled.append(sends_a_folder())
                assert open_connections() >= 2 * STALLED
            wait_until(lambda: open_connections() < 20, seconds=30, what="all are gone")
        ledger = open_ledger(node.storage.database)
        assert len(RunningReceiver(node, ledger).instances()) == 10 + 2 * ROUNDS * IMAGES
        ledger.close()
    (took, busy), (took_among, busy_among) = (
        [statistics.median(column) for column in zip(*rounds, strict=True)] for rounds in (alone, among_stalled)
    )
    print(
        f"\nalone {IMAGES / took:.0f} images/s {[round(IMAGES / s) for s, _ in alone]}, among {2 * STALLED} stalled "
        f"clients {IMAGES / took_among:.0f} {[round(IMAGES / s) for s, _ in among_stalled]}: {took / took_among:.2f}; "
        f"processor of an image {1000 * busy / IMAGES:.1f} ms and {1000 * busy_among / IMAGES:.1f} ms"
    )
    assert busy_among < MOST_WORK * busy
    assert took / took_among > LEAST_RATE
