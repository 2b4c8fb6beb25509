"""Inputs that were answered in a way of their own, kept in a folder, and what becomes of them by further damage.

Drawing a conversation with Hypothesis takes longer than the node takes to answer it. Damaging one that is kept takes
next to nothing, and starts from where an earlier run had come to.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import random
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

from network.legality import Message, Reply
from network.mutations import (
    FRAMINGS,
    IMPLICIT,
    LENGTHS,
    PLACEHOLDER,
    PROPOSALS,
    REQUEST,
    TEMPLATES,
    Conversation,
    Move,
    Store,
    framed,
    headers,
)
from network.objects import MR
from network.wire import echo_request, store_request

ITEM = b"\xfe\xff\x00\xe0"
LONGEST = 60_000
"""Bytes of a data set that is kept, and damaged further."""
DEPTHS = (1, 2, 3, 5, 20, 62, 63, 64, 65, 66, 100, 249, 250, 251, 1_000, 3_000, 10_000)
"""Levels of nested sequences that are put into a data set at once; several times adds up."""
CLEAN_MOVES = range(20, 60)
"""Of a conversation that breaks nothing."""
CONTEXTS = {syntax: context_id for context_id, (syntax, _) in TEMPLATES.items()}
_VRS = (b"SQ", b"UN", b"OB", b"OW", b"UT", b"LO", b"UI", b"DS", b"??", b"ui", b"OV")
_EARLIER_UID = re.compile(rb"1\.2\.[34]\.1(\d{23})")
_SIGNS = re.compile(r"[0-9A-F]{4,}|\d+|'.*?'")


@dataclass
class Corpus:
    """What is kept.

    Attributes
    ----------
    folder
        Where each is a file; what lies there already is read.
    data_sets
        Of C-STORE requests: presentation context, and bytes with a placeholder for the SOP Instance UID.
    taken
        Those of them that were taken in.
    conversations
        Those that break PS3.8, or ask for other services, by their moves.
    """

    folder: Path
    data_sets: list[tuple[int, bytes]] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)
    taken: list[tuple[int, bytes]] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)
    _serial: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for context_id, (_, data) in TEMPLATES.items():
            self.data_sets.append((context_id, data))
            self.taken.append((context_id, data))
        for file in sorted(self.folder.glob("*.json")):
            self._known.add(file.stem)
            self._take(json.loads(file.read_text()))

    def __len__(self) -> int:
        return len(self._known)

    def consider(self, conversation: Conversation, reply: Reply, received: bytes) -> None:
        """Keep of a conversation what was answered as nothing before."""
        answers = {_text(message, 0x1000): message for message in reply.messages if message.unsigned(0x0100) == 0x8001}
        for move in conversation.moves:
            answer = None if move.store is None else answers.get(move.store.sop_instance)
            if move.store is None or answer is None:
                continue
            data = move.store.data.replace(move.store.sop_instance.encode(), PLACEHOLDER)
            context_id = CONTEXTS[move.store.syntax]
            self.consider_data_set(context_id, data, f"{answer.unsigned(0x0900):04X} {_text(answer, 0x0902)}")
        if not conversation.is_clean:
            self._keep(_way(conversation, reply, received), _written(conversation))

    def consider_data_set(self, context_id: int, data: bytes, outcome: str) -> None:
        """Keep a data set that had an outcome, or is nested as deep, as none before."""
        depth = min(data.count(ITEM), 64).bit_length()
        if len(data) <= LONGEST:
            kind = f"{TEMPLATES[context_id][0]} {_reason(outcome)} {depth}"
            self._keep(kind, {"context": context_id, "data": _packed(data)})

    def data_set(self, draw: random.Random) -> tuple[int, bytes]:
        """One that is kept, damaged further: presentation context, and bytes with a placeholder."""
        # What is damaged for good stays so: half begins with what is whole.
        context_id, data = draw.choice(self.taken if draw.random() < 0.5 else self.data_sets)
        for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 5))):
            data = self._damaged(draw, context_id, data)
        return context_id, data

    def store(self, draw: random.Random) -> Move:
        """A C-STORE of such a data set, whose framing is whole."""
        context_id, data = self.data_set(draw)
        serial = next(self._serial)
        sop_instance = f"1.2.4.{serial + 10 ** (len(PLACEHOLDER) - 7)}"
        data = data.replace(PLACEHOLDER, sop_instance.encode())
        store = Store(serial % 65536, TEMPLATES[context_id][0], sop_instance, data)
        command = store_request(store.message_id, MR, sop_instance)
        parts = framed(context_id, command, data, draw.choice(FRAMINGS[1:3] if len(data) > 5_000 else FRAMINGS))
        return Move("data set", b"".join(parts), store, is_clean=True)

    def conversation(self, draw: random.Random) -> Conversation:
        """Either many data sets, or one that is kept, recombined and damaged further."""
        if not self.conversations or draw.random() < 0.7:
            moves = [self.store(draw) for _ in range(draw.choice(CLEAN_MOVES))]
            if draw.random() < 0.5:
                echo = Move("echo", b"".join(framed(1, echo_request(draw.randrange(256)), None, 0)), is_clean=True)
                moves.insert(draw.randrange(len(moves)), echo)
            end = draw.choice(["release"] * 15 + ["lone release", "close", "reset", "abort"])
            return Conversation(REQUEST, PROPOSALS, 16384, True, tuple(moves), end)
        kept = draw.choice(self.conversations)
        request = kept.request
        if not kept.is_request_whole:
            request = damaged_bytes(draw, request)
        harmful = list(kept.moves)
        if draw.random() < 0.5:
            harmful += draw.choice(self.conversations).moves
        moves = [
            *(self.store(draw) for _ in range(draw.randrange(3))),
            *(
                Move(move.kind, damaged_bytes(draw, move.sent) if draw.random() < 0.7 else move.sent)
                for move in harmful[:3]
            ),
            *(self.store(draw) for _ in range(draw.randrange(3))),
        ]
        cuts = tuple(draw.randrange(1, 3000) for _ in range(draw.randrange(4)))
        end = draw.choice(["release"] * 12 + ["lone release", "close", "reset", "abort"])
        return Conversation(
            request,
            kept.proposals,
            kept.maximum_length,
            kept.is_request_whole,
            tuple(moves),
            end,
            cuts,
            is_hasty=draw.random() < 0.03,
        )

    def _damaged(self, draw: random.Random, context_id: int, data: bytes) -> bytes:
        implicit = context_id == IMPLICIT
        found = headers(data, implicit)
        if len(data) > LONGEST or not found:
            data = TEMPLATES[context_id][1]
            found = headers(data, implicit)
        how = draw.randrange(10)
        offset, size = draw.choice(found)
        if how < 3:
            return damaged_bytes(draw, data)
        if how == 3:
            width = 2 if size == 8 and not implicit else 4
            packed = (draw.choice(LENGTHS) & (256**width - 1)).to_bytes(width, "little")
            return data[: offset + size - width] + packed + data[offset + size :]
        if how in (4, 5):
            return (
                data[:offset] + _nested(draw, implicit, data[offset : offset + draw.choice((0, 0, 40))]) + data[offset:]
            )
        if how == 6:
            return data[:offset] + data[draw.choice(found)[0] :]
        if how == 7 and not implicit:
            return data[: offset + 4] + draw.choice(_VRS) + data[offset + 6 :]
        if how == 8:
            # Another one's elements, from one of its beginnings on.
            _, other = draw.choice([one for one in self.data_sets if one[0] == context_id])
            begin, _ = draw.choice(headers(other, implicit) or [(0, 0)])
            return data[:offset] + other[begin:]
        return data[:offset]

    def _keep(self, kind: str, document: dict[str, object]) -> None:
        name = hashlib.sha256(kind.encode()).hexdigest()[:20]
        if name in self._known:
            return
        self._known.add(name)
        # Whole or not at all: a run may be stopped at any moment.
        new = self.folder / f"{name}.new"
        document = {"kind": kind, **document}
        new.write_text(json.dumps(document))
        new.replace(self.folder / f"{name}.json")
        self._take(document)

    def _take(self, document: dict[str, object]) -> None:
        if "data" in document:
            one = (int(str(document["context"])), _unpacked(document["data"]))
            self.data_sets.append(one)
            if " 0000" in str(document["kind"]):
                self.taken.append(one)
            return
        moves = [
            # Its identifiers must not be those of a data set of this run.
            Move(kind, _EARLIER_UID.sub(rb"1.2.5.1\1", _unpacked(sent)))
            for kind, sent in document["moves"]  # type: ignore[attr-defined]
        ]
        self.conversations.append(
            Conversation(
                _unpacked(document["request"]),
                PROPOSALS,
                int(str(document["maximum length"])),
                bool(document["whole"]),
                tuple(moves),
                "release",
            )
        )


def _way(conversation: Conversation, reply: Reply, received: bytes) -> str:
    """What was sent, in kinds, and what became of it."""
    kinds = sorted({move.kind for move in conversation.moves if not move.is_clean})
    answer = ""
    if reply.messages:
        message = reply.messages[-1]
        status = int.from_bytes(message.fields.get(0x0900, b""), "little")
        answer = _reason(f"{message.unsigned(0x0100):04X} {status:04X} {_text(message, 0x0902)}")
    last = received[-4:].hex() if reply.end in ("aborted", "rejected") else ""
    return f"{conversation.is_request_whole} {kinds} {reply.end} {last} {answer}"


def _written(conversation: Conversation) -> dict[str, object]:
    return {
        "request": _packed(conversation.request),
        "maximum length": conversation.maximum_length,
        "whole": conversation.is_request_whole,
        "moves": [[move.kind, _packed(move.sent)] for move in conversation.moves if not move.is_clean],
    }


def _nested(draw: random.Random, implicit: bool, inner: bytes) -> bytes:
    depth = draw.choice(DEPTHS)
    opening = struct.pack("<HH", 0x0040, 0xA730) + (b"" if implicit else draw.choice((b"SQ", b"UN")) + b"\0\0")
    head = opening + b"\xff\xff\xff\xff" + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    tail = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    if draw.random() < 0.7:
        return head * depth + inner + tail * draw.choice((depth, depth, depth, depth - 1, depth + 1, 0))
    for _ in range(min(depth, 300)):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
        inner = opening + struct.pack("<L", len(item)) + item
    return inner


def damaged_bytes(draw: random.Random, data: bytes) -> bytes:
    """Some bytes flipped, cut out, put in, repeated, or replaced by a length that means trouble."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(data) + 1)
        how = draw.randrange(7)
        if how == 0:
            data = data[:at] + bytes((draw.randrange(256),)) + data[at + 1 :]
        elif how == 1:
            data = data[:at] + data[at + draw.randrange(256) :]
        elif how == 2:
            data = data[:at] + draw.randbytes(draw.randrange(1, 24)) + data[at:]
        elif how == 3:
            data = data[:at] + struct.pack(draw.choice("<>") + "L", draw.choice(LENGTHS)) + data[at + 4 :]
        elif how == 4:
            data = data[:at]
        elif how == 5:
            data = data[:at] + data[at : at + draw.randrange(256)] * 2 + data[at:]
        elif at < len(data):
            data = data[:at] + bytes((data[at] ^ 1 << draw.randrange(8),)) + data[at + 1 :]
    return data


def _reason(outcome: str) -> str:
    """The beginning, an ErrorComment ends after 64 characters, without numbers but the status it begins with."""
    return outcome[:5] + _SIGNS.sub("#", outcome[5:])[:36]


def _text(message: Message, number: int) -> str:
    return message.fields.get(number, b"").rstrip(b"\0 ").decode("latin-1")


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unpacked(text: object) -> bytes:
    return base64.b64decode(str(text))
