"""Segmentation of every phase of a short-axis stack: locate, crop, segment, smooth in time, undo the crop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.cine.stack import CineStack
from pipelines.models.registry import PACKAGED
from pipelines.segmentation.grid import Square, intensity_window, sample_image, sample_square, scale_intensity
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.segmentation.localise import locate_heart, neighbour_channels
from pipelines.segmentation.parallel import each
from pipelines.segmentation.refusal import SegmentationRefused

if TYPE_CHECKING:
    import torch

    from pipelines.models.registry import LoadedModel

__all__ = ["FINE_MODEL", "LOCALISER", "segment", "smooth_in_time", "warm"]

LOCALISER = "heart-localiser"
FINE_MODEL = "ventricle-segmentation"

_BATCH = 8
_TURNS = ((0, False), (1, True))
"""Members of the test-time ensemble: quarter turns, then whether to mirror. Both are exact on the crop's grid."""
_FEWEST_PHASES_TO_SMOOTH = 8
_SMOOTHING_CYCLES = 0.02
"""Standard deviation of the temporal smoothing, cardiac cycles: below the sharpest bend of a volume curve."""


def _models(device: str, models: Path) -> tuple[LoadedModel, LoadedModel]:
    from pipelines.models.registry import load_model_once

    return load_model_once(LOCALISER, device, models), load_model_once(FINE_MODEL, device, models)


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
    phases = values.shape[0]
    if phases < _FEWEST_PHASES_TO_SMOOTH:
        return values
    mode: Literal["wrap", "nearest"] = "wrap" if cyclic else "nearest"
    smooth: NDArray[np.float32] = ndimage.gaussian_filter1d(values, _SMOOTHING_CYCLES * phases, axis=0, mode=mode)
    return smooth


def _probabilities(crops: torch.Tensor, model: LoadedModel) -> tuple[NDArray[np.float32], list[NDArray[np.uint8]]]:
    """Mean probability (T, S, L, n, n) of the ensemble over crops (T, S, n, n), and the labels of each member."""
    import torch

    phases, slices, size, _ = crops.shape
    mean = np.zeros((phases, slices, len(Label), size, size), dtype=np.float32)
    members = [np.empty((phases, slices, size, size), dtype=np.uint8) for _ in _TURNS]
    inputs = torch.cat([2 * neighbour_channels(phase) - 1 for phase in crops])
    # Weighted cross-entropy is least for probabilities that are too large by the weights.
    excess = torch.tensor(model.card.label_weights).view(1, -1, 1, 1)
    flat_mean = mean.reshape(-1, len(Label), size, size)

    def run(start: int) -> None:
        batch = inputs[start : start + _BATCH]
        for (quarter, mirror), labels in zip(_TURNS, members, strict=True):
            turned = torch.rot90(batch, quarter, (2, 3))
            turned = (turned.flip(3) if mirror else turned).contiguous(memory_format=torch.channels_last)
            seen = model.probabilities(turned) / excess
            seen = seen / seen.sum(1, keepdim=True)
            output = torch.rot90(seen.flip(3) if mirror else seen, -quarter, (2, 3)).contiguous().numpy()
            flat_mean[start : start + _BATCH] += output / len(_TURNS)
            labels.reshape(-1, size, size)[start : start + _BATCH] = output.argmax(1)

    each(run, range(0, len(inputs), _BATCH))
    return mean, members


def _agreement(members: list[NDArray[np.uint8]], consensus: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean Dice (T, S) between members and consensus over the labels that either has."""
    total = np.zeros(consensus.shape[:2])
    count = np.zeros(consensus.shape[:2])
    for member in members:
        for label in (Label.LV, Label.MYO, Label.RV):
            first, second = member == label, consensus == label
            areas = first.sum((2, 3)) + second.sum((2, 3))
            overlap = 2 * (first & second).sum((2, 3))
            total += np.divide(overlap, areas, out=np.zeros(areas.shape), where=areas > 0)
            count += areas > 0
    return np.where(count > 0, total / np.maximum(count, 1), 1.0).astype(np.float32)


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


def segment(stack: CineStack, device: str = "cpu", models: Path = PACKAGED) -> CineSegmentation:
    """Label LV cavity, myocardium and RV cavity on every phase and slice of a short-axis stack.

    Parameters
    ----------
    stack : CineStack
    device : str
        Torch device of the networks; everything else happens on the CPU.
    models : Path
        Folder that holds a folder for each network; by default those that come with the package.

    Raises
    ------
    SegmentationRefused
        The pixels are not finite, the image is empty, or no heart was found.
    """
    import torch

    if stack.pixels.size == 0 or not np.isfinite(stack.pixels).all():
        raise SegmentationRefused("The short-axis stack is empty or holds grey values that are not numbers.")
    localiser, fine = _models(device, models)
    square = locate_heart(stack, localiser)
    spacing = stack.geometry.pixel_spacing
    rows, columns = stack.pixels.shape[2:]
    crop = _window(square, spacing, (rows, columns))
    inside = stack.pixels[:, :, crop[0] : crop[1], crop[2] : crop[3]]
    # Every pixel of at most eight phases: the window of a cine does not depend on the phase.
    window = intensity_window(inside[:: max(1, stack.phases // 8)])
    size = fine.card.input.size
    crops = torch.stack(
        [
            sample_square(scale_intensity(torch.from_numpy(phase)[None], window), spacing, square, size)[0]
            for phase in stack.pixels
        ]
    )
    probability, members = _probabilities(crops, fine)
    agreement = _agreement(members, probability.argmax(2).astype(np.uint8))
    probability = smooth_in_time(probability, cyclic=stack.retrospective)
    labels = np.zeros(stack.pixels.shape, dtype=np.uint8)
    for phase, values in zip(labels, probability, strict=True):
        native = sample_image(torch.from_numpy(values), spacing, square, (crop[0], crop[1]), (crop[2], crop[3]))
        phase[:, crop[0] : crop[1], crop[2] : crop[3]] = keep_plausible(native.argmax(1).numpy().astype(np.uint8))
    return CineSegmentation(labels, agreement, crop, (localiser.identity, fine.identity))
