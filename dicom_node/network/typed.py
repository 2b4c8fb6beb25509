"""What this node knows of pynetdicom's objects beyond their annotations, in one place."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, TypeVar

from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext

__all__ = ["abstract_syntax", "content", "context_id", "replace_method", "request_of", "time_limit"]

R = TypeVar("R")


def request_of(event: evt.Event, kind: type[R]) -> R:
    """The request of an event, of the DIMSE primitive that the kind of event stands for.

    Raises
    ------
    TypeError
        The event is of another service.
    """
    request = event.request
    if not isinstance(request, kind):
        raise TypeError(f"the event has a request of {type(request).__name__}, not {kind.__name__}")
    return request


def content(data: io.BytesIO | None) -> bytes:
    """The bytes of a data set that a message carries; empty where it has none."""
    return b"" if data is None else data.getvalue()


def time_limit(seconds: float | None) -> float:
    """A time limit of an application entity, which has every one set.

    Raises
    ------
    ValueError
        There is none: pynetdicom would wait for ever.
    """
    if seconds is None:
        raise ValueError("the application entity has a time limit that is not set")
    return seconds


def abstract_syntax(context: PresentationContext) -> UID:
    """The abstract syntax of a presentation context that was built with one.

    Raises
    ------
    ValueError
        There is none.
    """
    if context.abstract_syntax is None:
        raise ValueError("the presentation context has no abstract syntax")
    return context.abstract_syntax


def context_id(context: PresentationContext) -> int:
    """The ID of a presentation context that was accepted.

    Raises
    ------
    ValueError
        There is none.
    """
    if context.context_id is None:
        raise ValueError("the presentation context has no ID")
    return context.context_id


def replace_method(owner: object, name: str, method: Callable[..., Any]) -> None:
    """Put a function in the place of a method of one object of pynetdicom.

    Raises
    ------
    AttributeError
        The object has no method of that name: another version of pynetdicom would never call the function.
    """
    if not callable(getattr(owner, name)):
        raise AttributeError(f"{name} of {type(owner).__name__} is no method")
    setattr(owner, name, method)
