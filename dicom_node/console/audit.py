"""The audit trail as the console searches it: a page at a time, bounded in bytes, without what tells of patients.

Messages stand in the order in which they were written. What is told later than it happened (what was received, after
the auditor was away) is not in the order of its time, so a search by time begins and ends further out (`TOLD_LATE`).
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import gzip
import hashlib
import os
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AuditEntry", "AuditPage", "AuditQuery", "PlaceInTrail", "search_trail"]

LOOKED_AT_BYTES = 8 << 20
"""For one page; what lies further is looked through when somebody goes on."""
MOST_UNPACKED = 512 << 20
"""Bytes of a compressed file, unpacked; it is unpacked in memory for each page that it has a part in."""
TOLD_LATE = dt.timedelta(days=1)
"""A message is written so much later than it says at most."""
BLOCK = 64 << 10
LONGEST_LINE = 1 << 20
_LINE = re.compile(rb"<\d+>1 (\S+) \S+ \S+ (\S+) \S+ - (<AuditMessage>.*</AuditMessage>)\n?")
_TIME = re.compile(rb"<\d+>1 (\S+) ")
_COMPRESSED = {".xz", ".bz2", ".zst"}
_STUDY, _PATIENT_ROLE = "110180", "1"
_OUTCOMES = {"0": "success", "4": "minor failure", "8": "serious failure", "12": "major failure"}
_ACTIONS = {"C": "create", "R": "read", "U": "update", "D": "delete", "E": "execute"}


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One message."""

    at: dt.datetime
    process: str
    """Of the node, that wrote it."""
    event: str
    kind: str
    """What of the event, for a log-in or a start; empty otherwise."""
    action: str
    outcome: str
    who: tuple[str, ...]
    """Participants, with their addresses."""
    studies: tuple[str, ...]
    words: str
    """Reasons and descriptions."""


