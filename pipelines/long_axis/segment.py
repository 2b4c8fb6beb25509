"""Segmentation of one long-axis view on every phase."""

from __future__ import annotations

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

__all__ = ["MODEL", "segment_view"]

MODEL = "long-axis-segmentation"
_LEFT = (LongAxisLabel.LV, LongAxisLabel.MYO)


def segment_view(
    stack: CineStack, centre: NDArray[np.float64] | None, device: str = "cpu", models: Path = PACKAGED
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Label ventricles, myocardium and atria of a long-axis view.

    Parameters
    ----------
    stack : CineStack
        One slice.
    centre : (3,) float64 or None
        Centre of the left ventricle, patient coordinates (LPS, mm), as the short axis tells it; ``None`` looks at the
        middle of the image.

    Returns
    -------
    labels : (T, R, C) uint8
        Values of :class:`LongAxisLabel`.
    agreement : (T,) float32
        Mean Dice between the members of the ensemble and their consensus.

    Raises
    ------
    ModelUnavailable
        The network is not installed.
    """
    import torch

    from pipelines.models.registry import load_model_once

    model = load_model_once(MODEL, device, models, labelling_precision(device))
    pixels = np.ascontiguousarray(stack.pixels[:, 0])
    spacing = stack.geometry.pixel_spacing
    square = _square(stack, centre)
    with torch.inference_mode():
        crops = sample_square(torch.from_numpy(pixels)[None], spacing, square, model.card.input.size)[0]
        crops = scale_intensity(crops, intensity_window(pixels))
        # A cine is a cycle: the frame before the first is the last.
        around = torch.stack([crops.roll(1, 0), crops, crops.roll(-1, 0)], dim=1)
        mean, members = label_probabilities(around, model)
        agreed = agreement(members, likeliest(mean), len(LongAxisLabel))
        smooth = smooth_in_time(mean, cyclic=stack.retrospective)
        rows, columns = _inside(square, spacing, pixels.shape[1:])
        native = sample_image(torch.from_numpy(smooth), spacing, square, rows, columns).numpy()
    labels = np.full(pixels.shape, LongAxisLabel.BACKGROUND, np.uint8)
    labels[:, slice(*rows), slice(*columns)] = likeliest(native)
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
    left = _largest(np.isin(labels, _LEFT))
    result = np.where(left, labels, np.uint8(LongAxisLabel.BACKGROUND))
    near = ndimage.binary_dilation(left, iterations=4)
    for label in (LongAxisLabel.RV, LongAxisLabel.LA, LongAxisLabel.RA):
        bodies, count = ndimage.label(labels == label)
        if count == 0:
            continue
        sizes = np.bincount(bodies.ravel(), minlength=count + 1)[1:]
        touching = np.unique(bodies[near])
        touching = touching[touching > 0]
        kept = 1 + int(np.argmax(sizes))
        if touching.size and label is not LongAxisLabel.RA:
            kept = int(touching[np.argmax(sizes[touching - 1])])
        result[bodies == kept] = label
    return result.astype(np.uint8)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    bodies, count = ndimage.label(mask)
    if count == 0:
        return mask
    return bodies == 1 + int(np.argmax(np.bincount(bodies.ravel())[1:]))
