"""Open associations of a node, and what its journals hold, counted over all its receiver processes."""

from __future__ import annotations

import ctypes
import multiprocessing
import threading
import time
import zlib
from collections.abc import Iterable, Sequence

__all__ = ["PlaceTable", "Places"]

_OPEN, _ARRIVING, _ACKNOWLEDGED, _FILED, _FIXED = 0, 1, 2, 3, 4
_LOOK_S = 0.005
_OTHERS = 1024


class PlaceTable:
    """Shared memory with one row a process; picklable into a process that is being spawned.

    A row has one writer. It is set to zero when its process starts and when its supervisor sees it dead, so that a
    killed process does not go on occupying places. What it had acknowledged and not filed stays counted, until the
    process that takes its place has filed it.

    Parameters
    ----------
    processes
        Number of rows.
    peers
        Names whose associations are counted apart. Any other name, such as an address, shares one of many columns with
        those of the same checksum.
    """

    def __init__(self, processes: int, peers: Iterable[str] = ()) -> None:
        self.processes = processes
        self.columns = {name: _FIXED + number for number, name in enumerate(sorted(peers))}
        self._width = _FIXED + len(self.columns) + _OTHERS
        # Not shared by a lock: a process that is killed while it holds one would stop its siblings.
        self._cells = multiprocessing.get_context("spawn").RawArray(ctypes.c_int32, processes * self._width)

    def clear(self, row: int) -> None:
        """Free all places of a process that is dead or starts."""
        for column in range(self._width):
            if column not in (_ACKNOWLEDGED, _FILED):
                self.write(row, column, 0)

    def await_filed(self, patience_s: float) -> bool:
        """Wait until all that the processes have acknowledged by now is in the ledger; false when it is not in time."""
        until = time.monotonic() + patience_s
        awaited = [self.read(row, _ACKNOWLEDGED) for row in range(self.processes)]
        while any(self.read(row, _FILED) < awaited[row] for row in range(self.processes)):
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_S)
        return True

    def unfiled(self) -> int:
        """How many instances are acknowledged and not in the ledger yet, in all processes."""
        return sum(self.read(row, _ACKNOWLEDGED) - self.read(row, _FILED) for row in range(self.processes))

    def read(self, row: int, column: int) -> int:
        """One cell."""
        return int(self._cells[row * self._width + column])

    def write(self, row: int, column: int, value: int) -> None:
        """Set one cell of one's own row."""
        self._cells[row * self._width + column] = value

    def column_of(self, name: str) -> int:
        """Where the associations of a peer or an address are counted."""
        if name in self.columns:
            return self.columns[name]
        return self._width - 1 - zlib.crc32(name.encode()) % _OTHERS

    def total(self, name: str | None = None) -> int:
        """Open associations of a peer or an address, or of all, in all processes."""
        column = _OPEN if name is None else self.column_of(name)
        return sum(self.read(row, column) for row in range(self.processes))

    def load(self, row: int) -> int:
        """What a process has to serve: its associations, and connections that will be some in a moment."""
        return self.read(row, _OPEN) + self.read(row, _ARRIVING)


class Places:
    """The row of one process, for that process."""

    def __init__(self, table: PlaceTable, row: int) -> None:
        self.table, self._row = table, row
        self._lock = threading.Lock()
        self._before: int | None = None
        table.clear(row)

    def enter(self, names: Sequence[str] = ()) -> None:
        """Count one more association, also for each of these peers and addresses.

        Count first, then look whether there are too many: two processes that do so at once may both give up, but never
        both go on.
        """
        self._add(names, 1)

    def leave(self, names: Sequence[str] = ()) -> None:
        """Count one association less."""
        self._add(names, -1)

    def arriving(self, connections: int) -> None:
        """Publish how many connections have come in just now and are not yet associations."""
        self.table.write(self._row, _ARRIVING, connections)

    def ahead(self) -> int:
        """How much more this process has to serve than the one with the least."""
        return self.table.load(self._row) - min(self.table.load(row) for row in range(self.table.processes))

    def journalled(self, acknowledged: int, filed: int) -> None:
        """Publish how many instances this process has acknowledged by its journal, and how many it has filed."""
        if self._before is None:
            # Counted on from the process before, of which this one has left to file what it is told first.
            self._before = self.table.read(self._row, _ACKNOWLEDGED) - acknowledged
        # In this order: who looks meanwhile waits too long rather than too short.
        self.table.write(self._row, _ACKNOWLEDGED, self._before + acknowledged)
        self.table.write(self._row, _FILED, self._before + filed)

    def _add(self, names: Sequence[str], change: int) -> None:
        with self._lock:
            for column in (_OPEN, *map(self.table.column_of, names)):
                self.table.write(self._row, column, self.table.read(self._row, column) + change)
