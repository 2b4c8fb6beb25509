"""What a peer answers on an association that this node opened: read as it is meant, and never waited for in vain."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interop.ports import wait_until
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_ECHO_RSP, C_STORE_RSP, N_ACTION_RSP, DIMSEMessage
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from dicom_node.config import Peer
from dicom_node.network.answers import cleaned_command
from dicom_node.network.direct import CommandError
from dicom_node.network.sender import ScuSettings, echo
from network.odd_peer import OddPeer, answer, encoded_command
from network.running_node import NODE
from network.wire import data_pdus, pdu, pdv, read_elements

FIELDS = st.dictionaries(
    st.sampled_from([0x0002, 0x0003, 0x0800, 0x0901, 0x0902, 0x0903, 0x1000, 0x1001, 0x5555]),
    st.binary(max_size=80)
    | st.sampled_from([b"1.2.3\0", b"1." * 40, b"\xff\xfe", "Müller".encode("latin-1"), b"\1\1"]),
)
KINDS = {0x8001: C_STORE_RSP, 0x8030: C_ECHO_RSP, 0x8130: N_ACTION_RSP}


@given(st.sampled_from(sorted(KINDS)), FIELDS, st.integers(0, 0xFFFF))
@settings(max_examples=200, deadline=None)
def test_a_response_is_read_whatever_it_repeats_or_remarks(kind: int, fields: dict[int, bytes], status: int) -> None:
    fields |= {0x0100: kind.to_bytes(2, "little"), 0x0120: b"\1\0", 0x0900: status.to_bytes(2, "little")}
    command, has_data_set = cleaned_command(encoded_command(fields))
    if kind != 0x8130:
        assert not has_data_set
    message = DIMSEMessage()
    primitive = P_DATA()
    primitive.presentation_data_value_list.append((1, b"\3" + command))
    assert message.decode_msg(primitive) is not has_data_set
    if not has_data_set:
        told = message.message_to_primitive()
        assert (type(message), told.Status, told.MessageIDBeingRespondedTo) == (KINDS[kind], status, 1)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_command_set_or_told_to_be_none(command: bytes) -> None:
    try:
        made, has_data_set = cleaned_command(command)
    except CommandError:
        return
    assert cleaned_command(made) == (made, has_data_set)


def changed(**fields: bytes | None) -> Callable[[bytes], bytes]:
    """A response with elements of other values, or without them."""

    def respond(command: bytes) -> bytes:
        elements = read_elements(command)
        for name, value in fields.items():
            elements.pop(int(name.removeprefix("x"), 16), None)
            if value is not None:
                elements[int(name.removeprefix("x"), 16)] = value
        return sent(encoded_command(elements))

    return respond


def sent(command: bytes) -> bytes:
    return b"".join(data_pdus(1, command, None))


ABORT = pdu(0x07, bytes((0, 0, 2, 3)))
RELEASE = pdu(0x05, bytes(4))


def asked(respond: Callable[[bytes], bytes]) -> str:
    """What the node says of an echo; nothing of it may be left, and it may not wait for what cannot come."""
    before = time.monotonic()
    with OddPeer(answer(), respond) as peer:
        result = echo(
            Peer(ae_title="PACS", host="127.0.0.1", port=peer.port), ScuSettings(NODE, response_timeout_s=120)
        )
        assert time.monotonic() - before < 60

        def gone() -> bool:
            there = [
                one for one in psutil.Process().net_connections("tcp") if one.raddr and one.raddr.port == peer.port
            ]
            threads = [one for one in threading.enumerate() if isinstance(one, Association | DULServiceProvider)]
            return not there and not threads

        wait_until(gone, seconds=30, what="connection and threads are let go of")
    return "" if result.error is None else result.error.what


@pytest.mark.parametrize(
    "respond",
    [
        changed(x0800=None),
        changed(x0800=b"\0\0"),
        changed(x1000=b"1." * 35),
        changed(x0002=b"\xff\xfe"),
        changed(x0901=b"\x10"),
        changed(x0902="Müller".encode("latin-1") * 20),
        lambda command: b"".join(data_pdus(1, command, b"\x08\0\x18\0UI\4\x001.2\0")),
        lambda command: pdu(0x04, pdv(1, 0xFD, command[:9])) + pdu(0x04, pdv(1, 0xFF, command[9:])),
    ],
    ids=["no type", "type 0", "long UID", "no UID", "odd tag", "comment", "data set", "other bits"],
)
def test_what_a_response_can_do_without_is_passed_over(respond: Callable[[bytes], bytes]) -> None:
    assert asked(respond) == ""


@pytest.mark.parametrize(
    "respond",
    [
        changed(x0100=None),
        changed(x0100=b"\x77\x87"),
        changed(x0900=None),
        lambda _command: sent(b"\xff" * 30),
        lambda _command: sent(b""),
        lambda _command: pdu(0x0A, b""),
        lambda _command: pdu(0x04, b"\0\0\0\xc8\1\3abcd"),
        lambda _command: ABORT,
        lambda _command: RELEASE,
    ],
    ids=["no command", "unknown command", "no status", "noise", "nothing", "PDU", "fragment", "abort", "release"],
)
def test_what_cannot_be_read_ends_the_association_at_once(respond: Callable[[bytes], bytes]) -> None:
    assert "C-ECHO: " in asked(respond)
