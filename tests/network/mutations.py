"""What a fuzzer sends: valid conversations, and what becomes of them by damage at every layer."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass

from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1

from network.objects import MR, SECONDARY_CAPTURE, encoded, mr_image
from network.running_node import NODE, SCANNER
from network.wire import (
    ABORT_BY_USER,
    COMMAND,
    DATA,
    ECHO,
    LAST,
    P_DATA_TF,
    RELEASE_RQ,
    Proposal,
    associate_request,
    command_set,
    data_pdus,
    echo_request,
    element,
    pdu,
    pdv,
    store_request,
    uid,
    us,
)

STUDY_FIND, STUDY_GET, STUDY_MOVE = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 3, 2))
COMMITMENT = "1.2.840.10008.1.20.1"
PERFORMED_STEP = "1.2.840.10008.3.1.2.3.3"
EXPLICIT, IMPLICIT, COMPRESSED, UNKNOWN = 3, 5, 13, 15
PROPOSALS = (
    ECHO,
    Proposal(EXPLICIT, MR),
    Proposal(IMPLICIT, MR, (ImplicitVRLittleEndian,)),
    Proposal(7, SECONDARY_CAPTURE, ("1.2.840.10008.1.2.2", ExplicitVRLittleEndian)),
    Proposal(9, STUDY_FIND),
    Proposal(11, COMMITMENT, (ImplicitVRLittleEndian, ExplicitVRLittleEndian)),
    Proposal(COMPRESSED, MR, (JPEGLosslessSV1,)),
    Proposal(UNKNOWN, "1.2.3.4"),
    Proposal(17, STUDY_GET),
    Proposal(19, STUDY_MOVE),
    Proposal(21, PERFORMED_STEP),
)
CONTEXT_IDS = [one.context_id for one in PROPOSALS] + [0, 2, 255]
LENGTHS = [0, 1, 2, 3, 5, 6, 7, 0x7F, 0x7FFE, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]
COMMAND_FIELDS = [0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150, 0x0FFF]
COMMAND_FIELDS += [field | 0x8000 for field in COMMAND_FIELDS] + [0x0000, 0x0002, 0x1234]
ELEMENTS = [0x0000, 0x0001, 0x0002, 0x0003, 0x0100, 0x0110, 0x0120, 0x0600, 0x0700, 0x0800, 0x0900, 0x0901, 0x0902]
ELEMENTS += [0x1000, 0x1001, 0x1002, 0x1005, 0x1008, 0x1020, 0x1030, 0x1031, 0xFFFF]


@dataclass(frozen=True, slots=True)
class Store:
    """A C-STORE request that is whole as far as PS3.8 goes, whatever its data set is."""

    message_id: int
    syntax: str
    sop_instance: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Move:
    """One input."""

    kind: str
    sent: bytes
    store: Store | None = None
    is_clean: bool = False
    """Nothing of it may end the association."""


@dataclass(frozen=True, slots=True, repr=False)
class Conversation:
    """What is sent on one connection."""

    request: bytes
    proposals: tuple[Proposal, ...]
    maximum_length: int
    """Of the PDUs that come back, as far as the request is whole."""
    is_request_whole: bool
    moves: tuple[Move, ...]
    end: str
    """``release``, ``lone release``, ``close``, ``reset``, ``abort``."""
    cuts: tuple[int, ...] = ()
    """Lengths of the first TCP segments."""
    is_hasty: bool = False
    """Sends before it knows that it has an association."""

    def __repr__(self) -> str:
        """Short enough to be read; what was sent is said of one conversation alone."""
        return f"Conversation({', '.join(move.kind for move in self.moves)}; {self.end})"

    @property
    def awaits_acceptance(self) -> bool:
        return self.is_request_whole and not self.is_hasty

    @property
    def is_clean(self) -> bool:
        return self.awaits_acceptance and all(move.is_clean for move in self.moves)


_serial = itertools.count(1)
_UID_LENGTH = 30
PLACEHOLDER = b"1.2.3." + b"9" * (_UID_LENGTH - 6)
"""SOP Instance UID of the templates."""


def _template(syntax: str) -> bytes:
    image = mr_image(study="1.2.3.1", series="1.2.3.1.1", side=16)
    image.SOPInstanceUID = PLACEHOLDER.decode()
    if syntax != JPEGLosslessSV1:
        return encoded(image, syntax)  # type: ignore[arg-type]
    del image.PixelData
    items = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(part)) + part for part in (b"", bytes(40), bytes(22)))
    return (
        encoded(image)
        + bytes.fromhex("e07f1000")
        + b"OB\0\0\xff\xff\xff\xff"
        + items
        + bytes.fromhex("feffdde000000000")
    )


TEMPLATES = {
    EXPLICIT: (ExplicitVRLittleEndian, _template(ExplicitVRLittleEndian)),
    IMPLICIT: (ImplicitVRLittleEndian, _template(ImplicitVRLittleEndian)),
    COMPRESSED: (JPEGLosslessSV1, _template(JPEGLosslessSV1)),
}


def headers(data: bytes, implicit: bool) -> list[tuple[int, int]]:
    """Offset and length of the headers of the top-level elements of a data set, as far as it is one."""
    found, offset = [], 0
    while offset < len(data):
        long = not implicit and data[offset + 4 : offset + 6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        size = 12 if long else 8
        length = int.from_bytes(data[offset + (8 if long else 4 if implicit else 6) : offset + size], "little")
        found.append((offset, size))
        if length == 0xFFFFFFFF:
            break
        offset += size + length
    return found


_HEADERS = {context: headers(data, context == IMPLICIT) for context, (_, data) in TEMPLATES.items()}

_small = st.integers(0, 255)
_fraction = st.integers(0, 65535)


def _at(data: bytes, fraction: int) -> int:
    return fraction * len(data) // 65536


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes flipped, cut out, put in, or replaced by a length that means trouble."""
    for _ in range(draw(st.integers(1, 3))):
        how, at = draw(st.integers(0, 5)), _at(data, draw(_fraction))
        if how == 0:
            data = data[:at] + bytes((draw(_small),)) + data[at + 1 :]
        elif how == 1:
            data = data[:at] + data[at + draw(_small) :]
        elif how == 2:
            data = data[:at] + draw(st.binary(min_size=1, max_size=24)) + data[at:]
        elif how == 3:
            length = draw(st.sampled_from(LENGTHS))
            packed = struct.pack(draw(st.sampled_from("<>")) + "L", length)
            data = data[:at] + packed + data[at + 4 :]
        elif how == 4:
            data = data[:at]
        else:
            data = data[:at] + data[at : at + draw(_small)] * 2 + data[at:]
    return data


