"""Write a number of phantoms to a folder: what ``dicom-node phantom`` does."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipelines.phantom.identity import Script
from pipelines.phantom.recipe import Dialect, Disease, Fault, PhantomRecipe, RecipeError
from pipelines.phantom.study import simulate
from pipelines.phantom.truth import TruthFacts, measure_truth, write_truth
from pipelines.phantom.writer import TRANSFER_SYNTAXES, write_study

__all__ = ["WrittenPhantom", "write_phantoms"]

_Choice = TypeVar("_Choice", bound=enum.StrEnum)


@dataclass(frozen=True, slots=True)
class WrittenPhantom:
    """One phantom on disk."""

    directory: Path
    """Holds ``dicom/`` and ``truth.npz``."""
    dicom: tuple[Path, ...]
    truth: Path
    facts: TruthFacts


def write_phantoms(
    output: Path,
    *,
    count: int = 1,
    seed: int = 0,
    disease: str | None = None,
    vendor: str = "siemens",
    faults: Iterable[str] = (),
    slices: int = 12,
    phases: int = 30,
    late_enhancement: bool = True,
    ecg: bool = True,
    transfer_syntax: str = "explicit",
    script: str = "latin",
    progress: Callable[[int, int], None] | None = None,
) -> list[WrittenPhantom]:
    """Simulate phantoms and write DICOM and truth.

    Parameters
    ----------
    output : Path
        Receives one folder a phantom: ``phantom-SEED-DISEASE/dicom/*.dcm`` and ``truth.npz``.
    count : int
        Number of phantoms; their seeds are ``seed``, ``seed + 1``, …
    seed : int
    disease : str or None
        Value of :class:`Disease`; ``None`` cycles through all.
    vendor : str
        Value of :class:`Dialect`.
    faults : iterable of str
        Values of :class:`Fault`.
    slices, phases : int
    late_enhancement, ecg : bool
        Whether the study has a late enhancement stack and a 12-lead ECG.
    transfer_syntax : str
        Key of ``TRANSFER_SYNTAXES``.
    script : str
        Value of :class:`Script`.
    progress : callable or None
        Called with (done, count) after each phantom.

    Raises
    ------
    RecipeError
        A name is unknown or a number out of range; nothing has been written.
    """
    if count < 1:
        raise RecipeError(f"count is {count}; ask for at least one phantom")
    if transfer_syntax not in TRANSFER_SYNTAXES:
        raise RecipeError(f"transfer syntax '{transfer_syntax}' is not one of {', '.join(TRANSFER_SYNTAXES)}")
    dialect = _named(Dialect, vendor, "vendor")
    wanted = None if disease is None else _named(Disease, disease, "disease")
    letters = _named(Script, script, "script")
    defects = frozenset(_named(Fault, fault, "fault") for fault in faults)
    every = tuple(Disease)
    recipes = [
        PhantomRecipe(
            seed=seed + index,
            disease=wanted or every[(seed + index) % len(every)],
            dialect=dialect,
            slices=slices,
            phases=phases,
            late_enhancement=late_enhancement,
            faults=defects,
        )
        for index in range(count)
    ]
    written = []
    for done, recipe in enumerate(recipes, 1):
        study = simulate(recipe)
        directory = output / f"phantom-{recipe.seed:04d}-{recipe.disease}"
        files = write_study(study, directory / "dicom", transfer_syntax=transfer_syntax, script=letters, ecg=ecg)
        truth = measure_truth(study)
        path = write_truth(truth, directory / "truth.npz")
        written.append(WrittenPhantom(directory, tuple(files), path, truth.facts))
        if progress is not None:
            progress(done, count)
    return written


def _named(kind: type[_Choice], name: str, what: str) -> _Choice:
    try:
        return kind(name)
    except ValueError:
        raise RecipeError(f"{what} '{name}' is not one of {', '.join(kind)}") from None
