"""SIGKILL of the receiver processes of a node while several senders are at work on one study.

``DICOM_NODE_KILL_ROUNDS`` is the number of kills, ``DICOM_NODE_KILL_SEED`` their seed.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from interop.ports import wait_ready, wait_until

from dicom_node.config import Configuration, Peer
from dicom_node.network.listening_ports import open_listening_ports
from dicom_node.node import receiver_roles
from dicom_node.roles import RoleKeeper
from network.objects import data_set_bytes, mr_image, new_uid, save
from network.patient_scanner import PatientScanner
from network.running_node import NODE, RunningReceiver, configuration, with_node, with_storage
from storage.ledger import open_ledger

ROUNDS = int(os.environ.get("DICOM_NODE_KILL_ROUNDS", "3"))
SEED = int(os.environ.get("DICOM_NODE_KILL_SEED", "1"))
SENDERS = 3
IMAGES = 12
"""Of each sender and round."""
SETTLED_S = 1.1
"""A process that died sooner is started again later and later."""

FIND_S = 20.0
PATIENCE_S = 120.0
"""For each kill: a process takes long to start where much else runs."""


@dataclass
class Supervised:
    """The receiver processes of a node under the node's own supervisor, which needs a thread for itself."""

    configuration: Configuration
    killed: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    pids: dict[str, int] = field(default_factory=dict)
    ready: threading.Event = field(default_factory=threading.Event)
    _requests: list[str] = field(default_factory=list)

    def run(self) -> None:
        ports = open_listening_ports(self.configuration)
        keeper = RoleKeeper(receiver_roles(self.configuration, ports))
        try:
            while not self.stop.wait(0.02):
                while self._requests:
                    keeper.kill(self._requests.pop())
                    self.killed += 1
                keeper.tend()
                self.pids = keeper.pids()
                if keeper.all_ready():
                    self.ready.set()
        finally:
            ports.close()
            keeper.stop(20)

    def kill(self, name: str) -> None:
        before = self.killed
        self._requests.append(name)
        wait_until(lambda: self.killed > before, seconds=30, what=f"{name} is killed", every=0.01)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    node = with_storage(with_node(configuration(tmp_path), receiver_processes=3), journal_mb=2)
    one = Supervised(node)
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        wait_ready(one.ready, thread.is_alive)
        yield one
    finally:
        one.stop.set()
        thread.join(60)


def is_receiving(pid: int) -> bool:
    """Whether a file of it is on its way, or at least an association open."""
    try:
        return any("/incoming/" in file.path for file in psutil.Process(pid).open_files())
    except psutil.Error:
        return False


def age_s(pid: int) -> float:
    try:
        return time.time() - psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


@pytest.mark.slow
@pytest.mark.timeout(300 + 120 * ROUNDS)
def test_killed_in_mid_receive_it_has_every_image_it_acknowledged(supervised: Supervised, tmp_path: Path) -> None:
    node = supervised.configuration
    generator = random.Random(SEED)
    study = new_uid()
    ledger = open_ledger(node.storage.database)
    running = RunningReceiver(node, ledger)
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=node.node.port)
    checked: set[str] = set()
    at_work = journalled = 0
    try:
        while supervised.killed < ROUNDS:
            # A fresh set of senders now and then, so that there is always something to send.
            rounds = min(10, ROUNDS - supervised.killed)
            scanners = [
                PatientScanner(
                    peer,
                    images(tmp_path / f"queue {number}", study, IMAGES * rounds),
                    seed=generator.randrange(1 << 30),
                    patience_s=PATIENCE_S * rounds,
                )
                for number in range(SENDERS)
            ]
            originals = {path.stem: data_set_bytes(path) for scanner in scanners for path in scanner.waiting}
            for scanner in scanners:
                scanner.start()
            for _ in range(rounds):
                at_work += kill_one(supervised, generator)
                acknowledged = {uid for scanner in scanners for uid in list(scanner.acknowledged)}
                journalled += len(acknowledged - uids(running))
                # The process that takes the place of the one that was killed files what that had in its journal.
                wait_until(
                    lambda told=acknowledged: told <= uids(running),  # type: ignore[misc]
                    seconds=PATIENCE_S,
                    what="all that was acknowledged is in the ledger",
                )
            for scanner in scanners:
                scanner.join(PATIENCE_S * rounds)
                assert scanner.waiting == []
            sent = len(originals) + len(checked)
            wait_until(lambda count=sent: len(uids(running)) >= count, seconds=60, what="all is filed")  # type: ignore[misc]
            held = {row.sop_instance_uid: row for row in running.instances()}
            assert held.keys() == originals.keys() | checked
            for uid, data in originals.items():
                assert data_set_bytes(running.file_of(held[uid])) == data
            checked |= originals.keys()
            print(
                f"\n{supervised.killed} kills, {at_work} with a file on its way, {len(held)} images, "
                f"{journalled} in a journal at a kill",
                flush=True,
            )
        assert running.quarantine() == []
        assert len(list(node.storage.directory.glob("instances/*/*.dcm"))) == len(checked)
        assert at_work > 0
        wait_until(lambda: None not in {row.outcome for row in running.associations()}, seconds=60, what="all closed")
        assert "receiver died" in {row.outcome for row in running.associations()}
    finally:
        ledger.close()


def uids(running: RunningReceiver) -> set[str]:
    return {row.sop_instance_uid for row in running.instances()}


def images(folder: Path, study: str, number: int) -> list[Path]:
    """Images of a series of one sender."""
    series = new_uid()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return [save(mr_image(study=study, series=series, seed=seed, side=64 + 8 * seed), folder) for seed in range(number)]


def kill_one(supervised: Supervised, generator: random.Random) -> bool:
    """Kill a receiver, in the middle of an image if one is found there; whether it was."""
    time.sleep(generator.uniform(0, 0.3))
    until = time.monotonic() + FIND_S
    while True:
        names = [name for name, pid in dict(supervised.pids).items() if age_s(pid) > 2 * SETTLED_S]
        generator.shuffle(names)
        for name in names:
            if is_receiving(supervised.pids.get(name, 0)):
                supervised.kill(name)
                return True
        if names and time.monotonic() > until:
            supervised.kill(names[0])
            return False
        time.sleep(0.002)
