"""The numbers that go into a radiologist's report: with unit, bounds, method and normal range."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ReportedNumber", "numbers_from", "numbers_record", "reported_numbers", "unit_of"]

_UNITS = (
    ("_ml_m2", "ml/m2"),
    ("_g_m2", "g/m2"),
    ("_l_min_m2", "l/min/m2"),
    ("_l_min", "l/min"),
    ("_ml_s", "ml/s"),
    ("_mm_s", "mm/s"),
    ("_cm_s", "cm/s"),
    ("_per_s", "/s"),
    ("_percent", "%"),
    ("_bpm", "/min"),
    ("_degrees", "deg"),
    ("_ml", "ml"),
    ("_mm", "mm"),
    ("_ms", "ms"),
    ("_g", "g"),
    ("_m2", "m2"),
)


@dataclass(frozen=True, slots=True)
class ReportedNumber:
    """One number as it is told outside of DICOM, too.

    Attributes
    ----------
    name : str
        As in ``results.json``, the unit at its end: ``LVEF_percent``.
    unit : str
        UCUM; ``1`` for a number without one.
    method : str
        How it was obtained, one sentence; empty where the package does not say.
    version : str
        Name and version of the package that measured it.
    lower, upper : float or None
        95 % bounds of the measurement.
    normal_lower, normal_upper : float or None
        Of people of the patient's sex and, where the table has it, age.
    normal_source : str
        Where the normal range is from.
    """

    name: str
    value: float
    unit: str
    method: str = ""
    version: str = ""
    lower: float | None = None
    upper: float | None = None
    normal_lower: float | None = None
    normal_upper: float | None = None
    normal_source: str = ""

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval of the measurement; ``None`` where it has none."""
        return None if self.lower is None or self.upper is None else (self.upper - self.lower) / 2

    @property
    def flag(self) -> str:
        """Below, above or within its normal range: L, H or N (HL7 table 0078); empty where it has none."""
        if self.normal_lower is None or self.normal_upper is None:
            return ""
        return "L" if self.value < self.normal_lower else "H" if self.value > self.normal_upper else "N"


def unit_of(name: str) -> str:
    """UCUM unit of a number by the end of its name; ``1`` where it has none."""
    return next((unit for suffix, unit in _UNITS if name.endswith(suffix)), "1")


def reported_numbers(
    described: Sequence[ReportedNumber], plain: Mapping[str, float], version: str
) -> tuple[ReportedNumber, ...]:
    """All numbers of a package: those that its encoder described, and the others by name and value alone."""
    known = {one.name for one in described}
    others = (ReportedNumber(name, value, unit_of(name)) for name, value in plain.items() if name not in known)
    return tuple(dataclasses.replace(one, version=version) for one in (*described, *others) if math.isfinite(one.value))


def numbers_record(numbers: Iterable[ReportedNumber]) -> list[dict[str, Any]]:
    """The numbers as the ledger keeps them; what is absent is left out."""
    rows = map(dataclasses.asdict, numbers)
    return [{key: value for key, value in row.items() if value not in (None, "")} for row in rows]


def numbers_from(record: Iterable[Mapping[str, Any]]) -> tuple[ReportedNumber, ...]:
    """Read the numbers that :func:`numbers_record` wrote; keys of a later version are passed over."""
    known = {field.name for field in dataclasses.fields(ReportedNumber)}
    return tuple(ReportedNumber(**{key: value for key, value in one.items() if key in known}) for one in record)
