"""The journal of a receiver process: instances that are on the disk already, and not yet files and rows of the ledger.

An instance is written whole into a **segment**, a file that has its full length beforehand, so that flushing it writes
data and nothing else. Whatever all associations of the process have ready shares one flush, and after it their senders
may be told Success. A thread behind files what the segments hold, many instances at a time: it writes their files,
flushes the file system once, and commits their rows. A segment is written over, or removed, only when all that it holds
has gone that way. So each acknowledged instance is in the ledger, or in a segment, whatever happens at any moment.

A segment begins with :data:`_HEADER`; its records follow from :data:`FIRST` on, one after the other: :data:`_RECORD`,
the facts of the instance as JSON, the content of its file. An epoch tells what was written since the segment was last
taken into use from what was there before. A record counts when all but its data set have their checksum, and its data
set has the digest that its file is named by. The first record that does not is the torn end: whoever was told Success
waited for a flush of all that was written before.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from storage.files import DIRECTORY_MODE, FILE_MODE, InstanceFiles, flush_directory
from storage.instances import ReceivedInstance

__all__ = [
    "JOURNAL",
    "Journal",
    "JournalledInstance",
    "Segment",
    "await_filed",
    "left_segments",
    "read_segment",
    "unfiled",
]

JOURNAL = "journal"
"""Folder of the storage directory."""
SEGMENTS = 2
"""Of a process: one is written while the other is emptied."""
FIRST = 4096
MAXIMUM_BATCH = 256

_MAGIC = b"DNJ1"
_HEADER = struct.Struct("<4sQQ")
"""Magic, number in the order in which segments were taken into use, epoch; crc32 follows."""
_RECORD = struct.Struct("<4sLLLQ")
"""Magic, lengths of facts, File Meta Information and data set, epoch; crc32 of this and of the first two follows."""
_CHECKSUM = struct.Struct("<L")
_PROGRESS = struct.Struct("<Q")
"""Where the records begin that are not filed yet; crc32 of epoch and this follows."""
_PROGRESS_AT = 64
_HEAD_SIZE = _PROGRESS_AT + _PROGRESS.size + _CHECKSUM.size
_GATHER_S = 0.1
"""How long instances gather before they are filed, unless somebody waits for them."""
_RETRY_S = 0.5
_BLOCK = 1 << 20
_LOOK_S = 0.02
_FACTS = tuple(name for name in ReceivedInstance.__dataclass_fields__ if name != "facts")


@dataclass(frozen=True, slots=True, eq=False)
class JournalledInstance:
    """An instance in a segment, and the content of its file."""

    instance: ReceivedInstance
    """Its path is where its file will be."""
    content: memoryview
    end: int = 0
    """Of its record in the segment."""


@dataclass(slots=True, eq=False)
class Segment:
    """A segment that this process has the lock of."""

    path: Path
    descriptor: int
    view: mmap.mmap
    epoch: int = 0
    end: int = 0
    """Where the next record goes."""
    unfiled: int = 0
    """Records that are not in the ledger yet."""

    def remove(self) -> None:
        """Remove the file; nothing that it holds is needed any more."""
        self.path.unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """Let go of the file and of its lock; nothing that was read from it may be used any more."""
        self.view.close()
        os.close(self.descriptor)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A record that is written, for whoever waits for its flush."""

    segment: Segment
    journalled: JournalledInstance
    ready: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    flushed: bool = False