@dataclass(frozen=True, slots=True)
class PlaceInTrail:
    """A place between two messages: the file, whatever it is named by now, and bytes from its beginning, unpacked."""

    file: str
    """Of the digest of its first message, 16 hexadecimal digits."""
    offset: int

    def __str__(self) -> str:
        return f"{self.file}-{self.offset}"

    @classmethod
    def read(cls, text: str) -> PlaceInTrail:
        """The place that a text names.

        Raises
        ------
        ValueError
            It names none.
        """
        match = re.fullmatch(r"([0-9a-f]{16})-([0-9]{1,18})", text, re.ASCII)
        if match is None:
            raise ValueError("is not a place in the audit trail")
        return cls(match[1], int(match[2]))


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which messages somebody wants; what is empty asks for nothing."""

    text: str = ""
    """A part of anything that is shown of a message."""
    since: dt.datetime | None = None
    until: dt.datetime | None = None

    def wants(self, entry: AuditEntry) -> bool:
        """Whether a message is wanted."""
        if (self.since is not None and entry.at < self.since) or (self.until is not None and entry.at > self.until):
            return False
        return not self.text or self.text.casefold() in _text(entry)


@dataclass(frozen=True, slots=True)
class AuditPage:
    """What a search came to."""

    entries: tuple[AuditEntry, ...]
    """The one written last first."""
    older: str
    """Where this page ends (:class:`PlaceInTrail`): ``before`` of the page of older ones; empty without such."""
    newer: str
    """Where this page begins: ``after`` of the page of newer ones; empty without such."""
    looked_to: dt.datetime | None
    """Where the search broke off before it had enough messages, because it had looked at many; else None."""
    not_searched: tuple[str, ...]
    """Names of files that cannot be read, or are compressed in a way that is not looked into."""


def search_trail(
    file: Path,
    query: AuditQuery,
    *,
    before: PlaceInTrail | None = None,
    after: PlaceInTrail | None = None,
    limit: int = 200,
) -> AuditPage:
    """Messages of the audit trail, in its file and in what that was before it was renamed, gzip included.

    Parameters
    ----------
    file
        Of the trail; it need not be there.
    before
        Where the page of newer ones ended. Without it and ``after`` the page is that of the newest.
    after
        Where the page of older ones began; comes before ``before``.
    limit
        Most messages of one page.

    Raises
    ------
    OSError
        The folder of the file cannot be read.
    """
    not_searched: list[str] = []
    with ExitStack() as stack:
        parts = [_Part(path, stack, not_searched) for path in _paths(file, not_searched)]
        # While a file is being compressed it is there twice, and not yet whole.
        known = {part.identity: part for part in sorted(parts, key=lambda part: not part.packed) if part.identity}
        parts = [part for part in parts if known.get(part.identity) is part]
        page = _forwards(parts, query, after, limit) if after is not None else _backwards(parts, query, before, limit)
    return AuditPage(*page, tuple(sorted(set(not_searched))))


_Page = tuple[tuple[AuditEntry, ...], str, str, dt.datetime | None]


def _backwards(parts: Sequence[_Part], query: AuditQuery, before: PlaceInTrail | None, limit: int) -> _Page:
    index, end = _begin(parts, query, before)
    newer = str(before) if before is not None and index is not None else ""
    found: list[AuditEntry] = []
    looked_at = 0
    looked_to: dt.datetime | None = None
    while index is not None and index >= 0:
        part = parts[index]
        for offset, line in part.lines_before(part.size if end is None else end):
            looked_to = at = _time(line) or looked_to
            if query.since is not None and at is not None and at < query.since - TOLD_LATE:
                return tuple(found), "", newer, None
            entry = _entry(line)
            if entry is not None and query.wants(entry):
                found.append(entry)
            looked_at += len(line)
            if len(found) == limit or looked_at > LOOKED_AT_BYTES:
                older = str(PlaceInTrail(part.identity, offset)) if offset or index else ""
                return tuple(found), older, newer, looked_to if older and len(found) < limit else None
        index, end = index - 1, None
    return tuple(found), "", newer, None


def _begin(parts: Sequence[_Part], query: AuditQuery, before: PlaceInTrail | None) -> tuple[int | None, int | None]:
    """Number of the file in which a search backwards begins, and the offset there; no number where there is nothing."""
    if before is not None:
        # What is older than a file that was removed was removed before it.
        return next((index for index, part in enumerate(parts) if part.identity == before.file), None), before.offset
    if query.until is None:
        return len(parts) - 1, None
    latest = query.until + 2 * TOLD_LATE
    for index in range(len(parts) - 1, -1, -1):
        first = parts[index].first_time()
        if first is not None and first <= latest:
            return index, parts[index].offset_of(latest)
    return None, None


def _forwards(parts: Sequence[_Part], query: AuditQuery, after: PlaceInTrail, limit: int) -> _Page:
    at_file = next((index for index, part in enumerate(parts) if part.identity == after.file), None)
    first, start = (at_file, after.offset) if at_file is not None else (0, 0)
    older = str(after) if at_file is not None and (first or start) else ""
    found: list[AuditEntry] = []
    looked_at = 0
    looked_to: dt.datetime | None = None
    for index in range(first, len(parts)):
        part = parts[index]
        for end, line in part.lines_after(start):
            looked_to = at = _time(line) or looked_to
            if query.until is not None and at is not None and at > query.until + TOLD_LATE:
                return tuple(reversed(found)), older, "", None
            entry = _entry(line)
            if entry is not None and query.wants(entry):
                found.append(entry)
            looked_at += len(line)
            if len(found) == limit or looked_at > LOOKED_AT_BYTES:
                newer = str(PlaceInTrail(part.identity, end)) if end < part.size or index + 1 < len(parts) else ""
                return tuple(reversed(found)), older, newer, looked_to if newer and len(found) < limit else None
        start = 0
    return tuple(reversed(found)), older, "", None


def _paths(file: Path, not_searched: list[str]) -> list[Path]:
    """The audit file and what it was before it was renamed, the oldest first."""
    if not file.parent.exists():
        return []
    found = []
    for path in file.parent.glob(f"{file.name}*"):
        if path.name.startswith(f"{file.name}.position"):
            # How far the collector has come.
            continue
        if path.suffix in _COMPRESSED:
            not_searched.append(path.name)
            continue
        try:
            found.append((path == file, path.stat().st_mtime_ns, path))
        except FileNotFoundError:
            # Renamed or removed this moment.
            continue
    # The file in use is the last, however little the clock may be trusted.
    return [path for _, _, path in sorted(found)]


class _Part:
    """One file of the trail, which may be compressed: lines from a place on, backwards and forwards.

    Without an identity where it has no whole line, or cannot be read, which ``not_searched`` then tells.
    """

    def __init__(self, path: Path, stack: ExitStack, not_searched: list[str]) -> None:
        self._path, self._stack, self._not_searched = path, stack, not_searched
        self._unpacked: bytes | None = None
        self.packed = path.suffix == ".gz"
        self.identity, self._first, self._descriptor = "", b"", -1
        try:
            if self.packed:
                with gzip.open(path) as packed:
                    self._first = packed.readline(LONGEST_LINE)
            else:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, self._descriptor)
                _, self._first = next(self.lines_after(0), (0, b""))
        except FileNotFoundError:
            return
        except (OSError, EOFError, zlib.error):
            not_searched.append(path.name)
            return
        if self._first.endswith(b"\n"):
            self.identity = hashlib.sha256(self._first).hexdigest()[:16]

    @property
    def size(self) -> int:
        """Bytes of it, unpacked."""
        return len(self._content()) if self.packed else os.fstat(self._descriptor).st_size

    def _content(self) -> bytes:
        if self._unpacked is None:
            try:
                with gzip.open(self._path) as packed:
                    content = packed.read(MOST_UNPACKED + 1)
            except (OSError, EOFError, zlib.error):
                content = b""
            if not content or len(content) > MOST_UNPACKED:
                self._not_searched.append(self._path.name)
                content = b""
            self._unpacked = content
        return self._unpacked

    def _read(self, offset: int, length: int) -> bytes:
        if self.packed:
            return self._content()[offset : offset + length]
        return os.pread(self._descriptor, length, offset)

    def first_time(self) -> dt.datetime | None:
        """What its first message says."""
        return _time(self._first)

    def lines_before(self, end: int) -> Iterator[tuple[int, bytes]]:
        """Lines that end before an offset, the last first, each with the offset of its beginning."""
        buffer, base = b"", min(end, self.size)
        while True:
            cut = buffer.rfind(b"\n", 0, max(0, len(buffer) - 1))
            if cut >= 0:
                yield base + cut + 1, buffer[cut + 1 :]
                buffer = buffer[: cut + 1]
            elif base == 0 or len(buffer) > LONGEST_LINE:
                # One so long was not written by the node.
                if buffer:
                    yield base, buffer
                buffer = b""
                if base == 0:
                    return
            else:
                start = max(0, base - BLOCK)
                buffer, base = self._read(start, base - start) + buffer, start

    def lines_after(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines that begin at an offset or later, each with the offset of its end."""
        buffer, place = b"", start
        while True:
            cut = buffer.find(b"\n") + 1
            if cut or len(buffer) > LONGEST_LINE:
                cut = cut or len(buffer)
                yield place + cut, buffer[:cut]
                buffer, place = buffer[cut:], place + cut
                continue
            more = self._read(place + len(buffer), BLOCK)
            if not more:
                return
            buffer += more

    def offset_of(self, latest: dt.datetime) -> int:
        """The beginning of a line behind which all were written later than a time, by halving."""
        low, high = 0, self.size
        while high - low > BLOCK:
            middle = (low + high) // 2
            at = self._time_after(middle)
            low, high = (middle, high) if at is not None and at <= latest else (low, middle)
        # The line that begins last before ``high`` may end behind it.
        end, _ = next(self.lines_after(high), (high, b""))
        return end

    def _time_after(self, place: int) -> dt.datetime | None:
        """What the first message that begins behind an offset says."""
        lines = self.lines_after(place)
        next(lines, None)
        return next((at for _, line in lines if (at := _time(line)) is not None), None)