@st.composite
def nested(draw: st.DrawFn, implicit: bool) -> bytes:
    """Sequences in sequences, as deep as one likes, closed or not."""
    depth = draw(st.sampled_from([1, 2, 5, 63, 64, 65, 200, 1500]))
    undefined = draw(st.booleans())
    closed = draw(st.sampled_from([depth, depth, depth - 1, 0]))
    vr = draw(st.sampled_from([b"SQ", b"UN"]))
    opening = struct.pack("<HH", 0x0040, 0xA730)
    opening += b"" if implicit else vr + b"\0\0"
    head = opening + b"\xff\xff\xff\xff" + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    tail = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    if undefined:
        return head * depth + tail * closed
    inner = draw(st.binary(max_size=8))
    for _ in range(min(depth, 60)):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
        inner = opening + struct.pack("<L", len(item)) + item
    return inner


@st.composite
def data_sets(draw: st.DrawFn, context_id: int) -> tuple[str, bytes]:
    """SOP Instance UID that the request names, and a data set with damage that knows where elements begin."""
    _, data = TEMPLATES[context_id]
    sop_instance = f"1.2.3.{next(_serial) + 10 ** (_UID_LENGTH - 7)}"
    implicit = context_id == IMPLICIT
    how = draw(st.integers(0, 7))
    headers = _HEADERS[context_id]
    offset, size = headers[draw(_small) % len(headers)]
    if how == 1:
        length = draw(st.sampled_from(LENGTHS))
        width = 2 if size == 8 and not implicit else 4
        packed = (length & (256**width - 1)).to_bytes(width, "little")
        data = data[: offset + size - width] + packed + data[offset + size :]
    elif how == 2:
        data = data[:offset] + draw(nested(implicit)) + data[offset:]
    elif how == 3:
        data = data[:offset] + draw(st.sampled_from([b"", b"\0" * 8, b"\0" * 9, b"\xfe\xff\x00\xe0\0\0\0\0"]))
    elif how == 4 and not implicit:
        data = (
            data[: offset + 4]
            + draw(st.sampled_from([b"SQ", b"UN", b"OB", b"UT", b"??", b"ui", b"OV"]))
            + data[offset + 6 :]
        )
    elif how == 5:
        other, _ = headers[draw(_small) % len(headers)]
        data = data[:offset] + data[other:]
    elif how > 5:
        data = draw(damaged(data))
    return sop_instance, data.replace(PLACEHOLDER, sop_instance.encode())


