"""One object on its way in: in memory while it is small, else in a file without a name."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dicom_node.errors import OutOfResourcesError

__all__ = ["IN_MEMORY_BYTES", "Spool"]

IN_MEMORY_BYTES = 1 << 20
_LOOK_EVERY_BYTES = 8 << 20


class Spool:
    """Collects an object piece by piece.

    Parameters
    ----------
    folder
        For what is too large for memory; the file vanishes with the process, however that ends.
    admits
        Whether so many more bytes may be written to the disk.
    """

    def __init__(self, folder: Path, admits: Callable[[int], bool]) -> None:
        self._folder, self._admits = folder, admits
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._mapped: mmap.mmap | None = None
        self._look_at = 0
        self.size = 0

    def on_disk_with(self, data: bytes) -> bool:
        """Whether writing this goes to the disk, and may take its time."""
        return self._file is not None or self.size + len(data) > IN_MEMORY_BYTES

    def write(self, data: bytes) -> None:
        """Add a piece.

        Raises
        ------
        OutOfResourcesError
            It would take the disk below the low watermark.
        OSError
            The disk does not take it.
        """
        if self.on_disk_with(data):
            if self.size >= self._look_at:
                if not self._admits(len(self._memory) + _LOOK_EVERY_BYTES):
                    raise OutOfResourcesError("the disk is nearly full", remedy="free space")
                self._look_at = self.size + _LOOK_EVERY_BYTES
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by close
                self._file.write(self._memory)
                self._memory = bytearray()
            self._file.write(data)
        else:
            self._memory += data
        self.size += len(data)

    def view(self) -> memoryview:
        """All of it, without a copy; valid until :meth:`close`."""
        if self._file is None:
            return memoryview(self._memory)
        self._file.flush()
        self._mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(self._mapped)

    def close(self) -> None:
        """Forget it."""
        self._memory = bytearray()
        if self._file is not None:
            # The map goes with the last view of it.
            self._mapped = None
            self._file.close()
