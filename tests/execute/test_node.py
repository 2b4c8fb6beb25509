"""The supervisor: what keeps a node from starting is said once, in words."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop.ports import free_port, listening, wait_until
from ledger_rows import NOW, an_instance, associate

from dicom_node import node
from dicom_node.config import Configuration, NodeSettings, Peer, StorageSettings
from dicom_node.errors import ConfigurationError, NodeError, OutOfResourcesError
from dicom_node.network.listening_ports import open_listening_ports
from dicom_node.network.sender import ScuSettings, echo
from dicom_node.roles import RoleKeeper
from storage.files import InstanceFiles
from storage.identity import bind
from storage.instances import record_instances
from storage.jobs import studies_to_consider
from storage.ledger import open_ledger


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Give the test process its signals back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


def _configuration(folder: Path, **storage: object) -> Configuration:
    values: dict[str, object] = {"database": f"sqlite:///{folder}/ledger.sqlite", "directory": folder / "instances"}
    return Configuration(
        node=NodeSettings(ae_title="NODE", address="127.0.0.1", port=free_port()),
        storage=StorageSettings(**{**values, **storage}),
    )


def test_a_port_that_is_taken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "PORT_PATIENCE_S", 0.0)
    configuration = _configuration(tmp_path)
    with socket.create_server(("127.0.0.1", configuration.node.port)), pytest.raises(NodeError, match=r"node\.port"):
        node.serve(configuration)


def test_a_second_node_on_the_same_storage_is_refused(tmp_path: Path) -> None:
    configuration = _configuration(tmp_path)
    with node.alone(configuration.storage.directory), pytest.raises(NodeError, match="already serves it"):
        node.serve(configuration)


def test_a_ledger_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(OutOfResourcesError, match=r"storage\.database"):
        node.serve(_configuration(tmp_path, database=f"sqlite:///{tmp_path}/directory"))


def test_a_storage_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutOfResourcesError, match=r"storage\.directory"):
        node.serve(_configuration(tmp_path, directory=tmp_path / "file" / "below"))


def test_start_up_closes_the_associations_of_receivers_that_are_no_longer_there(tmp_path: Path) -> None:
    configuration = _configuration(tmp_path)
    ledger = open_ledger(configuration.storage.database)
    bind(ledger, InstanceFiles(configuration.storage.directory), now=NOW)
    association = associate(ledger, f"NODE:{configuration.node.port}/receiver-7")
    record_instances(ledger, [an_instance(association, 1)], at=NOW)
    assert studies_to_consider(ledger)[0].open_associations == 1
    node._prepare(configuration)
    assert studies_to_consider(ledger)[0].open_associations == 0
    ledger.close()


def test_a_ledger_and_a_directory_that_do_not_belong_together_are_not_served(tmp_path: Path) -> None:
    first, second = _configuration(tmp_path), _configuration(tmp_path, directory=tmp_path / "elsewhere")
    node._prepare(first)
    with pytest.raises(ConfigurationError, match="belongs to another storage directory"):
        node._prepare(second)
    with pytest.raises(ConfigurationError, match="belongs to another ledger"):
        node._prepare(_configuration(tmp_path, database=f"sqlite:///{tmp_path}/mistyped.sqlite"))
    node._prepare(first)


def test_each_receiver_process_is_a_role_of_its_own(tmp_path: Path) -> None:
    settings = NodeSettings(address="127.0.0.1", port=free_port(), receiver_processes=3)
    configuration = Configuration(node=settings)
    ports = open_listening_ports(configuration)
    names = [role.name for role in node.node_roles(configuration, ports)]
    ports.close()
    assert names == ["receiver-0", "receiver-1", "receiver-2", "scheduler", "executor", "deliverer"]


def test_a_receiver_is_handed_the_port_again_in_its_next_life(tmp_path: Path) -> None:
    configuration = _configuration(tmp_path)
    configuration = configuration.model_copy(update={"peers": {"scanner": Peer(ae_title="MR1")}})
    here = Peer(ae_title="NODE", host="127.0.0.1", port=configuration.node.port)
    ports = open_listening_ports(configuration)
    (receiver, *_) = node.node_roles(configuration, ports)
    keeper = RoleKeeper([receiver])

    def tended() -> bool:
        keeper.tend()
        return keeper.all_ready()

    try:
        wait_until(tended, seconds=60, what="the receiver is ready")
        assert echo(here, ScuSettings("MR1")).reachable
        ports.places.write(0, 0, 7)
        keeper.kill(receiver.name)
        with socket.create_connection(("127.0.0.1", configuration.node.port)) as waiting:
            waiting.sendall(b"GET /")
            keeper.tend()
            assert ports.places.total() == 0
            wait_until(tended, seconds=60, what="the receiver is ready again")
            waiting.settimeout(20)
            assert waiting.recv(1) == b"\x07"
    finally:
        keeper.stop(10)
        ports.close()
    assert not listening(configuration.node.port)
