"""Inputs of the networks for a slice: images over the cycle, masks, motion of the wall, and circumstances.

Everything here can be had from a cine and the node's own segmentation. Motion is how the radii of the wall change in
each direction: the share of the cavity's area that a direction loses, and the thickening. It is painted onto the plane,
so that a convolution meets it beside the grey values of the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.contours import ANGLES, directions, paint, polar_coordinates, wall_radii

if TYPE_CHECKING:
    import torch

__all__ = [
    "CHANNELS",
    "FIELD_PX",
    "MOMENTS",
    "SIZE",
    "SPACING_MM",
    "Ablation",
    "Circumstances",
    "HeartCrop",
    "SlicePlan",
    "chosen_phases",
    "crop_heart",
    "describe",
    "regional_motion",
    "slice_inputs",
    "unaltered",
    "withheld_channels",
]

SIZE = 64
"""Pixels of a side of what the networks see."""
FIELD_PX = 88
"""Pixels of a side of what is sampled: a margin for augmentation, and the field that grey values are scaled in."""
SPACING_MM = 1.75
MOMENTS = 8
"""End diastole, end systole, and six moments equally spaced over the cycle."""
MANUFACTURERS = ("siemens", "ge", "philips")
_FEWEST_PHASES = 8
_TOUCH_PX2 = 1.0
_THICKNESS_PX = 7.0

CHANNELS = (
    *(
        f"image at {moment}"
        for moment in ("end diastole", "end systole", *(f"{k}/7 of the cycle" for k in range(1, 7)))
    ),
    *("muscle", "cavity", "right ventricle"),
    *(f"loss of area at {moment}" for moment in ("end systole", *(f"{k}/7 of the cycle" for k in range(1, 7)))),
    *("thickness at end diastole", "thickening at end systole", "inward motion of the epicardium"),
    *("loss of area of the slice below", "loss of area of the slice above"),
    *("height", "mean loss of area of the heart", "3 T", *(f"from {name}" for name in MANUFACTURERS), "whole cycle"),
)
"""Meaning of each input channel."""
_OF_MOTION = (*range(MOMENTS + 3, CHANNELS.index("height")), CHANNELS.index("mean loss of area of the heart"))


class Ablation(StrEnum):
    """What is kept from a network, to learn what it owes to it."""

    EVERYTHING = "everything"
    """Nothing is kept from it: what the others are held against."""
    NO_MOTION = "no-motion"
    """Thickness, thickening and loss of area; the images of all moments stay, and the masks at end diastole."""
    NO_IMAGE = "no-image"
    """The images of all moments; masks and motion stay."""


def withheld_channels(ablation: Ablation | None) -> tuple[int, ...]:
    """Places in :data:`CHANNELS` of what an ablation keeps from a network; without one nothing."""
    match ablation:
        case Ablation.NO_MOTION:
            return _OF_MOTION
        case Ablation.NO_IMAGE:
            return tuple(range(MOMENTS))
        case _:
            return ()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the header says of the acquisition.

    Attributes
    ----------
    field_strength_t : float or None
    manufacturer : str or None
        As the header has it.
    """

    field_strength_t: float | None = None
    manufacturer: str | None = None

    def vector(self) -> NDArray[np.float32]:
        """Whether 3 T, and the three manufacturers, (4,): −1 no, 1 yes, 0 not known."""
        field = 0.0 if self.field_strength_t is None else (1.0 if self.field_strength_t > 2 else -1.0)
        name = (self.manufacturer or "").lower()
        known = any(word in name for word in MANUFACTURERS)
        makers = [0.0 if not known else (1.0 if word in name else -1.0) for word in MANUFACTURERS]
        return np.array([field, *makers], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class HeartCrop:
    """The slices of one heart that show muscle at end diastole, S of them, at the moments that the networks see.

    Attributes
    ----------
    images : (MOMENTS, S, 88, 88) uint8
        Grey values 0 … 1.25 times 200; zero at moments that a cine of few phases does not have.
    right : (S, 88, 88) uint8
        1 where the right ventricle is at end diastole.
    muscle : (S, 88, 88) bool
        At end diastole.
    centre : (S, 2) float32
        Of the ventricle at end diastole, pixels from the centre of the field.
    inner, outer : (MOMENTS, S, ANGLES) float32
        Radii of the wall, pixels; those of end diastole at moments that are missing.
    height : (S,) float32
        0 lowest, 1 highest slice that shows muscle.
    circumstances : (4,) float32
    whole_cycle : bool
        Whether all moments are there, or only end diastole and end systole.
    """

    images: NDArray[np.uint8]
    right: NDArray[np.uint8]
    muscle: NDArray[np.bool_]
    centre: NDArray[np.float32]
    inner: NDArray[np.float32]
    outer: NDArray[np.float32]
    height: NDArray[np.float32]
    circumstances: NDArray[np.float32]
    whole_cycle: bool

    @property
    def slices(self) -> int:
        """Number of slices S."""
        return len(self.height)


def chosen_phases(phases: int, end_diastole: int, end_systole: int) -> list[int]:
    """Phase of each moment; end diastole and end systole alone where there are fewer than 8 phases."""
    if phases < _FEWEST_PHASES:
        return [end_diastole, end_systole]
    spread = [(end_diastole + round(moment * phases / 7)) % phases for moment in range(1, 7)]
    return [end_diastole, end_systole, *spread]


def crop_heart(
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    height: NDArray[np.float32],
    end_diastole: int,
    end_systole: int,
    circumstances: Circumstances,
) -> HeartCrop:
    """Choose the moments of a heart and measure the radii of its wall.

    Parameters
    ----------
    images : (T, S, 88, 88) uint8
        Grey values 0 … 1.25 times 200, slices that show muscle at end diastole.
    labels : (T, S, 88, 88) uint8
        Values of :class:`Label`.
    height : (S,) float32
    end_diastole, end_systole : int
        Phases.
    circumstances : Circumstances
    """
    phases = chosen_phases(len(images), end_diastole, end_systole)
    slices = images.shape[1]
    radii = wall_radii(labels[phases].reshape(-1, *labels.shape[2:]))
    inner, outer = (part.reshape(len(phases), slices, ANGLES) for part in (radii.inner, radii.outer))
    missing = MOMENTS - len(phases)
    seen = images[phases]
    if missing:
        seen = np.concatenate([seen, np.zeros((missing, *seen.shape[1:]), np.uint8)])
        inner, outer = (np.concatenate([part, np.repeat(part[:1], missing, axis=0)]) for part in (inner, outer))
    return HeartCrop(
        images=seen,
        right=(labels[end_diastole] == Label.RV).astype(np.uint8),
        muscle=labels[end_diastole] == Label.MYO,
        centre=radii.centre[:slices],
        inner=inner,
        outer=outer,
        height=height.astype(np.float32),
        circumstances=circumstances.vector(),
        whole_cycle=not missing,
    )


def regional_motion(inner: NDArray[np.float32], outer: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Motion of the wall by direction since the first moment.

    Parameters
    ----------
    inner, outer : (M, …, ANGLES) float32
        Radii, pixels.

    Returns
    -------
    area_loss : (M, …, ANGLES) float32
        Share of the cavity's area that each direction has lost, −0.5 … 1; 0 where there is no cavity.
    thickening : (M, …, ANGLES) float32
        Relative change of thickness, −0.5 … 1.5; 0 where there is no wall.
    """
    loss = 1 - (inner**2 + _TOUCH_PX2) / (inner[:1] ** 2 + _TOUCH_PX2)
    thickness = outer - inner
    there = thickness[:1] > 1
    thickening = np.where(there, thickness / np.where(there, thickness[:1], 1) - 1, 0)
    return np.clip(loss, -0.5, 1).astype(np.float32), np.clip(thickening, -0.5, 1.5).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class SlicePlan:
    """Which slices are looked at, and how they are placed; N slices.

    Attributes
    ----------
    matrix : (N, 2, 2) float32
        Leads from a place of the square of the network to one of the field: (row, column), pixels from the centres.
    shift : (N, 2) float32
        Added to that.
    images : (N, MOMENTS, 88, 88), right : (N, 88, 88)
    centre : (N, 2), inner, outer : (N, MOMENTS, ANGLES)
    below, above : (N, 2, ANGLES)
        Inner radius at end diastole and end systole of the slices next to it (its own at the ends).
    scalars : (N, 7)
        Height, mean loss of area of the heart, circumstances, whole cycle.
    """

    matrix: NDArray[np.float32]
    shift: NDArray[np.float32]
    images: NDArray[np.float32]
    right: NDArray[np.float32]
    centre: NDArray[np.float32]
    inner: NDArray[np.float32]
    outer: NDArray[np.float32]
    below: NDArray[np.float32]
    above: NDArray[np.float32]
    scalars: NDArray[np.float32]


def describe(heart: HeartCrop, chosen: NDArray[np.intp] | None = None) -> SlicePlan:
    """Plan of the slices of a heart (all of them by default), placed as they are."""
    places = np.arange(heart.slices) if chosen is None else chosen
    matrix, shift = unaltered(len(places))
    systole = regional_motion(heart.inner[:2], heart.outer[:2])[0][1]
    mean = np.full(len(places), systole.mean(), np.float32)
    below, above = np.maximum(places - 1, 0), np.minimum(places + 1, heart.slices - 1)
    whole = np.full(len(places), 1.0 if heart.whole_cycle else -1.0, np.float32)
    repeated = np.repeat(heart.circumstances[None], len(places), axis=0)
    return SlicePlan(
        matrix=matrix,
        shift=shift,
        images=np.moveaxis(heart.images[:, places], 0, 1).astype(np.float32) / np.float32(200),
        right=heart.right[places].astype(np.float32),
        centre=heart.centre[places],
        inner=np.moveaxis(heart.inner[:, places], 0, 1),
        outer=np.moveaxis(heart.outer[:, places], 0, 1),
        below=np.moveaxis(heart.inner[:2, below], 0, 1),
        above=np.moveaxis(heart.inner[:2, above], 0, 1),
        scalars=np.column_stack([2 * heart.height[places] - 1, mean, repeated, whole]).astype(np.float32),
    )


def unaltered(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Matrices and shifts that place the square of the network in the middle of the field."""
    return np.repeat(np.eye(2, dtype=np.float32)[None], count, axis=0), np.zeros((count, 2), np.float32)


def field_grid(plan: SlicePlan) -> torch.Tensor:
    """Sampling grid (N, 64, 64, 2) of the square of the network on images of the field, column first, −1 … 1."""
    import torch

    place = torch.arange(SIZE, dtype=torch.float32) - (SIZE - 1) / 2
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    points = torch.stack([rows, columns], dim=-1).reshape(-1, 2)
    moved = points @ torch.from_numpy(plan.matrix).transpose(1, 2) + torch.from_numpy(plan.shift)[:, None]
    return (moved.flip(-1) * (2 / FIELD_PX)).view(-1, SIZE, SIZE, 2)


def slice_inputs(plan: SlicePlan) -> torch.Tensor:
    """Input (N, len(CHANNELS), 64, 64) of the networks."""
    import torch
    from torch.nn import functional

    count = len(plan.centre)
    grid = field_grid(plan)
    stacked = torch.from_numpy(np.concatenate([plan.images, plan.right[:, None]], axis=1))
    sampled = functional.grid_sample(stacked, grid, align_corners=False)
    inverse = np.linalg.inv(plan.matrix)
    centre = np.einsum("nij,nj->ni", inverse, plan.centre - plan.shift).astype(np.float32)
    turned, scale = _turned(plan.matrix)
    own = np.stack([plan.inner, plan.outer], axis=1).reshape(count, -1, ANGLES)
    radii = _at(np.concatenate([own, plan.below, plan.above], axis=1), turned) / scale[:, None]
    inner, outer = radii[:, :MOMENTS], np.maximum(radii[:, MOMENTS : 2 * MOMENTS], radii[:, :MOMENTS])
    loss, thickening = regional_motion(np.moveaxis(inner, 1, 0), np.moveaxis(outer, 1, 0))
    seen = plan.scalars[:, -1] > 0
    loss[2:, ~seen] = 0
    neighbours = [
        regional_motion(np.moveaxis(part, 1, 0), np.moveaxis(part, 1, 0))[0][1]
        for part in (radii[:, 2 * MOMENTS : 2 * MOMENTS + 2], radii[:, 2 * MOMENTS + 2 :])
    ]
    epicardium = 1 - outer[:, 1] / np.maximum(outer[:, 0], 1)
    by_direction = np.stack(
        [
            *loss[1:],
            (outer[:, 0] - inner[:, 0]) / _THICKNESS_PX,
            thickening[1],
            5 * epicardium,
            *neighbours,
            inner[:, 0],
            outer[:, 0],
        ],
        axis=1,
    ).astype(np.float32)
    radius, position = polar_coordinates(torch.from_numpy(centre), SIZE)
    painted = paint(torch.from_numpy(by_direction), position)
    endocardium, rim = painted[:, -2], painted[:, -1]
    cavity = (endocardium - radius + 0.5).clamp(0, 1)
    muscle = (rim - radius + 0.5).clamp(0, 1) - cavity
    constants = torch.from_numpy(plan.scalars)[:, :, None, None].expand(-1, -1, SIZE, SIZE)
    return torch.cat(
        [
            2 * sampled[:, :MOMENTS] - 1,
            muscle[:, None],
            cavity[:, None],
            sampled[:, MOMENTS:],
            painted[:, :-2],
            constants,
        ],
        1,
    )


def _turned(matrix: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Direction in the field (bins) of each direction of the square, and pixels of the field a pixel, (N, ANGLES)."""
    moved = np.einsum("nij,aj->nai", matrix, directions())
    position = np.arctan2(moved[..., 1], moved[..., 0]) * (ANGLES / (2 * np.pi))
    return (position % ANGLES).astype(np.float32), np.linalg.norm(moved, axis=-1).astype(np.float32)


def _at(values: NDArray[np.float32], position: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values by direction (N, K, ANGLES) at other directions (N, ANGLES), in bins; interpolated."""
    lower = np.floor(position)
    share = (position - lower)[:, None]
    first = lower.astype(np.intp) % ANGLES
    low = np.take_along_axis(values, first[:, None], axis=2)
    high = np.take_along_axis(values, (first[:, None] + 1) % ANGLES, axis=2)
    return np.asarray(low * (1 - share) + high * share, dtype=np.float32)
