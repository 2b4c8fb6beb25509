"""Regular expressions of the configuration, matched in a time that goes up with the length of the text and no faster.

The standard library tries again and again: ``(a+)+b`` against a series description of 64 letters would hold the
scheduler, or a request of the console, for longer than anybody waits. RE2 (https://github.com/google/re2) cannot; what
it has not, lookaround and backreferences, no rule needs, as a rule can exclude.
"""

from __future__ import annotations

import functools
from typing import Any

import re2

__all__ = ["check_pattern", "matches_whole"]

_CACHED = 1024


def check_pattern(pattern: str) -> str:
    """The pattern as it is, if it can be used.

    Raises
    ------
    ValueError
        It is not a regular expression, or one with lookaround or backreferences; says which place is at fault.
    """
    try:
        _compiled(pattern)
    except re2.error as error:
        (told, *_) = error.args or ("",)
        told = told.decode(errors="replace") if isinstance(told, bytes) else str(told)
        raise ValueError(
            f"not a regular expression that can be used: {told} (lookaround such as (?!…) and backreferences are not "
            "among them: leave series out with exclude_series_description)"
        ) from error
    return pattern


def matches_whole(pattern: str, value: str) -> bool:
    """Whether a checked pattern matches the whole of a value."""
    return _compiled(pattern).fullmatch(value) is not None


@functools.lru_cache(_CACHED)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    # Its own lines on standard error are not in the form of the log.
    options.log_errors = False
    return re2.compile(pattern, options)
