"""Segmentation of a late-enhancement stack: locate the left ventricle, crop, label, crop again around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import LateEnhancementStack
from pipelines.late_enhancement.grid import pixels_of, scale_slices, ventricle_square
from pipelines.late_enhancement.labels import WALL, Tissue
from pipelines.models.identity import ModelIdentity
from pipelines.models.precision import labelling_precision
from pipelines.models.registry import PACKAGED
from pipelines.segmentation.ensemble import agreement, turned_probabilities
from pipelines.segmentation.grid import Square, sample_image, sample_square
from pipelines.segmentation.labels import Label
from pipelines.segmentation.localise import neighbour_channels, square_of_votes
from pipelines.segmentation.parallel import each
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import keep_plausible

if TYPE_CHECKING:
    import torch

    from pipelines.models.registry import LoadedModel

__all__ = ["LOCALISER", "SEGMENTER", "EnhancementSegmentation", "segment_enhancement"]

LOCALISER = "enhancement-localiser"
SEGMENTER = "enhancement-segmentation"
_TURNS = ((0, False), (1, True), (2, False), (3, True))
"""Members of the test-time ensemble: quarter turns, then whether to mirror."""
_BATCH = 8
_LARGEST_FIELD_MM = 520.0
_SURE = 0.94
"""Agreement of the members below which another place is tried."""
_USUAL_FIELDS_MM = (100.0, 140.0)
_SLICES_MIN = 3
_RECENTRINGS = 3
_STILL_MM, _STILL_SHARE = 3.0, 0.05
"""A crop that moves and grows by less than this stays."""


@dataclass(frozen=True, slots=True, eq=False)
class EnhancementSegmentation:
    """Labels of a late-enhancement stack; S slices.

    Attributes
    ----------
    labels : (S, R, C) uint8
        Values of :class:`~pipelines.late_enhancement.labels.Tissue`.
    infarct : (S, R, C) float32
        Probability of infarct or obstruction; 0 outside the crop.
    obstruction : (S, R, C) float32
        Probability of obstruction; 0 outside the crop.
    agreement : (S,) float32
        Mean Dice, 0 … 1, of cavity and wall between the members of the ensemble and their consensus; 1 on a slice
        where none of them sees a ventricle.
    members_percent : (M,) float64
        Infarct with obstruction of each member, % of its wall.
    models : tuple of ModelIdentity
    """

    labels: NDArray[np.uint8]
    infarct: NDArray[np.float32]
    obstruction: NDArray[np.float32]
    agreement: NDArray[np.float32]
    members_percent: NDArray[np.float64]
    models: tuple[ModelIdentity, ...]


def segment_enhancement(
    stack: LateEnhancementStack, device: str = "cpu", models: Path = PACKAGED
) -> EnhancementSegmentation:
    """Label cavity, muscle, infarct and obstruction on every slice.

    Parameters
    ----------
    stack : LateEnhancementStack
        Short axis.
    device : str
        Torch device of the networks.
    models : Path
        Folder that holds a folder for each network.

    Raises
    ------
    SegmentationRefused
        The pixels are not finite, the image is empty, or no ventricle was found.
    """
    from pipelines.models.registry import load_model_once

    if stack.pixels.size == 0 or not np.isfinite(stack.pixels).all():
        raise SegmentationRefused("The late-enhancement stack is empty or holds grey values that are not numbers.")
    localiser, fine = (
        load_model_once(name, device, models, labelling_precision(device)) for name in (LOCALISER, SEGMENTER)
    )
    best = _read(stack, _locate(stack, localiser), fine)
    if best.agreement < _SURE:
        # The localiser is the weaker of the two networks: look where the ventricle of most studies is as well.
        for field in _USUAL_FIELDS_MM:
            best = max(best, _read(stack, _middle(stack, field), fine), key=lambda one: one.agreement)
    probability, members = best.probability, best.members
    labels = plausible(probability.argmax(1).astype(np.uint8))
    if not np.isin(labels, WALL).any():
        raise SegmentationRefused("No left ventricular wall was found on the late-enhancement images.")
    weights = stack.geometry.slice_intervals()[:, None, None]
    return EnhancementSegmentation(
        labels=labels,
        infarct=probability[:, Tissue.INFARCT] + probability[:, Tissue.OBSTRUCTION],
        obstruction=probability[:, Tissue.OBSTRUCTION],
        agreement=_agreement(members, probability.argmax(1)),
        members_percent=np.array([_percent(plausible(member), weights) for member in members]),
        models=(localiser.identity, fine.identity),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """Mean probability (S, L, R, C) and labels of each member on one crop; their agreement where a ventricle is."""

    probability: NDArray[np.float32]
    members: list[NDArray[np.uint8]]
    agreement: float


def _read(stack: LateEnhancementStack, start: Square, model: LoadedModel) -> _Reading:
    probability, members = _label(stack, _centred(stack, start, model), model, _TURNS)
    labels = probability.argmax(1)
    shown = (labels >= Tissue.MYO).any(axis=(1, 2))
    agreement = _agreement(members, labels)[shown]
    return _Reading(probability, members, float(agreement.mean()) if shown.sum() >= _SLICES_MIN else 0.0)


def _middle(stack: LateEnhancementStack, field_mm: float) -> Square:
    spacing = stack.geometry.pixel_spacing
    rows, columns = stack.pixels.shape[1:]
    return Square((rows - 1) / 2 * spacing[0], (columns - 1) / 2 * spacing[1], field_mm)


def _percent(labels: NDArray[np.uint8], weights: NDArray[np.float64]) -> float:
    wall = float((np.isin(labels, WALL) * weights).sum())
    return 100 * float(((labels >= Tissue.INFARCT) * weights).sum()) / wall if wall > 0 else 0.0


def plausible(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Remove what cannot be left ventricle from a stack (S, R, C): all but its largest body, one body on each slice."""
    simple = np.select([labels == Tissue.LV, labels >= Tissue.MYO], [np.uint8(Label.LV), np.uint8(Label.MYO)], 0)
    return np.where(keep_plausible(simple.astype(np.uint8)) > 0, labels, np.uint8(Tissue.BACKGROUND))


