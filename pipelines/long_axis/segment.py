"""Segmentation of long-axis views on every phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.cine.stack import CineStack
from pipelines.long_axis.findings import LongAxisLabel
from pipelines.long_axis.grid import FIELD_MM
from pipelines.models.precision import labelling_precision
from pipelines.models.registry import PACKAGED
from pipelines.segmentation.decision import likeliest
from pipelines.segmentation.ensemble import agreement, label_probabilities
from pipelines.segmentation.grid import Square, intensity_window, sample_image, sample_square, scale_intensity
from pipelines.segmentation.segment import smooth_in_time

__all__ = ["MODEL", "SeenView", "label_view", "see_views"]

MODEL = "long-axis-segmentation"


@dataclass(frozen=True, slots=True, eq=False)
class SeenView:
    """What the network says of a long-axis view of T phases, before labels are chosen.

    Attributes
    ----------
    stack : CineStack
        One slice.
    square : Square
        What the network saw.
    probability : (T, L, n, n) float32
        Of each label, mean of the members of the ensemble.
    members : list of (T, n, n) uint8
        Labels of each member.
    """

    stack: CineStack
    square: Square
    probability: NDArray[np.float32]
    members: list[NDArray[np.uint8]]


def see_views(
    stacks: Sequence[CineStack], centre: NDArray[np.float64] | None, device: str = "cpu", models: Path = PACKAGED
) -> list[SeenView]:
    """Run the network on every phase of long-axis views.

    Parameters
    ----------
    stacks : sequence of CineStack
        Of one slice each, at least one.
    centre : (3,) float64 or None
        Centre of the left ventricle, patient coordinates (LPS, mm), as the short axis tells it; ``None`` looks at the
        middle of the image.

    Raises
    ------
    ModelUnavailable
        The network is not installed.
    """
    import torch

    from pipelines.models.registry import load_model_once

    model = load_model_once(MODEL, device, models, labelling_precision(device))
    squares = [_square(stack, centre) for stack in stacks]

    def around(stack: CineStack, square: Square) -> torch.Tensor:
        pixels = np.ascontiguousarray(stack.pixels[:, 0])
        image = torch.from_numpy(pixels)[None]
        crops = sample_square(image, stack.geometry.pixel_spacing, square, model.card.input.size)[0]
        crops = scale_intensity(crops, intensity_window(pixels))
        # A cine is a cycle: the frame before the first is the last.
        return torch.stack([crops.roll(1, 0), crops, crops.roll(-1, 0)], dim=1)

    with torch.inference_mode():
        # All views at once: one alone does not keep every core busy to its end.
        mean, members = label_probabilities(torch.cat(list(map(around, stacks, squares))), model)
    ends = np.cumsum([stack.phases for stack in stacks])
    return [
        SeenView(stack, square, mean[end - stack.phases : end], [one[end - stack.phases : end] for one in members])
        for stack, square, end in zip(stacks, squares, ends, strict=True)
    ]


def label_view(seen: SeenView) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Label ventricles, myocardium and atria of a long-axis view.

    Returns
    -------
    labels : (T, R, C) uint8
        Values of :class:`LongAxisLabel`.
    agreement : (T,) float32
        Mean Dice between the members of the ensemble and their consensus.
    """
    import torch

    shape, spacing = seen.stack.pixels.shape, seen.stack.geometry.pixel_spacing
    agreed = agreement(seen.members, likeliest(seen.probability), len(LongAxisLabel))
    smooth = smooth_in_time(seen.probability, cyclic=seen.stack.retrospective)
    rows, columns = _inside(seen.square, spacing, shape[2:])
    labels = np.full((shape[0], *shape[2:]), LongAxisLabel.BACKGROUND, np.uint8)
    for phase, own in zip(labels, smooth, strict=True):
        native = sample_image(torch.from_numpy(own)[None], spacing, seen.square, rows, columns).numpy()
        phase[slice(*rows), slice(*columns)] = likeliest(native)[0]
    return np.stack([keep_plausible(phase) for phase in labels]), agreed


def _square(stack: CineStack, centre: NDArray[np.float64] | None) -> Square:
    spacing = stack.geometry.pixel_spacing
    rows, columns = stack.pixels.shape[2:]
    if centre is None:
        return Square((rows - 1) / 2 * spacing[0], (columns - 1) / 2 * spacing[1], FIELD_MM)
    offset = centre - stack.geometry.positions[0]
    return Square(
        float(offset @ stack.geometry.column_direction), float(offset @ stack.geometry.row_direction), FIELD_MM
    )


def _inside(
    square: Square, spacing: tuple[float, float], shape: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and end row, first and end column of the pixels whose centres lie on the square."""
    half = square.field_mm / 2
    bounds = []
    for centre, step, length in zip((square.row_mm, square.column_mm), spacing, shape, strict=True):
        first = np.clip(np.ceil((centre - half) / step), 0, length)
        end = np.clip(np.floor((centre + half) / step) + 1, first, length)
        bounds.append((int(first), int(end)))
    return bounds[0], bounds[1]


def keep_plausible(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One body of each chamber, (R, C): the left ventricle with its wall first, then what lies against it."""
    rows, columns = np.flatnonzero(labels.any(axis=1)), np.flatnonzero(labels.any(axis=0))
    result = np.full(labels.shape, np.uint8(LongAxisLabel.BACKGROUND))
    if not rows.size:
        return result
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    seen, kept = labels[box], result[box]
    left = _largest((seen == LongAxisLabel.LV) | (seen == LongAxisLabel.MYO))
    kept[left] = seen[left]
    near = ndimage.binary_dilation(left, iterations=4)
    for label in (LongAxisLabel.RV, LongAxisLabel.LA, LongAxisLabel.RA):
        bodies, count = ndimage.label(seen == label)
        if count == 0:
            continue
        sizes = np.bincount(bodies.ravel(), minlength=count + 1)[1:]
        touching = np.unique(bodies[near])
        touching = touching[touching > 0]
        chosen = 1 + int(np.argmax(sizes))
        if touching.size and label is not LongAxisLabel.RA:
            chosen = int(touching[np.argmax(sizes[touching - 1])])
        kept[bodies == chosen] = label
    return result


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    bodies, count = ndimage.label(mask)
    if count == 0:
        return mask
    return bodies == 1 + int(np.argmax(np.bincount(bodies.ravel())[1:]))
