"""The log of the node's processes as the console searches it: the newest first, a page at a time, bounded in bytes.

Each file holds lines of one process in the order of their times (:mod:`dicom_node.log_files`), so they are merged from
their ends backwards, and where a search begins is found by halving.
"""

from __future__ import annotations

import datetime as dt
import heapq
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dicom_node.log_files import LONGEST_LINE, SUFFIX, last_time, time_of

__all__ = ["LEVELS", "LogLine", "LogPage", "LogQuery", "PlaceInLog", "kept_processes", "search_log"]

LOOKED_AT_BYTES = 8 << 20
"""Of all files together for one page; what is older is looked through when somebody goes on."""
MOST_FILES = 400
"""Opened at once; of more, those that were written to last."""
BLOCK = 64 << 10
LEVELS = ("debug", "info", "warning", "error", "critical")
_END = dt.datetime.max.replace(tzinfo=dt.UTC)
_KNOWN = ("timestamp", "level", "event", "host", "role", "pid")


@dataclass(frozen=True, slots=True)
class PlaceInLog:
    """Where a page ended: the time of its last line, and how many lines of that very time were looked at."""

    at: dt.datetime
    lines: int

    def __str__(self) -> str:
        return f"{self.at.astimezone(dt.UTC):%Y%m%dT%H%M%S.%f}-{self.lines}"

    @classmethod
    def read(cls, text: str) -> PlaceInLog:
        """The place that a text names.

        Raises
        ------
        ValueError
            It names none.
        """
        at, _, lines = text.partition("-")
        return cls(dt.datetime.strptime(at, "%Y%m%dT%H%M%S.%f").replace(tzinfo=dt.UTC), int(lines))


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which lines somebody wants; what is empty asks for nothing."""

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    level: str = ""
    """The least."""
    host: str = ""
    role: str = ""
    event: str = ""
    """A part of what the line says happened."""
    text: str = ""
    """A part of anything in the line."""
    about: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Names of values to the values that are wanted, any of them: the identifiers of a study and what belongs to it.
    Under the empty name stand those that any value may be."""

    def wants(self, line: LogLine) -> bool:
        """Whether a line is wanted, its time apart."""
        if self.level and _rank(line.level) < _rank(self.level):
            return False
        if (self.host and line.host != self.host) or (self.role and line.role != self.role):
            return False
        if self.event and self.event.casefold() not in line.event.casefold():
            return False
        if self.text and self.text.casefold() not in line.words().casefold():
            return False
        return not self.about or self._is_about(line)

    def _is_about(self, line: LogLine) -> bool:
        anywhere = self.about.get("", frozenset())
        return any(
            str(one) in anywhere or str(one) in self.about.get(name, ())
            for name, value in line.values.items()
            for one in (value if isinstance(value, list) else [value])
        )


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log."""

    at: dt.datetime
    level: str
    host: str
    role: str
    """Name of the process."""
    event: str
    values: Mapping[str, Any]
    """What else it tells."""

    def words(self) -> str:
        """All that it tells, as one text."""
        told = (f"{name} {value}" for name, value in self.values.items())
        return " ".join((self.event, self.level, self.host, self.role, *told))


@dataclass(frozen=True, slots=True)
class LogPage:
    """What a search came to."""

    lines: tuple[LogLine, ...]
    """The newest first."""
    older: str
    """What goes on where this page ends (:class:`PlaceInLog`); empty where there is nothing older."""
    looked_back_to: dt.datetime | None
    """Where the search broke off before it had enough lines, because it had looked at many; else None."""
    not_searched: tuple[str, ...]
    """Names of files that cannot be read, or are compressed."""


def kept_processes(directory: Path) -> tuple[tuple[str, str], ...]:
    """Hosts and processes whose logs lie in a folder.

    Raises
    ------
    OSError
        It cannot be read.
    """
    found = set()
    for path in directory.glob(f"*{SUFFIX}"):
        host, _, role = path.name.removesuffix(SUFFIX).rpartition(".")
        found.add((host, role))
    return tuple(sorted(found))


def search_log(directory: Path, query: LogQuery, *, before: PlaceInLog | None = None, limit: int = 200) -> LogPage:
    """Lines of all processes whose logs lie in a folder, the newest first.

    Parameters
    ----------
    before
        Where the page before ended.
    limit
        Most lines of one page.

    Raises
    ------
    OSError
        The folder cannot be read.
    """
    until = min((one for one in (query.until, before.at if before else None) if one is not None), default=None)
    paths, not_searched = _files(directory)
    budget = _Budget(LOOKED_AT_BYTES)
    found: list[LogLine] = []
    place, passed = None, 0
    with ExitStack() as stack:
        parts: list[tuple[dt.datetime, Iterator[LogLine]]] = []
        for path in paths:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                # The oldest of a process, removed this moment.
                continue
            except OSError:
                not_searched.append(path.name)
                continue
            stack.callback(os.close, descriptor)
            last = last_time(descriptor)
            if last is not None and (query.since is None or last >= query.since):
                parts.append((last if until is None else min(last, until), _backwards(descriptor, path, until, budget)))
        for line in _newest_first(parts):
            if query.since is not None and line.at < query.since:
                break
            passed = passed + 1 if place is not None and place.at == line.at else 1
            place = PlaceInLog(line.at, passed)
            if before is not None and line.at == before.at and passed <= before.lines:
                continue
            if query.wants(line):
                found.append(line)
                if len(found) == limit:
                    return LogPage(tuple(found), str(place), None, tuple(not_searched))
            if budget.left <= 0:
                return LogPage(tuple(found), str(place), line.at, tuple(not_searched))
    return LogPage(tuple(found), "", None, tuple(not_searched))


@dataclass(slots=True)
class _Budget:
    """How many bytes may still be read for this page."""

    left: int


def _files(directory: Path) -> tuple[list[Path], list[str]]:
    """Logs in a folder, full ones too, each process's newest first; and names of those that are compressed."""
    found, compressed = [], []
    for entry in os.scandir(directory):
        name, _, number = entry.name.partition(f"{SUFFIX}.")
        if entry.name.endswith(SUFFIX) or (name and number.isdecimal()):
            found.append((entry.stat().st_mtime_ns, entry.name))
        elif name and number:
            compressed.append(entry.name)
    chosen = sorted(found, reverse=True)
    left_out = sorted(name for _, name in chosen[MOST_FILES:])
    return [directory / name for name in sorted(name for _, name in chosen[:MOST_FILES])], sorted(compressed) + left_out


