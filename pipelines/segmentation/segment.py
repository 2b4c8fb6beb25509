"""Segmentation of every phase of a short-axis stack: locate, crop, segment, smooth in time, undo the crop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.models.precision import Precision, labelling_precision
from pipelines.models.registry import PACKAGED
from pipelines.segmentation.confidence import expected_dice, predicted_dice
from pipelines.segmentation.decision import likeliest, likeliest_labels
from pipelines.segmentation.ensemble import agreement, label_probabilities
from pipelines.segmentation.grid import (
    Square,
    anchored_window,
    intensity_window,
    sample_image,
    sample_square,
    scale_intensity,
)
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.segmentation.localise import locate_heart, neighbour_channels
from pipelines.segmentation.parallel import each
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.strays import not_left_ventricle, without_left_ventricle

if TYPE_CHECKING:
    from pipelines.models.registry import LoadedModel

__all__ = ["FINE_MODEL", "LOCALISER", "SeenHeart", "on_image", "see_heart", "segment", "smooth_in_time", "warm"]

LOCALISER = "heart-localiser"
FINE_MODEL = "ventricle-segmentation"

_FEWEST_PHASES_TO_SMOOTH = 8
_SMOOTHING_CYCLES = 0.02
"""Standard deviation of the temporal smoothing, cardiac cycles: below the sharpest bend of a volume curve."""


def _models(device: str, models: Path, precision: Precision | None = None) -> tuple[LoadedModel, LoadedModel]:
    from pipelines.models.registry import load_model_once

    precision = labelling_precision(device) if precision is None else precision
    return load_model_once(LOCALISER, device, models, precision), load_model_once(FINE_MODEL, device, models, precision)


def warm(device: str = "cpu") -> None:
    """Load the networks to a torch device and run each once, so that the first study costs what the others do."""
    import torch

    with torch.inference_mode():
        for model in _models(device, PACKAGED):
            size = model.card.input.size
            model.probabilities(torch.zeros(1, 3, size, size).contiguous(memory_format=torch.channels_last))


def smooth_in_time(values: NDArray[np.float32], *, cyclic: bool) -> NDArray[np.float32]:
    """Smooth along the first axis with a Gaussian of 2 % of the cycle; fewer than 8 phases are returned as they are.

    Parameters
    ----------
    values : (T, …) float32
    cyclic : bool
        Whether the last phase is followed by the first.
    """
    from scipy import ndimage

    phases = values.shape[0]
    if phases < _FEWEST_PHASES_TO_SMOOTH:
        return values
    mode: Literal["wrap", "nearest"] = "wrap" if cyclic else "nearest"
    smooth: NDArray[np.float32] = ndimage.gaussian_filter1d(values, _SMOOTHING_CYCLES * phases, axis=0, mode=mode)
    return smooth


def _largest(bodies: NDArray[np.signedinteger]) -> NDArray[np.bool_]:
    """The numbered body (1 …) of most voxels; nothing where there is none."""
    sizes = np.bincount(bodies.ravel())
    return bodies == 1 + int(np.argmax(sizes[1:])) if len(sizes) > 1 else np.zeros(bodies.shape, dtype=bool)


def keep_plausible(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Remove what cannot be heart from one phase (S, R, C).

    The left ventricle (cavity and wall) is its largest connected body, and one body on each slice. Of the RV, bodies
    that lie against the left ventricle stay, or the largest where none does: near the base the RV comes apart in the
    stack, but every true part of it lies on the septum.
    """
    from scipy import ndimage

    across = np.zeros((3, 3, 3), dtype=bool)
    across[1] = True
    across[:, 1, 1] = True
    left = _largest(ndimage.label(np.isin(labels, (Label.LV, Label.MYO)), structure=across)[0])
    for plane in left:
        plane[:] = _largest(ndimage.label(plane, structure=across[1])[0])
    bodies, _ = ndimage.label(labels == Label.RV, structure=across)
    near = np.unique(bodies[ndimage.binary_dilation(left, structure=np.ones((1, 5, 5), dtype=bool))])
    near = near[near > 0]
    right = np.isin(bodies, near) if len(near) else _largest(bodies)
    return np.where(left | right, labels, np.uint8(Label.BACKGROUND)).astype(np.uint8)


