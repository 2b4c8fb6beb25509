"""The association policy as a function."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from interop.ports import wait_until

from dicom_node.config import Configuration, Peer, PeerPermission
from dicom_node.network.admission import (
    Admitted,
    HostResolver,
    Refused,
    Rejection,
    admit,
    counted_under,
    normalised_address,
    take_place,
)
from dicom_node.network.places import Places, PlaceTable
from dicom_node.network.refusals import RefusalReason
from dicom_node.network.tls import PeerCertificate
from network.running_node import NODE, configuration, pacs_peer, with_node

ADDRESS = "10.0.0.9"

SEND, RECEIVE = PeerPermission.SEND, PeerPermission.RECEIVE


def with_peers(*peers: Peer) -> Configuration:
    named = {f"p{number}": peer for number, peer in enumerate(peers)}
    return configuration(Path("/nowhere"), port=104).model_copy(update={"peers": named})


def decide(
    node: Configuration, calling: str, address: str = "10.0.0.1", certificate: PeerCertificate | None = None
) -> Admitted | Refused:
    hosts = {"scanner.example": frozenset({"10.0.0.1", "fd00::1"}), "10.0.0.9": frozenset({"10.0.0.9"})}
    return admit(
        node,
        calling_ae_title=calling,
        called_ae_title=f"{NODE} ",
        address=address,
        certificate=certificate,
        resolve=lambda host: hosts.get(host, frozenset()),
    )


def test_a_peer_without_host_may_come_from_anywhere() -> None:
    node = with_peers(Peer(ae_title="MR1"))
    assert decide(node, " MR1 ", "198.51.100.7") == Admitted(frozenset({SEND}), ("p0",))


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
    assert decide(with_peers(elsewhere, anywhere), "PACS") == Admitted(frozenset(), ("p1",))
    assert decide(with_peers(Peer(ae_title="PACS"), anywhere), "PACS") == Admitted(frozenset({SEND}), ("p0", "p1"))
    both = with_peers(Peer(ae_title="PACS"), here.model_copy(update={"host": "scanner.example"}))
    assert decide(both, "PACS") == Admitted(frozenset({SEND, RECEIVE}), ("p0", "p1"))


OWN = PeerCertificate("ab" * 32, "mr1.example")
COLONS = ":".join(["AB"] * 32)


@pytest.mark.parametrize("pinned", [None, "mr1.example", "ab" * 32, COLONS])
def test_a_peer_with_tls_shows_its_certificate(pinned: str | None) -> None:
    node = with_peers(Peer(ae_title="MR1", tls=True, certificate=pinned))
    assert isinstance(decide(node, "MR1", certificate=OWN), Admitted)
    without = decide(node, "MR1")
    assert isinstance(without, Refused)
    assert without.reason is RefusalReason.TLS_REQUIRED


@pytest.mark.parametrize("pinned", ["MR1.example", "mr1", "cd" * 32])
def test_and_no_other(pinned: str) -> None:
    decision = decide(with_peers(Peer(ae_title="MR1", tls=True, certificate=pinned)), "MR1", certificate=OWN)
    assert isinstance(decision, Refused)
    assert (decision.reason, decision.rejection) == (RefusalReason.CERTIFICATE, Rejection.CALLING_NOT_RECOGNISED)
    assert "ab" * 32 in decision.why


def test_each_refusal_has_its_reason() -> None:
    node = with_peers(Peer(ae_title="MR1", host="10.0.0.9"))
    reasons = [decision.reason for title in ("MR1", "MR2") if isinstance(decision := decide(node, title), Refused)]
    assert reasons == [RefusalReason.HOST, RefusalReason.CALLING_AE_TITLE]


def test_places_are_counted_over_processes_and_for_each_entry_that_applies() -> None:
    node = with_peers(Peer(ae_title="MR1", maximum_associations=2), Peer(ae_title="MR2"))
    node = with_node(node, maximum_associations=3)
    table = PlaceTable(2, node.peers)
    one, other = Places(table, 0), Places(table, 1)
    first, second = Admitted(frozenset(), ("p0",)), Admitted(frozenset(), ("p1",))
    assert [take_place(node, first, ADDRESS, places) for places in (one, other)] == [None, None]
    full = take_place(node, first, ADDRESS, one)
    assert full is not None
    assert (full.reason, full.rejection) == (RefusalReason.PEER_LIMIT, Rejection.LOCAL_LIMIT_EXCEEDED)
    assert take_place(node, second, ADDRESS, other) is None
    full = take_place(node, second, ADDRESS, one)
    assert full is not None
    assert full.reason is RefusalReason.NODE_LIMIT
    assert (table.total(), table.total("p0"), table.total("p1")) == (3, 2, 1)
    one.leave(counted_under(("p0",), ADDRESS))
    assert take_place(node, first, ADDRESS, other) is None
    # The life after a kill -9 begins with no place taken.
    Places(table, 1)
    assert table.total() == 0


@pytest.mark.parametrize("address", [ADDRESS, f"::ffff:{ADDRESS}"])
def test_no_peer_and_no_address_alone_keeps_everybody_else_out(address: str) -> None:
    node = with_node(with_peers(Peer(ae_title="MR1"), Peer(ae_title="MR2")), maximum_associations=8)
    table = PlaceTable(1, node.peers)
    places = Places(table, 0)
    first, second = Admitted(frozenset(), ("p0",)), Admitted(frozenset(), ("p1",))
    # One AE title, from wherever it calls.
    assert [take_place(node, first, f"10.1.0.{one}", places) for one in range(6)] == [None] * 6
    full = take_place(node, first, "10.1.0.9", places)
    assert full is not None
    assert full.reason is RefusalReason.PEER_LIMIT
    assert take_place(node, second, ADDRESS, places) is None
    places = Places(table, 0)
    # One address, whatever it calls itself.
    titles = [first, second] * 3
    assert [take_place(node, one, ADDRESS, places) for one in titles] == [None] * 6
    full = take_place(node, second, address, places)
    assert full is not None
    assert "maximum_associations_per_address" in full.why
    assert take_place(node, second, "10.1.0.9", places) is None


def test_the_one_with_more_to_serve_is_ahead() -> None:
    table = PlaceTable(2)
    one, other = Places(table, 0), Places(table, 1)
    one.enter()
    one.arriving(2)
    assert (one.ahead(), other.ahead()) == (3, 0)
    one.arriving(0)
    one.leave()
    assert one.ahead() == 0


def test_names_are_looked_up_ahead_and_outlive_the_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers: list[list[str]] = [["10.0.0.1", "fd00::1"], [], ["10.0.0.2"]]

    def name_server(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        found = answers.pop(0)
        if not found:
            raise socket.gaierror("no name server")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", name_server)
    resolve = HostResolver(["scanner", "192.0.2.1", "scanner", ""])
    assert resolve("192.0.2.1") == {"192.0.2.1"}
    assert resolve("scanner") == frozenset()
    for known in ({"10.0.0.1", "fd00::1"}, {"10.0.0.1", "fd00::1"}, {"10.0.0.2"}):
        resolve.look_up()
        assert resolve("scanner") == known
    assert asked == ["scanner"] * 3


def test_a_slow_name_server_does_not_hold_up_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, answered = threading.Event(), threading.Event()

    def name_server(*_: object, **__: object) -> list[tuple[object, ...]]:
        answered.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", name_server)
    resolve = HostResolver(["scanner"], every_s=0.05)
    resolve.keep_looking_up(stop, patience_s=0.05)
    assert resolve("scanner") == frozenset()
    answered.set()
    wait_until(lambda: resolve("scanner") == {"10.0.0.1"}, seconds=30, what="the answer is used")
    stop.set()


def test_addresses_have_one_spelling() -> None:
    assert normalised_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert normalised_address("FD00::0:1%eth0") == "fd00::1"
