"""Run independent pieces of network work in parallel, one core each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

__all__ = ["Start", "beside", "each"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Start(Protocol):
    """Begin a piece of work."""

    def __call__(self, work: Callable[[], Result]) -> Future[Result]:
        """Begin ``work`` as soon as a core is free."""


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Results of ``function`` in the order of ``items``, computed on as many threads as torch may use.

    Torch itself would split each operation over all threads and wait for the slowest after every one: on a machine that
    does other work as well, that waiting costs several times the work.
    """
    with _pool() as pool:
        return list(pool.map(lambda item: _alone(lambda: function(item)), items))


@contextmanager
def beside() -> Iterator[Start]:
    """Give what begins pieces of work that differ, on as many threads as torch may use; leaving waits for all of them.

    What such work itself gives to :func:`each` stays on its own core.
    """
    with _pool() as pool:
        yield lambda work: pool.submit(_alone, work)


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    import torch

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _alone(work: Callable[[], Result]) -> Result:
    """What a piece of work gives, of torch's threads on its own alone."""
    import torch

    torch.set_num_threads(1)
    with torch.inference_mode():
        return work()
