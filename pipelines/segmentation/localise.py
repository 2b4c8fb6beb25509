"""Where the heart is: a coarse network on the whole image, and the consensus of slices and phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.segmentation.grid import Square, heart_square, intensity_window, sample_square, scale_intensity
from pipelines.segmentation.labels import Label
from pipelines.segmentation.parallel import each
from pipelines.segmentation.refusal import SegmentationRefused

if TYPE_CHECKING:
    import torch

    from pipelines.models.registry import LoadedModel

__all__ = ["HeartPlace", "locate_heart", "neighbour_channels", "square_of_votes"]

_PHASES = 4
_SMALLEST_HEART_MM2 = 400.0
_LARGEST_FIELD_MM = 520.0
_SURE = 0.8
"""Probability of LV cavity from which a point counts as blood."""
_FEWEST_POINTS = 12
"""Fewer points of 4 mm than this say nothing of the blood."""


def neighbour_channels(slices: torch.Tensor) -> torch.Tensor:
    """Give each slice its neighbours as channels: (S, H, W) to (S, 3, H, W).

    At either end the slice itself stands for the missing neighbour, as in training.
    """
    import torch

    index = torch.arange(slices.shape[0])
    below, above = (index - 1).clamp(min=0), (index + 1).clamp(max=slices.shape[0] - 1)
    return torch.stack([slices[below], slices, slices[above]], dim=1)


def square_of_votes(
    votes: NDArray[np.float64],
    whole: Square,
    around: Callable[[tuple[float, float], tuple[float, float]], Square] = heart_square,
) -> Square | None:
    """Crop around the place most slices and phases agree on.

    Parameters
    ----------
    votes : (size, size) float64
        How many slices and phases see a ventricle at each point of ``whole``.
    around : callable
        The crop for what lies between given rows and columns, mm.

    Returns
    -------
    Square or None
        ``None`` where nothing is seen, or less than any ventricle covers.
    """
    from scipy import ndimage

    size = votes.shape[0]
    step = whole.field_mm / size
    if votes.max() <= 0:
        return None
    # The seed is where many agree; a bright vessel far off in one slice never is.
    components, count = ndimage.label(votes >= 0.25 * votes.max())
    masses = ndimage.sum_labels(votes, components, np.arange(1, count + 1))
    seed = components == 1 + int(np.argmax(masses))
    connected, _ = ndimage.label(votes > 0)
    inside = np.where(np.isin(connected, np.unique(connected[seed])), votes, 0.0)
    if np.count_nonzero(inside >= 0.25 * votes.max()) * step**2 < _SMALLEST_HEART_MM2:
        return None
    bounds = []
    for axis, centre in ((1, whole.row_mm), (0, whole.column_mm)):
        share = np.cumsum(inside.sum(axis=axis)) / inside.sum()
        first, last = np.searchsorted(share, (0.004, 0.996))
        start = centre - whole.field_mm / 2
        bounds.append((start + first * step, start + (last + 1) * step))
    return around(bounds[0], bounds[1])


@dataclass(frozen=True, slots=True)
class HeartPlace:
    """Where the heart is, and how bright its blood.

    Attributes
    ----------
    square : Square
        The crop around both ventricles.
    blood : float or None
        Median grey value of the cavity of the left ventricle; ``None`` where too little of it was seen to say.
    """

    square: Square
    blood: float | None


def locate_heart(stack: CineStack, model: LoadedModel) -> HeartPlace:
    """Square crop for the whole stack.

    Raises
    ------
    SegmentationRefused
        No heart was found.
    """
    import torch

    card = model.card
    spacing = stack.geometry.pixel_spacing
    rows, columns = stack.pixels.shape[2:]
    nominal = (card.input.spacing_mm or 4.0) * card.input.size
    field = float(np.clip(max(rows * spacing[0], columns * spacing[1]), nominal, _LARGEST_FIELD_MM))
    whole = Square((rows - 1) / 2 * spacing[0], (columns - 1) / 2 * spacing[1], field)
    chosen = np.unique(np.linspace(0, stack.phases, _PHASES, endpoint=False).astype(int))
    pixels = stack.pixels[chosen]
    low, high = intensity_window(pixels)
    images = sample_square(
        scale_intensity(torch.from_numpy(np.ascontiguousarray(pixels)), (low, high)),
        spacing,
        whole,
        card.input.size,
    )

    def seen_in(phase: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Votes (n, n) of one phase (S, n, n), and grey values of what is surely LV cavity."""
        inputs = (2 * neighbour_channels(phase) - 1).contiguous(memory_format=torch.channels_last)
        members = torch.stack([model.probabilities(inputs.flip(axes)).flip(axes) for axes in ([], [2], [3])]).mean(0)
        votes: NDArray[np.float64] = (members[:, Label.BACKGROUND] < 0.5).sum(0).double().numpy()
        blood: NDArray[np.float32] = phase[members[:, Label.LV] > _SURE].numpy()
        return votes, blood

    seen = each(seen_in, images)
    square = square_of_votes(np.sum([votes for votes, _ in seen], axis=0), whole)
    if square is None:
        raise SegmentationRefused(
            "No heart was found on the short-axis images: the stack is not short-axis cine, or its contrast is unusual."
        )
    levels = np.concatenate([blood for _, blood in seen])
    if len(levels) < _FEWEST_POINTS:
        return HeartPlace(square, None)
    return HeartPlace(square, low + float(np.median(levels)) * (high - low))