def _newest_first(parts: Sequence[tuple[dt.datetime, Iterator[LogLine]]]) -> Iterator[LogLine]:
    """Merge the lines of files, each the newest first; a file is not read before its newest line is due."""
    heap: list[tuple[dt.timedelta, int, LogLine | None]] = [
        (_END - at, number, None) for number, (at, _) in enumerate(parts)
    ]
    heapq.heapify(heap)
    while heap:
        _, number, line = heap[0]
        if line is not None:
            yield line
        following = next(parts[number][1], None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (_END - following.at, number, following))


def _backwards(descriptor: int, path: Path, until: dt.datetime | None, budget: _Budget) -> Iterator[LogLine]:
    """Lines of a file, the last first, from those of a time on."""
    size = os.fstat(descriptor).st_size
    end = size if until is None else _end_of(descriptor, size, until)
    rest, latest = b"", _END
    while end > 0:
        start = max(0, end - BLOCK)
        data = os.pread(descriptor, end - start, start) + rest
        budget.left -= end - start
        lines = data.split(b"\n")
        # The first is whole only where the file begins.
        rest, end = (lines.pop(0), start) if start else (b"", 0)
        if len(rest) > LONGEST_LINE:
            # Not written by a process of the node.
            rest = b""
        for one in reversed(lines):
            line = _read(one, path)
            if line is not None and (until is None or line.at <= until):
                # Lines that came into the file in another way do not upset the order of the rest.
                latest = min(line.at, latest)
                yield line if line.at == latest else replace(line, at=latest)


def _end_of(descriptor: int, size: int, until: dt.datetime) -> int:
    """Bytes of a file before the first line that was written later than a time."""
    first = _first_time(descriptor, 0)
    if first is not None and first > until:
        return 0
    low, high = 0, size
    while high - low > LONGEST_LINE:
        middle = (low + high) // 2
        at = _first_time(descriptor, middle)
        low, high = (middle, high) if at is not None and at <= until else (low, middle)
    # The first line after ``high`` that is later begins less than a line behind it.
    data = os.pread(descriptor, high - low + 2 * LONGEST_LINE, low)
    place = low
    for line in data.split(b"\n")[:-1]:
        at = time_of(line)
        if at is not None and at > until:
            return place
        place += len(line) + 1
    return min(low + len(data), size)


def _first_time(descriptor: int, place: int) -> dt.datetime | None:
    """When the first whole line from a place on was written; None where there is none nearby."""
    for length in (LONGEST_LINE // 8, 2 * LONGEST_LINE):
        lines = os.pread(descriptor, length, place).split(b"\n")
        found = next((at for one in lines[1 if place else 0 : -1] if (at := time_of(one)) is not None), None)
        if found is not None:
            return found
    return None


def _read(data: bytes, path: Path) -> LogLine | None:
    try:
        told = json.loads(data)
        at = dt.datetime.fromisoformat(told["timestamp"])
    except (ValueError, TypeError, KeyError):
        return None
    if at.tzinfo is None:
        return None
    host, _, role = path.name.partition(SUFFIX)[0].rpartition(".")
    return LogLine(
        at=at,
        level=str(told.get("level", "")),
        host=str(told.get("host", host)),
        role=str(told.get("role", role)),
        event=str(told.get("event", "")),
        values={name: value for name, value in told.items() if name not in _KNOWN},
    )


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)
