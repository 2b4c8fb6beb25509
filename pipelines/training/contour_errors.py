"""Errors of the node's segmentation, put on the true contours of the hearts that synthetic enhancement learns from.

The wall is told to the networks by its radii (:mod:`pipelines.synthetic_enhancement.contours`). Phantoms give the true
ones; in use they come from the node's segmentation. So training disturbs them as that segmentation was seen to err:
walls too thin, more so at end systole, and uneven around the ventricle. Nothing is learnt from the segmentation itself.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.synthetic_enhancement.contours import ANGLES
from pipelines.synthetic_enhancement.features import MOMENTS, HeartCrop, SlicePlan, describe
from pipelines.training.synthetic_hearts import TrainingHeart
from pipelines.training.synthetic_recipe import EnhancementRecipe

__all__ = ["disturbed_heart", "disturbed_plan"]


def _uneven(rng: np.random.Generator, count: int, moments: int) -> NDArray[np.float64]:
    """Smooth random curves around the ventricle (count, moments, ANGLES) of unit variance."""
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    order = np.arange(1, 9)
    strength = 1 / np.sqrt(1 + (order / 3.0) ** 2)
    strength /= np.sqrt((strength**2).sum())
    waves = np.stack([np.cos(order[:, None] * angle), np.sin(order[:, None] * angle)], axis=1) * strength[:, None, None]
    drawn = rng.standard_normal((count, moments, len(order), 2))
    return np.asarray(np.einsum("nmok,oka->nma", drawn, waves))


def disturbed_plan(
    plan: SlicePlan, rng: np.random.Generator, recipe: EnhancementRecipe, exact: NDArray[np.bool_] | None = None
) -> SlicePlan:
    """The plan with the errors of a segmentation, turned, scaled and shifted at random.

    ``exact`` (N,) says which contours are exact; those of a segmentation are but for a little scatter left as they are.
    """
    count = len(plan.centre)
    strength = rng.uniform(0, 1.4, (count, 1, 1))
    if exact is not None:
        strength = strength * exact[:, None, None]
    systolic = np.linspace(0, 1, 2)[np.array([0, 1, *[int(k in (2, 3, 4)) for k in range(1, 7)]])][None, :, None]

    def bias(means: tuple[float, float]) -> NDArray[np.float64]:
        spread = 0.3 * rng.standard_normal((count, 1, 1)) + 0.15 * rng.standard_normal((count, MOMENTS, 1))
        return strength * (means[0] + (means[1] - means[0]) * systolic) + spread

    def uneven(moments: int) -> NDArray[np.float64]:
        same, own = _uneven(rng, count, 1), _uneven(rng, count, moments)
        return recipe.uneven_px * strength * (same + own) / math.sqrt(2)

    there = plan.outer > plan.inner + 0.5
    inner_error, outer_error = bias(recipe.inner_px) + uneven(MOMENTS), bias(recipe.outer_px) + uneven(MOMENTS)
    inner = np.where(plan.inner > 0.5, np.maximum(plan.inner + inner_error, 0), plan.inner)
    outer = np.where(there, plan.outer + outer_error, plan.outer)
    outer = np.maximum(outer, inner + np.where(there, 0.8, 0))
    near = [
        np.where(part > 0.5, np.maximum(part + inner_error[:, :2] + 0.5 * uneven(2), 0), part)
        for part in (plan.below, plan.above)
    ]
    scalars = plan.scalars.copy()
    scalars[:, 1] += 0.04 * rng.standard_normal(count)
    scalars[rng.random(count) < recipe.unknown, 2:6] = 0
    few = (rng.random(count) < recipe.two_moments) & (scalars[:, 6] > 0)
    images = plan.images
    if few.any():
        images = images.copy()
        images[few, 2:] = 0
        scalars[few, 6] = -1
    angle = np.radians(rng.normal(0, 20, count))
    scale = rng.uniform(0.85, 1.15, count)
    matrix = scale[:, None, None] * np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2
    )
    matrix[rng.random(count) < 0.15, :, 1] *= -1
    return replace(
        plan,
        matrix=matrix.astype(np.float32),
        shift=rng.uniform(-4, 4, (count, 2)).astype(np.float32),
        images=images,
        centre=(plan.centre + 0.4 * rng.standard_normal((count, 2))).astype(np.float32),
        inner=inner.astype(np.float32),
        outer=outer.astype(np.float32),
        below=near[0].astype(np.float32),
        above=near[1].astype(np.float32),
        scalars=scalars,
    )


def disturbed_heart(heart: TrainingHeart, rng: np.random.Generator, recipe: EnhancementRecipe) -> HeartCrop:
    """A heart whose wall has the errors of a segmentation, and is not turned, scaled or shifted."""
    plan = disturbed_plan(describe(heart.crop), rng, recipe)
    return replace(heart.crop, inner=np.moveaxis(plan.inner, 1, 0), outer=np.moveaxis(plan.outer, 1, 0))
