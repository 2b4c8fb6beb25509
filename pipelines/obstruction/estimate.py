"""From a segmented short-axis stack to the probability of obstruction and the places that led to it."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.findings import Interval
from pipelines.models.registry import LoadedModel
from pipelines.motion.crop import centre_of_ventricle, sample_labels, square_at
from pipelines.obstruction.attribution import grad_cam
from pipelines.obstruction.calibration import calibrated
from pipelines.obstruction.clips import SPACING_MM, WIDE, clips_of_stack, slices_with_muscle
from pipelines.obstruction.findings import Method, Obstruction, SliceObstruction
from pipelines.obstruction.network import SIZE, ObstructionNetwork
from pipelines.obstruction.predict import heart_probability, slice_logits, slice_probabilities, slice_weights
from pipelines.obstruction.wall import WallMotion, describe_wall
from pipelines.obstruction.wall_model import WallModel
from pipelines.segmentation.grid import Square
from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.contours import paint, polar_coordinates

__all__ = ["POPULATION", "estimate_obstruction", "wall_of_stack"]

POPULATION = "adults with an acute, reperfused myocardial infarct, some days after it"
_UNREMARKABLE, _SEVERE = 0.5, 2.0
"""Deficits of motion, standard deviations of the wall of the heart, that a map shows as 0 and as 1."""


def estimate_obstruction(
    stack: CineStack, labels: NDArray[np.uint8], end_diastole: int, end_systole: int, model: LoadedModel
) -> Obstruction:
    """Estimate microvascular obstruction, by the network or by the wall model, whichever ``model`` is.

    Parameters
    ----------
    stack : CineStack
    labels : (T, S, R, C) uint8
        Values of :class:`Label`, on the grid of the stack.
    end_diastole, end_systole : int
        Phases of the stack.
    model : LoadedModel

    Raises
    ------
    ValueError
        The labels show no left ventricle, or both moments are the same.
    """
    if isinstance(model.network, WallModel):
        return _by_wall(stack, labels, end_diastole, end_systole, model)
    return _by_clips(stack, labels, end_diastole, end_systole, model)


def _area_under_curve(model: LoadedModel) -> tuple[float, Interval]:
    value, low, high = (float(each) for each in model.network.get_buffer("held_out_auc"))
    return value, Interval(low, high)


def _by_clips(
    stack: CineStack, labels: NDArray[np.uint8], end_diastole: int, end_systole: int, model: LoadedModel
) -> Obstruction:
    network = cast("ObstructionNetwork", model.network)
    clips, slices, square = clips_of_stack(stack.pixels, labels, stack.geometry, end_diastole, end_systole)
    logits = slice_logits(network, clips, model.device)
    heart = heart_probability(network, logits)
    # What moves the score of the heart, by the chain rule.
    maps = grad_cam(network, clips, model.device) * slice_weights(network, logits)[:, None, None, None]
    muscle = _on_square(labels[end_diastole, slices] == Label.MYO, stack.geometry.pixel_spacing, square)
    inside = maps.mean(axis=1) * muscle
    strongest = float(inside.max()) or 1.0
    probabilities = slice_probabilities(network, logits)
    area, interval = _area_under_curve(model)
    return Obstruction(
        method=Method.NETWORK,
        probability=heart.value,
        interval=Interval(heart.low, heart.high),
        area_under_curve=area,
        area_interval=interval,
        contributions=(),
        slices=tuple(
            SliceObstruction(int(index), end_diastole, float(probability), values / strongest)
            for index, probability, values in zip(slices, probabilities, inside, strict=True)
        ),
        square=square,
        stack=stack,
        population=POPULATION,
        models=(model.identity,),
    )


def wall_of_stack(
    stack: CineStack, labels: NDArray[np.uint8], end_diastole: int, end_systole: int
) -> tuple[WallMotion, NDArray[np.int64], Square]:
    """Motion of the wall in the slices that show muscle at end diastole, their indices, and the square it was told in.

    Raises
    ------
    ValueError
        The labels show no left ventricle, or both moments are the same.
    """
    if end_diastole == end_systole:
        raise ValueError("end diastole and end systole are the same phase")
    centre = centre_of_ventricle(labels, stack.geometry)
    slices = slices_with_muscle(labels[end_diastole])
    if centre is None or not slices.size:
        raise ValueError("the labels show no left ventricle")
    middle = square_at(centre, stack.geometry)
    square = Square(middle.row_mm, middle.column_mm, WIDE * SPACING_MM)
    moments = labels[[end_diastole, end_systole]][:, slices]
    diastole, systole = sample_labels(moments, stack.geometry.pixel_spacing, square, WIDE, max(Label))
    return describe_wall(diastole, systole), slices, square


def _by_wall(
    stack: CineStack, labels: NDArray[np.uint8], end_diastole: int, end_systole: int, model: LoadedModel
) -> Obstruction:
    network = cast("WallModel", model.network)
    wall, slices, square = wall_of_stack(stack, labels, end_diastole, end_systole)
    heart = calibrated(network, network.score(wall.features))
    inner = Square(square.row_mm, square.column_mm, SIZE * SPACING_MM)
    muscle = _on_square(labels[end_diastole, slices] == Label.MYO, stack.geometry.pixel_spacing, inner)
    maps = muscle * _painted(wall)
    probabilities = network.slice_probabilities(wall)
    area, interval = _area_under_curve(model)
    return Obstruction(
        method=Method.WALL_MOTION,
        probability=heart.value,
        interval=Interval(heart.low, heart.high),
        area_under_curve=area,
        area_interval=interval,
        contributions=network.contributions(wall.features),
        slices=tuple(
            SliceObstruction(int(index), end_diastole, float(probability), values)
            for index, probability, values in zip(slices, probabilities, maps, strict=True)
        ),
        square=inner,
        stack=stack,
        population=POPULATION,
        models=(model.identity,),
    )


def _painted(wall: WallMotion) -> NDArray[np.float32]:
    """The deficit of motion on the square of 64 pixels, (S, 64, 64), 0 … 1."""
    import torch

    _, position = polar_coordinates(torch.from_numpy(wall.centre).float(), SIZE)
    shown = np.clip((wall.deficit - _UNREMARKABLE) / (_SEVERE - _UNREMARKABLE), 0, 1).astype(np.float32)
    return np.asarray(paint(torch.from_numpy(shown)[:, None], position)[:, 0].numpy(), np.float32)


def _on_square(masks: NDArray[np.bool_], spacing: tuple[float, float], square: Square) -> NDArray[np.float32]:
    """Masks (N, R, C) on the square, (N, 64, 64), 0 or 1."""
    import torch

    from pipelines.segmentation.grid import sample_square

    sampled = sample_square(torch.from_numpy(masks.astype(np.float32))[:, None], spacing, square, SIZE)[:, 0]
    return np.asarray((sampled > 0.5).float().numpy(), np.float32)