FRAMINGS = (0, 16000, 4090, 997, 128)
"""Bytes of a fragment; 0: command and data set whole, in one PDU."""


def framed(context_id: int, command: bytes, data: bytes | None, size: int) -> list[bytes]:
    """A message as PDUs, in fragments of one of :data:`FRAMINGS`."""
    if size == 0:
        parts = [(COMMAND | LAST, command)] + ([] if data is None else [(DATA | LAST, data)])
        return [pdu(P_DATA_TF, b"".join(pdv(context_id, control, part) for control, part in parts))]
    return data_pdus(context_id, command, data, size=size)


def _in_pdus(draw: st.DrawFn, context_id: int, command: bytes, data: bytes | None) -> list[bytes]:
    return framed(context_id, command, data, draw(st.sampled_from(FRAMINGS)))


@st.composite
def stores(draw: st.DrawFn) -> Move:
    """A C-STORE whose framing is whole."""
    context_id = draw(st.sampled_from(list(TEMPLATES)))
    sop_instance, data = draw(data_sets(context_id))
    message_id = next(_serial) % 65536
    command = store_request(message_id, MR, sop_instance)
    store = Store(message_id, TEMPLATES[context_id][0], sop_instance, data)
    return Move("data set", b"".join(_in_pdus(draw, context_id, command, data)), store, is_clean=True)


@st.composite
def echoes(draw: st.DrawFn) -> Move:
    """A C-ECHO."""
    return Move("echo", b"".join(_in_pdus(draw, 1, echo_request(draw(_small)), None)), is_clean=True)


def _split(command: bytes) -> list[tuple[int, bytes]]:
    found, offset = [], 12
    while offset < len(command):
        _, number, length = struct.unpack_from("<HHL", command, offset)
        found.append((number, command[offset + 8 : offset + 8 + length]))
        offset += 8 + length
    return found


@st.composite
def commands(draw: st.DrawFn) -> Move:
    """Command sets that lack, repeat, misorder or misfill elements, with and without a data set."""
    sop_instance, data = f"1.2.3.{next(_serial) + 10 ** (_UID_LENGTH - 7)}", None
    elements = _split(store_request(draw(_small), MR, sop_instance))
    for _ in range(draw(st.integers(1, 3))):
        how, at = draw(st.integers(0, 6)), draw(_small) % max(1, len(elements))
        if not elements:
            break
        number, value = elements[at]
        if how == 0:
            del elements[at]
        elif how == 1:
            elements.append(elements[at])
        elif how == 2:
            elements[at] = number, draw(st.binary(max_size=70))
        elif how == 3:
            elements[at] = number, value[:-1]
        elif how == 4:
            elements.insert(at, (draw(st.sampled_from(ELEMENTS)), draw(st.binary(max_size=70))))
        elif how == 5:
            elements = [(n, us(draw(st.sampled_from(COMMAND_FIELDS))) if n == 0x0100 else v) for n, v in elements]
        else:
            long = uid("1." * draw(st.sampled_from([10, 33, 3000, 20000])) + "1")
            elements = [(n, long if n == 0x1000 else v) for n, v in elements]
    encoded_elements = b"".join(element(number, value) for number, value in elements)
    group_length = draw(st.sampled_from([len(encoded_elements)] * 4 + LENGTHS))
    command = element(0, struct.pack("<L", group_length)) + encoded_elements
    if draw(st.integers(0, 3)) == 0:
        command = encoded_elements
    if draw(st.integers(0, 4)) == 0:
        command = draw(damaged(command))
    if draw(st.integers(0, 3)):
        data = TEMPLATES[EXPLICIT][1].replace(PLACEHOLDER, sop_instance.encode())
    return Move("command set", b"".join(_in_pdus(draw, draw(st.sampled_from(CONTEXT_IDS)), command, data)))


