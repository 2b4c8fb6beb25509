"""From a segmented short-axis stack to the probability of obstruction and the places that led to it."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.findings import Interval
from pipelines.models.registry import LoadedModel
from pipelines.obstruction.attribution import grad_cam
from pipelines.obstruction.clips import clips_of_stack, normalised_phases
from pipelines.obstruction.findings import Obstruction, SliceObstruction
from pipelines.obstruction.network import SIZE, ObstructionNetwork
from pipelines.obstruction.predict import heart_probability, slice_logits, slice_probabilities
from pipelines.segmentation.grid import Square
from pipelines.segmentation.labels import Label

__all__ = ["POPULATION", "estimate_obstruction", "tells_anything"]

POPULATION = "adults with an acute, reperfused myocardial infarct, some days after it"


def tells_anything(model: LoadedModel) -> bool:
    """Whether the probability depends on the images: a network that was no better than chance has the slope 0."""
    return float(cast("ObstructionNetwork", model.network).heart_calibration[0]) > 0


def estimate_obstruction(
    stack: CineStack, labels: NDArray[np.uint8], end_diastole: int, end_systole: int, model: LoadedModel
) -> Obstruction:
    """Estimate microvascular obstruction.

    Parameters
    ----------
    stack : CineStack
    labels : (T, S, R, C) uint8
        Values of :class:`Label`, on the grid of the stack.
    end_diastole, end_systole : int
        Phases of the stack.
    model : LoadedModel
        The obstruction network.

    Raises
    ------
    ValueError
        The labels show no left ventricle, or both moments are the same.
    """
    network = cast("ObstructionNetwork", model.network)
    clips, slices, square = clips_of_stack(stack.pixels, labels, stack.geometry, end_diastole, end_systole)
    logits = slice_logits(network, clips, model.device)
    heart = heart_probability(network, logits)
    maps = grad_cam(network, clips, model.device)
    shown = normalised_phases(end_diastole, end_systole, stack.phases).round().astype(np.int64) % stack.phases
    found = []
    for each, index in zip(maps, slices, strict=True):
        muscle = _on_square(labels[shown, index] == Label.MYO, stack.geometry.pixel_spacing, square)
        inside = each * muscle
        area = np.maximum(muscle.sum(axis=(1, 2)), 1)
        frame = int(np.argmax(inside.sum(axis=(1, 2)) / area))
        found.append((int(index), int(shown[frame]), inside[frame]))
    strongest = max((float(values.max()) for _, _, values in found), default=0.0) or 1.0
    probabilities = slice_probabilities(network, logits)
    return Obstruction(
        probability=heart.value,
        interval=Interval(heart.low, heart.high),
        slices=tuple(
            SliceObstruction(index, phase, float(probability), values / strongest)
            for (index, phase, values), probability in zip(found, probabilities, strict=True)
        ),
        square=square,
        stack=stack,
        population=POPULATION,
        models=(model.identity,),
    )


def _on_square(masks: NDArray[np.bool_], spacing: tuple[float, float], square: Square) -> NDArray[np.float32]:
    """Masks (N, R, C) on the square, (N, 64, 64), 0 or 1."""
    import torch

    from pipelines.segmentation.grid import sample_square

    sampled = sample_square(torch.from_numpy(masks.astype(np.float32))[:, None], spacing, square, SIZE)[:, 0]
    return np.asarray((sampled > 0.5).float().numpy(), np.float32)
