"""Run different pieces of work beside one another, one core each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

__all__ = ["Start", "beside"]

Result = TypeVar("Result")


class Start(Protocol):
    """Begin a piece of work."""

    def __call__(self, work: Callable[[], Result]) -> Future[Result]:
        """Begin ``work`` as soon as a core is free."""


@contextmanager
def beside() -> Iterator[Start]:
    """Give what begins pieces of work, on as many threads as torch may use; leaving waits for all of them.

    As :func:`pipelines.segmentation.parallel.each`, for work that is not the same function on one item after another.
    What such work itself gives to ``each`` stays on its own core.
    """
    import torch

    threads = torch.get_num_threads()

    def alone(work: Callable[[], Result]) -> Result:
        torch.set_num_threads(1)
        with torch.inference_mode():
            return work()

    def start(work: Callable[[], Result]) -> Future[Result]:
        return pool.submit(alone, work)

    try:
        with ThreadPoolExecutor(threads) as pool:
            yield start
    finally:
        torch.set_num_threads(threads)
