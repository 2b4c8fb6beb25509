"""What a segmentation network is trained on: annotated stacks, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import StackGeometry

__all__ = ["AnnotatedCase", "AnnotatedFrame", "DataSet", "folds"]


class AnnotatedFrame(Protocol):
    """One annotated phase."""

    @property
    def pixels(self) -> NDArray[np.float32]:
        """Grey values, (S, R, C)."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Values of :class:`~pipelines.segmentation.labels.Label`, (S, R, C)."""


class AnnotatedCase(Protocol):
    """Annotated phases of one heart, with the geometry they share."""

    @property
    def identifier(self) -> str:
        """Name within the data set."""

    @property
    def frames(self) -> Sequence[AnnotatedFrame]:
        """At least one phase."""

    @property
    def geometry(self) -> StackGeometry:
        """Geometry of every phase."""


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """Annotated cases, read one by one, and what the card of a network trained on them says."""

    groups: dict[str, str]
    """Diagnostic group of each case, by identifier: training draws groups with equal chance."""
    read: Callable[[str], AnnotatedCase]
    """The case of an identifier."""
    name: str
    licence: str
    source: str
    weights_licence: str
    """SPDX identifier of what the licence of the data leaves to the weights."""
    limits: tuple[str, ...]
    not_for: tuple[str, ...]
    options: str
    """The part of the ``train`` command that names this data set."""


def folds(groups: dict[str, str], count: int = 5, seed: int = 0) -> tuple[tuple[str, ...], ...]:
    """Split cases into ``count`` folds, stratified by group; the same answer for the same names and seed.

    Parameters
    ----------
    groups : dict
        Group of each case, by identifier.

    Returns
    -------
    tuple of tuples of identifiers
        Fold ``k`` holds the cases kept out of training when ``fold=k``. Every case is in exactly one.
    """
    if count < 2:
        raise ValueError(f"a split needs at least two folds, not {count}")
    generator = np.random.default_rng(seed)
    parts: list[list[str]] = [[] for _ in range(count)]
    dealt = 0
    for group in sorted(set(groups.values())):
        members = sorted(identifier for identifier, value in groups.items() if value == group)
        for member in generator.permutation(members):
            # Dealing on where the last group stopped keeps the folds within one case of each other.
            parts[dealt % count].append(str(member))
            dealt += 1
    return tuple(tuple(sorted(part)) for part in parts)
