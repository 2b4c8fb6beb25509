"""What a model refuses, said in plain words: pydantic's own phrases mean nothing to those who wrote the value."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Key", "dotted", "field_in_plain_words", "in_plain_words"]

Key = tuple[int | str, ...]
"""Path of a key: names of mappings, indices of lists."""

_SECRETS = frozenset({"token", "basic", "token_sha256", "database", "key", "password"})
"""Keys whose value is never repeated in a message."""

_BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "bytes": "text",
}
_LISTS = ("list", "tuple", "set", "frozen")


def dotted(keys: Key) -> str:
    """A path as it is written in messages."""
    return ".".join(str(key) for key in keys)


def in_plain_words(
    details: Mapping[str, Any],
    *,
    known: Callable[[Key], Sequence[str]] | None = None,
    repeat_value: bool = True,
) -> tuple[Key, str]:
    """Say what pydantic found.

    Parameters
    ----------
    details
        One of the errors of a ``ValidationError``.
    known
        The keys that the section at a path may have.
    repeat_value
        Whether the message may hold what was written; never for what may be secret.

    Returns
    -------
    tuple
        The path of the key, and what is wrong with it and what to write instead.
    """
    kind, value = details["type"], details.get("input") if repeat_value else ...
    keys = tuple(key for key in details["loc"] if key != "[key]")
    context = details.get("ctx") or {}
    if kind == "extra_forbidden":
        return keys, _unknown(keys, known)
    if kind == "missing":
        return keys[:-1], f"the key {keys[-1]!r} is missing: add it"
    if kind == "value_error":
        return keys, str(context["error"])
    if kind in ("too_short", "too_long"):
        bound = context["min_length"] if kind == "too_short" else context["max_length"]
        return keys, f"must have at {'least' if kind == 'too_short' else 'most'} {bound} of them"
    bound = next((name for name in _BOUNDS if name in context), None)
    if bound is not None:
        return keys, f"must be {_BOUNDS[bound]} {context[bound]:g}{_instead(keys, value)}"
    if kind in ("enum", "literal_error"):
        return keys, f"must be {context['expected']}{_instead(keys, value)}{_close(context, value)}"
    family = kind.split("_")[0]
    if family in _LISTS:
        example = f"[{value}]" if isinstance(value, str) and keys[-1] not in _SECRETS else "[first, second]"
        return keys, f"must be a list: write {example}"
    if family in ("dict", "model", "mapping"):
        return keys, f"must be a section with keys of its own{_instead(keys, value)}"
    if family == "string" and "min_length" in context:
        return keys, f"must have at least {context['min_length']} character(s)"
    if family == "string" and "max_length" in context:
        return keys, f"must have at most {context['max_length']} characters"
    if family == "string" and "pattern" in context:
        return keys, f"must have the form {context['pattern']}"
    return keys, f"must be {_KINDS.get(family, 'of another kind')}{_instead(keys, value)}"


def field_in_plain_words(details: Mapping[str, Any]) -> str:
    """Say what pydantic found in a field of a form or of a request, in one sentence, without what was written."""
    if details["type"] == "missing":
        return f"{details['loc'][-1]}: must be given"
    key, sentence = in_plain_words(details, repeat_value=False)
    return f"{key[-1] if key else 'form'}: {sentence}"


def _instead(keys: Key, value: object) -> str:
    """What stands there, unless it may be secret or is long."""
    if _SECRETS.intersection(map(str, keys)) or not isinstance(value, str | int | float | bool | None):
        return ""
    shown = "nothing" if value is None else f"'{value}'" if isinstance(value, str) else str(value).lower()
    return f", not {shown}" if len(shown) <= 60 else ""


def _close(context: Mapping[str, Any], value: object) -> str:
    if not isinstance(value, str):
        return ""
    words = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
    near = difflib.get_close_matches(value, words, n=1)
    return f": did you mean {near[0]!r}?" if near else ""


def _unknown(keys: Key, known: Callable[[Key], Sequence[str]] | None) -> str:
    if known is None:
        return "there is no such key here"
    names = known(keys[:-1])
    near = difflib.get_close_matches(str(keys[-1]), names, n=1, cutoff=0.7)
    if near:
        return f"there is no such key here: did you mean {near[0]!r}?"
    where = f"{dotted(keys[:-1])} has" if keys[:-1] else "there are"
    return f"there is no such key here; {where} {', '.join(names)}"
