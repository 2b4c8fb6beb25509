"""How much of files is read."""

from __future__ import annotations

import os

import pytest

__all__ = ["count_reads"]


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what ``os.pread`` reads from now on; the one number of the list, which may be set back."""
    read = [0]

    def counted(descriptor: int, length: int, place: int, of: object = os.pread) -> bytes:
        data: bytes = of(descriptor, length, place)  # type: ignore[operator]
        read[0] += len(data)
        return data

    monkeypatch.setattr("os.pread", counted)
    return read