def _time(line: bytes) -> dt.datetime | None:
    """When a line says that what it tells happened; None for one that was cut off."""
    match = _TIME.match(line)
    try:
        at = dt.datetime.fromisoformat(match[1].decode("ascii")) if match is not None else None
    except ValueError:
        return None
    return at if at is not None and at.tzinfo is not None else None


def _entry(line: bytes) -> AuditEntry | None:
    """The message of a line; None for one that was cut off by a power cut, or stands for none."""
    match = _LINE.fullmatch(line)
    at = _time(line)
    if match is None or at is None:
        return None
    try:
        root = ET.fromstring(match[3])
    except ET.ParseError:
        return None
    event = root.find("EventIdentification")
    if event is None:
        return None
    kind = event.find("EventTypeCode")
    who = []
    for one in root.findall("ActiveParticipant"):
        name, where = one.get("UserID", ""), one.get("NetworkAccessPointID", "")
        who.append(f"{name} ({where})" if where else name)
    described = [event.findtext("EventOutcomeDescription") or "", *_alerts(root)]
    return AuditEntry(
        at=at,
        process=match[2].decode("ascii", "replace"),
        event=_meaning(event.find("EventID")),
        kind="" if kind is None else _meaning(kind),
        action=_ACTIONS.get(event.get("EventActionCode", ""), ""),
        outcome=_OUTCOMES.get(event.get("EventOutcomeIndicator", ""), "unknown"),
        who=tuple(who),
        studies=tuple(
            one.get("ParticipantObjectID", "")
            for one in root.findall("ParticipantObjectIdentification")
            if one.get("ParticipantObjectTypeCodeRole") != _PATIENT_ROLE
            and (code := one.find("ParticipantObjectIDTypeCode")) is not None
            and code.get("csd-code") == _STUDY
        ),
        words="; ".join(one for one in described if one),
    )


def _alerts(root: ET.Element) -> list[str]:
    found = []
    for one in root.iter("ParticipantObjectDetail"):
        if one.get("type") == "Alert Description":
            try:
                found.append(base64.b64decode(one.get("value", ""), validate=True).decode("utf-8", "replace"))
            except binascii.Error:
                continue
    return found


def _meaning(code: ET.Element | None) -> str:
    return "" if code is None else code.get("originalText", "")


def _text(entry: AuditEntry) -> str:
    told = (entry.process, entry.event, entry.kind, entry.action, entry.outcome, entry.words)
    return " ".join((*told, *entry.who, *entry.studies)).casefold()
