"""How what the analyses come to moves from month to month, by scanner: refusals, confidence, ejection fraction."""

from __future__ import annotations

import datetime as dt
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from storage.figures import EndedJob
from storage.schema import Verdict

__all__ = ["Bar", "Chart", "DriftRow", "chart", "drift"]

YEAR = dt.timedelta(days=366)
NUMBER = "LVEF_percent"
_CONFIDENCE = re.compile(r"Confidence: (EXCELLENT|GOOD|POOR|UNUSABLE)\b")
_MEANT = frozenset({"ventricular_function"})
"""Whose numbers hold the ejection fraction, and whose sentences the confidence."""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 220, 40, 28, 10
LOW, HIGH = 0.0, 100.0
FEWEST = 3
"""Below so many studies a month has no quartiles."""


@dataclass(frozen=True, slots=True)
class DriftRow:
    """One package, scanner and month."""

    package: str
    scanner: str
    month: str
    """``YYYY-MM``, UTC."""
    studies: int
    declined: int
    failed: int
    confidence: Mapping[str, int]
    """How many of which grade."""
    ejection_fractions: tuple[float, ...]
    """In order, %."""

    @property
    def quartiles(self) -> tuple[float, float, float] | None:
        """First quartile, median and third quartile; none of fewer than three studies."""
        if len(self.ejection_fractions) < FEWEST:
            return None
        first, median, third = statistics.quantiles(self.ejection_fractions, n=4, method="inclusive")
        return first, median, third


@dataclass(frozen=True, slots=True)
class Bar:
    """Quartiles of one month in a chart, user units."""

    x: float
    low: float
    high: float
    median: float
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Ejection fractions of one scanner over the months, as SVG has it."""

    scanner: str
    bars: tuple[Bar, ...]
    months: tuple[tuple[float, str], ...]
    lines: tuple[tuple[float, str], ...]
    """Where the lines of the scale lie, and their numbers."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT


def drift(jobs: Iterable[EndedJob]) -> tuple[DriftRow, ...]:
    """Count by package, scanner and month, the latest month first."""
    groups: dict[tuple[str, str, str], list[EndedJob]] = {}
    for one in jobs:
        groups.setdefault((one.package, one.scanner, f"{one.at:%Y-%m}"), []).append(one)
    rows = [_row(key, members) for key, members in groups.items()]
    return tuple(sorted(rows, key=lambda row: (row.package, row.scanner, [-ord(sign) for sign in row.month])))


def _row(key: tuple[str, str, str], members: Sequence[EndedJob]) -> DriftRow:
    package, scanner, month = key
    sentences = (sentence for one in members for sentence in one.key_numbers)
    grades = Counter(match[1].lower() for one in sentences if (match := _CONFIDENCE.search(one)))
    fractions = [one.numbers[NUMBER] for one in members if package in _MEANT and NUMBER in one.numbers]
    return DriftRow(
        package,
        scanner,
        month,
        len(members),
        sum(one.verdict is Verdict.DECLINED for one in members),
        sum(one.verdict is Verdict.FAILED for one in members),
        grades,
        tuple(sorted(fractions)),
    )


def chart(rows: Sequence[DriftRow], scanner: str) -> Chart | None:
    """The ejection fractions of a scanner; none where no month has enough studies."""
    months = sorted({row.month for row in rows})
    own = {row.month: row.quartiles for row in rows if row.scanner == scanner and row.quartiles is not None}
    if not own:
        return None
    step = (WIDTH - LEFT) / len(months)
    places = {month: LEFT + step * (index + 0.5) for index, month in enumerate(months)}
    # Every month has its bar; of many, every other one its name.
    named = months[:: 1 + len(months) // 9]
    return Chart(
        scanner,
        tuple(
            Bar(
                round(places[month], 1),
                _height(third),
                _height(first),
                _height(median),
                f"{month}: median {median:.0f} %, quartiles {first:.0f} to {third:.0f} %",
            )
            for month, (first, median, third) in sorted(own.items())
        ),
        tuple((round(places[month], 1), month) for month in named),
        tuple((_height(value), f"{value:.0f}") for value in (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)),
    )


def _height(value: float) -> float:
    part = (min(max(value, LOW), HIGH) - LOW) / (HIGH - LOW)
    return round(HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP), 1)
