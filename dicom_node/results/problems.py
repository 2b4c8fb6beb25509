"""What the gate says of a result object that may not leave."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["GateCheck", "Problem"]


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
