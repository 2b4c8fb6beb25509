"""SIGKILL at random: every acknowledged image is kept, and every study gives exactly one set of results a package.

A real node runs on the loopback interface between a real sender and the package's PACS. The number of kills is
``DICOM_NODE_CRASH_ROUNDS``, the seed ``DICOM_NODE_CRASH_SEED``. The workers run three packages of a cheap analysis, a
quick one, one that declines and a slow one that gives way, so that many studies pass between the kills; the front page
that closes each study is the node's own. With ``DICOM_NODE_CRASH_ANALYSIS=real`` they run the node's own analysis,
which answers these tiny studies with a refusal.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil
import pytest
from crash_analysis import cheap_analysis, result_uid, roles_of
from crash_parts import DELIVERY, EXECUTION, PHASES, RESULTS, SLICES, NotingPacs, Scanner
from interop.ports import free_port, listening, wait_until
from own_packages import crash_packages
from pydicom import dcmread
from pydicom.uid import BasicTextSRStorage

from dicom_node import node
from dicom_node.config import (
    Configuration,
    NodeSettings,
    Peer,
    PeerPermission,
    Route,
    StorageSettings,
)
from dicom_node.network.pacs import PacsSettings
from dicom_node.process_states import read_states
from storage.closing import FRONT_PAGE
from storage.jobs import studies_to_consider
from storage.ledger import Ledger, open_ledger
from storage.overview import DeliveryOverview, JobOverview, delivery_overviews, job_overviews
from storage.schema import DeliveryState, InstanceRow, JobRow, JobState

ROUNDS = int(os.environ.get("DICOM_NODE_CRASH_ROUNDS", "15"))
SEED = int(os.environ.get("DICOM_NODE_CRASH_SEED", "1"))
REAL = os.environ.get("DICOM_NODE_CRASH_ANALYSIS", "cheap") == "real"
START_S = 300.0
SETTLE_S = 600.0
STUDIES_AHEAD = 3
"""Studies more than there were kills: what is left at the end does not grow with how long kills take."""
LONGEST_GAP_S = 20.0

_spawn = multiprocessing.get_context("spawn")


def _configuration(folder: Path, pacs_port: int, analyses: tuple[str, ...]) -> Configuration:
    return Configuration(
        node=NodeSettings(ae_title="NODE", address="127.0.0.1", port=free_port(), network_timeout_s=20),
        peers={
            "scanner": Peer(ae_title="MR1"),
            "pacs": Peer(ae_title="PACS", host="127.0.0.1", port=pacs_port, may=frozenset({PeerPermission.RECEIVE})),
        },
        routes={"cine": Route(analyses=analyses, destinations=("pacs",))},
        storage=StorageSettings(
            database=f"sqlite:///{folder}/ledger.sqlite",
            directory=folder / "instances",
            low_watermark_mb=0,
            high_watermark_mb=0,
        ),
        execution=EXECUTION,
        results=RESULTS,
        delivery=DELIVERY,
    )


def _serve(configuration: Configuration, ready: Event) -> None:
    node.serve(configuration, process=None if REAL else cheap_analysis, on_ready=ready.set)


class _Node:
    """A node in processes of its own."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.ready: Event = _spawn.Event()
        self.process: SpawnProcess = _spawn.Process(target=_serve, args=(configuration, self.ready))

    def start(self) -> None:
        self.ready = _spawn.Event()
        self.process = _spawn.Process(target=_serve, args=(self.configuration, self.ready))
        self.process.start()

    def roles(self) -> dict[str, psutil.Process]:
        """Processes by role at this moment."""
        found = {"supervisor": psutil.Process(self.process.pid)}
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in found["supervisor"].children():
                name = child.name()
                if name.startswith("dn "):
                    role = name.removeprefix("dn ").split("-")[0]
                    found[role] = child
                    if role == "executor":
                        workers = [one for one in child.children() if one.name().startswith("dn ")]
                        found.update((f"worker {number}", one) for number, one in enumerate(workers))
        return found


