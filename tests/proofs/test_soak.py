"""A receiver serves for long at a hospital's rate: memory, descriptors and threads stay where they are.

``DICOM_NODE_SOAK_S`` is how many seconds, ``DICOM_NODE_SOAK_RATE`` how many images a second are sent; 1 is thirty
million a year. How long images wait for their answers is printed, in the first and the last quarter: on a machine that
does other things meanwhile it judges nothing.
"""

from __future__ import annotations

import os
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from interop.ports import wait_until
from network.objects import mr_image, new_uid, save
from network.patient_scanner import SETTINGS
from network.running_node import NODE, ReceiverProcess, RunningReceiver, configuration, with_node

from dicom_node.config import Peer
from dicom_node.network.sender import send_files
from storage.ledger import open_ledger

SECONDS = float(os.environ.get("DICOM_NODE_SOAK_S", "10"))
RATE = float(os.environ.get("DICOM_NODE_SOAK_RATE", "20"))
IMAGES = 10
"""Of an association; each is a study of its own."""
WARM = 5
"""Associations before anything is counted: connections to the ledger and caches come with the first."""
LEAST = 12
"""Associations that are counted, however slow the machine is."""
GROWTH_BYTES = 6_000_000


@dataclass(frozen=True)
class Look:
    """What the receiver holds between two associations, and seconds that an image of the last one took."""

    memory: int
    descriptors: int
    threads: int
    answer_s: float


@pytest.mark.slow
@pytest.mark.timeout(600 + 3 * SECONDS)
def test_nothing_grows(tmp_path: Path) -> None:
    node = with_node(configuration(tmp_path), receiver_processes=1)
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=node.node.port)
    process = ReceiverProcess(node)
    looks: list[Look] = []
    with closing(open_ledger(node.storage.database)) as ledger:
        running = RunningReceiver(node, ledger)
        try:
            receiver = psutil.Process(process.pid)
            threads = receiver.num_threads()
            until, sent = time.monotonic() + SECONDS, 0
            while time.monotonic() < until or len(looks) < WARM + LEAST:
                began = time.monotonic()
                study = new_uid()
                paths = [
                    save(mr_image(study=study, series=f"{study}.1"[:64], side=128), tmp_path) for _ in range(IMAGES)
                ]
                sending = time.monotonic()
                assert {one.status for one in send_files(paths, peer, SETTINGS)} == {0x0000}
                answer_s = (time.monotonic() - sending) / IMAGES
                sent += IMAGES
                for path in paths:
                    path.unlink()
                wait_until(lambda: receiver.num_threads() <= threads, seconds=60, what="the association has ended")
                seen = receiver.memory_info().rss, receiver.num_fds(), receiver.num_threads()
                looks.append(Look(*seen, answer_s))
                time.sleep(max(0.0, IMAGES / RATE - (time.monotonic() - began)))
            assert len(running.instances()) == sent
            assert {row.outcome for row in running.associations()} == {"released"}
        finally:
            process.kill()
    counted = looks[WARM:]
    quarter = len(counted) // 4
    first, last = counted[:quarter], counted[-quarter:]
    print(
        f"\n{sent} images in {SECONDS:g} s: memory {first[0].memory >> 20} to {last[-1].memory >> 20} MB, "
        f"descriptors {first[0].descriptors} to {last[-1].descriptors}, an image "
        f"{1000 * statistics.median(one.answer_s for one in first):.1f} to "
        f"{1000 * statistics.median(one.answer_s for one in last):.1f} ms"
    )
    assert min(one.memory for one in last) - min(one.memory for one in first) < GROWTH_BYTES
    assert min(one.descriptors for one in last) <= min(one.descriptors for one in first)
