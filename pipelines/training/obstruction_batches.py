"""Batches of clips that the obstruction network learns from, drawn with and without what is looked for, and varied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipelines.obstruction.clips import WIDE
from pipelines.obstruction.network import SIZE
from pipelines.training.obstruction_hearts import GREY, LabelledHeart
from pipelines.training.obstruction_recipe import Target

__all__ = ["Batch", "Sampler", "clips_as_they_are", "sampler_of", "scar_sampler"]

_BATCH = 16
_EVENTS = 0.4
"""Share of clips with obstruction in a batch: about that of patients in the paper."""
_INFARCTED = 0.7
"""Share of the clips without obstruction that show infarct: all of the paper's do, and remote muscle is told easily."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """N clips of one step with their B labels."""

    clips: torch.Tensor
    """(N, 1, 30, 64, 64)"""
    bags: torch.Tensor
    """(N,) int64, 0 … B − 1: clips that share a label, of which the likeliest must bear it"""
    labels: torch.Tensor
    """(B,)"""
    shares: torch.Tensor | None
    """(N, K, 64, 64), 0 … 1: what the mask branch draws; ``None`` where places are not known"""


class Sampler:
    """Draws augmented batches, with and without what is looked for in a fixed share.

    Where places are known, (S, 88, 88) or (S, K, 88, 88) of each heart, each clip has its own label. Where only hearts
    have labels, a batch is the slices of two hearts, and the likeliest slice of each must bear the label of its heart.
    ``alike`` tells the slices that are most like those looked for. ``as_they_come`` draws all slices alike.
    """

    def __init__(
        self,
        clips: Sequence[NDArray[np.uint8]],
        labels: Sequence[NDArray[np.bool_] | NDArray[np.float64]],
        places: Sequence[NDArray[np.bool_] | NDArray[np.float16] | None],
        seed: int,
        alike: Sequence[NDArray[np.bool_]] | None = None,
        *,
        as_they_come: bool = False,
    ) -> None:
        self._clips, self._labels, self._places, self._seed = clips, labels, places, seed
        self._placed = all(each is not None for each in places)
        self._as_they_come = as_they_come
        pairs = np.array([(heart, index) for heart, each in enumerate(clips) for index in range(len(each))])
        flat = np.concatenate([np.asarray(each, np.float64) for each in labels]) > 0
        self._with, self._without = pairs[flat], pairs[~flat]
        self._alike = self._without if alike is None else pairs[~flat & np.concatenate(alike)]
        if not len(self._with) or not len(self._without):
            raise ValueError("hearts with and without obstruction are needed to learn from")

    def _chosen(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Heart and slice of each clip (N, 2), their bags (N,), and the labels of the bags (B,)."""
        if self._as_they_come:
            whole = np.concatenate([self._with, self._without])
            drawn = whole[rng.integers(len(whole), size=_BATCH)]
            return (
                drawn,
                np.arange(_BATCH),
                np.array([self._labels[heart][index] for heart, index in drawn], np.float64),
            )
        if self._placed:
            events = round(_EVENTS * _BATCH)
            of_events = self._with[rng.integers(len(self._with), size=events)]
            alike = round(_INFARCTED * (_BATCH - events)) if len(self._alike) else 0
            likened = self._alike[rng.integers(len(self._alike), size=alike)] if alike else self._without[:0]
            others = self._without[rng.integers(len(self._without), size=_BATCH - events - alike)]
            drawn = np.concatenate([of_events, likened, others])
            targets = np.array([self._labels[heart][index] for heart, index in drawn], np.float64)
            return drawn, np.arange(_BATCH), targets
        chosen, bags = [], []
        for bag, pairs in enumerate((self._with, self._without)):
            heart = int(pairs[rng.integers(len(pairs)), 0])
            count = min(len(self._clips[heart]), _BATCH // 2)
            chosen += [(heart, int(index)) for index in rng.choice(len(self._clips[heart]), count, replace=False)]
            bags += [bag] * count
        return np.array(chosen), np.array(bags), np.array([1.0, 0.0])

    def draw(self, step: int) -> Batch:
        """Batch of a step, a function of seed and step."""
        rng = np.random.default_rng([self._seed, step])
        chosen, bags, labels = self._chosen(rng)
        # End diastole is found to a frame or so.
        clips = [np.roll(self._clips[heart][index], rng.integers(-1, 2), axis=0) for heart, index in chosen]
        nowhere = np.zeros((1, WIDE, WIDE), np.float32)
        places = [
            nowhere
            if (known := self._places[heart]) is None
            else known[index].astype(np.float32).reshape(-1, WIDE, WIDE)
            for heart, index in chosen
        ]
        images, shares = _moved(np.stack(clips), np.stack(places), rng)
        return Batch(
            clips=_recoloured(images, rng)[:, None],
            bags=torch.from_numpy(bags),
            labels=torch.from_numpy(labels.astype(np.float32)),
            shares=shares if self._placed else None,
        )


def sampler_of(hearts: Sequence[LabelledHeart], seed: int, target: Target = Target.OBSTRUCTION) -> Sampler:
    """Of clips with and without what is looked for."""
    if target is Target.DEPTH:
        told = [
            (heart.depth, np.stack([heart.scar, heart.retained], axis=1, dtype=np.float16))
            for heart in hearts
            if heart.depth is not None and heart.scar is not None and heart.retained is not None
        ]
        if len(told) < len(hearts):
            raise ValueError("depth and place of the infarct and the motion of the wall are needed to learn depth")
        depths, maps = [depth for depth, _ in told], [both for _, both in told]
        return Sampler([heart.clips for heart in hearts], depths, maps, seed, as_they_come=True)
    return Sampler(
        [heart.clips for heart in hearts],
        [heart.slice_labels() for heart in hearts],
        [heart.places for heart in hearts],
        seed,
        [heart.slice_labels() if heart.scar is None else np.asarray(heart.scar.any(axis=(1, 2))) for heart in hearts],
    )


def scar_sampler(hearts: Sequence[LabelledHeart], seed: int) -> Sampler:
    """Of clips with and without scar.

    Raises
    ------
    ValueError
        A heart has no ``scar``.
    """
    scars = [heart.scar for heart in hearts]
    known = [scar for scar in scars if scar is not None]
    if len(known) < len(hearts):
        raise ValueError("places of the scar are needed to learn them")
    return Sampler(
        [heart.clips for heart in hearts], [np.asarray(scar.any(axis=(1, 2))) for scar in known], scars, seed
    )


def _moved(
    clips: NDArray[np.uint8], places: NDArray[np.float32], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flip, rotate, shift and scale clips (N, 30, 88, 88) and places (N, K, 88, 88) and cut out 64 × 64 pixels."""
    count = len(clips)
    angle = rng.uniform(-np.pi / 6, np.pi / 6, count)
    scale = rng.uniform(0.92, 1.08, count) * SIZE / WIDE
    mirrored = rng.choice([-1.0, 1.0], (2, count))
    theta = np.zeros((count, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = np.cos(angle) * scale * mirrored[0], -np.sin(angle) * scale
    theta[:, 1, 0], theta[:, 1, 1] = np.sin(angle) * scale * mirrored[0], np.cos(angle) * scale
    theta[:, :, 1] *= mirrored[1][:, None]
    theta[:, :, 2] = rng.uniform(-0.09, 0.09, (count, 2))
    grid = functional.affine_grid(torch.from_numpy(theta), [count, 1, SIZE, SIZE], align_corners=False)
    images = functional.grid_sample(torch.from_numpy(clips).float() / GREY, grid, align_corners=False)
    return images, functional.grid_sample(torch.from_numpy(places), grid, align_corners=False)


def _recoloured(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Change contrast, brightness and gamma of clips (N, T, H, W), and add noise."""
    count = len(images)

    def drawn(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32))

    images = images.clamp(min=0) ** drawn(0.8, 1.25)
    images = images * drawn(0.85, 1.15) + drawn(-0.08, 0.08)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    noise = torch.randn(images.shape, generator=generator)
    return (images + drawn(0, 0.03) * noise).clamp(0, 1.25)


def clips_as_they_are(heart: LabelledHeart) -> NDArray[np.float32]:
    """Clips (S, 30, 64, 64) of a heart without augmentation."""
    margin = (WIDE - SIZE) // 2
    inner = heart.clips[:, :, margin : margin + SIZE, margin : margin + SIZE]
    return np.ascontiguousarray(inner.astype(np.float32) / GREY)
