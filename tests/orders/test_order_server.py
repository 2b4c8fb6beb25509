"""Orders through a real socket: what is kept, what is answered, who is listened to."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from interop.ports import free_port, wait_until
from network.certificates import Authority
from network.running_node import configuration
from sqlalchemy import select
from structlog.testing import capture_logs

from dicom_node import node
from dicom_node.config import ClientTls, Configuration, Hl7Destination, OrderSettings, TlsSettings
from dicom_node.deliver.mllp import MllpConnection
from dicom_node.errors import NodeError
from dicom_node.network.listening_ports import open_listening_ports
from dicom_node.roles import RoleKeeper
from orders.order_messages import cancelled, infarct_order, order_message
from orders.order_server import Sender, order_server
from storage.ledger import Ledger, open_ledger, utc_now
from storage.orders import expire_orders, last_order_message
from storage.schema import EventRow, OrderRow


def taking_orders(folder: Path, **changes: object) -> Configuration:
    keys = {"address": "127.0.0.1", "port": free_port(), "senders": ("127.0.0.0/8",), **changes}
    return configuration(folder, orders=OrderSettings(**keys))  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")) as opened:
        yield opened


def kept(ledger: Ledger) -> list[tuple[str, str, list[str]]]:
    with ledger.reading() as session:
        rows = session.scalars(select(OrderRow).order_by(OrderRow.id))
        return [(one.accession_number, one.order_number, one.reasons) for one in rows]


def test_orders_are_kept_changed_cancelled_and_told_once(tmp_path: Path, ledger: Ledger) -> None:
    with order_server(taking_orders(tmp_path)) as port, Sender(port) as sender:
        header, accepted = sender.send(infarct_order())
        assert (header[0], accepted) == ("MSH", ["MSA", "AA", "1"])
        assert kept(ledger) == [("A1", "4711", ["Chest pain", "STEMI, day 4"])]
        assert sender.send(infarct_order("A2", number="4712", control_id="2"))[1][1] == "AA"
        assert sender.send(infarct_order(control="XO", reasons=("NSTEMI",), control_id="3"))[1][1] == "AA"
        assert kept(ledger) == [
            ("A1", "4711", ["Chest pain", "NSTEMI"]),
            ("A2", "4712", ["Chest pain", "STEMI, day 4"]),
        ]
        assert sender.send(cancelled(control_id="4"))[1] == ["MSA", "AA", "4"]
        assert [one[0] for one in kept(ledger)] == ["A2"]
    # A message that was answered, and comes again because the answer was lost, brings nothing back.
    with order_server(taking_orders(tmp_path)) as port, Sender(port) as sender:
        for message, number in ((infarct_order(), "1"), (cancelled(control_id="4"), "4")):
            assert sender.send(message)[1] == ["MSA", "AA", number]
        assert [one[0] for one in kept(ledger)] == ["A2"]
        # The same control ID over other content is another message: senders begin to count again.
        assert sender.send(infarct_order("A3", number="4713"))[1] == ["MSA", "AA", "1"]
        assert [one[0] for one in kept(ledger)] == ["A2", "A3"]


def test_a_message_is_done_whole_or_not_at_all(tmp_path: Path, ledger: Ledger) -> None:
    good = ("ORC|NW|1", "OBR|1|1||M", "IPC|A1")
    with order_server(taking_orders(tmp_path)) as port, Sender(port) as sender:
        _, refused, error = sender.send(order_message(*good, "ORC|NW|2", "OBR|2|2||M"))
        assert refused == ["MSA", "AE", "1", "an order has no accession number in IPC-1, OBR-18, OBR-3, ORC-3"]
        assert (error[3], error[8]) == ("101^Required field missing^HL70357", refused[3])
        assert kept(ledger) == []
        # Nothing of it was done: mended, under the same control ID, it is.
        assert sender.send(order_message(*good, "ORC|NW|2", "OBR|2|2||M", "IPC|A2"))[1][1] == "AA"
        assert [one[0] for one in kept(ledger)] == ["A1", "A2"]


def test_a_message_that_does_not_tell_which_order_it_changes_is_in_error(tmp_path: Path, ledger: Ledger) -> None:
    def of(patient: str, control_id: str, control: str = "NW") -> str:
        return infarct_order(control_id=control_id, control=control).replace("P1^^^HOSPITAL^MR", patient)

    with order_server(taking_orders(tmp_path)) as port, Sender(port) as sender:
        assert sender.send(of("P1", "1"))[1][1] == "AA"
        assert sender.send(of("P2", "2"))[1][1] == "AA"
        assert len(kept(ledger)) == 2
        _, refused, error = sender.send(of("", "3", "XO"))
        assert refused[:3] == ["MSA", "AE", "3"]
        assert "PID-3, or who gave the numbers, must tell which is meant" in refused[3]
        assert error[3] == "101^Required field missing^HL70357"
        # Told whose it is, it is one of them; a status that is not told whose it is changes nothing.
        assert sender.send(of("P2", "3", "XO"))[1][1] == "AA"
        assert sender.send(of("", "4", "SC"))[1][1] == "AA"
        assert len(kept(ledger)) == 2


def test_what_is_no_order_is_rejected_and_the_connection_goes_on(tmp_path: Path, ledger: Ledger) -> None:
    with order_server(taking_orders(tmp_path, maximum_message_kb=4)) as port:
        with Sender(port) as sender:
            assert sender.send(order_message(kind="ADT^A08", control_id="x"))[1][:3] == ["MSA", "AR", "x"]
            assert sender.send(b"")[1] == ["MSA", "AR", "", "the message does not begin with a usable MSH"]
            assert sender.send(infarct_order())[1][1] == "AA"
            # Two at once, and one in pieces: each is answered.
            sender.write(b"".join(b"\x0b" + cancelled(control_id=one).encode() + b"\x1c\r" for one in "89"))
            assert [sender.answer()[1][2], sender.answer()[1][2]] == ["8", "9"]
            whole = b"\x0b" + infarct_order("A5", control_id="10").encode() + b"\x1c\r"
            for at in range(0, len(whole), 100):
                sender.write(whole[at : at + 100])
            assert sender.answer()[1] == ["MSA", "AA", "10"]
        for length in (5_000, 5_000_000):
            with Sender(port) as sender:
                too_long = order_message("NTE|1||" + "x" * length)
                assert sender.send(too_long)[1] == ["MSA", "AR", "", "the message is too long"]
                sender.end()
                assert sender.closed()
        with Sender(port) as sender:
            sender.write(b"GET / HTTP/1.1\r\n\r\n")
            assert sender.closed()
        with Sender(port) as sender:
            sender.write(b"\x0bMSH|^~\\&|half a message")
        assert [one[0] for one in kept(ledger)] == ["A5"]


def test_line_ends_between_messages_are_passed_over_and_anything_else_is_named_by_its_byte(
    tmp_path: Path, ledger: Ledger
) -> None:
    with capture_logs() as lines, order_server(taking_orders(tmp_path)) as port:
        with Sender(port) as sender:
            sender.write(b"\r\n")
            assert sender.send(infarct_order())[1][1] == "AA"
            sender.write(b"\n")
            assert sender.send(infarct_order("A2", control_id="2"))[1][1] == "AA"
            assert sender.send(infarct_order("A3", control_id="3"))[1][1] == "AA"
        with Sender(port) as sender:
            # A message without its mark.
            sender.write(b"\n" + infarct_order("A4", control_id="4").encode() + b"\x1c\r")
            assert sender.closed()
    assert [one[0] for one in kept(ledger)] == ["A1", "A2", "A3"]
    passed_over = [one["bytes"] for one in lines if one["event"] == "line ends between messages passed over"]
    assert passed_over == [2, 1]
    assert [one["byte"] for one in lines if one["event"].startswith("connection closed")] == ["0x4d"]
    assert "Müller" not in str(lines)


def test_nobody_else_is_listened_to_and_no_more_than_there_is_room_for(tmp_path: Path, ledger: Ledger) -> None:
    with (
        order_server(taking_orders(tmp_path, senders=("10.0.0.0/24", "192.168.1.7"))) as port,
        Sender(port) as stranger,
    ):
        assert stranger.closed()
    with order_server(taking_orders(tmp_path, maximum_connections=1)) as port:
        with Sender(port) as first:
            assert first.send(infarct_order())[1][1] == "AA"
            with Sender(port) as second:
                assert second.closed()
            assert first.send(infarct_order("A2", control_id="2"))[1][1] == "AA"

        def served() -> bool:
            with Sender(port) as third, contextlib.suppress(ConnectionError):
                return third.send(infarct_order("A3", control_id="3")) != []
            return False

        wait_until(served, seconds=30, what="the place of the first is free")
    assert [one[0] for one in kept(ledger)] == ["A1", "A2", "A3"]


def test_a_ledger_that_does_not_answer_is_no_acceptance(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.ledger.BUSY_TIMEOUT_S", 0.1)
    with order_server(taking_orders(tmp_path)) as port, Sender(port) as sender:
        with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            _, refused, error = sender.send(infarct_order())
            assert refused == ["MSA", "AR", "1", "the ledger does not answer: send it again"]
            assert error[3] == "207^Application internal error^HL70357"
        assert sender.send(infarct_order())[1][1] == "AA"
    assert len(kept(ledger)) == 1


def test_any_bytes_on_the_wire_end_in_answers_or_a_closed_connection(tmp_path: Path, ledger: Ledger) -> None:
    order = infarct_order().encode()
    pieces = st.sampled_from(
        [b"\x0b", b"\x1c\r", b"\x1c", b"\r", order, b"MSH|^~\\&|", b"ORC|NW|1\r", b"IPC|A\xff\0\r"]
    )
    wires = st.lists(pieces | st.binary(max_size=8), max_size=8).map(b"".join)
    count = itertools.count()
    with capture_logs() as lines, order_server(taking_orders(tmp_path)) as port:

        @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(wires)
        @example(b"\x0b" + order.replace(b"A1", b"A\0\xed\xa0\x80") + b"\x1c\r")
        def sent(wire: bytes) -> None:
            with Sender(port) as sender:
                sender.write(wire)
                sender.end()
                while sender.answer():
                    pass
            with Sender(port) as sender:
                number = f"c{next(count)}"
                assert sender.send(infarct_order(control_id=number))[1] == ["MSA", "AA", number]

        sent()
    assert [one for one in lines if one["log_level"] == "error"] == []


def test_over_tls_only_a_sender_with_a_trusted_certificate_is_heard(tmp_path: Path, ledger: Ledger) -> None:
    authority, strangers = Authority(tmp_path), Authority(tmp_path, "strangers")
    own, ris, stranger = authority.signs("node"), authority.signs("ris"), strangers.signs("stranger")
    tls = TlsSettings(certificate=own.certificate, key=own.key, trusted=authority.certificate)
    secured = taking_orders(tmp_path, tls=True)
    secured = secured.model_copy(update={"node": secured.node.model_copy(update={"tls": tls})})

    def send(shown: ClientTls | None, port: int) -> None:
        with MllpConnection(Hl7Destination(host="127.0.0.1", port=port, tls=shown), 10) as connection:
            connection.send(infarct_order(), "1")

    with order_server(secured) as port:
        for shown in (None, ClientTls(trusted=authority.certificate)):
            with pytest.raises(NodeError):
                send(shown, port)
        with pytest.raises(NodeError):
            send(ClientTls(trusted=authority.certificate, certificate=stranger.certificate, key=stranger.key), port)
        assert kept(ledger) == []
        send(ClientTls(trusted=authority.certificate, certificate=ris.certificate, key=ris.key), port)
    assert len(kept(ledger)) == 1


def test_what_orders_say_is_in_no_log_and_no_event_and_is_forgotten_in_time(tmp_path: Path, ledger: Ledger) -> None:
    with capture_logs() as lines, order_server(taking_orders(tmp_path)) as port, Sender(port) as sender:
        sender.send(infarct_order())
        sender.send(infarct_order(control="ZZ", control_id="2"))
        sender.send(cancelled(number="0", control_id="3"))
    said = str(lines)
    taken = [one for one in lines if one["event"] == "orders taken"]
    assert [(one["kept"], one["cancelled"], one["repeated"]) for one in taken] == [(1, 0, False), (0, 1, False)]
    (refused,) = [one for one in lines if one["event"] == "orders not taken"]
    assert refused["why"].startswith("ORC-1")
    with ledger.reading() as session:
        said += str([(one.kind, one.subject, one.detail) for one in session.scalars(select(EventRow))])
    for secret in ("Müller", "P1", "A1", "4711", "STEMI", "I21", "infarct", "MRHEART"):
        assert secret not in said
    with ledger.reading() as session:
        (row,) = session.scalars(select(OrderRow))
        for secret in ("Müller", "P1"):
            assert secret not in str(vars(row))
    assert last_order_message(ledger) is not None
    month = dt.timedelta(days=30)
    assert expire_orders(ledger, retention=month, now=utc_now()) == 0
    assert expire_orders(ledger, retention=month, now=utc_now() + month) == 1
    assert last_order_message(ledger) is None


def test_the_supervisor_keeps_a_process_for_orders_where_a_port_is_set(tmp_path: Path, ledger: Ledger) -> None:
    without = configuration(tmp_path)
    configured = taking_orders(tmp_path).model_copy(update={"node": without.node})
    with contextlib.closing(open_listening_ports(without)) as ports:
        assert "orders" not in [role.name for role in node.node_roles(without, ports)]
        (role,) = [one for one in node.node_roles(configured, ports) if one.name == "orders"]
    keeper = RoleKeeper([role])

    def tended() -> bool:
        keeper.tend()
        return keeper.all_ready()

    try:
        for control_id in "12":
            wait_until(tended, seconds=60, what="orders are taken")
            with Sender(configured.orders.port or 0) as sender:
                assert sender.send(infarct_order(control_id=control_id))[1][1] == "AA"
            keeper.kill("orders")
            wait_until(lambda: not tended(), seconds=30, what="the death is noticed")
    finally:
        keeper.stop(10)
