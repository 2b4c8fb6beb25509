"""Batches of slices that synthetic enhancement learns from: drawn hearts, disturbed, turned and of another look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pipelines.synthetic_enhancement.features import (
    MOMENTS,
    SlicePlan,
    describe,
    field_grid,
    slice_inputs,
    withheld_channels,
)
from pipelines.training.contour_errors import disturbed_plan
from pipelines.training.synthetic_hearts import Hearts, TrainingHeart
from pipelines.training.synthetic_recipe import EnhancementRecipe

__all__ = ["Batch", "batch_of"]


def _vary(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change the look of cines (N, M, n, n), grey values 0 … 1.25: contrast, slow shading, blur and noise."""
    count, _, size, _ = images.shape

    def draw(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    result = images.clamp(min=0) ** torch.exp(draw(-0.3, 0.3))
    coarse = torch.randn(count, 1, 3, 3, generator=generator) * draw(0, 0.1)
    result = result * torch.exp(functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False))
    blurred = functional.avg_pool2d(result, 3, stride=1, padding=1, count_include_pad=False)
    result = result + draw(0, 0.5) * (blurred - result)
    result = result + torch.randn(result.shape, generator=generator) * draw(0, 0.04)
    return (result * draw(0.9, 1.1)).clamp(0, 1.25)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Slices of one step."""

    inputs: torch.Tensor
    target: torch.Tensor
    lesion: torch.Tensor
    muscle: torch.Tensor
    """(N, 64, 64) each; muscle true and undisturbed."""
    real: torch.Tensor
    """(N,) bool: the target is a patient's image, and like the cine in the left ventricle alone."""

    def to(self, device: str) -> Batch:
        """The same on a device."""
        parts = (self.inputs, self.target, self.lesion, self.muscle, self.real)
        return Batch(*(part.to(device) for part in parts))


def _drawn_heart(hearts: Hearts, recipe: EnhancementRecipe, rng: np.random.Generator) -> TrainingHeart:
    phantoms = hearts.all or hearts.infarcts
    if hearts.patients and (not phantoms or rng.random() < recipe.patient_share):
        # Every patient as often, however many cines were simulated of each.
        group: Sequence[TrainingHeart] = hearts.patients
    elif hearts.infarcts and (not hearts.all or rng.random() < recipe.infarct_share):
        group = hearts.infarcts
    else:
        group = hearts.all
    return group[int(rng.integers(len(group)))]


def batch_of(hearts: Hearts, recipe: EnhancementRecipe, seed: int, step: int) -> Batch:
    """Slices of one step, a function of seed and step."""
    rng = np.random.default_rng((seed, step))
    plans, truths, real, exact = [], [], [], []
    for _ in range(recipe.batch):
        heart = _drawn_heart(hearts, recipe, rng)
        real.append(bool(heart.case))
        exact.append(not heart.own_contours)
        slices = range(heart.crop.slices) if heart.taught is None else heart.taught
        place = slices[int(rng.integers(len(slices)))]
        plans.append(describe(heart.crop, np.array([place])))
        truths.append(np.stack([heart.target[place], heart.lesion[place], heart.crop.muscle[place]]).astype(np.float32))
    together = SlicePlan(
        **{name: np.concatenate([getattr(plan, name) for plan in plans]) for name in SlicePlan.__dataclass_fields__}
    )
    plan = disturbed_plan(together, rng, recipe, np.array(exact))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    inputs = slice_inputs(plan)
    seen = (inputs[:, :MOMENTS] + 1) / 2
    inputs[:, :MOMENTS] = torch.where(
        (_whole(plan) | (torch.arange(MOMENTS) < 2))[..., None, None], 2 * _vary(seen, generator) - 1, -1.0
    )
    inputs[:, list(withheld_channels(recipe.ablation))] = 0
    truth = functional.grid_sample(torch.from_numpy(np.stack(truths)), field_grid(plan), align_corners=False)
    return Batch(
        inputs,
        truth[:, 0],
        (truth[:, 1] > 0.5).float(),
        (truth[:, 2] > 0.5).float(),
        torch.tensor(real, dtype=torch.bool),
    )


def _whole(plan: SlicePlan) -> torch.Tensor:
    """Whether all moments of each slice are there, (N, 1)."""
    return torch.from_numpy(plan.scalars[:, 6:] > 0)
