"""Hearts that synthetic enhancement is learnt from: cine with the late enhancement that a network shall give.

They are phantoms, and where they are given semi-synthetic pairs: a cine simulated from the anatomy of a patient of
EMIDEC, and that patient's real late enhancement (:mod:`pipelines.training.semi_synthetic`). What lies beside the left
ventricle is not the same in cine and image of such a pair, and is not learnt from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.phantom.recipe import Dialect
from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.features import Circumstances, HeartCrop, crop_heart
from pipelines.training.emidec import find_cases
from pipelines.training.enhancement_scale import enhancement_scale, normalised_slices
from pipelines.training.heart_clips import HeartClips, Population, pack_clips, read_clips
from pipelines.training.semi_synthetic import Part, pack_patients, part_of

__all__ = [
    "HELD_OUT",
    "PATIENT",
    "SLICE_SHARE",
    "STUDY",
    "Hearts",
    "Patients",
    "TrainingHeart",
    "case_name",
    "circumstances_of",
    "held_out_seeds",
    "normalised_enhancement",
    "prepare_hearts",
    "training_heart",
    "training_hearts",
]

HELD_OUT = 0.15
"""Share of the seeds, the last ones, that no weight is fitted to."""
PATIENT, STUDY = "emidec-", "study-"
"""How names of cases of patients begin."""
SLICE_SHARE = 0.02
"""Share of the muscle of a slice that has to be scar for the slice to hold enhancement."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingHeart:
    """One cine with the target of a network.

    Attributes
    ----------
    seed : int
    crop : HeartCrop
        From the true masks; of a site's study from the node's own.
    target : (S, 88, 88) float16
        Late enhancement; nulled remote muscle 0, dense scar 1, blood about 0.8.
    lesion : (S, 88, 88) bool
        Scar, obstruction included.
    disease : str
    case : str
        Patient whose late enhancement is the target; empty for a phantom.
    taught : tuple of int or None
        Slices that have a target; ``None`` of all.
    own_contours : bool
        Whether the contours have the errors of the node's segmentation already.
    """

    seed: int
    crop: HeartCrop
    target: NDArray[np.float16]
    lesion: NDArray[np.bool_]
    disease: str
    case: str = ""
    taught: tuple[int, ...] | None = None
    own_contours: bool = False


def training_heart(clips: HeartClips) -> TrainingHeart:
    """Input and target of one heart."""
    systole = int((clips.labels == Label.LV).sum(axis=(1, 2, 3)).argmin())
    return TrainingHeart(
        clips.seed,
        crop_heart(clips.images, clips.labels, clips.height, 0, systole, circumstances_of(clips)),
        normalised_enhancement(clips),
        # The experts' masks of a real image need not end where the wall of the simulated cine does.
        (clips.lesions > 0) & (clips.labels[0] == Label.MYO) if clips.case else clips.lesions > 0,
        str(clips.facts["disease"]),
        clips.case,
    )


def circumstances_of(clips: HeartClips) -> Circumstances:
    """What the header of a phantom says of its acquisition."""
    dialect = re.search(r"dialect=([\w-]+)", str(clips.facts["recipe"]))
    maker = Dialect(dialect.group(1)).manufacturer if dialect else None
    return Circumstances(float(clips.facts["field_strength_t"]), maker)


def normalised_enhancement(clips: HeartClips) -> NDArray[np.float16]:
    """Late enhancement (S, 88, 88) on a scale where remote muscle is 0 and dense scar 1."""
    image = clips.enhancement.astype(np.float32)
    if clips.case:
        return normalised_slices(image, clips.labels[0], clips.lesions).astype(np.float16)
    zero, unit = enhancement_scale(image, clips.labels[0], clips.lesions)
    return np.clip((image - zero) / unit, -0.5, 1.5).astype(np.float16)


def training_hearts(paths: Sequence[Path]) -> Iterator[TrainingHeart]:
    """Hearts of packed clips."""
    return (training_heart(clips) for clips in read_clips(paths))


def held_out_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds that validation and calibration use."""
    return tuple(sorted(seeds)[len(seeds) - math.ceil(HELD_OUT * len(seeds)) :])


@dataclass(frozen=True, slots=True, eq=False)
class Hearts:
    """What a run learns from, in memory.

    Attributes
    ----------
    all, infarcts : tuple of TrainingHeart
        Phantoms of every disease, and of acute infarcts.
    cases : tuple of str
    held_out : tuple of str
    patients : tuple of TrainingHeart
        Semi-synthetic pairs, of which several of one patient differ in the simulated cine; and a site's own studies.
    """

    all: tuple[TrainingHeart, ...]
    infarcts: tuple[TrainingHeart, ...]
    cases: tuple[str, ...]
    held_out: tuple[str, ...]
    patients: tuple[TrainingHeart, ...] = ()


@dataclass(frozen=True, slots=True)
class Patients:
    """Which patients of EMIDEC give semi-synthetic pairs.

    Attributes
    ----------
    data : Path
        Folder with ``images`` and ``labels``.
    draws : int
        Cines that are simulated of each patient.
    """

    data: Path
    draws: int = 3


def case_name(identifier: str) -> str:
    """Name that a patient of EMIDEC has in the card of a network."""
    return PATIENT + identifier


def prepare_hearts(
    clips: Path,
    seeds: Sequence[int],
    infarct_seeds: Sequence[int] = (),
    report: Callable[[int, int], None] | None = None,
    workers: int = 1,
    patients: Patients | None = None,
) -> Hearts:
    """Hearts that weights may be fitted to; clips that the folder lacks are made.

    Parameters
    ----------
    clips : Path
        Folder of :func:`pack_clips`.
    seeds, infarct_seeds : sequence of int
        Phantoms of every disease, and of acute infarcts. The last 15 % of each are held out.
    report : callable
        Is called with the hearts done and wanted.
    workers : int
        Processes that make clips.
    patients : Patients or None
        Semi-synthetic pairs of those patients that weights may be fitted to
        (:attr:`pipelines.training.semi_synthetic.Part.TRAINING`).

    Raises
    ------
    EmidecLayoutError
        The folder of the patients does not hold EMIDEC as PNG slices.
    """
    parts = []
    cases: list[str] = []
    held: list[str] = []
    for population, wanted in ((Population.ALL, seeds), (Population.ACUTE_INFARCT, infarct_seeds)):
        out = set(held_out_seeds(wanted)) if wanted else set()
        kept = [seed for seed in wanted if seed not in out]
        files = pack_clips(clips, kept, population, workers=workers, report=report) if kept else []
        parts.append(tuple(training_hearts(files)))
        cases += [f"phantom-{seed}" for seed in kept]
        held += [f"phantom-{seed}" for seed in sorted(out)]
    pairs: tuple[TrainingHeart, ...] = ()
    if patients is not None:
        known = tuple(find_cases(patients.data))
        files = pack_patients(clips, patients.data, Part.TRAINING, patients.draws, workers=workers, report=report)
        pairs = tuple(training_hearts(files))
        cases += [case_name(one) for one in part_of(known, Part.TRAINING)]
        held += [case_name(one) for part in (Part.HELD_OUT, Part.REPORTED) for one in part_of(known, part)]
    return Hearts(parts[0], parts[1], tuple(cases), tuple(held), pairs)
