"""Work that gives way: in a thread of the lowest priority, while the process keeps its own."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["at_lowest_priority"]

T = TypeVar("T")
LOWEST_PRIORITY = 19


def at_lowest_priority(name: str) -> Callable[[Callable[[], T]], T]:
    """Calls a function in a thread of the lowest priority, as are the threads that it starts, and waits for it.

    The process itself keeps its priority: it would hold locks of the ledger that quick workers and receivers wait for.

    Parameters
    ----------
    name
        Of the thread.
    """

    def give_way() -> None:
        # On Linux each thread has a priority of its own (setpriority(2)).
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)

    pool = ThreadPoolExecutor(1, name, initializer=give_way)
    return lambda work: pool.submit(contextvars.copy_context().run, work).result()
