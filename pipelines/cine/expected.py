"""How many phases a slice of a cine has when it is complete: asked while images come, and when its stack is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

__all__ = ["expected_phases", "most_frequent"]


def expected_phases(received: int, *, declared: int | None, usual: int, as_usual: bool) -> int:
    """Phases of a slice when it is complete.

    Parameters
    ----------
    received : int
        From the first to the last that has come.
    declared : int or None
        Number that its own headers state; ``None`` where they state none, or none that can be believed.
    usual : int
        Phases of the slices of its stack.
    as_usual : bool
        Whether it must have as many as those; else it was acquired with a number of its own.

    Returns
    -------
    int
        At least ``received``.
    """
    if declared is not None and received <= declared:
        return declared
    return max(received, usual) if as_usual else received


def most_frequent(numbers: Iterable[int | None]) -> int | None:
    """The most frequent number, of several the largest; ``None`` where there is none."""
    counts = Counter(number for number in numbers if number is not None)
    return max(counts, key=lambda number: (counts[number], number), default=None)
