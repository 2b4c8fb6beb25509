"""One node on several hosts: roles apart, killed at random, upgraded one after the other.

The hosts are process trees on this machine, as separate as machines are: they share the ledger (PostgreSQL) and the
storage directory, and nothing else. The number of kills is ``DICOM_NODE_CLUSTER_ROUNDS``, the seed
``DICOM_NODE_CRASH_SEED``.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from absence import absent
from cluster_parts import (
    BACK,
    FRONT,
    LONG_MODE,
    START_S,
    HostProcess,
    cluster_configuration,
    long_mode,
    running_hosts,
)
from crash_parts import PHASES, SLICES, NotingPacs, Scanner, write_cine
from interop.ports import free_port, wait_until
from network_namespaces import Network, allowed, network
from own_packages import crash_packages
from postgresql_server import MISSING, is_installed, running_postgresql, running_postgresql_server
from pydicom import dcmread

from dicom_node.config import Configuration, HostRole, Peer
from dicom_node.network.pacs import PacsSettings
from dicom_node.network.sender import ScuSettings, SendOutcome, send_files
from storage.closing import FRONT_PAGE
from storage.jobs import studies_to_consider
from storage.ledger import Ledger, open_ledger
from storage.overview import delivery_overviews, job_overviews
from storage.schema import Association, DeliveryState, InstanceRow, JobRow, JobState

ROUNDS = int(os.environ.get(LONG_MODE, "2"))
SEED = int(os.environ.get("DICOM_NODE_CRASH_SEED", "1"))
SETTLE_S = 600.0
SCANNER = ScuSettings("MR1")


@pytest.fixture
def database() -> Iterator[str]:
    if not is_installed():
        absent(MISSING)
    with running_postgresql(fsync=False) as url:
        yield url


@pytest.fixture
def analyses(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    with crash_packages(tmp_path / "packages") as names:
        # The slow one only takes time here.
        yield names[:2]


def _unfinished(ledger: Ledger, studies: int, packages: int) -> str:
    """What is still to do, in words; empty when all is done."""
    waiting = studies_to_consider(ledger)
    if waiting:
        return f"{len(waiting)} studies wait, with {[one.open_associations for one in waiting]} associations open"
    jobs = job_overviews(ledger, limit=100_000)
    running = [job for job in jobs if job.state in (JobState.QUEUED, JobState.RUNNING)]
    if len(jobs) < studies * (packages + 1) or running:
        return f"{len(running)} of {len(jobs)} jobs have not ended"
    deliveries = delivery_overviews(ledger, limit=100_000)
    late = [one for one in deliveries if one.state is not DeliveryState.COMMITTED]
    return f"{len(late)} deliveries are not committed" if late else ""


def _check_all(configuration: Configuration, scanner: Scanner, pacs: NotingPacs, analyses: tuple[str, ...]) -> None:
    scanner.join(SETTLE_S)
    assert not scanner.is_alive(), "the scanner cannot get rid of its images"
    with contextlib.closing(open_ledger(configuration.storage.database)) as ledger:
        try:
            wait_until(
                lambda: not _unfinished(ledger, len(scanner.studies), len(analyses)),
                seconds=SETTLE_S,
                what="the node has settled",
                every=0.5,
            )
        finally:
            print(f"left to do: {_unfinished(ledger, len(scanner.studies), len(analyses)) or 'nothing'}")
        _check_images(ledger, configuration, scanner)
        _check_results(ledger, pacs, scanner.studies, analyses)


def _check_images(ledger: Ledger, configuration: Configuration, scanner: Scanner) -> None:
    with ledger.reading() as session:
        held = {row.sop_instance_uid: row for row in session.query(InstanceRow)}
    assert len(scanner.acknowledged) == len(scanner.studies) * SLICES * PHASES
    assert set(scanner.acknowledged) <= set(held)
    for uid, sent in scanner.acknowledged.items():
        assert dcmread(configuration.storage.directory / held[uid].path) == dcmread(sent)


def _check_results(ledger: Ledger, pacs: NotingPacs, studies: list[str], analyses: tuple[str, ...]) -> None:
    with ledger.reading() as session:
        jobs = [(job.study.study_instance_uid, job.package, job.state) for job in session.query(JobRow)]
    assert sorted((uid, package) for uid, package, _ in jobs) == sorted(
        (uid, package) for uid in studies for package in (*analyses, FRONT_PAGE)
    )
    assert {state for _, _, state in jobs} == {JobState.SUCCEEDED}
    packages = {job.id: job.package for job in job_overviews(ledger, limit=100_000)}
    deliveries = delivery_overviews(ledger, limit=100_000)
    assert {one.state for one in deliveries} == {DeliveryState.COMMITTED}
    made = Counter((one.study_instance_uid, packages[one.job_id], one.role, one.sop_class_uid) for one in deliveries)
    assert set(made.values()) == {1}
    assert {study for study, *_ in made} == set(studies)
    expected = {one.sop_instance_uid for one in deliveries}
    assert {uid for uid, _ in pacs.arrivals} == expected == set(pacs.held())
    # An object may be sent again when the deliverer died before it noted the answer, but it is the same object.
    assert len(set(pacs.arrivals)) == len(expected)


@pytest.mark.slow
@pytest.mark.timeout(1500 + 20 * ROUNDS)
def test_hosts_that_are_killed_lose_nothing_and_do_nothing_twice(
    database: str, analyses: tuple[str, ...], tmp_path: Path
) -> None:
    names = {"front-1": FRONT, "front-2": FRONT, "back-1": BACK, "back-2": BACK}
    ports, pacs_port = (free_port(), free_port()), free_port()
    configuration = cluster_configuration(tmp_path, database, names, pacs_port=pacs_port, analyses=analyses)
    # Storage commitment is reported to one of the receivers, whichever of the deliverers asked for it.
    callers = {"NODE": Peer(ae_title="NODE", host="127.0.0.1", port=ports[0])}
    pacs = NotingPacs(PacsSettings(directory=tmp_path / "pacs", port=pacs_port, callers=callers))
    generator = random.Random(SEED)
    hosts = [
        HostProcess(configuration, name, **({"port": ports[number]} if number < 2 else {}))
        for number, name in enumerate(names)
    ]
    killed: Counter[str] = Counter()
    with pacs, running_hosts(hosts):
        receivers = tuple(Peer(ae_title="NODE", host="127.0.0.1", port=port) for port in ports)
        scanner = Scanner(receivers, tmp_path, random.Random(SEED + 1))
        scanner.start()
        deck = [
            (host, what)
            for host in hosts
            for what in ("supervisor", *(("receiver", "deliverer") if host in hosts[:2] else ("worker 0", "scheduler")))
        ]
        try:
            while killed.total() < ROUNDS:
                if killed.total() % len(deck) == 0:
                    generator.shuffle(deck)
                time.sleep(generator.uniform(0.0, 6.0))
                host, what = deck[killed.total() % len(deck)]
                process = host.processes().get(f"{host.name} {what}")
                if process is None:
                    # Killed a moment ago and not started again yet.
                    continue
                below = process.children(recursive=True)
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
                    killed[f"{host.name} {what}"] += 1
                if what == "supervisor":
                    host.process.join()
                    host.wait_for_the_end_of(below)
                    host.start()
        finally:
            scanner.end()
        _check_all(configuration, scanner, pacs, analyses)
        print(f"\n{len(scanner.studies)} studies, {len(pacs.arrivals)} arrivals, killed {dict(killed)}")
        # One that was killed near the end may not have come far enough to stop when it is told to.
        assert all(one.ready.wait(START_S) for one in hosts)
    assert {one.process.exitcode for one in hosts} == {0}


@pytest.fixture
def machines() -> Iterator[Network]:
    """North and south, beside this machine, on a network that can be made bad."""
    if not is_installed():
        absent(MISSING)
    if not allowed():
        absent(
            "this process may make no network namespaces: run the test as root, with CAP_SYS_ADMIN and CAP_NET_ADMIN"
        )
    with network(("north", "south"), SEED) as made:
        yield made
    assert made.counts is not None
    print(f"packets: {made.counts}")


@contextlib.contextmanager
def _cluster_on(
    made: Network, roles: frozenset[HostRole], analyses: tuple[str, ...], folder: Path
) -> Iterator[tuple[Configuration, NotingPacs, tuple[Peer, ...]]]:
    """Hosts in the namespaces; scanner, ledger and PACS on this machine, as is the storage directory."""
    with running_postgresql_server(fsync=False, address=made.here) as server:
        pacs_port = free_port()
        configuration = cluster_configuration(
            folder,
            server.url,
            dict.fromkeys(made.namespaces, roles),
            pacs_host=made.here,
            pacs_port=pacs_port,
            analyses=analyses,
        )
        receivers = tuple(Peer(ae_title="NODE", host=made.address(name), port=11112) for name in made.namespaces)
        pacs = NotingPacs(
            PacsSettings(directory=folder / "pacs", address=made.here, port=pacs_port, callers={"NODE": receivers[0]})
        )
        hosts = [
            HostProcess(configuration, name, namespace=namespace, address="0.0.0.0")
            for name, namespace in made.namespaces.items()
        ]
        with pacs, running_hosts(hosts):
            yield configuration, pacs, receivers
        assert {one.process.exitcode for one in hosts} == {0}


@long_mode
@pytest.mark.slow
@pytest.mark.timeout(1500 + 120 * ROUNDS)
def test_hosts_on_a_bad_network_lose_nothing_and_do_nothing_twice(
    machines: Network, analyses: tuple[str, ...], tmp_path: Path
) -> None:
    """Packets come late, in another order or not at all, and now and then a host is cut off from all others."""
    generator = random.Random(SEED)
    away: Counter[str] = Counter()
    with _cluster_on(machines, FRONT | BACK, analyses, tmp_path) as (configuration, pacs, receivers):
        scanner = Scanner(receivers, tmp_path, random.Random(SEED + 1))
        scanner.start()
        try:
            while away.total() < ROUNDS:
                machines.change(
                    delay_s=generator.choice([0.0, 0.005, 0.05]),
                    jitter_s=generator.choice([0.0, 0.02]),
                    loss=generator.choice([0.0, 0.01, 0.05]),
                )
                time.sleep(generator.uniform(2.0, 10.0))
                name = generator.choice(list(machines.namespaces))
                machines.connect(name, up=False)
                away[name] += 1
                # Sometimes longer than a lease of a job lasts.
                time.sleep(generator.choice([5.0, 20.0, 90.0]))
                machines.connect(name, up=True)
        finally:
            scanner.end()
            machines.change(delay_s=0.0, jitter_s=0.0, loss=0.0)
        _check_all(configuration, scanner, pacs, analyses)
        print(f"\n{len(scanner.studies)} studies, {len(pacs.arrivals)} arrivals, cut off {dict(away)}")


@pytest.mark.timeout(600)
def test_receivers_on_a_bad_network_lose_nothing(machines: Network, analyses: tuple[str, ...], tmp_path: Path) -> None:
    with _cluster_on(machines, frozenset({HostRole.RECEIVER}), analyses, tmp_path) as (configuration, _, receivers):
        scanner = Scanner(receivers, tmp_path, random.Random(SEED + 1))
        machines.change(delay_s=0.005, jitter_s=0.02, loss=0.05)
        scanner.start()
        try:
            wait_until(lambda: len(scanner.acknowledged) > 10, seconds=START_S, what="images come through")
            machines.change(cut_off=[machines.address(name) for name in machines.namespaces])
            with pytest.raises(TimeoutError):
                socket.create_connection((machines.address("north"), 11112), timeout=3.0)
            machines.change(cut_off=[])
        finally:
            scanner.end()
        scanner.join(SETTLE_S)
        assert not scanner.is_alive()
        with contextlib.closing(open_ledger(configuration.storage.database)) as ledger:
            _check_images(ledger, configuration, scanner)
    machines.end()
    assert machines.counts is not None
    assert min(machines.counts.lost, machines.counts.cut) > 0


@long_mode
@pytest.mark.timeout(600)
def test_a_host_that_never_comes_back_holds_up_no_study(
    database: str, analyses: tuple[str, ...], tmp_path: Path
) -> None:
    """Its association stays open in the ledger; the scanner sends the study again to another host."""
    names = {"gone": frozenset({HostRole.RECEIVER}), "left": frozenset({HostRole.RECEIVER, HostRole.SCHEDULER})}
    ports = {name: free_port() for name in names}
    configuration = cluster_configuration(tmp_path, database, names, pacs_port=free_port(), analyses=analyses)
    gone, left = (HostProcess(configuration, name, port=ports[name]) for name in names)
    with running_hosts([gone, left]), contextlib.closing(open_ledger(database)) as ledger:
        images = write_cine(tmp_path / "cine", "a")

        to_gone, to_left = (Peer(ae_title="NODE", host="127.0.0.1", port=ports[name]) for name in names)

        def dies(_outcome: SendOutcome) -> None:
            gone.process.kill()
            gone.process.join()

        send_files(images[:20], to_gone, SCANNER, progress=dies)
        assert {one.status for one in send_files(images, to_left, SCANNER)} == {0x0000}
        wait_until(lambda: len(job_overviews(ledger)) == len(analyses), seconds=START_S, what="the study is scheduled")
        with ledger.reading() as session:
            outcomes = {row.receiver: row.outcome for row in session.query(Association)}
        assert outcomes == {"gone/receiver-0": "receiver died", "left/receiver-0": "released"}


@pytest.mark.timeout(600)
def test_a_rolling_upgrade_ends_the_associations_it_has_and_takes_new_ones_on_the_same_port(
    database: str, analyses: tuple[str, ...], tmp_path: Path
) -> None:
    names = {"before": frozenset({HostRole.RECEIVER}), "after": frozenset({HostRole.RECEIVER})}
    configuration = cluster_configuration(tmp_path, database, names, pacs_port=free_port(), analyses=analyses)
    port = free_port()
    peer = Peer(ae_title="NODE", host="127.0.0.1", port=port)
    settings = {"port": port, "share_port": True, "drain_s": 600, "network_timeout_s": 600}
    before = HostProcess(configuration, "before", **settings)
    begun, may_end = threading.Event(), threading.Event()
    statuses: list[int | None] = []

    def slowly(outcome: SendOutcome) -> None:
        statuses.append(outcome.status)
        begun.set()
        if len(statuses) == 5:
            # The association is open until the other host has taken some.
            may_end.wait(START_S)

    long = write_cine(tmp_path / "long", "long")
    scanner = threading.Thread(target=send_files, args=(long, peer, SCANNER), kwargs={"progress": slowly})
    with running_hosts([before]), contextlib.closing(open_ledger(database)) as ledger:
        scanner.start()
        assert begun.wait(START_S)
        with running_hosts([HostProcess(configuration, "after", **settings)]):
            before.process.terminate()
            sent = 0
            while sent < 5 or before.process.is_alive():
                outcomes = send_files(write_cine(tmp_path / f"{sent}", f"short {sent}")[:3], peer, SCANNER)
                # A scanner would send again what was not taken; here nothing is refused at all.
                assert {one.status for one in outcomes} == {0x0000}, f"study {sent}"
                sent += 1
                if sent == 5:
                    assert (before.process.is_alive(), len(statuses)) == (True, 5)
                    may_end.set()
            scanner.join(START_S)
            assert statuses == SLICES * PHASES * [0x0000]
            assert before.end() == 0
        with ledger.reading() as session:
            held = {row.sop_instance_uid for row in session.query(InstanceRow)}
            receivers = {row.receiver for row in session.query(Association)}
            assert {row.outcome for row in session.query(Association)} == {"released"}
        assert len(held) == SLICES * PHASES + 3 * sent
        assert receivers == {"before/receiver-0", "after/receiver-0"}
