"""How pages say times, counts and states: the filters of the templates."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from storage.overview import Event

__all__ = ["environment"]

_IDENTIFIER = re.compile(r"[0-9.]+|[0-9a-f-]{20,}")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[+-]\d\d:\d\d)")


def environment() -> Environment:
    """The templates of the console, with their filters; whatever a template names and nobody gives is an error."""
    templates = Environment(
        loader=PackageLoader("dicom_node.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "time": _time,
        "timed": _timed,
        "typed": _typed,
        "count": _count,
        "counts": _counts,
        "tail": _tail,
        "detail": _detail,
        "subject": _subject,
        "slug": _slug,
        "value": _value,
    }
    return templates


def _time(at: dt.datetime | None, otherwise: str = "never") -> Markup | str:
    """A time in UTC, which a script of the page shows in the zone of the reader."""
    if at is None:
        return otherwise
    utc = at.astimezone(dt.UTC)
    shown = f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}">{}</time>').format(utc.isoformat(timespec="seconds"), shown)


def _typed(at: dt.datetime | None) -> str:
    """A time in UTC as the field of a form holds it."""
    return "" if at is None else f"{at.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%S}"


def _timed(sentence: str) -> Markup:
    """A sentence in which times stand as ISO 8601: each as a time in the zone of the reader."""
    parts = _TIME.split(sentence)
    times = [_time(dt.datetime.fromisoformat(found)) for found in parts[1::2]]
    told = itertools.chain.from_iterable(itertools.zip_longest(map(escape, parts[::2]), times, fillvalue=""))
    return Markup("").join(told)


def _count(number: int, noun: str) -> str:
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else many}"


def _counts(counts: Mapping[str, int]) -> str:
    """How many in which state; the keys are enums of strings."""
    return ", ".join(f"{number} {state!s}" for state, number in counts.items()) or "none"


def _tail(uid: str) -> Markup:
    """The end of a UID, by which people tell them apart, and the whole for who points at it."""
    shown = uid if len(uid) <= 20 else f"…{uid[-16:]}"
    return Markup('<abbr title="{}">{}</abbr>').format(uid, shown) if shown != uid else escape(uid)


def _value(value: object) -> Markup:
    """A value of the log: of identifiers the end, everything else in full."""
    if isinstance(value, list):
        return Markup("; ").join(map(_value, value))
    text = str(value)
    return escape(_tail(text) if _IDENTIFIER.fullmatch(text) else text)


def _detail(detail: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_listed(value)}" for key, value in detail.items() if value not in (None, "", []))


def _listed(value: object) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def _subject(event: Event, study: str) -> str:
    if event.kind == "reception started":
        return f"from {event.sender}" if event.sender else ""
    return "" if event.subject == study else event.subject


def _slug(text: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in text.lower())
