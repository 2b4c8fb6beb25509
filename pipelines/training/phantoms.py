"""Phantoms as training data: drawn when asked for, never on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import StackGeometry
from pipelines.phantom.generator import training_recipe
from pipelines.phantom.recipe import PhantomRecipe
from pipelines.phantom.study import simulate
from pipelines.training.data_set import DataSet

__all__ = ["PhantomCase", "PhantomFrame", "case_recipe", "phantom_set"]

_PHASES = 6
_KEPT_PHASES = (0, 1, 2, 4)
"""End diastole, ejection, near end systole, diastasis: what the annotation of patients covers, and a little between."""
_FAULT_RATE = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class PhantomFrame:
    """One phase of a phantom and its true labels, each (S, R, C)."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class PhantomCase:
    """Some phases of one phantom."""

    identifier: str
    frames: tuple[PhantomFrame, ...]
    geometry: StackGeometry


def case_recipe(seed: int) -> PhantomRecipe:
    """Recipe of a training case: disease, vendor, field and fault as in :func:`training_recipe`, whole field of view,
    pixel spacing 1.25 to 1.9 mm, and slices that may stop short of the base or reach beyond it.
    """
    rng = np.random.default_rng([seed, 0x534547])
    spacing = float(rng.uniform(1.25, 1.9))
    return replace(
        training_recipe(seed, phases=_PHASES, fault_rate=_FAULT_RATE),
        slices=int(rng.integers(8, 13)),
        pitch_mm=float(rng.uniform(7.0, 10.5)),
        spacing_mm=spacing,
        rows=round(float(rng.uniform(270, 350)) / spacing),
        columns=round(float(rng.uniform(310, 380)) / spacing),
    )


def _identifier(seed: int) -> str:
    return f"phantom-{seed}"


def phantom_set(count: int, first_seed: int) -> DataSet:
    """Phantoms with the seeds ``first_seed`` … ``first_seed + count - 1``.

    Raises
    ------
    ValueError
        ``count`` is less than one or ``first_seed`` less than zero.
    """
    if count < 1 or first_seed < 0:
        raise ValueError(f"{count} phantoms from seed {first_seed}: at least one from seed 0 is needed")
    recipes = {_identifier(seed): case_recipe(seed) for seed in range(first_seed, first_seed + count)}

    def read(identifier: str) -> PhantomCase:
        cine = simulate(recipes[identifier]).short_axis
        frames = tuple(
            PhantomFrame(cine.pixels[phase].astype(np.float32), cine.labels[phase]) for phase in _KEPT_PHASES
        )
        return PhantomCase(identifier, frames, cine.geometry)

    return DataSet(
        groups={identifier: str(recipe.disease) for identifier, recipe in recipes.items()},
        read=read,
        name=f"{count} phantoms, seeds {first_seed} to {first_seed + count - 1}, four phases",
        licence="Apache-2.0",
        source="pipelines/phantom, docs/phantom.md",
        weights_licence="Apache-2.0",
        limits=("Trained on simulated images only.",),
        not_for=(
            "Diagnosis, or any decision about a patient: research use only.",
            "Children, congenital heart disease, and sequences other than cine balanced steady-state free precession.",
        ),
        options=f"--phantoms {count} --phantom-seed {first_seed}",
    )