class Journal:
    """The segments of one receiver process, and the thread that files what they hold.

    Parameters
    ----------
    files
        Of the storage directory.
    name
        Of the process, the same after a restart.
    size
        Of all segments together, bytes: the bound of what is acknowledged and not yet in the ledger.
    file
        Brings instances into files and ledger, all of them or none as far as it raises; called in one thread, oldest
        instances first, and with the same again when it raised.
    count
        Told how many instances have been acknowledged, how many of them are filed, and how many bytes are not.
    broke
        Told once why the journal takes nothing more until the process starts again: its disk failed.
    """

    def __init__(
        self,
        files: InstanceFiles,
        name: str,
        size: int,
        file: Callable[[Sequence[JournalledInstance]], None],
        count: Callable[[int, int, int], None] = lambda _acknowledged, _filed, _bytes: None,
        broke: Callable[[OSError], None] = lambda _error: None,
    ) -> None:
        self._files, self._name, self._size = files, name, size // SEGMENTS
        self._file, self._count, self._broke = file, count, broke
        self._segments: list[Segment] = []
        self._active: Segment | None = None
        self._wanted = self._broken = self._failing = self._hurried = self._closing = self._flushing = False
        self._waiting: list[_Waiting] = []
        self._unfiled: list[_Waiting] = []
        self._acknowledged = self._lag = 0
        self._uids: set[str] = set()
        self._associations: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        for segment, records in left_segments(files, f"{name}."):
            if not records:
                segment.remove()
                continue
            segment.unfiled = len(records)
            waiting = [_Waiting(segment, one) for one in records]
            for one in waiting:
                self._note(one)
            self._unfiled += waiting
            self._segments.append(segment)
        self._acknowledged = len(self._unfiled)
        self._tell()
        self.left = len(self._unfiled)
        """Instances that the process before this one had acknowledged, or was about to, and had not filed."""
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def append(self, instance: ReceivedInstance, file_meta: bytes, data: bytes | bytearray) -> bool:
        """Write an instance and flush it; after it the sender may be told Success.

        Returns
        -------
        bool
            False when the journal cannot take it: it is full, was not wanted before, holds this SOP Instance UID
            already, or its disk or what files its instances fails. The instance takes the way without the journal then.
        """
        facts = json.dumps([getattr(instance, name) for name in _FACTS], separators=(",", ":")).encode()
        with self._lock:
            segment = self._room(instance, _RECORD.size + _CHECKSUM.size + len(facts) + len(file_meta) + len(data))
            if segment is None:
                return False
            head = _RECORD.pack(_MAGIC, len(facts), len(file_meta), len(data), segment.epoch)
            head += _CHECKSUM.pack(zlib.crc32(file_meta, zlib.crc32(facts, zlib.crc32(head))))
            start = segment.end + len(head) + len(facts)
            end = start + len(file_meta) + len(data)
            try:
                if os.pwritev(segment.descriptor, (head, facts, file_meta, data), segment.end) != end - segment.end:
                    return False
            except OSError as error:
                self._break(error)
                return False
            segment.end = end
            segment.unfiled += 1
            mine = _Waiting(segment, JournalledInstance(instance, memoryview(segment.view)[start:end], end))
            self._note(mine)
            self._waiting.append(mine)
            mine.leads = not self._flushing
            self._flushing = True
        if not mine.leads:
            mine.ready.wait()
        if mine.leads:
            self._flush()
        return mine.flushed

    def holds(self, association_id: str) -> bool:
        """Whether instances of an association are not filed yet."""
        with self._lock:
            return association_id in self._associations

    def settle(self, association_id: str, patience_s: float) -> bool:
        """Wait until all instances of an association are filed; false when they are not in time."""
        return self._settle(lambda: association_id not in self._associations, patience_s)

    def settle_instance(self, sop_instance_uid: str, patience_s: float) -> bool:
        """Wait until whatever was acknowledged under a SOP Instance UID is filed; false when it is not in time."""
        return self._settle(lambda: sop_instance_uid not in self._uids, patience_s)

    def settle_left(self, patience_s: float) -> bool:
        """Wait until all that the process before had left is filed; false when it is not in time."""
        return self._settle(lambda: self._acknowledged - len(self._unfiled) >= self.left, patience_s)

    def close(self) -> None:
        """File what there is, and end; what cannot be filed now stays in the segments for the next start."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _settle(self, settled: Callable[[], bool], patience_s: float) -> bool:
        with self._changed:
            if settled():
                return True
            self._hurried = True
            self._changed.notify_all()
            return self._changed.wait_for(settled, patience_s)

    def _note(self, one: _Waiting) -> None:
        instance = one.journalled.instance
        self._uids.add(instance.sop_instance_uid)
        self._associations[instance.association_id] += 1
        self._lag += instance.size

    def _tell(self) -> None:
        self._count(self._acknowledged, self._acknowledged - len(self._unfiled), self._lag)

    def _room(self, instance: ReceivedInstance, size: int) -> Segment | None:
        if not self._wanted:
            # Not made at the start: who receives little never writes into one.
            self._wanted = True
            self._changed.notify_all()
        if self._broken or self._failing or self._closing or instance.sop_instance_uid in self._uids:
            return None
        active = self._active
        if active is not None and active.end + size <= self._size:
            return active
        for segment in self._segments:
            if segment is not active and not segment.unfiled and FIRST + size <= self._size and segment.epoch:
                self._active = self._take_into_use(segment)
                return self._active
        return None

    def _take_into_use(self, segment: Segment) -> Segment | None:
        # Flushed together with the first record: until then nothing in it counts, of this epoch or the one before.
        segment.epoch, segment.end = int.from_bytes(os.urandom(8), "little") | 1, FIRST
        head = _HEADER.pack(_MAGIC, time.time_ns(), segment.epoch)
        head = (head + _CHECKSUM.pack(zlib.crc32(head))).ljust(_PROGRESS_AT, b"\0")
        try:
            os.pwrite(segment.descriptor, head + _progress(segment.epoch, FIRST), 0)
        except OSError as error:
            self._break(error)
            return None
        return segment

    def _break(self, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            self._broke(error)

    def _flush(self) -> None:
        """Flush for all that wait now; whoever has come meanwhile leads the next flush."""
        with self._lock:
            batch, self._waiting = self._waiting, []
        failure: OSError | None = None
        try:
            for descriptor in {one.segment.descriptor for one in batch}:
                os.fdatasync(descriptor)
        except OSError as error:
            failure = error
        with self._changed:
            # After a flush that failed nobody knows what is on the disk: the journal takes nothing more until the
            # process starts again, and its instances, acknowledged or not, are filed.
            if failure is not None:
                self._break(failure)
            for one in batch:
                one.flushed = failure is None
            self._unfiled += batch
            self._acknowledged += len(batch)
            self._tell()
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].ready.set()
            else:
                self._flushing = False
            self._changed.notify_all()
        for one in batch:
            one.ready.set()

    # In the thread behind.

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unfiled or self._closing or self._lacks_segments())
                if not self._unfiled and self._closing:
                    break
                lacks = self._lacks_segments()
            if lacks:
                self._make_segments()
                continue
            with self._changed:
                self._changed.wait_for(
                    lambda: self._hurried or self._closing or len(self._unfiled) >= MAXIMUM_BATCH, _GATHER_S
                )
                batch = self._unfiled[:MAXIMUM_BATCH]
                self._hurried = len(batch) < len(self._unfiled)
            try:
                self._file([one.journalled for one in batch])
            except Exception:  # noqa: BLE001 - whatever keeps them from being filed may pass; they stay where they are
                with self._changed:
                    self._failing = True
                    if self._closing:
                        break
                    self._changed.wait_for(lambda: self._closing, _RETRY_S)
                continue
            _note_progress(batch)
            with self._changed:
                self._failing = False
                self._forget(batch)
                self._changed.notify_all()
        with self._changed:
            # Whoever has written flushes, and is answered; this ends after them.
            self._changed.wait_for(lambda: not self._flushing)
            for one in self._unfiled:
                one.journalled.content.release()
            for segment in self._segments:
                if segment.unfiled:
                    segment.leave()
                else:
                    segment.remove()
            self._segments = []
            self._active = None

    def _forget(self, batch: Sequence[_Waiting]) -> None:
        self._unfiled = self._unfiled[len(batch) :]
        for one in batch:
            instance = one.journalled.instance
            one.journalled.content.release()
            one.segment.unfiled -= 1
            self._lag -= instance.size
            self._uids.discard(instance.sop_instance_uid)
            self._associations[instance.association_id] -= 1
            if not self._associations[instance.association_id]:
                del self._associations[instance.association_id]
        for segment in [one for one in self._segments if not one.epoch and not one.unfiled]:
            # Left by the process before: it may be of another length.
            self._segments.remove(segment)
            segment.remove()
        self._tell()

    def _lacks_segments(self) -> bool:
        ready = sum(1 for segment in self._segments if segment.epoch)
        return self._wanted and ready < SEGMENTS and not (self._broken or self._closing)

    def _make_segments(self) -> None:
        folder = self._files.root / JOURNAL
        try:
            new = not folder.exists()
            folder.mkdir(DIRECTORY_MODE, exist_ok=True)
            if new:
                flush_directory(self._files.root)
            segment = _new_segment(folder / f"{self._name}.{time.time_ns()}", self._size)
            flush_directory(folder)
        except OSError as error:
            # Images take the way without it; a receiver that starts anew tries again.
            with self._lock:
                self._break(error)
            return
        with self._lock:
            self._segments.append(segment)


def _new_segment(path: Path, size: int) -> Segment:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Written, not merely reserved: a flush of what was only reserved changes metadata too.
        block = bytes(_BLOCK)
        for at in range(0, size, _BLOCK):
            os.pwrite(descriptor, block[: size - at], at)
        os.fsync(descriptor)
        return Segment(path, descriptor, mmap.mmap(descriptor, size, prot=mmap.PROT_READ), epoch=1)
    except OSError:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise


def _progress(epoch: int, at: int) -> bytes:
    progress = _PROGRESS.pack(at)
    return progress + _CHECKSUM.pack(zlib.crc32(progress, epoch & 0xFFFFFFFF))


def _note_progress(batch: Sequence[_Waiting]) -> None:
    """Write down, and flush, what is filed: to be filed again once it has been removed, it would come back."""
    for segment, end in {one.segment: one.journalled.end for one in batch}.items():
        with contextlib.suppress(OSError):
            os.pwrite(segment.descriptor, _progress(_epoch(segment.view[:_HEAD_SIZE]), end), _PROGRESS_AT)
            os.fdatasync(segment.descriptor)


def _epoch(head: bytes) -> int:
    return int(_HEADER.unpack_from(head)[2])


def _unfiled_from(head: bytes) -> int:
    """Where the records begin that are not filed, by the first bytes of a segment."""
    (at,) = _PROGRESS.unpack_from(head, _PROGRESS_AT)
    whole = head[_PROGRESS_AT:_HEAD_SIZE] == _progress(_epoch(head), at)
    return int(at) if whole else FIRST


def left_segments(files: InstanceFiles, beginning: str = "") -> list[tuple[Segment, list[JournalledInstance]]]:
    """Segments that dead processes left, in the order in which they were written, and what is whole in them.

    Parameters
    ----------
    beginning
        Of the names of the segments that are looked for.

    Raises
    ------
    OSError
        The disk cannot be read.
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted((files.root / JOURNAL).iterdir()):
            if path.name.startswith(beginning) and (segment := _locked_segment(path)) is not None:
                found.append((_number(segment.view), segment))
    found.sort(key=lambda one: one[0])
    return [(segment, list(read_segment(segment.view))) for _, segment in found]


