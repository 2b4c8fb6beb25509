"""What a process did to its disk, recorded by ``disk.c``, and what a power cut at any moment would have left of it.

POSIX promises of a write only that it is there after a flush of its file, and of a name only that it is there after a
flush of its directory; file systems keep more, each in its way. :func:`after_power_cut` keeps what was promised and, of
the rest, what a generator of random numbers picks: each page of each write by itself, each name by itself.
"""

from __future__ import annotations

import enum
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from absence import absent

SOURCE = Path(__file__).with_name("disk.c")
PAGE = 4096
_head = struct.Struct("<BQQQQ")


class Kind(enum.Enum):
    """A record of ``disk.c``."""

    OPENED = 1
    MADE_DIRECTORY = 2
    WRITTEN = 3
    CUT_TO = 4
    FLUSHED = 5
    RENAMED = 6
    LINKED = 7
    UNLINKED = 8
    SENT = 9
    FLUSHED_ALL = 10
    """Of the whole file system (syncfs)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One call, in the order in which the disk, or the network, saw them."""

    kind: Kind
    inode: int
    at: int
    """Offset of a write; length of a file that was cut."""
    one: bytes
    two: bytes


def library(folder: Path, source: Path = SOURCE) -> Path:
    """A library to preload, compiled: ``disk.c``, or another."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        absent("there is no C compiler: apt-get install gcc libc6-dev")
    target = folder / source.with_suffix(".so").name
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", target, source, "-ldl", "-lpthread"], check=True)
    return target


def records(file: Path) -> Iterator[Record]:
    """Read them; the last may break off where the process was killed."""
    data = file.read_bytes()
    offset = 0
    while offset + _head.size <= len(data):
        kind, inode, at, one, two = _head.unpack_from(data, offset)
        start, offset = offset + _head.size, offset + _head.size + one + two
        if offset > len(data):
            return
        yield Record(Kind(kind), inode, at, data[start : start + one], data[start + one : offset])


@dataclass(slots=True)
class _File:
    """A file: what is promised of it, and what was done to it since."""

    flushed: bytearray = field(default_factory=bytearray)
    since: list[Record] = field(default_factory=list)


@dataclass(slots=True)
class Disk:
    """The state of a disk while records are played to it.

    Attributes
    ----------
    names
        What each path names now: a file, or ``None`` for a directory.
    """

    root: str
    names: dict[str, _File | None] = field(default_factory=dict)
    flushed_names: dict[str, _File | None] = field(default_factory=dict)
    changed_names: list[tuple[str, _File | None, bool]] = field(default_factory=list)
    """Since the flush of their directory: path, what it named, and whether it was given that name or lost it."""
    _files: dict[int, _File] = field(default_factory=dict)

    def play(self, record: Record) -> None:
        """Go one step on."""
        one, two = record.one.decode("latin-1"), record.two.decode("latin-1")
        match record.kind:
            case Kind.OPENED:
                self._files[record.inode] = _File()
                self._name(one, self._files[record.inode])
            case Kind.MADE_DIRECTORY:
                self._name(one, None)
            case Kind.WRITTEN | Kind.CUT_TO:
                self._files[record.inode].since.append(record)
            case Kind.FLUSHED if record.inode in self._files and self.names.get(one, 0) is not None:
                file = self._files[record.inode]
                file.flushed, file.since = _done(file.flushed, file.since), []
            case Kind.FLUSHED:
                self._flush_directory(one)
            case Kind.FLUSHED_ALL:
                for every in self._files.values():
                    every.flushed, every.since = _done(every.flushed, every.since), []
                for directory in {os.path.dirname(path) for path, _, _ in self.changed_names}:  # noqa: PTH120
                    self._flush_directory(directory)
            case Kind.RENAMED:
                file = self.names[one]
                self._unname(one)
                self._name(two, file)
            case Kind.LINKED:
                self._name(two, self.names[one])
            case Kind.UNLINKED:
                self._unname(one)
            case Kind.SENT:
                pass

    def _name(self, path: str, file: _File | None) -> None:
        self.names[path] = file
        self.changed_names.append((path, file, True))

    def _unname(self, path: str) -> None:
        self.changed_names.append((path, self.names.pop(path), False))

    def _flush_directory(self, directory: str) -> None:
        left = []
        for change in self.changed_names:
            path, file, is_there = change
            if os.path.dirname(path) != directory:  # noqa: PTH120 - thousands of times for each cut
                left.append(change)
            elif is_there:
                self.flushed_names[path] = file
            else:
                self.flushed_names.pop(path, None)
        self.changed_names = left


def _done(content: bytearray, changes: Sequence[Record]) -> bytearray:
    content = bytearray(content)
    for change in changes:
        if change.kind is Kind.CUT_TO:
            del content[change.at :]
            content.extend(bytes(change.at - len(content)))
        else:
            content.extend(bytes(max(0, change.at - len(content))))
            content[change.at : change.at + len(change.two)] = change.two
    return content


def _some(file: _File, generator: random.Random, survival: float) -> bytearray:
    """What is left of a file: each page of each write since the flush is there or not."""
    kept: list[Record] = []
    for change in file.since:
        if change.kind is Kind.CUT_TO:
            if generator.random() < survival:
                kept.append(change)
            continue
        start = 0
        while start < len(change.two):
            size = min(PAGE - (change.at + start) % PAGE, len(change.two) - start)
            if generator.random() < survival:
                kept.append(Record(change.kind, change.inode, change.at + start, b"", change.two[start : start + size]))
            start += size
    return _done(file.flushed, kept)


def after_power_cut(disk: Disk, target: Path, generator: random.Random, survival: float) -> None:
    """Write into ``target`` what is left after a cut at this moment.

    Parameters
    ----------
    survival
        How probable it is that a page or a name which was not flushed is there nevertheless: 0 to 1.
    """
    names = dict(disk.flushed_names)
    for path, file, is_there in disk.changed_names:
        if generator.random() < survival:
            if is_there:
                names[path] = file
            else:
                names.pop(path, None)
    contents: dict[int, bytearray] = {}
    for path, file in sorted(names.items()):
        place = target / os.path.relpath(path, disk.root)
        # What lies in a directory whose own name is lost is lost with it.
        if not place.parent.is_dir():
            continue
        if file is None:
            place.mkdir(exist_ok=True)
        else:
            place.write_bytes(contents.setdefault(id(file), _some(file, generator, survival)))