_IDENTIFIERS = (
    b"",
    struct.pack("<HH2sH8s", 8, 0x52, b"CS", 6, b"STUDY ")[:14],
    struct.pack("<HH2sH", 8, 0x52, b"CS", 6) + b"STUDY " + struct.pack("<HH2sH", 0x20, 0x0D, b"UI", 0),
    struct.pack("<HH2sH", 8, 0x52, b"CS", 6) + b"IMAGE " + struct.pack("<HH2sH", 0x20, 0x0D, b"UI", 8) + b"1.2.3.1\0",
    struct.pack("<HH2sH", 8, 0x1195, b"UI", 6) + b"1.2.3\0" + struct.pack("<HH2sHL", 8, 0x1199, b"SQ", 0, 0xFFFFFFFF),
    struct.pack("<HHL", 8, 0x52, 6) + b"SERIES",
)


@st.composite
def services(draw: st.DrawFn) -> Move:
    """Every other service, with identifiers that make sense and that do not."""
    context_id = draw(st.sampled_from(CONTEXT_IDS))
    classes = {one.context_id: one.abstract_syntax for one in PROPOSALS}
    sop_class = uid(classes.get(context_id, "1.2.3") if draw(st.integers(0, 5)) else "1.2.840.10008.1.20.1")
    identifier = draw(st.one_of(st.none(), st.sampled_from(_IDENTIFIERS), st.binary(max_size=100)))
    if identifier and draw(st.integers(0, 3)) == 0:
        identifier = draw(damaged(identifier))
    says_data = identifier is not None if draw(st.integers(0, 9)) else identifier is None
    elements = [
        (0x0002 if draw(st.booleans()) else 0x0003, sop_class),
        (0x0100, us(draw(st.sampled_from(COMMAND_FIELDS)))),
        (0x0110, us(draw(_small))),
        (0x0800, us(1 if says_data else 0x0101)),
    ]
    if draw(st.booleans()):
        elements.append((0x0120, us(draw(_small))))
    if draw(st.booleans()):
        elements.append((0x0600, draw(st.sampled_from([b"MR1 ", b"NODE", b"nobody", b"\0" * 40]))))
    if draw(st.booleans()):
        elements.append((0x0700, us(draw(st.sampled_from([0, 1, 2, 77])))))
    if draw(st.booleans()):
        elements.append((draw(st.sampled_from([0x1000, 0x1001])), uid(f"{COMMITMENT}.1")))
    if draw(st.booleans()):
        elements.append((draw(st.sampled_from([0x1002, 0x1008])), us(draw(st.sampled_from([0, 1, 2, 500])))))
    command = command_set(b"".join(element(number, value) for number, value in sorted(elements)))
    return Move("service", b"".join(_in_pdus(draw, context_id, command, identifier)))


