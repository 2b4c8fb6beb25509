"""Phantoms with late enhancement as training data: drawn when asked for, never on disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.late_enhancement.labels import Tissue
from pipelines.phantom.generator import training_recipe
from pipelines.phantom.recipe import Disease
from pipelines.phantom.study import Enhancement, simulate
from pipelines.segmentation.labels import Label
from pipelines.training.emidec import EmidecCase

__all__ = ["phantom_tissues", "read_phantom"]

_INFARCTS = 0.6
"""Of the phantoms: how many have an infarct."""
_SCAR_FREE = (Disease.NORMAL, Disease.HIBERNATION, Disease.BUNDLE_BRANCH_BLOCK)
_FIELD_MM = 260.0


def read_phantom(seed: int) -> EmidecCase:
    """Phase-sensitive late enhancement of a phantom: three in five have an infarct, the others no enhancement at all.

    The vendor, the place and depth of the infarct and whether it holds an obstruction are drawn from the seed.
    """
    rng = np.random.default_rng([seed, 0x4C4745])
    spacing = float(rng.uniform(1.3, 1.9))
    recipe = replace(
        training_recipe(
            seed,
            size=round(_FIELD_MM / spacing),
            spacing_mm=spacing,
            slices=int(rng.integers(7, 11)),
            phases=8,
            diseases=(Disease.INFARCT,) if rng.random() < _INFARCTS else _SCAR_FREE,
            late_enhancement=True,
        ),
        pitch_mm=float(rng.uniform(8.0, 11.0)),
    )
    late = simulate(recipe, workers=1).enhancement
    if late is None:
        raise ValueError(f"phantom {seed} was simulated without late enhancement")
    return EmidecCase(f"phantom-{seed}", late.phase_sensitive.astype(np.float32), phantom_tissues(late))


def phantom_tissues(late: Enhancement) -> NDArray[np.uint8]:
    """What is true of a phantom's late enhancement: (S, R, C), values of :class:`Tissue`."""
    muscle = late.labels == Label.MYO
    truth = np.zeros(late.labels.shape, dtype=np.uint8)
    truth[late.labels == Label.LV] = Tissue.LV
    truth[muscle] = Tissue.MYO
    truth[muscle & (late.lesions == 1)] = Tissue.INFARCT
    truth[muscle & (late.lesions == 2)] = Tissue.OBSTRUCTION
    return truth
