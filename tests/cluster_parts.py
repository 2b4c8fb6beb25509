"""Hosts of one node, each a supervisor with its processes, on one PostgreSQL ledger and one storage directory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil
import pytest
from crash_analysis import cheap_analysis
from crash_parts import DELIVERY, EXECUTION, RESULTS
from interop.ports import wait_until
from network_namespaces import enter

from dicom_node import node
from dicom_node.config import (
    Configuration,
    Host,
    HostRole,
    NodeSettings,
    Peer,
    PeerPermission,
    Route,
    StorageSettings,
)

__all__ = ["LONG_MODE", "HostProcess", "cluster_configuration", "long_mode", "running_hosts"]

_spawn = multiprocessing.get_context("spawn")
FRONT, BACK = frozenset({HostRole.RECEIVER, HostRole.DELIVERER}), frozenset({HostRole.SCHEDULER, HostRole.EXECUTOR})
START_S = 300.0
LONG_MODE = "DICOM_NODE_CLUSTER_ROUNDS"
"""Environment variable: how many kills; where it is set, tests run that each take half a minute of processor time."""
long_mode = pytest.mark.skipif(LONG_MODE not in os.environ, reason=f"takes half a minute: set {LONG_MODE}")


def cluster_configuration(
    folder: Path,
    database: str,
    hosts: Mapping[str, frozenset[HostRole]],
    *,
    pacs_port: int,
    analyses: tuple[str, ...],
    pacs_host: str = "127.0.0.1",
) -> Configuration:
    """What all hosts have in common; :class:`HostProcess` says which one it is."""
    return Configuration(
        node=NodeSettings(ae_title="NODE", address="127.0.0.1", receiver_processes=1, network_timeout_s=20),
        hosts={name: Host(roles=roles) for name, roles in hosts.items()},
        peers={
            "scanner": Peer(ae_title="MR1"),
            "pacs": Peer(ae_title="PACS", host=pacs_host, port=pacs_port, may=frozenset({PeerPermission.RECEIVE})),
        },
        routes={"cine": Route(analyses=analyses, destinations=("pacs",))},
        storage=StorageSettings(
            database=database, directory=folder / "shared", low_watermark_mb=0, high_watermark_mb=0
        ),
        execution=EXECUTION.model_copy(update={"background_slots": 0}),
        results=RESULTS,
        delivery=DELIVERY,
    )


def _serve(configuration: Configuration, ready: Event, namespace: str | None) -> None:
    if namespace is not None:
        enter(namespace)
    node.serve(configuration, process=cheap_analysis, on_ready=ready.set)


class HostProcess:
    """One host in processes of its own, in a network namespace if one is given; it can be killed and started again."""

    def __init__(
        self, configuration: Configuration, name: str, *, namespace: str | None = None, **settings: object
    ) -> None:
        here = configuration.node.model_copy(update={"host": name, **settings})
        self.name, self.configuration = name, configuration.model_copy(update={"node": here})
        self._namespace = namespace
        self.start()

    def start(self) -> None:
        self.ready: Event = _spawn.Event()
        self.process: SpawnProcess = _spawn.Process(
            target=_serve, args=(self.configuration, self.ready, self._namespace)
        )
        self.process.start()

    def processes(self) -> dict[str, psutil.Process]:
        """Supervisor, roles and workers at this moment, by the name of the host and of the process."""
        found = {f"{self.name} supervisor": psutil.Process(self.process.pid)}
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in found[f"{self.name} supervisor"].children():
                name = child.name()
                if not name.startswith("dn "):
                    continue
                found[f"{self.name} {name.removeprefix('dn ').split('-')[0]}"] = child
                if "executor" in name:
                    workers = [one for one in child.children() if one.name().startswith("dn ")]
                    found.update((f"{self.name} worker {number}", one) for number, one in enumerate(workers))
        return found

    def wait_for_the_end_of(self, processes: list[psutil.Process]) -> None:
        """Until none of these runs."""
        wait_until(lambda: not any(map(_runs, processes)), seconds=START_S, what="no child outlives the supervisor")

    def end(self) -> int | None:
        """Wait for the end of what was told to stop; the exit code."""
        self.process.join(90)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def running_hosts(hosts: list[HostProcess]) -> Iterator[None]:
    """Wait until all are ready, and end them with the block."""
    try:
        for one in hosts:
            assert one.ready.wait(START_S), f"{one.name} is not ready"
        yield
    finally:
        for one in hosts:
            # Once: an interpreter that is about to end handles no signal any more.
            if one.process.is_alive():
                one.process.terminate()
        for one in hosts:
            one.end()
