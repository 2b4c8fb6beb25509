"""A labelling network on an image and on its turned mirror image, and how far the two agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.segmentation.decision import likeliest
from pipelines.segmentation.parallel import each

if TYPE_CHECKING:
    import torch

    from pipelines.models.registry import LoadedModel

__all__ = ["agreement", "label_probabilities", "turned_probabilities"]

_BATCH = 8
_TURNS = ((0, False), (1, True))
"""Members of the test-time ensemble: quarter turns, then whether to mirror. Both are exact on a square grid."""


def label_probabilities(
    images: torch.Tensor, model: LoadedModel
) -> tuple[NDArray[np.float32], list[NDArray[np.uint8]]]:
    """Run every member of the ensemble on images.

    Parameters
    ----------
    images : (N, C, n, n) tensor
        Grey values 0 … 1.25.
    model : LoadedModel

    Returns
    -------
    mean : (N, L, n, n) float32
        Mean probability of each label over the members.
    members : list of (N, n, n) uint8
        Labels of each member.
    """
    import torch

    count, _, size, _ = images.shape
    # Weighted cross-entropy is least for probabilities that are too large by the weights.
    excess = torch.tensor(model.card.label_weights).view(1, -1, 1, 1)
    mean = np.zeros((count, excess.shape[1], size, size), dtype=np.float32)
    members = [np.empty((count, size, size), dtype=np.uint8) for _ in _TURNS]

    def run(start: int) -> None:
        batch = 2 * images[start : start + _BATCH] - 1
        for turn, labels in zip(_TURNS, members, strict=True):
            seen = turned_probabilities(batch, model, turn) / excess
            output = (seen / seen.sum(1, keepdim=True)).contiguous().numpy()
            mean[start : start + _BATCH] += output / len(_TURNS)
            labels[start : start + _BATCH] = likeliest(output)

    each(run, range(0, count, _BATCH))
    return mean, members


def turned_probabilities(inputs: torch.Tensor, model: LoadedModel, turn: tuple[int, bool]) -> torch.Tensor:
    """Label probabilities of one member of the ensemble, turned back.

    Parameters
    ----------
    inputs : (N, C, n, n) tensor
        As the network takes them.
    model : LoadedModel
    turn : tuple
        Quarter turns, then whether to mirror.

    Returns
    -------
    (N, L, n, n) tensor
    """
    import torch

    quarter, mirror = turn
    turned = torch.rot90(inputs, quarter, (2, 3))
    seen = model.probabilities((turned.flip(3) if mirror else turned).contiguous(memory_format=torch.channels_last))
    return torch.rot90(seen.flip(3) if mirror else seen, -quarter, (2, 3))


def agreement(members: Sequence[NDArray[np.uint8]], consensus: NDArray[np.uint8], labels: int) -> NDArray[np.float32]:
    """Mean Dice of each image between members and consensus, over the labels that either has.

    Parameters
    ----------
    members : sequence of (N, n, n) uint8
    consensus : (N, n, n) uint8
    labels : int
        How many there are, background (0), which does not count, among them.

    Returns
    -------
    (N,) float32
        1 where there is only background.
    """
    total, count = np.zeros(len(consensus)), np.zeros(len(consensus))
    for member in members:
        for label in range(1, labels):
            first, second = member == label, consensus == label
            areas = first.sum((1, 2)) + second.sum((1, 2))
            total += np.divide(2 * (first & second).sum((1, 2)), areas, out=np.zeros(len(areas)), where=areas > 0)
            count += areas > 0
    return np.where(count > 0, total / np.maximum(count, 1), 1.0).astype(np.float32)