@st.composite
def framings(draw: st.DrawFn) -> Move:
    """A valid message whose PDUs and fragments are damaged."""
    sop_instance = f"1.2.3.{next(_serial) + 10 ** (_UID_LENGTH - 7)}"
    data = TEMPLATES[EXPLICIT][1].replace(PLACEHOLDER, sop_instance.encode())
    parts = _in_pdus(draw, EXPLICIT, store_request(draw(_small), MR, sop_instance), data)
    at = draw(_small) % len(parts)
    part, how = parts[at], draw(st.integers(0, 10))
    length = draw(st.sampled_from(LENGTHS))
    if how == 0:
        parts[at] = bytes((draw(_small),)) + part[1:]
    elif how == 1:
        parts[at] = part[:2] + struct.pack(">L", length) + part[6:]
    elif how == 2:
        parts[at] = part[:6] + struct.pack(">L", length) + part[10:]
    elif how == 3:
        parts[at] = part[:10] + bytes((draw(st.sampled_from(CONTEXT_IDS)),)) + part[11:]
    elif how == 4:
        parts[at] = part[:11] + bytes((draw(_small),)) + part[12:]
    elif how == 5:
        del parts[at]
    elif how == 6:
        parts.insert(at, part)
    elif how == 7:
        other = draw(_small) % len(parts)
        parts[at], parts[other] = parts[other], parts[at]
    elif how == 8:
        parts.insert(at, pdu(P_DATA_TF, draw(st.sampled_from([b"", pdv(EXPLICIT, 0, b""), pdv(EXPLICIT, 3, b"")]))))
    elif how == 9:
        parts[at] = part[: _at(part, draw(_fraction))]
    else:
        parts[at] = draw(damaged(part))
    return Move("framing", b"".join(parts))


@st.composite
def controls(draw: st.DrawFn) -> Move:
    """PDUs that do not belong here, or that are nothing at all."""
    how = draw(st.integers(0, 5))
    if how == 0:
        return Move("control PDU", draw(st.binary(max_size=80)))
    if how == 1:
        return Move("control PDU", REQUEST)
    if how == 2:
        return Move("control PDU", draw(damaged(REQUEST)))
    kind = draw(st.sampled_from([0, 1, 2, 3, 5, 6, 7, 8, 255]))
    return Move("control PDU", pdu(kind, draw(st.one_of(st.just(bytes(4)), st.binary(max_size=80)))))


REQUEST = associate_request(SCANNER.encode(), NODE.encode(), PROPOSALS)
_MAXIMUM_LENGTHS = [0, 16384, 8, 9, 100, 300, 4096, 0xFFFFFFFF]


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """An association and what happens on it."""
    focus = draw(st.integers(0, 9))
    harmless = st.one_of(stores(), stores(), stores(), stores(), echoes())
    if focus < 3:
        # Damage that ends no association, so that there can be much of it.
        moves = draw(st.lists(harmless, min_size=10, max_size=40))
    elif focus == 9:
        moves = []
    else:
        # What comes after the first move that ends the association is not looked at.
        harmful = st.one_of(commands(), services(), framings(), controls())
        moves = [
            *draw(st.lists(harmless, max_size=2)),
            *draw(st.lists(harmful, min_size=1, max_size=2)),
            *draw(st.lists(harmless, max_size=2)),
        ]
    maximum_length = 16384 if focus < 8 else draw(st.sampled_from(_MAXIMUM_LENGTHS))
    request = associate_request(SCANNER.encode(), NODE.encode(), PROPOSALS, maximum_length=maximum_length)
    is_whole = focus != 9
    if not is_whole:
        request = draw(damaged(request))
    end = draw(st.sampled_from(["release"] * 12 + ["lone release", "close", "reset", "abort"]))
    cuts = draw(st.one_of(st.just([]), st.lists(st.integers(1, 3000), max_size=6)))
    is_hasty = draw(st.integers(0, 40)) == 40
    return Conversation(request, PROPOSALS, maximum_length, is_whole, tuple(moves), end, tuple(cuts), is_hasty)


def last_words(end: str) -> bytes:
    """What ends a conversation."""
    return {"release": RELEASE_RQ, "lone release": RELEASE_RQ, "abort": ABORT_BY_USER}.get(end, b"")
