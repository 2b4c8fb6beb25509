"""Phantoms as training data: drawn when asked for, never on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import StackGeometry
from pipelines.phantom.generator import training_recipe
from pipelines.phantom.recipe import Disease, Fault, PhantomRecipe
from pipelines.phantom.study import PhantomStudy, simulate
from pipelines.training.data_set import DataSet

__all__ = [
    "END_SYSTOLE",
    "FAULT_RATE",
    "PhantomCase",
    "PhantomFrame",
    "case_recipe",
    "phantom_set",
    "read_phantom",
    "severe_recipe",
    "simulate_case",
    "with_a_fault",
]

_PHASES = 6
END_SYSTOLE = 2
"""Of the six phases, the nearest to end systole."""
_KEPT_PHASES = (0, 1, END_SYSTOLE, 4)
"""End diastole, ejection, near end systole, diastasis: what the annotation of patients covers, and a little between."""
FAULT_RATE = 0.25
"""Of the training cases: how many have a fault of the acquisition, unless a run asks for another share."""


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


def case_recipe(seed: int, fault_rate: float = FAULT_RATE) -> PhantomRecipe:
    """Recipe of a training case: disease, vendor, field and fault as in :func:`training_recipe`, whole field of view,
    pixel spacing 1.25 to 1.9 mm, and slices that may stop short of the base or reach beyond it.
    """
    rng = np.random.default_rng([seed, 0x534547])
    spacing = float(rng.uniform(1.25, 1.9))
    return replace(
        training_recipe(seed, phases=_PHASES, fault_rate=fault_rate),
        slices=int(rng.integers(8, 13)),
        pitch_mm=float(rng.uniform(7.0, 10.5)),
        spacing_mm=spacing,
        rows=round(float(rng.uniform(270, 350)) / spacing),
        columns=round(float(rng.uniform(310, 380)) / spacing),
    )


def severe_recipe(seed: int, fault_rate: float = FAULT_RATE) -> PhantomRecipe:
    """Recipe of a training case that patients of one hospital do not cover.

    Two in five are severe HCM, one in five a severe RV overload, the others any disease; pixel spacing 0.9 to 2.2 mm,
    pitch 5 to 15 mm.
    """
    rng = np.random.default_rng([seed, 0x534352])
    recipe, kind = case_recipe(seed, fault_rate), rng.random()
    spacing, pitch = float(rng.uniform(0.9, 2.2)), float(rng.uniform(5.0, 15.0))
    recipe = replace(
        recipe,
        spacing_mm=spacing,
        rows=round(float(rng.uniform(250, 330)) / spacing),
        columns=round(float(rng.uniform(260, 350)) / spacing),
        pitch_mm=pitch,
        slices=max(5, round(float(rng.uniform(95, 130)) / pitch)),
    )
    if kind < 0.4:
        return replace(recipe, disease=Disease.HCM, severe=True)
    if kind < 0.6:
        return replace(recipe, disease=Disease.RV_OVERLOAD, severe=True)
    return recipe


def with_a_fault(recipe: PhantomRecipe) -> PhantomRecipe:
    """The recipe with one fault of the acquisition, which the seed decides."""
    usable = [fault for fault in Fault if fault is not Fault.MISSING_SLICES]
    return replace(recipe, faults=frozenset({usable[recipe.seed % len(usable)]}))


def simulate_case(recipe: PhantomRecipe) -> PhantomStudy:
    """The study of a training or test case, with its six phases."""
    return simulate(replace(recipe, phases=_PHASES), workers=1)


def read_phantom(identifier: str, recipe: PhantomRecipe) -> PhantomCase:
    """Simulate the phases of a training case."""
    cine = simulate_case(recipe).short_axis
    frames = tuple(PhantomFrame(cine.pixels[phase].astype(np.float32), cine.labels[phase]) for phase in _KEPT_PHASES)
    return PhantomCase(identifier, frames, cine.geometry)


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

    return DataSet(
        groups={identifier: str(recipe.disease) for identifier, recipe in recipes.items()},
        read=lambda identifier: read_phantom(identifier, recipes[identifier]),
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
