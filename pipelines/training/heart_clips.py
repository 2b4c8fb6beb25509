"""Cine clips of simulated hearts with their scar and its late enhancement, packed once and read by several trainings.

Synthetic late enhancement, obstruction and remodelling learn from the same hearts. Each phantom is one file, so that
packing goes on where it stopped and several processes can share the work.
"""

from __future__ import annotations

import enum
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.motion.crop import centre_of_ventricle, sample_cine, sample_labels, square_at
from pipelines.phantom.generator import training_recipe
from pipelines.phantom.identity import recipe_key
from pipelines.phantom.law import DEFAULT_LAW, PESSIMISTIC_LAW, JointLaw
from pipelines.phantom.recipe import Disease, PhantomRecipe
from pipelines.phantom.study import ENHANCEMENT_GREY as FULL_GREY
from pipelines.phantom.study import PSIR_ZERO, PhantomStudy, simulate
from pipelines.phantom.truth import measure_truth
from pipelines.segmentation.grid import Square, sample_square
from pipelines.segmentation.labels import Label

__all__ = [
    "SIZE",
    "SPACING_MM",
    "VERSION",
    "HeartClips",
    "Population",
    "clip_recipe",
    "clips_of",
    "heart_clips",
    "law_name",
    "pack_clips",
    "read_clips",
    "recipe_of",
    "write_clips",
]

SIZE = 88
"""Pixels of a side: 64 of a network and a margin for rotation and shift."""
SPACING_MM = 1.75
"""64 pixels are 112 mm, wider than the epicardium of a dilated left ventricle."""
VERSION = 1
"""Stands in the names of files: clips of another version are made anew."""
_FAULT_RATE = 0.25
_PROPORTIONS = {
    Disease.NORMAL: 5,
    Disease.INFARCT: 10,
    Disease.HIBERNATION: 3,
    Disease.DCM: 3,
    Disease.HCM: 3,
    Disease.RV_OVERLOAD: 1,
    Disease.MYOCARDITIS: 2,
    Disease.AMYLOID: 2,
    Disease.BUNDLE_BRANCH_BLOCK: 2,
}


class Population(enum.StrEnum):
    """Which hearts are drawn."""

    ALL = "all"
    """Every disease, an infarct in about a third."""
    ACUTE_INFARCT = "acute-infarct"
    """Reperfused infarcts a few days old, with microvascular obstruction as often as the phantom draws it."""

    @property
    def diseases(self) -> tuple[Disease, ...]:
        """Diseases to draw from, each as often as it stands there."""
        if self is Population.ACUTE_INFARCT:
            return (Disease.INFARCT,)
        return tuple(disease for disease, times in _PROPORTIONS.items() for _ in range(times))


@dataclass(frozen=True, slots=True, eq=False)
class HeartClips:
    """The short axis of one phantom around its left ventricle; S slices that show muscle at end diastole, T phases.

    Attributes
    ----------
    seed : int
    images : (T, S, 88, 88) uint8
        Grey values 0 … 1.25 times 200; phase 0 is end diastole, phases are equally spaced over the cycle.
    labels : (T, S, 88, 88) uint8
        Values of :class:`pipelines.segmentation.labels.Label`.
    lesions : (S, 88, 88) uint8
        At end diastole: 1 infarct or other scar, 2 microvascular obstruction.
    enhancement : (S, 88, 88) float16
        Late enhancement of the same moment and breath-holds, phase-sensitive: longitudinal magnetisation, −1 … 1, times
        the receive profile that the scanner left.
    height : (S,) float32
        Place of each slice between the lowest (0) and the highest (1) that shows muscle.
    pitch_mm : float
    facts : dict
        Scalars of :class:`pipelines.phantom.truth.TruthFacts`; with a ``case`` where the late enhancement is a
        patient's.
    """

    seed: int
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    lesions: NDArray[np.uint8]
    enhancement: NDArray[np.float16]
    height: NDArray[np.float32]
    pitch_mm: float
    facts: dict[str, Any]

    @property
    def case(self) -> str:
        """Patient whose late enhancement and scar these are; empty for a phantom."""
        return str(self.facts.get("case", ""))


def clip_recipe(seed: int, population: Population, law: JointLaw = DEFAULT_LAW) -> PhantomRecipe:
    """Recipe of the phantom of a seed: any vendor, field and in-plane spacing, a fault in one of four."""
    rng = np.random.default_rng([seed, 0x434C4950])
    spacing = float(rng.uniform(1.3, 1.9))
    size = round(200 / spacing)
    recipe = training_recipe(
        seed,
        size=size,
        spacing_mm=spacing,
        slices=8,
        phases=int(rng.integers(16, 25)),
        diseases=population.diseases,
        fault_rate=_FAULT_RATE,
        late_enhancement=True,
    )
    return replace(recipe, law=law, acute=True if population is Population.ACUTE_INFARCT else None)


def heart_clips(recipe: PhantomRecipe) -> HeartClips | None:
    """Clips of one phantom; ``None`` where its short axis shows no left ventricle."""
    study = simulate(recipe, workers=1, matched_enhancement=True)
    return clips_of(study, study.short_axis.lesions[0])


