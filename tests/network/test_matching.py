"""Attribute matching against plain references: every string of a small alphabet, every moment of a small calendar."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.network.matching import is_single_value, matches

TEXT = st.text(alphabet="ab^*?", max_size=8)
VALUES = st.text(alphabet="ab^", min_size=1, max_size=8)
DAYS = st.dates(dt.date(1999, 12, 25), dt.date(2000, 1, 10))
SECONDS = st.integers(0, 86399)


def slow_match(key: str, value: str) -> bool:
    """Wildcards by their definition: an asterisk is any string, a question mark any one character."""
    if not key:
        return not value
    if key[0] == "*":
        return any(slow_match(key[1:], value[skip:]) for skip in range(len(value) + 1))
    return bool(value) and key[0] in ("?", value[0]) and slow_match(key[1:], value[1:])


@given(key=TEXT, value=VALUES)
def test_wildcards_match_by_their_definition(key: str, value: str) -> None:
    assert matches("LO", key, [value]) == (not key or slow_match(key, value))


@given(key=st.text(alphabet="aA^*?", max_size=6), value=st.text(alphabet="aA^", min_size=1, max_size=6))
def test_names_match_without_regard_to_case(key: str, value: str) -> None:
    expected = not key or slow_match(key.lower().rstrip("^"), value.lower().rstrip("^"))
    # A key that ends in carets asks for no more than one without them.
    assert matches("PN", key, [value]) == expected


@given(first=st.none() | DAYS, last=st.none() | DAYS, day=DAYS)
def test_ranges_of_days(first: dt.date | None, last: dt.date | None, day: dt.date) -> None:
    key = f"{first:%Y%m%d}" if first else ""
    key += "-" + (f"{last:%Y%m%d}" if last else "")
    expected = (first is None or first <= day) and (last is None or day <= last)
    assert matches("DA", key, [f"{day:%Y%m%d}"]) == expected
    assert matches("DA", key, [f"{day:%Y.%m.%d}"]) == expected
    assert matches("DA", f"{day:%Y%m%d}", [f"{day:%Y%m%d}"])


def clock(seconds: int, digits: int) -> str:
    return f"{seconds // 3600:02}{seconds // 60 % 60:02}{seconds % 60:02}"[:digits]


@given(first=SECONDS, last=SECONDS, at=SECONDS, digits=st.sampled_from((2, 4, 6)))
def test_ranges_of_times_in_any_precision(first: int, last: int, at: int, digits: int) -> None:
    unit = {2: 3600, 4: 60, 6: 1}[digits]
    key = f"{clock(first, digits)}-{clock(last, digits)}"
    assert matches("TM", key, [clock(at, 6) + ".000"]) == (first // unit <= at // unit <= last // unit)
    assert matches("TM", clock(first, digits), [clock(at, 6)]) == (first // unit == at // unit)


@pytest.mark.parametrize(
    ("vr", "key", "values", "expected"),
    [
        ("UI", "1.2\\1.3", ["1.3"], True),
        ("UI", "1.2\\1.3", ["1.30"], False),
        ("UI", "1.*", ["1.2"], False),
        ("CS", "MR", ["CT", "MR"], True),
        ("CS", "MR", [], False),
        ("CS", "", [], True),
        ("LO", "*", [], True),
        ("LO", "?", [], False),
        ("LO", "*", [""], True),
        ("IS", "7", ["007"], True),
        ("IS", "7", ["8"], False),
        ("DA", "today", ["20000101"], False),
        ("DA", "20000101-today", ["20000101"], False),
        ("TM", "1030", ["10:30:59"], True),
        ("TM", "-1030", ["103059.9"], True),
        ("TM", "103000.5-", ["103000.4"], False),
        ("PN", "doe^john", ["DOE^JOHN^^DR^"], False),
        ("PN", "doe^john*", ["DOE^JOHN^^DR^"], True),
        ("PN", "山田*", ["Yamada^Tarou=山田^太郎=やまだ^たろう"], True),
        ("PN", "yamada^tarou", ["Yamada^Tarou=山田^太郎=やまだ^たろう"], True),
        ("LO", "A*", ["a1"], False),
    ],
)
def test_cases(vr: str, key: str, values: list[str], expected: bool) -> None:
    assert matches(vr, key, values) == expected


def test_single_values_are_what_a_level_above_needs() -> None:
    assert is_single_value("UI", "1.2")
    assert is_single_value("LO", "P 1")
    assert not any(is_single_value("UI", key) for key in ("", "1.2\\1.3"))
    assert not any(is_single_value("LO", key) for key in ("P*", "P?"))
