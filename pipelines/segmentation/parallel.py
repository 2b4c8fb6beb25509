"""Run independent pieces of network work in parallel, one core each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["each"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Results of ``function`` in the order of ``items``, computed on as many threads as torch may use.

    Torch itself would split each operation over all threads and wait for the slowest after every one: on a machine that
    does other work as well, that waiting costs several times the work.
    """
    import torch

    threads = torch.get_num_threads()

    def alone(item: Item) -> Result:
        torch.set_num_threads(1)
        with torch.inference_mode():
            return function(item)

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, items))
    finally:
        torch.set_num_threads(threads)
