"""Whether frames in the order that their headers give follow one another as the images of a beating heart do.

Neighbours in a cine resemble one another, whichever phase it begins with. So the sum of the squared differences of
neighbours is small in the true order, and as large as that of any pairs in an order that has nothing to do with time.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["disorder", "median_allowed", "shows_again", "single_allowed"]

_FEWEST = 10
"""Frames below which systole is a jump and the true order no smoother than others."""
_BLOCK = 4
"""Rows and columns that are averaged: noise goes, motion stays."""
_LEAST_SPREAD = 0.1
"""Spread of the squared differences of all pairs, over their mean, below which nothing moves that tells the order."""


def median_allowed(count: int) -> float:
    """Median `disorder` of the slices of a stack up to which their order of ``count`` frames is taken.

    The fewer the frames, the further the heart goes between two. In true order real stacks have a median of 0.01
    at 20 phases and 0.08 at 10; with every other phase first 0.3 and 0.75.
    """
    return 4.0 / count


def single_allowed(count: int) -> float:
    """`disorder` above which the order of one slice is not taken whatever the others say.

    Slices at the outflow tract, whose images change most, reach 0.2 to 0.3 in true order at 20 phases.
    """
    return min(0.5, 10.0 / count)


def disorder(frames: Sequence[NDArray[np.float32]]) -> float | None:
    """Tell how far the order of frames is from the one in which neighbours resemble one another most.

    Parameters
    ----------
    frames : sequence of N (R, C) float32
        Grey values of one slice in the order to be judged.

    Returns
    -------
    float or None
        0: no order is smoother; 1: as any order by chance; at most so much where it is not more than `median_allowed`.
        ``None`` when the images do not tell: too few, or nothing moves but noise.
    """
    count = len(frames)
    if count < _FEWEST:
        return None
    apart, pixels = _squared_differences(frames)
    pairs = apart[np.triu_indices(count, 1)]
    mean = float(pairs.mean())
    # Differences of noise alone spread by the square root of 2 over their number.
    if mean <= 0 or float(pairs.std()) / mean < max(_LEAST_SPREAD, 4 * np.sqrt(2 / pixels)):
        return None
    given = _length(apart, range(count))
    # Nearly always the order is right, and it takes no search to see that none is much smoother.
    least = _least_length(apart)
    at_most = (given - least) / ((count - 1) * mean - least)
    if at_most <= median_allowed(count):
        return at_most
    best = min(given, *(_shortened(apart, path) for path in (list(range(count)), _greedy(apart))))
    return (given - best) / ((count - 1) * mean - best)


_AGAIN = 0.5
"""Squared differences of neighbours of one stated phase, over those of two, below which the phase is the same: frames
that follow one another evenly have 1, and half as much time between those of one phase as between others 0.25."""


def shows_again(frames: Sequence[NDArray[np.float32]], phases: Sequence[float | None]) -> bool:
    """Tell whether frames that state the same phase show the same phase: a slice acquired again, numbered by turns.

    Parameters
    ----------
    frames : sequence of N (R, C) float32
        Grey values of one slice in an order in which equal phases stand together.
    phases : sequence of float or None
        What each states.
    """
    apart, _ = _squared_differences(frames)
    steps = [(phases[a] == phases[b], apart[a, b]) for a, b in itertools.pairwise(range(len(frames)))]
    of_one = [float(value) for same, value in steps if same]
    of_two = [float(value) for same, value in steps if not same]
    return bool(of_one and of_two) and float(np.mean(of_one)) < _AGAIN * float(np.mean(of_two))


def _squared_differences(frames: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float64], int]:
    """Mean squared difference of each pair of frames (N, N), and over how many pixels."""
    block = min(_BLOCK, max(1, min(frames[0].shape) // 4))
    flat = np.stack([_means(frame, block).ravel() for frame in frames])
    flat -= flat.mean(axis=0)
    product = flat @ flat.T
    own = np.diag(product)
    apart = np.maximum(own[:, None] + own[None, :] - 2 * product, 0.0) / flat.shape[1]
    return apart, flat.shape[1]


def _means(frame: NDArray[np.float32], block: int) -> NDArray[np.float64]:
    """Means of blocks of rows and columns; by strides, which is four times as quick as by reshaping."""
    rows, columns = (length - length % block for length in frame.shape)
    cut = frame[:rows, :columns]
    bands = functools.reduce(np.add, (cut[start::block] for start in range(block)))
    blocks = functools.reduce(np.add, (bands[:, start::block] for start in range(block)))
    return blocks.astype(np.float64) / block**2


def _least_length(apart: NDArray[np.float64]) -> float:
    """What no path through all frames is shorter than: each has two neighbours, but for the two at its ends."""
    nearest = np.sort(apart + np.diag(np.full(len(apart), np.inf)), axis=1)[:, :2]
    return 0.5 * float(nearest.sum() - np.sort(nearest[:, 1])[-2:].sum())


def _length(apart: NDArray[np.float64], path: range | list[int]) -> float:
    return float(sum(apart[a, b] for a, b in itertools.pairwise(path)))


def _greedy(apart: NDArray[np.float64]) -> list[int]:
    """From one of the two frames that differ most, always on to the most alike that is left."""
    start = int(np.unravel_index(int(apart.argmax()), apart.shape)[0])
    path, left = [start], set(range(len(apart))) - {start}
    while left:
        nearest = min(left, key=lambda frame: (apart[path[-1], frame], frame))
        path.append(nearest)
        left.remove(nearest)
    return path


def _shortened(apart: NDArray[np.float64], path: list[int]) -> float:
    """Length of a path after every reversal of a part of it that makes it shorter (2-opt)."""
    count = len(path)
    padded = np.zeros((count + 1, count + 1))
    # A place beyond both ends, at no distance: reversals may then begin or end there.
    padded[:count, :count] = apart
    tour = np.array([count, *path, count])
    for _ in range(20 * count):
        before, first = tour[:-2], tour[1:-1]
        last, after = tour[1:-1], tour[2:]
        saved = (
            padded[before, first][:, None]
            + padded[last, after][None, :]
            - padded[before[:, None], last[None, :]]
            - padded[first[:, None], after[None, :]]
        )
        saved[np.tril_indices(count)] = 0.0
        start, stop = np.unravel_index(int(saved.argmax()), saved.shape)
        if saved[start, stop] <= 1e-9 * float(apart.max()):
            break
        tour[start + 1 : stop + 2] = tour[start + 1 : stop + 2][::-1]
    return _length(apart, [int(frame) for frame in tour[1:-1]])