@dataclass(frozen=True, slots=True)
class _Extent:
    """What waits in a segment to be filed, as others see it."""

    epoch: int
    begin: int
    end: int
    sizes: tuple[int, ...]


def unfiled(directory: Path) -> tuple[int, int]:
    """How many instances wait in the journals of a storage directory to be filed, about now, and their bytes."""
    sizes = [size for extent in _extents(directory).values() for size in extent.sizes]
    return len(sizes), sum(sizes)


def await_filed(directory: Path, patience_s: float) -> bool:
    """Wait until all that is in the journals of a storage directory now is filed; false when it is not in time."""
    awaited = {path: extent for path, extent in _extents(directory).items() if extent.sizes}
    until = time.monotonic() + patience_s
    while awaited:
        now = _extents(directory)
        awaited = {
            path: extent
            for path, extent in awaited.items()
            if path in now and now[path].epoch == extent.epoch and now[path].begin < extent.end
        }
        if awaited and time.monotonic() > until:
            return False
        if awaited:
            time.sleep(_LOOK_S)
    return True


def _extents(directory: Path) -> dict[Path, _Extent]:
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for path in (directory / JOURNAL).iterdir():
            with contextlib.suppress(OSError), path.open("rb") as file:
                found[path] = _extent(file.fileno())
    return found


