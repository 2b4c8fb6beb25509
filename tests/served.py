"""A role of the node in a thread of the process of the tests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

__all__ = ["served"]

_WAIT_S = 120.0


@contextlib.contextmanager
def served(serve: Callable[[threading.Event, Callable[[], None]], None]) -> Iterator[None]:
    """Run what serves until it is told to stop, from when it is ready to the end of the block.

    Parameters
    ----------
    serve
        Is given the event that stops it, and what it calls once it is ready. What it raises before that ends the test.
    """
    stop, ready = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            serve(stop, ready.set)
        except BaseException as error:
            failures.append(error)
            ready.set()
            raise

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(_WAIT_S)
    assert not failures, failures
    try:
        yield
    finally:
        stop.set()
        thread.join(_WAIT_S)
        assert not thread.is_alive()