@pytest.fixture
def analyses(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """The packages of the route; processes that are started find them on PYTHONPATH."""
    if REAL:
        yield ("ventricular_function",)
    else:
        with crash_packages(tmp_path / "packages") as names:
            yield names


@pytest.fixture
def running(tmp_path: Path, analyses: tuple[str, ...]) -> Iterator[tuple[_Node, NotingPacs]]:
    pacs_port = free_port()
    configuration = _configuration(tmp_path, pacs_port, analyses)
    settings = PacsSettings(
        directory=tmp_path / "pacs",
        port=pacs_port,
        callers={"NODE": Peer(ae_title="NODE", host="127.0.0.1", port=configuration.node.port)},
    )
    with NotingPacs(settings) as pacs:
        one = _Node(configuration)
        one.start()
        try:
            yield one, pacs
        finally:
            if one.process.is_alive():
                one.process.terminate()
                one.process.join(60)
            if one.process.is_alive():
                one.process.kill()
                one.process.join()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _ready(one: _Node, role: str, process: psutil.Process) -> bool:
    """Whether a process has said that it is ready; the supervisor is when all its roles are."""
    if role == "supervisor":
        return one.ready.is_set()
    states = read_states(one.configuration.storage.directory)
    return any(state.ready for state in states if state.pid == process.pid)


def _wait_for_the_end_of(processes: list[psutil.Process]) -> None:
    wait_until(lambda: not any(map(_runs, processes)), seconds=START_S, what="no child outlives the supervisor")


def _wait_until_settled(unfinished: Callable[[], str]) -> None:
    """Wait until nothing is left to do, as long as it goes on: how fast says nothing of the node."""
    left, since = unfinished(), time.monotonic()
    while left:
        time.sleep(0.5)
        before, left = left, unfinished()
        if left != before:
            since = time.monotonic()
        elif time.monotonic() - since > SETTLE_S:
            raise TimeoutError(f"{left}, and nothing has changed for {SETTLE_S:g} s")


def _unfinished(ledger: Ledger, studies: int, analyses: tuple[str, ...]) -> str:
    """What is still to do, in words; empty when all is done."""
    waiting = studies_to_consider(ledger)
    if waiting:
        return f"{len(waiting)} studies wait to be scheduled"
    jobs = _jobs(ledger)
    running = [job for job in jobs if job.state in (JobState.QUEUED, JobState.RUNNING)]
    if len(jobs) < studies * (len(analyses) + 1) or running:
        return f"{len(running)} of {len(jobs)} jobs have not ended"
    open_deliveries = [one for one in _deliveries(ledger) if one.state is not DeliveryState.COMMITTED]
    return f"{len(open_deliveries)} deliveries are not committed" if open_deliveries else ""


def _jobs(ledger: Ledger) -> tuple[JobOverview, ...]:
    return job_overviews(ledger, limit=100_000)


def _deliveries(ledger: Ledger) -> tuple[DeliveryOverview, ...]:
    return delivery_overviews(ledger, limit=100_000)


@pytest.mark.slow
@pytest.mark.timeout(3600 + 120 * ROUNDS)
def test_nothing_acknowledged_is_lost_and_nothing_is_seen_twice(
    running: tuple[_Node, NotingPacs], analyses: tuple[str, ...], tmp_path: Path
) -> None:
    one, pacs = running
    generator = random.Random(SEED)
    started = time.monotonic()
    assert one.ready.wait(START_S)
    # Kills come about as fast as a process starts on this machine, which is a third of what all together take: some are
    # hit at work, some while they recover.
    gap_s = min(LONGEST_GAP_S, (time.monotonic() - started) / 2)
    here = Peer(ae_title="NODE", host="127.0.0.1", port=one.configuration.node.port)
    scanner = Scanner((here,), tmp_path, random.Random(SEED + 1), ahead=STUDIES_AHEAD)
    scanner.start()
    # In random order, but none is left out of fifteen rounds.
    deck = 3 * ["receiver", "worker 0", "worker 1", "deliverer"] + ["scheduler", "executor", "supervisor"]
    generator.shuffle(deck)
    killed: Counter[str] = Counter()
    starting = 0
    try:
        while killed.total() < ROUNDS:
            role = deck[killed.total() % len(deck)]
            # Killed a moment ago, it may not have been started again yet.
            what = f"the {role} lives again"
            wait_until(lambda: role in one.roles(), seconds=START_S, what=what, every=0.2)  # noqa: B023
            time.sleep(generator.uniform(0.0, gap_s))
            process = one.roles().get(role)
            if process is None:
                # It ended meanwhile, with its parent say.
                continue
            below = process.children(recursive=True)
            starting += not _ready(one, role, process)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
                killed[role] += 1
                scanner.allow()
            if role == "supervisor":
                one.process.join()
                _wait_for_the_end_of(below)
                one.start()
    finally:
        scanner.end()
    scanner.join(SETTLE_S)
    assert not scanner.is_alive(), "the scanner cannot get rid of its images"

    ledger = open_ledger(one.configuration.storage.database)
    try:
        studies = len(scanner.studies)
        _wait_until_settled(lambda: _unfinished(ledger, studies, analyses))
        _check_images(ledger, one.configuration, scanner)
        _check_results(ledger, pacs, scanner, analyses)
    finally:
        print(f"\n{len(scanner.studies)} studies, {len(pacs.arrivals)} arrivals, killed {dict(killed)}")
        print(f"{starting} of these before they were ready; {time.monotonic() - started:.0f} s in all")
        print(f"left to do: {_unfinished(ledger, len(scanner.studies), analyses) or 'nothing'}")
        ledger.close()

    one.process.terminate()
    one.process.join(60)
    assert one.process.exitcode == 0
    assert not listening(one.configuration.node.port)


def _check_images(ledger: Ledger, configuration: Configuration, scanner: Scanner) -> None:
    with ledger.reading() as session:
        held = {row.sop_instance_uid: row for row in session.query(InstanceRow)}
    assert len(scanner.acknowledged) == len(scanner.studies) * SLICES * PHASES
    assert set(scanner.acknowledged) <= set(held)
    for uid, sent in scanner.acknowledged.items():
        stored = dcmread(configuration.storage.directory / held[uid].path)
        assert stored == dcmread(sent)
        assert held[uid].removed_at is None


def _check_results(ledger: Ledger, pacs: NotingPacs, scanner: Scanner, analyses: tuple[str, ...]) -> None:
    with ledger.reading() as session:
        jobs = [(job.study.study_instance_uid, job.package, job.state, job.identity) for job in session.query(JobRow)]
    assert sorted((uid, package) for uid, package, _, _ in jobs) == sorted(
        (uid, package) for uid in scanner.studies for package in (*analyses, FRONT_PAGE)
    )
    assert {state for _, _, state, _ in jobs} == {JobState.SUCCEEDED}
    deliveries = _deliveries(ledger)
    assert {delivery.state for delivery in deliveries} == {DeliveryState.COMMITTED}
    assert {delivery.study_instance_uid for delivery in deliveries} == set(scanner.studies)
    packages = {job.id: job.package for job in _jobs(ledger)}
    made = Counter(
        (delivery.study_instance_uid, packages[delivery.job_id], delivery.role, delivery.sop_class_uid)
        for delivery in deliveries
    )
    assert set(made.values()) == {1}
    pages = [study for study, package, _, sop_class in made if (package, sop_class) == (FRONT_PAGE, BasicTextSRStorage)]
    assert sorted(pages) == sorted(scanner.studies)
    expected = {delivery.sop_instance_uid for delivery in deliveries}
    if not REAL:
        of_packages = {one.sop_instance_uid for one in deliveries if packages[one.job_id] != FRONT_PAGE}
        assert of_packages == {
            result_uid((identity,), package, role)
            for _, package, _, identity in jobs
            if package != FRONT_PAGE
            for role in roles_of(package)
        }
    assert {uid for uid, _ in pacs.arrivals} == expected == set(pacs.held())
    # An object may be sent again when the deliverer died before it noted the answer, but it is the same object.
    assert len(set(pacs.arrivals)) == len(expected)
