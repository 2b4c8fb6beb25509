"""Attribute matching of C-FIND (PS3.4 C.2.2.2): pure functions over text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

__all__ = ["is_single_value", "matches"]

_WITH_WILDCARDS = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_DAY = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")


def is_single_value(vr: str, key: str) -> bool:
    """Whether a key asks for exactly one value: neither empty nor a list, and without wildcards."""
    return bool(key) and "\\" not in key and not (vr in _WITH_WILDCARDS and _has_wildcard(key))


def matches(vr: str, key: str, values: Sequence[str]) -> bool:
    r"""Whether an attribute matches a key.

    Parameters
    ----------
    vr
        Value representation of the attribute: what kinds of matching there are for it.
    key
        As in the request, stripped of padding; several values are separated by ``\``, and any of them may match.
    values
        Of the attribute; empty where it is absent.

    Notes
    -----
    Universal matching for an empty key and for ``*`` alone; lists of UIDs; ranges of dates and times; wildcards ``*``
    and ``?`` for text; single values for the rest. Names are compared without regard to case, in each of their
    component groups; everything else exactly.
    """
    if not key or (vr in _WITH_WILDCARDS and not key.strip("*")):
        return True
    return any(_matches_one(vr, wanted, value) for wanted in key.split("\\") for value in values if value)


def _matches_one(vr: str, key: str, value: str) -> bool:
    if vr == "DA":
        return _in_range(key, value, _day, _day)
    if vr == "TM":
        return _in_range(key, value, _earliest, _latest)
    if vr == "PN":
        groups = {value, *value.split("=")}
        return any(_matches_text(_name(key), _name(group)) for group in groups)
    if vr in ("IS", "DS"):
        return _number(key) == _number(value)
    return _matches_text(key, value) if vr in _WITH_WILDCARDS else key == value


def _has_wildcard(key: str) -> bool:
    return "*" in key or "?" in key


def _matches_text(key: str, value: str) -> bool:
    if not _has_wildcard(key):
        return key == value
    # Greedy with one step back to the last asterisk: linear in the key for each character, whatever the key is.
    at = in_key = 0
    star, star_at = -1, 0
    while at < len(value):
        if in_key < len(key) and key[in_key] == "*":
            star, star_at = in_key, at
            in_key += 1
        elif in_key < len(key) and key[in_key] in ("?", value[at]):
            in_key, at = in_key + 1, at + 1
        elif star >= 0:
            star_at += 1
            in_key, at = star + 1, star_at
        else:
            return False
    return not key[in_key:].strip("*")


def _name(value: str) -> str:
    return value.casefold().rstrip("^ ")


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _day(value: str) -> str | None:
    found = _DAY.fullmatch(value)
    return "".join(found.groups()) if found else None


def _earliest(value: str) -> str | None:
    return _time(value, "000000.000000")


def _latest(value: str) -> str | None:
    return _time(value, "005959.999999")


def _time(value: str, filler: str) -> str | None:
    # A time of less precision stands for all that begin with it; colons are of ACR-NEMA.
    value = value.replace(":", "")
    return value + filler[len(value) :] if _TIME.fullmatch(value) else None


def _in_range(key: str, value: str, lower: Callable[[str], str | None], upper: Callable[[str], str | None]) -> bool:
    first, dash, last = key.partition("-")
    if not dash:
        last = first
    at = lower(value)
    start, end = lower(first), upper(last)
    if at is None or (first and start is None) or (last and end is None):
        # What is no date or time on either side is compared as it is written.
        return key == value
    return (start is None or start <= at) and (end is None or at <= end)
