"""What an acceptor may say: PS3.8 9.2 and 9.3 as a judge of the node's bytes, written without the node's own code."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from network.wire import Proposal

_UNSIGNED_SHORT = frozenset({0x0100, 0x0110, 0x0120, 0x0800, 0x0900, 0x1002, 0x1008, 0x1020, 0x1021, 0x1022, 0x1023})
_RESPONSES = frozenset({0x8001, 0x8010, 0x8020, 0x8021, 0x8030, 0x8100, 0x8110, 0x8120, 0x8130, 0x8140, 0x8150})
_REQUESTS = frozenset({0x0001, 0x0100})
"""C-STORE of a retrieval and N-EVENT-REPORT: all that the node asks for on an association that it accepted."""
_REJECTIONS = frozenset({(1, 1), (1, 2), (1, 3), (1, 7), (2, 1), (2, 2), (3, 1), (3, 2)})
"""Source and reason (PS3.8 table 9-21)."""
_ABORT_REASONS = {0: {0}, 2: {0, 1, 2, 4, 5, 6}}
"""By source (PS3.8 table 9-26)."""


class IllegalReplyError(AssertionError):
    """The node sent what PS3.7 or PS3.8 do not allow."""


@dataclass
class Message:
    """A command set, and its data set if it has one."""

    context_id: int
    fields: dict[int, bytes]
    data: bytes | None = None

    def unsigned(self, number: int) -> int:
        return int.from_bytes(self.fields[number], "little")


@dataclass
class Reply:
    """All that the node said on one connection."""

    accepted: dict[int, str] = field(default_factory=dict)
    """Transfer syntax by context id."""
    messages: list[Message] = field(default_factory=list)
    end: str = "closed"
    """``rejected``, ``released``, ``aborted``, or ``closed`` without a word."""
    established: bool = False


def judged(
    received: bytes,
    proposals: Sequence[Proposal] | None,
    maximum_length: int,
    *,
    may_release: bool,
    may_break_off: bool,
) -> Reply:
    """Read all that came back on a connection.

    Parameters
    ----------
    received
        Up to the end of the connection.
    proposals, maximum_length
        Of the request that was sent; ``None`` when it was damaged, and nobody knows what it proposes.
    may_release
        Whether a release was asked for.
    may_break_off
        Whether the last PDU may be incomplete, because the peer did not wait for it.

    Raises
    ------
    IllegalReplyError
        Anything of it is not what an acceptor may send in that state.
    """
    reply = Reply()
    _continue(reply, received, proposals, maximum_length, may_release, may_break_off)
    return reply


def continued(reply: Reply, received: bytes) -> None:
    """Read what came back on an association that is open, and stays so.

    Raises
    ------
    IllegalReplyError
        Anything of it is not what an acceptor may send there.
    """
    _continue(reply, received, (), 0, False, False)


def _continue(
    reply: Reply,
    received: bytes,
    proposals: Sequence[Proposal] | None,
    maximum_length: int,
    may_release: bool,
    may_break_off: bool,
) -> None:
    partial = _Partial()
    offset = 0
    while offset < len(received):
        if len(received) - offset < 6:
            _require(may_break_off, "a PDU breaks off in its header")
            break
        kind, reserved, length = struct.unpack_from(">BBL", received, offset)
        body = received[offset + 6 : offset + 6 + length]
        offset += 6 + length
        _require(kind in (0x02, 0x03, 0x04, 0x06, 0x07), f"a PDU of type {kind:02X}")
        if len(body) < length:
            _require(may_break_off and length < 1 << 20, f"a PDU of type {kind:02X} breaks off")
            break
        _require(reserved == 0, "a reserved byte is set")
        # Whatever comes to Sta13 may be answered by one more A-ABORT (table 9-10, AA-7).
        _require(reply.end == "closed" or kind == 0x07, f"a PDU of type {kind:02X} after the last")
        if kind == 0x02:
            _require(not reply.established, "accepted twice")
            reply.established = True
            reply.accepted = _accepted(body, proposals)
        elif kind == 0x03:
            _require(not reply.established, "rejected after it was accepted")
            _require(len(body) == 4 and body[1] in (1, 2) and (body[2], body[3]) in _REJECTIONS, "a strange rejection")
            reply.end = "rejected"
        elif kind == 0x07:
            _require(len(body) == 4 and body[3] in _ABORT_REASONS.get(body[2], ()), f"a strange abort {body.hex()}")
            reply.end = "aborted"
        elif kind == 0x06:
            _require(reply.established and may_release, "a release that was not asked for")
            _require(len(body) == 4, "a strange release")
            _require(partial.is_empty, "released in mid-message")
            reply.end = "released"
        else:
            _require(reply.established, "data before the association")
            _require(not maximum_length or length <= maximum_length, f"a PDU of {length} bytes")
            _take_values(body, reply, partial)


@dataclass
class _Partial:
    context_id: int = 0
    command: bytes = b""
    message: Message | None = None

    @property
    def is_empty(self) -> bool:
        return not self.command and self.message is None


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise IllegalReplyError(what)


def _items(body: bytes, what: str) -> list[tuple[int, bytes]]:
    found, offset = [], 0
    while offset < len(body):
        _require(len(body) - offset >= 4, f"{what} breaks off")
        kind, length = struct.unpack_from(">BxH", body, offset)
        value = body[offset + 4 : offset + 4 + length]
        _require(len(value) == length, f"an item of {what} breaks off")
        found.append((kind, value))
        offset += 4 + length
    return found


def _accepted(body: bytes, proposals: Sequence[Proposal] | None) -> dict[int, str]:
    """The accepted contexts of an A-ASSOCIATE-AC (PS3.8 table 9-17)."""
    _require(len(body) > 68 and body[:2] == b"\0\1", "a strange A-ASSOCIATE-AC")
    items = _items(body[68:], "an A-ASSOCIATE-AC")
    kinds = [kind for kind, _ in items]
    _require(kinds.count(0x10) == kinds.count(0x50) == 1, "not one application context and one user information")
    _require(set(kinds) <= {0x10, 0x21, 0x50}, "an item that does not belong there")
    proposed = {one.context_id: one.transfer_syntaxes for one in proposals or ()}
    accepted, answered = {}, set()
    for kind, value in items:
        if kind == 0x10:
            _require(value == b"1.2.840.10008.3.1.1.1", "another application context")
        elif kind == 0x50:
            parts = _items(value, "the user information")
            user = dict(parts)
            _require(len(user) == len(parts) or 0x54 in user, "user information twice")
            _require(len(user.get(0x51, b"")) == 4 and 0x52 in user, "no maximum length or implementation class")
        else:
            context_id, result = value[0], value[2]
            _require(proposals is None or context_id in proposed, "an answer to no proposal")
            _require(context_id not in answered, "two answers to a proposal")
            answered.add(context_id)
            _require(result in range(5), "a strange result")
            syntaxes = _items(value[4:], "a presentation context")
            _require([kind for kind, _ in syntaxes] == [0x40], "not one transfer syntax")
            if result == 0:
                syntax = syntaxes[0][1].decode("ascii")
                known = proposed.get(context_id, (syntax,))
                _require(syntax in known, "a transfer syntax that was not proposed")
                accepted[context_id] = syntax
    _require(answered >= proposed.keys(), "a proposal without an answer")
    return accepted


def _take_values(body: bytes, reply: Reply, partial: _Partial) -> None:
    _require(len(body) >= 6, "a P-DATA-TF without a value")
    offset = 0
    while offset < len(body):
        _require(len(body) - offset >= 6, "a presentation data value breaks off")
        length, context_id, control = struct.unpack_from(">LBB", body, offset)
        _require(2 <= length <= len(body) - offset - 4, "a presentation data value beyond its PDU")
        fragment = body[offset + 6 : offset + 4 + length]
        offset += 4 + length
        _require(context_id in reply.accepted, "a context that was not accepted")
        _require(control in (0, 1, 2, 3), "reserved bits of the control header")
        _require(partial.is_empty or context_id == partial.context_id, "fragments of two messages mixed")
        partial.context_id = context_id
        if control & 1:
            _require(partial.message is None, "a command within a data set")
            partial.command += fragment
            if control & 2:
                message = Message(context_id, _fields(partial.command))
                partial.command = b""
                if message.unsigned(0x0800) == 0x0101:
                    reply.messages.append(message)
                else:
                    message.data = b""
                    partial.message = message
        else:
            _require(partial.message is not None, "a data set without a command")
            assert partial.message is not None
            assert partial.message.data is not None
            partial.message.data += fragment
            if control & 2:
                reply.messages.append(partial.message)
                partial.message = None


def _fields(command: bytes) -> dict[int, bytes]:
    """The elements of a command set (PS3.7 6.3.1 and E.1)."""
    found: dict[int, bytes] = {}
    offset = last = 0
    while offset < len(command):
        _require(len(command) - offset >= 8, "a command set breaks off")
        group, number, length = struct.unpack_from("<HHL", command, offset)
        value = command[offset + 8 : offset + 8 + length]
        _require(group == 0, "another group in a command set")
        _require(len(value) == length, "an element of a command set breaks off")
        _require(length % 2 == 0, f"element {number:04X} has an odd length")
        _require(not found or number > last, "elements out of order")
        found[number], last = value, number
        offset += 8 + length
    _require(list(found)[:1] == [0], "no group length")
    _require(int.from_bytes(found[0], "little") == len(command) - 12, "a wrong group length")
    for number in _UNSIGNED_SHORT & found.keys():
        _require(len(found[number]) == 2, f"element {number:04X} is no unsigned short")
    _require({0x0100, 0x0800} <= found.keys(), "no command field or data set type")
    command_field = int.from_bytes(found[0x0100], "little")
    _require(command_field in _RESPONSES | _REQUESTS, f"command field {command_field:04X}")
    if command_field in _RESPONSES:
        _require({0x0120, 0x0900} <= found.keys(), "a response without message ID or status")
    else:
        _require(0x0110 in found, "a request without message ID")
    comment = found.get(0x0902, b"")
    _require(len(comment) <= 64 and all(32 <= byte < 127 for byte in comment), f"error comment {comment!r}")
    return found