def _window(square: Square, spacing: tuple[float, float], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Image pixels whose centres lie within the square: first row, end row, first column, end column."""
    bounds: list[int] = []
    for centre, step, length in zip((square.row_mm, square.column_mm), spacing, shape, strict=True):
        first = int(np.ceil((centre - square.field_mm / 2) / step))
        end = int(np.floor((centre + square.field_mm / 2) / step)) + 1
        bounds += [min(max(first, 0), length), min(max(end, 0), length)]
    return bounds[0], bounds[1], bounds[2], bounds[3]


def segment(
    stack: CineStack, device: str = "cpu", models: Path = PACKAGED, precision: Precision | None = None
) -> CineSegmentation:
    """Label LV cavity, myocardium and RV cavity on every phase and slice of a short-axis stack.

    Parameters
    ----------
    stack : CineStack
    device : str
        Torch device of the networks; everything else happens on the CPU.
    models : Path
        Folder that holds a folder for each network; by default those that come with the package.
    precision : Precision or None
        What the networks compute in; by default what suits the device.

    Raises
    ------
    SegmentationRefused
        The pixels are not finite, the image is empty, or no heart was found.
    """
    localiser, fine = _models(device, models, precision)
    seen = see_heart(stack, localiser, fine)
    # What is left of one thread is waited for: where pieces are independent, each core takes some.
    probability = np.empty_like(seen.probability)

    def smoothed(index: int) -> None:
        probability[:, index] = smooth_in_time(seen.probability[:, index], cyclic=stack.retrospective)

    each(smoothed, range(stack.slices))
    first_row, end_row, first_column, end_column = seen.crop
    labels = np.zeros(stack.pixels.shape, dtype=np.uint8)
    spacing = stack.geometry.pixel_spacing
    pixel_mm2 = spacing[0] * spacing[1]

    inside = labels[:, :, first_row:end_row, first_column:end_column]

    def plausible(native: NDArray[np.float32]) -> NDArray[np.uint8]:
        return keep_plausible(likeliest_labels(native, fine.card.cavity_bias or (0.0, 0.0), pixel_mm2))

    def labelled(phase: int) -> None:
        inside[phase] = plausible(on_image(probability[phase], seen, spacing))

    each(labelled, range(stack.phases))
    # Of the labels as they are before strays go: what replaces them deserves no more confidence.
    confidence = predicted_dice(inside, seen.expected, pixel_mm2)
    for phase in range(stack.phases):
        strays = not_left_ventricle(inside[phase], confidence[phase])
        if strays.any():
            inside[phase] = plausible(without_left_ventricle(on_image(probability[phase], seen, spacing), strays))
    return CineSegmentation(labels, seen.agreed, seen.crop, (localiser.identity, fine.identity), confidence)


@dataclass(frozen=True, slots=True, eq=False)
class SeenHeart:
    """What the networks say of a stack, before labels are chosen.

    Attributes
    ----------
    square : Square
        The crop that the fine network saw.
    crop : (int, int, int, int)
        First row, end row, first column, end column of it on the stack's grid.
    probability : (T, S, L, n, n) float32
        Of each label, on the grid of the square.
    agreed, expected : (T, S) float32
        Agreement of the ensemble's members; Dice coefficient that the probabilities lead one to expect.
    """

    square: Square
    crop: tuple[int, int, int, int]
    probability: NDArray[np.float32]
    agreed: NDArray[np.float32]
    expected: NDArray[np.float32]


def see_heart(stack: CineStack, localiser: LoadedModel, fine: LoadedModel) -> SeenHeart:
    """Find the heart and run the fine network on every slice and phase.

    Raises
    ------
    SegmentationRefused
        The pixels are not finite, the image is empty, or no heart was found.
    """
    import torch

    if stack.pixels.size == 0 or not np.isfinite(stack.pixels).all():
        raise SegmentationRefused("The short-axis stack is empty or holds grey values that are not numbers.")
    place = locate_heart(stack, localiser)
    square = place.square
    spacing = stack.geometry.pixel_spacing
    rows, columns = stack.pixels.shape[2:]
    crop = _window(square, spacing, (rows, columns))
    inside = stack.pixels[:, :, crop[0] : crop[1], crop[2] : crop[3]]
    # Every pixel of at most eight phases: the window of a cine does not depend on the phase.
    window = anchored_window(intensity_window(inside[:: max(1, stack.phases // 8)]), place.blood)
    size = fine.card.input.size

    images = torch.empty((stack.phases, stack.slices, 3, size, size))

    def cropped(phase: int) -> None:
        grey = scale_intensity(torch.from_numpy(stack.pixels[phase])[None], window)
        images[phase] = neighbour_channels(sample_square(grey, spacing, square, size)[0])

    each(cropped, range(stack.phases))
    mean, members = label_probabilities(images.flatten(0, 1), fine)
    by_phase = mean.reshape(stack.phases, stack.slices, *mean.shape[1:])

    def judged(phase: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        own = slice(phase * stack.slices, (phase + 1) * stack.slices)
        agreed = agreement([labels[own] for labels in members], likeliest(mean[own]), len(Label))
        return agreed, expected_dice(mean[own])

    judgements = each(judged, range(stack.phases))
    agreed, expected = (np.stack(values) for values in zip(*judgements, strict=True))
    return SeenHeart(square, crop, by_phase, agreed, expected)


def on_image(probability: NDArray[np.float32], seen: SeenHeart, spacing: tuple[float, float]) -> NDArray[np.float32]:
    """Probabilities of one phase at the image pixels of the crop.

    Parameters
    ----------
    probability : (S, L, n, n) float32
        On the grid of the square.
    spacing : (float, float)
        Distance between rows, between columns, mm.

    Returns
    -------
    (S, L, rows, columns) float32
    """
    import torch

    first_row, end_row, first_column, end_column = seen.crop
    native = sample_image(
        torch.from_numpy(probability), spacing, seen.square, (first_row, end_row), (first_column, end_column)
    )
    values: NDArray[np.float32] = native.numpy()
    return values
