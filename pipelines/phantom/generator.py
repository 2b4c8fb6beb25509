"""Phantoms for training networks, without touching disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.phantom.recipe import Dialect, Disease, Fault, PhantomRecipe
from pipelines.phantom.study import PhantomStudy, simulate

__all__ = ["TrainingExample", "training_examples", "training_recipe"]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingExample:
    """Short-axis cine of one phantom and what is in it; T phases, S slices.

    Attributes
    ----------
    images : (T, S, R, C) float32
        Grey values.
    labels, lesions : (T, S, R, C) uint8
        As in :class:`pipelines.phantom.study.CineAcquisition`.
    enhancement, enhancement_lesions : (S, R, C) float32 and uint8, or None
        Phase-sensitive late enhancement of the same slices, when asked for.
    study : PhantomStudy
        For displacement, strain and volumes, see :func:`pipelines.phantom.truth.measure_truth`.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.uint8]
    lesions: NDArray[np.uint8]
    enhancement: NDArray[np.float32] | None
    enhancement_lesions: NDArray[np.uint8] | None
    study: PhantomStudy


def training_recipe(
    seed: int,
    *,
    size: int = 128,
    spacing_mm: float = 1.5,
    slices: int = 8,
    phases: int = 12,
    diseases: Sequence[Disease] = tuple(Disease),
    fault_rate: float = 0.0,
    late_enhancement: bool = False,
) -> PhantomRecipe:
    """Recipe number ``seed`` of an endless training set: disease, vendor, field and faults are drawn from the seed."""
    rng = np.random.default_rng([seed, 0x545241])
    disease = diseases[int(rng.integers(len(diseases)))]
    dialect = tuple(Dialect)[int(rng.integers(len(Dialect)))]
    usable = [fault for fault in Fault if fault is not Fault.MISSING_SLICES]
    faults = [usable[int(rng.integers(len(usable)))]] if rng.random() < fault_rate else []
    return PhantomRecipe(
        seed=seed,
        disease=disease,
        dialect=dialect,
        slices=slices,
        phases=phases,
        rows=size,
        columns=size,
        spacing_mm=spacing_mm,
        long_axis=False,
        late_enhancement=late_enhancement,
        coils=2,
        faults=frozenset(faults),
    )


def training_examples(
    first_seed: int, *, workers: int = 2, template: PhantomRecipe | None = None, **drawn: object
) -> Iterator[TrainingExample]:
    """Endless phantoms with seeds ``first_seed``, ``first_seed + 1``, …

    Parameters
    ----------
    first_seed : int
    workers : int
        Threads for each phantom.
    template : PhantomRecipe or None
        Use this recipe with changing seeds instead of drawing recipes.
    **drawn
        Keyword arguments of :func:`training_recipe`.
    """
    seed = first_seed
    while True:
        recipe = dataclasses.replace(template, seed=seed) if template else training_recipe(seed, **drawn)  # type: ignore[arg-type]
        yield _example(simulate(recipe, workers=workers))
        seed += 1


def _example(study: PhantomStudy) -> TrainingExample:
    cine, lge = study.short_axis, study.enhancement
    return TrainingExample(
        images=cine.pixels.astype(np.float32),
        labels=cine.labels,
        lesions=cine.lesions,
        enhancement=lge.phase_sensitive.astype(np.float32) if lge else None,
        enhancement_lesions=lge.lesions if lge else None,
        study=study,
    )
