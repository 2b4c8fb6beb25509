"""Association requests, answers, rejections and aborts made clean before pynetdicom decodes them.

PS3.8 9.3.1 has items of unrecognised types ignored, and much in them is information for people. pynetdicom decodes all
of it strictly and breaks the association off where one does not suit it. What is kept here is what it can decode; what
a negotiation cannot do without gets a value that refuses just the presentation context at fault, and a reason that
PS3.8 does not list, or reserves, becomes "no reason given".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from dicom_node.results.uids import derive_uid

__all__ = ["MalformedPduError", "cleaned"]

_REQUEST, _ANSWER, _REJECTION, _ABORT = 0x01, 0x02, 0x03, 0x07
_FIXED = 74
"""Bytes before the variable items (PS3.8 tables 9-11 and 9-17)."""
_APPLICATION, _PROPOSED, _ANSWERED, _USER = 0x10, 0x20, 0x21, 0x50
_ABSTRACT, _TRANSFER = 0x30, 0x40
_MAXIMUM_LENGTH, _CLASS_UID, _WINDOW, _ROLE = 0x51, 0x52, 0x53, 0x54
_VERSION_NAME, _EXTENDED, _COMMON_EXTENDED, _IDENTITY, _IDENTITY_ANSWER = 0x55, 0x56, 0x57, 0x58, 0x59
_USUAL_MAXIMUM = 16384
"""Bytes of a PDU for a peer that states none, which PS3.8 D.1 has it do; nobody takes less in practice."""
_SHORTEST = 8
"""Bytes of a PDU with a presentation data value of two (PS3.8 9.3.5): less is no maximum."""
_UNKNOWN = derive_uid("syntax that nobody has").encode("ascii")
_REJECTED_SYNTAX = 4
_LONGEST_UID, _LONGEST_VERSION_NAME = 64, 16
_IDENTITY_TYPES = range(1, 6)
_REJECTION_REASONS = {1: (1, 2, 3, 7), 2: (1, 2), 3: (1, 2)}
"""By source (PS3.8 table 9-21), as far as they are not reserved."""
_NO_REASON = (1, 1)
_ABORT_BY_USER, _ABORT_BY_PROVIDER = 0, 2
_ABORT_REASONS = (0, 1, 2, 4, 5, 6)
"""Of a provider (PS3.8 table 9-26)."""


class MalformedPduError(ValueError):
    """The items of the PDU do not fit into each other."""


def cleaned(pdu: bytes) -> bytes:
    """An A-ASSOCIATE-RQ, -AC or -RJ or an A-ABORT as pynetdicom can decode it; any other PDU as it is.

    Raises
    ------
    MalformedPduError
        The lengths in it do not add up, or it ends too early.
    """
    pdu_type = pdu[0] if pdu else 0
    if pdu_type in (_REJECTION, _ABORT):
        return _ending(pdu_type, pdu)
    if pdu_type not in (_REQUEST, _ANSWER):
        return pdu
    if len(pdu) < _FIXED:
        raise MalformedPduError("the PDU ends within its fixed fields")
    answer = pdu_type == _ANSWER
    called, calling = (_title(pdu[start : start + 16], ignored=answer) for start in (10, 26))
    body = pdu[6:10] + called + calling + pdu[42:_FIXED]
    user = b""
    for kind, value in _items(pdu[_FIXED:]):
        if kind == _APPLICATION:
            body += _item(kind, _uid(value) or _UNKNOWN)
        elif kind == (_ANSWERED if answer else _PROPOSED):
            if answer and value[:1] and value[0] % 2 == 0:
                # Nobody can have proposed it: identifiers are odd (PS3.8 9.3.2.2).
                continue
            body += _item(kind, _context(value, answer=answer))
        elif kind == _USER:
            user += value
    body += _item(_USER, _user_information(user, answer=answer))
    return pdu[:2] + struct.pack(">L", len(body)) + body


def _ending(pdu_type: int, pdu: bytes) -> bytes:
    """An A-ASSOCIATE-RJ or A-ABORT whose result, source and reason are among those of PS3.8 9.3.4 and 9.3.8."""
    result, source, reason = (pdu[6:] + bytes(4))[1:4]
    if pdu_type == _REJECTION:
        # 1 is permanent: whoever does not say so is asked again.
        result = 1 if result == 1 else 2
        if reason not in _REJECTION_REASONS.get(source, ()):
            source, reason = _NO_REASON
    else:
        result = 0
        source = source if source == _ABORT_BY_PROVIDER else _ABORT_BY_USER
        reason = reason if source == _ABORT_BY_PROVIDER and reason in _ABORT_REASONS else 0
    return struct.pack(">BxLxBBB", pdu_type, 4, result, source, reason)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise MalformedPduError("an item ends within its header")
        kind, length = data[at], int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 4 + length > len(data):
            raise MalformedPduError(f"an item of type {kind:02X} is longer than what holds it")
        yield kind, data[at + 4 : at + 4 + length]
        at += 4 + length


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _title(field: bytes, *, ignored: bool) -> bytes:
    text = field.replace(b"\0", b" ")
    # In an answer both fields are reserved and not to be tested (PS3.8 table 9-17).
    if ignored and (not text.strip() or not text.isascii() or not text.decode("ascii").isprintable()):
        return b"ANY".ljust(16)
    return text


def _uid(value: bytes) -> bytes:
    """The UID without padding, empty where it is none that pynetdicom takes."""
    text = value.strip(b"\0 ")
    return text if len(text) <= _LONGEST_UID and re.fullmatch(rb"[0-9.]+", text) else b""


def _context(value: bytes, *, answer: bool) -> bytes:
    if len(value) < 4:
        raise MalformedPduError("a presentation context ends within its header")
    header, abstract, syntaxes = bytearray(value[:4]), b"", []
    for kind, inner in _items(value[4:]):
        if kind == _ABSTRACT and not answer:
            abstract = _uid(inner)
        elif kind == _TRANSFER and _uid(inner):
            syntaxes.append(_uid(inner))
    if not answer:
        return (
            bytes(header)
            + _item(_ABSTRACT, abstract or _UNKNOWN)
            + b"".join(_item(_TRANSFER, one) for one in syntaxes or [_UNKNOWN])
        )
    if header[2] > _REJECTED_SYNTAX or (header[2] == 0 and not syntaxes):
        # Accepted in nothing, or for a reason that there is not.
        header[2] = _REJECTED_SYNTAX
    return bytes(header) + _item(_TRANSFER, syntaxes[0] if syntaxes else _UNKNOWN)


def _user_information(data: bytes, *, answer: bool) -> bytes:
    kept: dict[tuple[int, bytes], bytes] = {}
    for kind, value in _items(data):
        clean = _user_item(kind, value, answer=answer)
        if clean is not None:
            # Role selection and extended negotiation: one for each SOP Class; of everything else the first counts.
            of_class = clean[2 : 2 + int.from_bytes(clean[:2], "big")] if kind in (_ROLE, _EXTENDED) else b""
            kept.setdefault((kind, of_class), clean)
    kept.setdefault((_MAXIMUM_LENGTH, b""), _USUAL_MAXIMUM.to_bytes(4, "big"))
    kept.setdefault((_CLASS_UID, b""), _UNKNOWN)
    return b"".join(_item(kind, value) for (kind, _), value in sorted(kept.items()))


def _user_item(kind: int, value: bytes, *, answer: bool) -> bytes | None:
    """The value of a user-information item that pynetdicom can decode; ``None`` for one that is ignored."""
    if kind in (_MAXIMUM_LENGTH, _WINDOW):
        if len(value) != 4 or (answer and kind == _MAXIMUM_LENGTH and 0 < int.from_bytes(value, "big") < _SHORTEST):
            return None
        return value
    if kind == _CLASS_UID:
        return _uid(value) or None
    if kind == _VERSION_NAME:
        text = bytes(character for character in value if 0x20 <= character < 0x7F).strip()
        return text[:_LONGEST_VERSION_NAME].strip() or None
    if kind == _ROLE:
        uid, rest = _class_and_rest(value)
        return _with_length(uid) + rest if uid and len(rest) == 2 and set(rest) <= {0, 1} else None
    if kind == _EXTENDED:
        uid, rest = _class_and_rest(value)
        return _with_length(uid) + rest if uid else None
    if kind == _IDENTITY and not answer:
        return value if _is_identity(value) else None
    # The answer to a user identity, and the common extended negotiation (PS3.7 D.3.3.6): nothing here uses them.
    return None


def _class_and_rest(value: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(value[:2], "big")
    if len(value) < 2 + length:
        return b"", b""
    return _uid(value[2 : 2 + length]), value[2 + length :]


def _with_length(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _is_identity(value: bytes) -> bool:
    """User Identity (PS3.7 table D.3-14): type, response requested, primary and secondary field with their lengths."""
    if len(value) < 6 or value[0] not in _IDENTITY_TYPES or value[1] > 1:
        return False
    primary = int.from_bytes(value[2:4], "big")
    if not primary or len(value) < 6 + primary:
        return False
    secondary = int.from_bytes(value[4 + primary : 6 + primary], "big")
    # Only a passcode (type 2) has a secondary field, and it must have one.
    return len(value) == 6 + primary + secondary and bool(secondary) == (value[0] == 2)