def _extent(descriptor: int) -> _Extent:
    head = os.pread(descriptor, _HEAD_SIZE, 0)
    if len(head) < _HEAD_SIZE or not head.startswith(_MAGIC):
        return _Extent(0, 0, 0, ())
    epoch, at = _epoch(head), _unfiled_from(head)
    begin, sizes = at, []
    while len(record := os.pread(descriptor, _RECORD.size, at)) == _RECORD.size:
        magic, facts_length, meta_length, data_length, of_epoch = _RECORD.unpack(record)
        if magic != _MAGIC or of_epoch != epoch:
            break
        sizes.append(meta_length + data_length)
        at += _RECORD.size + _CHECKSUM.size + facts_length + meta_length + data_length
    return _Extent(epoch, begin, at, tuple(sizes))


def _locked_segment(path: Path) -> Segment | None:
    """A segment that nobody else holds."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(descriptor).st_size
        if size < FIRST:
            # It was being made: nothing has ever been in it.
            path.unlink(missing_ok=True)
            os.close(descriptor)
            return None
        return Segment(path, descriptor, mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
    except BlockingIOError:
        os.close(descriptor)
        return None


def _number(view: mmap.mmap) -> int:
    magic, number, _ = _HEADER.unpack_from(view, 0)
    return int(number) if magic == _MAGIC else 0


def read_segment(view: mmap.mmap) -> Iterator[JournalledInstance]:
    """The records of a segment that were not filed yet, up to its torn end.

    Parameters
    ----------
    view
        Of the whole segment; open as long as what is yielded is used.
    """
    size = len(view)
    head = view[: _HEADER.size]
    magic, _, epoch = _HEADER.unpack(head)
    if magic != _MAGIC or _CHECKSUM.unpack_from(view, _HEADER.size)[0] != zlib.crc32(head):
        return
    at = _unfiled_from(view[:_HEAD_SIZE])
    while at + _RECORD.size + _CHECKSUM.size <= size:
        head = view[at : at + _RECORD.size]
        magic, facts_length, meta_length, data_length, of_epoch = _RECORD.unpack(head)
        start = at + _RECORD.size + _CHECKSUM.size
        at = start + facts_length + meta_length + data_length
        if magic != _MAGIC or of_epoch != epoch or at > size:
            return
        checked = view[start : start + facts_length + meta_length]
        if _CHECKSUM.unpack_from(view, start - _CHECKSUM.size)[0] != zlib.crc32(checked, zlib.crc32(head)):
            return
        instance = ReceivedInstance(**dict(zip(_FACTS, json.loads(checked[:facts_length]), strict=True)))
        content = memoryview(view)[start + facts_length : at]
        digest = hashlib.sha256(instance.transfer_syntax_uid.encode("ascii") + b"\0")
        digest.update(content[meta_length:])
        if digest.hexdigest() != instance.digest:
            content.release()
            return
        yield JournalledInstance(instance, content, at)
