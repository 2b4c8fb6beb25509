"""The association policy as a function."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dicom_node.config import Configuration, Peer, PeerPermission
from dicom_node.network.admission import Admitted, HostResolver, Refused, Rejection, admit, normalised_address
from network.running_node import NODE, configuration, pacs_peer

SEND, RECEIVE = PeerPermission.SEND, PeerPermission.RECEIVE


def with_peers(*peers: Peer) -> Configuration:
    return configuration(Path("/nowhere"), port=104, peers={f"p{n}": peer for n, peer in enumerate(peers)})


def decide(node: Configuration, calling: str, address: str = "10.0.0.1", opened: int = 0) -> Admitted | Refused:
    hosts = {"scanner.example": frozenset({"10.0.0.1", "fd00::1"}), "10.0.0.9": frozenset({"10.0.0.9"})}
    return admit(
        node,
        calling_ae_title=calling,
        called_ae_title=f"{NODE} ",
        address=address,
        open_associations=opened,
        resolve=lambda host: hosts.get(host, frozenset()),
    )


def test_a_peer_without_host_may_come_from_anywhere() -> None:
    node = with_peers(Peer(ae_title="MR1"))
    assert decide(node, " MR1 ", "198.51.100.7") == Admitted(frozenset({SEND}))


@pytest.mark.parametrize("address", ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "fd00:0:0::1%eth0"])
def test_a_peer_with_a_host_may_come_from_each_of_its_addresses(address: str) -> None:
    assert isinstance(decide(with_peers(Peer(ae_title="MR1", host="scanner.example")), "MR1", address), Admitted)


@pytest.mark.parametrize("host", ["10.0.0.9", "gone.example"])
def test_and_from_nowhere_else(host: str) -> None:
    decision = decide(with_peers(Peer(ae_title="MR1", host=host)), "MR1")
    assert isinstance(decision, Refused)
    assert decision.rejection is Rejection.CALLING_NOT_RECOGNISED
    assert "10.0.0.1" in decision.why


def test_entries_of_one_title_add_up_where_they_apply() -> None:
    here, elsewhere = pacs_peer(104, "PACS"), Peer(ae_title="PACS", host="10.0.0.9")
    anywhere = Peer(ae_title="PACS", may=frozenset())
    assert decide(with_peers(elsewhere, anywhere), "PACS") == Admitted(frozenset())
    assert decide(with_peers(Peer(ae_title="PACS"), anywhere), "PACS") == Admitted(frozenset({SEND}))
    both = with_peers(Peer(ae_title="PACS"), here.model_copy(update={"host": "scanner.example"}))
    assert decide(both, "PACS") == Admitted(frozenset({SEND, RECEIVE}))


def test_the_limit_counts_what_is_open_already() -> None:
    node = with_peers(Peer(ae_title="MR1"))
    limit = node.node.maximum_associations
    assert isinstance(decide(node, "MR1", opened=limit - 1), Admitted)
    full = decide(node, "MR1", opened=limit)
    assert isinstance(full, Refused)
    assert full.rejection is Rejection.LOCAL_LIMIT_EXCEEDED


def test_strangers_are_told_apart_before_the_limit_is() -> None:
    stranger = decide(with_peers(Peer(ae_title="MR1")), "MR2", opened=1000)
    assert isinstance(stranger, Refused)
    assert stranger.rejection is Rejection.CALLING_NOT_RECOGNISED


def test_names_are_resolved_once_in_a_while_and_outlive_the_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [0.0], []
    answers: list[list[str]] = [["10.0.0.1", "fd00::1"], [], ["10.0.0.2"]]

    def name_server(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        found = answers.pop(0)
        if not found:
            raise socket.gaierror("no name server")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", name_server)
    resolve = HostResolver(keep_s=60, clock=lambda: now[0])
    assert resolve("scanner") == resolve("scanner") == {"10.0.0.1", "fd00::1"}
    now[0] = 61
    assert resolve("scanner") == {"10.0.0.1", "fd00::1"}
    now[0] = 122
    assert resolve("scanner") == {"10.0.0.2"}
    assert len(asked) == 3


def test_addresses_have_one_spelling() -> None:
    assert normalised_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert normalised_address("FD00::0:1%eth0") == "fd00::1"
