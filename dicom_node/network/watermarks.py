"""Free space of the storage directory: when to stop accepting objects, and when to start again."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dicom_node.metrics import STORAGE_CLOSED

__all__ = ["Watermarks"]

_MEGABYTE = 1_000_000


class Watermarks:
    """Two watermarks of free space, with hysteresis.

    Closed from the moment an object would leave less than the low watermark free until more than the high one is
    free again; without the gap a node at its limit would flap between accepting and refusing with every object.

    Parameters
    ----------
    free_bytes
        Free space at the moment.
    low_watermark_mb, high_watermark_mb
        Megabytes (10⁶ bytes) of free space.
    """

    def __init__(self, free_bytes: Callable[[], int], *, low_watermark_mb: int, high_watermark_mb: int) -> None:
        self._free_bytes = free_bytes
        self._closed = False
        self._lock = threading.Lock()
        self.move(low_watermark_mb, high_watermark_mb)
        # Said from the start: a gauge that nobody set yet reads as what a process before left there.
        STORAGE_CLOSED.set(self._closed)

    def move(self, low_watermark_mb: int, high_watermark_mb: int) -> None:
        """Go on with other watermarks."""
        with self._lock:
            self._low, self._high = low_watermark_mb * _MEGABYTE, high_watermark_mb * _MEGABYTE

    def admits(self, size: int) -> bool:
        """Whether an object of ``size`` bytes may be written now."""
        free = self._free_bytes()
        with self._lock:
            before = self._closed
            if self._closed and free >= self._high:
                self._closed = False
            if free - size < self._low:
                self._closed = True
            if self._closed is not before:
                STORAGE_CLOSED.set(self._closed)
            return not self._closed
