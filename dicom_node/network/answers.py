"""What a peer says on an association that this node opened, made clean before pynetdicom decodes it.

A response is read by its order, its status and what it answers; much else in it is information for people, or repeats
the request (PS3.7 9.3). pynetdicom decodes all of it strictly, in the thread that reads the connection: what it cannot
decode ends that thread, and the connection stays open without one. Here what a response can do without is left out, and
what cannot be decoded aborts the association (PS3.8 9.2, event 19).
"""

from __future__ import annotations

import struct
from typing import Any

from pynetdicom import evt
from pynetdicom.pdu_primitives import P_DATA

from dicom_node.network.direct import CommandError, encode_command, read_command
from dicom_node.network.identity import is_uid
from dicom_node.network.transport import EventHandlers
from dicom_node.network.typed import replace_method

__all__ = ["cleaned_command", "lenient_messages"]

_COMMAND, _LAST = 1, 2
"""Bits of the message control header (PS3.8 E.2); the others are not looked at."""
_RESPONSE = 0x8000
_WITHOUT_DATA_SET = frozenset({0x8001, 0x8030})
"""C-STORE-RSP and C-ECHO-RSP."""
_NO_DATA_SET = struct.pack("<H", 0x0101)
_COMMAND_FIELD, _DATA_SET_TYPE, _ERROR_COMMENT = 0x0100, 0x0800, 0x0902
_UIDS = frozenset({0x0002, 0x0003, 0x1000, 0x1001})
_NUMBERS = frozenset({0x0100, 0x0120, 0x0800, 0x0900, 0x0903, 0x1002, 0x1008, 0x1020, 0x1021, 0x1022, 0x1023})
_TAGS = frozenset({0x0901, 0x1005})
"""Elements of a response by what they hold (PS3.7 E.1); what is not among them tells nothing."""
_LONGEST_COMMENT = 64
_ENDED = frozenset({"Sta1", "Sta8", "Sta13"})
"""States in which no response comes any more: closed, or the peer releases or is aborted (PS3.8 9.2.2)."""


def lenient_messages() -> EventHandlers:
    """Handlers that make the messages of the peer clean, and end the wait for a response that cannot come."""

    def opened(event: evt.Event) -> None:
        _Messages(event.assoc)

    def moved(event: evt.Event) -> None:
        if event.next_state in _ENDED:
            event.assoc.dimse.msg_queue.put((None, None))

    return ((evt.EVT_CONN_OPEN, opened), (evt.EVT_FSM_TRANSITION, moved))


class _Messages:
    """The messages of one association on their way to pynetdicom's DIMSE provider."""

    def __init__(self, association: Any) -> None:
        self._association = association
        self._otherwise = association.dimse.receive_primitive
        self._command = bytearray()
        self._has_data_set = False
        replace_method(association.dimse, "receive_primitive", self._receive)

    def _receive(self, primitive: P_DATA) -> None:
        try:
            for context_id, value in primitive.presentation_data_value_list:
                self._fragment(context_id, value[0], value[1:])
        except Exception:  # noqa: BLE001 - pynetdicom raises whatever the damage leads it to
            self._association.dul.event_queue.put("Evt19")

    def _fragment(self, context_id: int, control: int, fragment: bytes) -> None:
        if control & _COMMAND:
            self._command += fragment
            if control & _LAST:
                command, self._has_data_set = cleaned_command(bytes(self._command))
                self._command.clear()
                self._forward(context_id, _COMMAND | _LAST, command)
        elif self._has_data_set:
            self._has_data_set = not control & _LAST
            self._forward(context_id, control, fragment)

    def _forward(self, context_id: int, control: int, fragment: bytes) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, bytes((control,)) + fragment))
        self._otherwise(primitive)


def cleaned_command(command: bytes) -> tuple[bytes, bool]:
    """A command set as pynetdicom can decode it, and whether a data set follows.

    Parameters
    ----------
    command
        Whole; one that is no response is left as it is.

    Raises
    ------
    CommandError
        It breaks off, holds another group, or does not say what it is.
    """
    fields = read_command(command)
    field = fields.get(_COMMAND_FIELD, b"")
    if len(field) != 2:
        raise CommandError("a command set without Command Field")
    kind = int.from_bytes(field, "little")
    if kind & _RESPONSE:
        clean = {number: _clean(number, value) for number, value in fields.items()}
        fields = {number: value for number, value in clean.items() if value}
        if kind in _WITHOUT_DATA_SET or _DATA_SET_TYPE not in fields:
            fields[_DATA_SET_TYPE] = _NO_DATA_SET
        command = encode_command(fields)
    return command, fields.get(_DATA_SET_TYPE) != _NO_DATA_SET


def _clean(number: int, value: bytes) -> bytes:
    """The value of an element of a response, empty where it cannot be one."""
    if number in _UIDS:
        return value if is_uid(value.strip(b"\0 ").decode("latin-1")) else b""
    if number in _NUMBERS:
        return value[:2] if len(value) >= 2 else b""
    if number in _TAGS:
        return b"" if len(value) % 4 else value
    if number == _ERROR_COMMENT:
        text = value.decode("ascii", "replace").encode("ascii", "replace")[:_LONGEST_COMMENT]
        return text + b" " * (len(text) % 2)
    return b""