def clips_of(study: PhantomStudy, lesions: NDArray[np.uint8], case: str = "") -> HeartClips | None:
    """Clips of a study with late enhancement on the grid of its short axis.

    Parameters
    ----------
    study : PhantomStudy
    lesions : (S, R, C) uint8
        Scar and obstruction of each slice.
    case : str
        Patient whose late enhancement it is; empty for a phantom.

    Returns
    -------
    HeartClips or None
        ``None`` where the short axis shows no left ventricle.

    Raises
    ------
    ValueError
        The study holds no late enhancement.
    """
    cine, late = study.short_axis, study.enhancement
    if late is None:
        raise ValueError("the recipe does not ask for late enhancement")
    centre = centre_of_ventricle(cine.labels, cine.geometry)
    shows = np.flatnonzero((cine.labels[0] == Label.MYO).any(axis=(1, 2)))
    if centre is None or not shows.size:
        return None
    spacing = cine.geometry.pixel_spacing
    square = square_at(centre, cine.geometry)
    wide = Square(square.row_mm, square.column_mm, SIZE * SPACING_MM)
    magnetisation = (late.phase_sensitive[shows].astype(np.float32) - PSIR_ZERO) / FULL_GREY
    return HeartClips(
        seed=study.recipe.seed,
        images=np.asarray(
            (200 * sample_cine(cine.pixels[:, shows].astype(np.float32), spacing, wide, SIZE)).round().byte()
        ),
        labels=sample_labels(cine.labels[:, shows], spacing, wide, SIZE, max(Label)),
        lesions=sample_labels(lesions[None, shows], spacing, wide, SIZE, 2)[0],
        enhancement=_on_square(magnetisation, spacing, wide),
        height=((shows - shows[0]) / max(shows[-1] - shows[0], 1)).astype(np.float32),
        pitch_mm=float(cine.geometry.pitch),
        facts=json.loads(json.dumps(asdict(measure_truth(study).facts), default=float))
        | ({"case": case} if case else {}),
    )


def _on_square(images: NDArray[np.float32], spacing: tuple[float, float], square: Square) -> NDArray[np.float16]:
    import torch

    sampled = sample_square(torch.from_numpy(images[:, None]), spacing, square, SIZE)[:, 0]
    return np.asarray(sampled.numpy(), dtype=np.float16)


def pack_clips(
    folder: Path,
    seeds: Sequence[int],
    population: Population,
    law: JointLaw = DEFAULT_LAW,
    *,
    workers: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the clips of every seed that ``folder`` does not hold yet, or holds from when its law was another.

    Parameters
    ----------
    folder : Path
        Made when absent.
    seeds : sequence of int
    population : Population
    law : JointLaw
        Of motion and scar.
    workers : int
        Processes.
    report : callable
        Is called with the phantoms done and wanted.

    Returns
    -------
    list of Path
        The files of these seeds, in their order; a phantom whose short axis shows no left ventricle has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make = partial(_pack_one, folder, population, law)
    files = []
    with ProcessPoolExecutor(workers) as pool:
        for done, path in enumerate(pool.map(make, seeds), 1):
            files += [path] if path is not None else []
            if report is not None:
                report(done, len(seeds))
    return files


def law_name(law: JointLaw) -> str:
    """Name of a law in the names of files."""
    named = {DEFAULT_LAW: "default", PESSIMISTIC_LAW: "pessimistic"}
    return named.get(law) or hashlib.sha256(repr(law).encode()).hexdigest()[:12]


def _pack_one(folder: Path, population: Population, law: JointLaw, seed: int) -> Path | None:
    import torch

    torch.set_num_threads(1)
    path = folder / f"{population}-{law_name(law)}-v{VERSION}-{seed}.npz"
    recipe = clip_recipe(seed, population, law)
    if path.is_file() and recipe_of(path) == recipe_key(recipe):
        return path
    clips = heart_clips(recipe)
    if clips is None:
        return None
    write_clips(clips, path)
    return path


def write_clips(clips: HeartClips, path: Path) -> None:
    """Write clips so that a reader sees all of the file or none of it."""
    partial_path = path.with_suffix(".partial")
    with partial_path.open("wb") as file:
        np.savez_compressed(
            file,
            facts=np.array(json.dumps({"seed": clips.seed, "pitch_mm": clips.pitch_mm, **clips.facts})),
            images=clips.images,
            labels=clips.labels,
            lesions=clips.lesions,
            enhancement=clips.enhancement,
            height=clips.height,
        )
    partial_path.replace(path)


def recipe_of(path: Path) -> str:
    """Key of the recipe that a file was made from."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return str(json.loads(str(archive["facts"]))["recipe"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is not a file of heart clips: {error}") from error


def read_clips(paths: Sequence[Path]) -> Iterator[HeartClips]:
    """Clips of files of :func:`write_clips`, one after the other.

    Raises
    ------
    ValueError
        A file is not one; the message names it.
    """
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path.name} is not a file of heart clips: {error}") from error
        facts = json.loads(str(arrays.pop("facts")))
        yield HeartClips(seed=int(facts.pop("seed")), pitch_mm=float(facts.pop("pitch_mm")), facts=facts, **arrays)
