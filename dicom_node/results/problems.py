"""What the gate says of a result object that may not leave."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["GateCheck", "Problem", "in_short"]

_SHOWN = 3


class GateCheck(enum.StrEnum):
    """One kind of check."""

    IOD = "IOD"
    IDENTITY = "identity"
    REFERENCES = "references"
    PIXELS = "pixels"
    GEOMETRY = "geometry"
    NUMBERS = "numbers"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an object may not leave."""

    check: GateCheck
    sentence: str
    """What is wrong, with no patient data."""

    def __str__(self) -> str:
        return f"{self.check.value}: {self.sentence}"


def in_short(problems: Sequence[Problem]) -> str:
    """Say the first few of many problems, and how many more there are: one fault repeats itself for each image."""
    said = "; ".join(map(str, problems[:_SHOWN]))
    more = len(problems) - _SHOWN
    return f"{said}; and {more} more" if more > 0 else said