def _locate(stack: LateEnhancementStack, model: LoadedModel) -> Square:
    import torch

    card = model.card
    spacing = stack.geometry.pixel_spacing
    rows, columns = stack.pixels.shape[1:]
    nominal = (card.input.spacing_mm or 4.0) * card.input.size
    field = float(np.clip(max(rows * spacing[0], columns * spacing[1]), nominal, _LARGEST_FIELD_MM))
    whole = Square((rows - 1) / 2 * spacing[0], (columns - 1) / 2 * spacing[1], field)
    scaled = scale_slices(stack.pixels, pixels_of(whole, spacing, (rows, columns)))
    images = sample_square(scaled[None], spacing, whole, card.input.size)[0]
    inputs = (2 * neighbour_channels(images) - 1).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        seen = torch.stack(
            [model.probabilities(inputs.flip(axes))[:, 1].flip([axis - 1 for axis in axes]) for axes in ([], [2], [3])]
        )
    votes = (seen.mean(0) > 0.5).sum(0).double().numpy()
    square = square_of_votes(votes, whole, ventricle_square)
    if square is None:
        raise SegmentationRefused(
            "No left ventricle was found on the late-enhancement images: they are not short axis, or their contrast is "
            "unusual."
        )
    return square


def _square_of(inside: NDArray[np.bool_], spacing: tuple[float, float]) -> Square | None:
    """Crop around what was labelled on at least two slices; ``None`` where nothing was."""
    seen = inside.sum(axis=0) >= min(2, inside.shape[0])
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not rows.size:
        return None
    return ventricle_square(
        (rows[0] * spacing[0], (rows[-1] + 1) * spacing[0]), (columns[0] * spacing[1], (columns[-1] + 1) * spacing[1])
    )


def _centred(stack: LateEnhancementStack, square: Square, model: LoadedModel) -> Square:
    """Move the crop onto what is labelled in it, until it stays: the localiser may be some centimetres off."""
    for _ in range(_RECENTRINGS):
        seen, _members = _label(stack, square, model, _TURNS[:1])
        found = _square_of(plausible(seen.argmax(1).astype(np.uint8)) > 0, stack.geometry.pixel_spacing)
        if found is None:
            return square
        moved = np.hypot(found.row_mm - square.row_mm, found.column_mm - square.column_mm)
        square, still = found, moved < _STILL_MM and abs(found.field_mm / square.field_mm - 1) < _STILL_SHARE
        if still:
            return square
    return square


def _label(
    stack: LateEnhancementStack, square: Square, model: LoadedModel, turns: Sequence[tuple[int, bool]]
) -> tuple[NDArray[np.float32], list[NDArray[np.uint8]]]:
    """Mean probability (S, L, R, C) of the ensemble on the grid of the stack, and the labels of each member."""
    import torch

    spacing, size = stack.geometry.pixel_spacing, model.card.input.size
    rows, columns = stack.pixels.shape[1:]
    crop = pixels_of(square, spacing, (rows, columns))
    images = sample_square(scale_slices(stack.pixels, crop)[None], spacing, square, size)[0]
    inputs = 2 * neighbour_channels(images) - 1

    def member(turn: tuple[int, bool]) -> torch.Tensor:
        # The label weights of the training stay in: on the calibration fold infarct and wall overlap better with them.
        return torch.cat([turned_probabilities(part, model, turn) for part in inputs.split(_BATCH)])

    members = each(member, turns)
    bounds = ((crop[0].start, crop[0].stop), (crop[1].start, crop[1].stop))

    def on_image(crops: torch.Tensor) -> NDArray[np.float32]:
        values = np.zeros((crops.shape[0], len(Tissue), rows, columns), dtype=np.float32)
        values[:, Tissue.BACKGROUND] = 1.0
        values[:, :, crop[0], crop[1]] = sample_image(crops, spacing, square, *bounds).numpy()
        return values

    mean = on_image(torch.stack(members).mean(0))
    return mean, [on_image(one).argmax(1).astype(np.uint8) for one in members]


def _agreement(members: list[NDArray[np.uint8]], consensus: NDArray[np.integer]) -> NDArray[np.float32]:
    """Of cavity and wall, whatever the wall is made of."""
    wall = np.uint8(Tissue.MYO)
    return agreement(
        [np.minimum(member, wall) for member in members], np.minimum(consensus, wall).astype(np.uint8), Tissue.MYO + 1
    )
