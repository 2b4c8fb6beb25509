"""A receiver that runs in this process or in one of its own, and what is in its ledger."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path

from interop.ports import free_port, listening, wait_ready, wait_until
from served import served
from sqlalchemy import select

from dicom_node.config import (
    Configuration,
    DeliveryPolicy,
    DestinationProfile,
    NodeSettings,
    Peer,
    PeerPermission,
    ResultSettings,
    StorageSettings,
)
from dicom_node.logs import configure_logging
from dicom_node.network.listening_ports import ListeningPorts, open_listening_ports
from dicom_node.network.receiver import serve_receiver
from dicom_node.roles import leave_out_of_collections
from storage.ledger import Ledger, open_ledger
from storage.schema import Association, EventRow, InstanceRow, QuarantineRow

NODE = "NODE"
SCANNER = "MR1"


def configuration(folder: Path, *, port: int | None = None, **changes: object) -> Configuration:
    """A node on a free port with one scanner; ``changes`` replace sections."""
    sections: dict[str, object] = {
        "node": NodeSettings(ae_title=NODE, address="127.0.0.1", port=port or free_port(), acse_timeout_s=5),
        "peers": {"scanner": Peer(ae_title=SCANNER), "silent": Peer(ae_title="LOOKER", may=frozenset())},
        "storage": StorageSettings(
            database=f"sqlite:///{folder}/ledger.sqlite",
            directory=folder / "instances",
            low_watermark_mb=0,
            high_watermark_mb=0,
            # What is acknowledged is in the ledger at once: tests of the journal have one.
            journal_mb=0,
        ),
    }
    return Configuration(**{**sections, **changes})  # type: ignore[arg-type]


def with_node(configuration: Configuration, **changes: object) -> Configuration:
    """The same with other settings of the node."""
    settings = NodeSettings(**{**configuration.node.model_dump(), **changes})
    return configuration.model_copy(update={"node": settings})


def with_storage(configuration: Configuration, **changes: object) -> Configuration:
    """The same with other settings of the storage."""
    settings = StorageSettings(**{**configuration.storage.model_dump(), **changes})
    return configuration.model_copy(update={"storage": settings})


def destination_sections(pacs: Peer, **profile: object) -> dict[str, object]:
    """Sections for one destination ``pacs`` and a retry policy that does not make tests wait."""
    return {
        "peers": {"scanner": Peer(ae_title=SCANNER), "pacs": pacs},
        "results": ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs", **profile)}),  # type: ignore[arg-type]
        "delivery": DeliveryPolicy(first_delay_s=0.05, maximum_delay_s=0.2, maximum_attempts=6, response_timeout_s=5),
    }


def pacs_peer(port: int, ae_title: str = "PACS") -> Peer:
    """A destination on the loopback interface."""
    may = frozenset({PeerPermission.RECEIVE})
    return Peer(ae_title=ae_title, host="127.0.0.1", port=port, may=may)


@dataclass
class RunningReceiver:
    """A receiver that accepts associations."""

    configuration: Configuration
    ledger: Ledger = field(repr=False)

    @property
    def port(self) -> int:
        return self.configuration.node.port

    def instances(self) -> list[InstanceRow]:
        with self.ledger.reading() as session:
            return list(session.scalars(select(InstanceRow).order_by(InstanceRow.id)))

    def quarantine(self) -> list[QuarantineRow]:
        with self.ledger.reading() as session:
            return list(session.scalars(select(QuarantineRow).order_by(QuarantineRow.id)))

    def associations(self) -> list[Association]:
        with self.ledger.reading() as session:
            return list(session.scalars(select(Association)))

    def events(self, kind: str) -> list[EventRow]:
        with self.ledger.reading() as session:
            return list(session.scalars(select(EventRow).where(EventRow.kind == kind).order_by(EventRow.id)))

    def file_of(self, row: InstanceRow | QuarantineRow) -> Path:
        return self.configuration.storage.directory / row.path


def left_behind(receiver: RunningReceiver) -> list[Path]:
    """Files that are not whole."""
    return list((receiver.configuration.storage.directory / "incoming").iterdir())


@contextlib.contextmanager
def receiver_thread(configuration: Configuration, *, name: str = "receiver") -> Iterator[RunningReceiver]:
    """A receiver in a thread of this process."""
    with (
        served(lambda stop, ready: serve_receiver(configuration, stop, name=name, ready=ready)),
        contextlib.closing(open_ledger(configuration.storage.database)) as ledger,
    ):
        yield RunningReceiver(configuration, ledger)


_spawn = multiprocessing.get_context("spawn")


def _serve_until_killed(
    configuration: Configuration, ports: ListeningPorts | None, row: int, log: Path, ready: Event
) -> None:
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 2)
    configure_logging(role="receiver")

    def tell_ready() -> None:
        # As every process of the node does.
        leave_out_of_collections()
        ready.set()

    serve_receiver(configuration, threading.Event(), name=f"receiver-{row}", ports=ports, row=row, ready=tell_ready)


class ReceiverProcess:
    """A receiver in a process of its own, to be killed.

    With listening ports it shares the port with others, and the port stays open when it is killed.
    """

    def __init__(self, configuration: Configuration, ports: ListeningPorts | None = None, row: int = 0) -> None:
        self.configuration, self._ports, self._row = configuration, ports, row
        self.log = configuration.storage.directory.parent / f"receiver-{row}.log"
        self.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def start(self) -> None:
        ready = _spawn.Event()
        arguments = (self.configuration, self._ports, self._row, self.log, ready)
        self._process = _spawn.Process(target=_serve_until_killed, args=arguments, daemon=True)
        self._process.start()
        wait_ready(ready, self._process.is_alive, self.log)

    def kill(self) -> None:
        if self._process.is_alive():
            os.kill(self.pid, signal.SIGKILL)
        self._process.join()
        if self._ports is None:
            wait_until(lambda: not listening(self.configuration.node.port), seconds=30, what="the port is closed")


@contextlib.contextmanager
def shared_receivers(configuration: Configuration) -> Iterator[tuple[ReceiverProcess, ...]]:
    """The receiver processes of a node, on one port."""
    ports = open_listening_ports(configuration)
    receivers = [ReceiverProcess(configuration, ports, row) for row in range(configuration.node.receiver_processes)]
    try:
        yield tuple(receivers)
    finally:
        for receiver in receivers:
            receiver.kill()
        ports.close()
