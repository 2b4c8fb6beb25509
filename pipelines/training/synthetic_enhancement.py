"""Training of synthetic late enhancement: a first guess, then a refiner that draws samples around it.

Networks learn from phantoms, and where they are given from semi-synthetic pairs: a cine simulated from the anatomy of a
patient of EMIDEC, and that patient's real late enhancement (:mod:`pipelines.training.semi_synthetic`). What lies beside
the left ventricle is not the same in cine and image of such a pair, and is not learnt from.

The wall is told to the networks by its radii (:mod:`pipelines.synthetic_enhancement.contours`). Phantoms give the true
ones; in use they come from the node's segmentation. So training disturbs them as that segmentation was seen to err:
walls too thin, more so at end systole, and uneven around the ventricle. Nothing is learnt from the segmentation itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from pipelines.models.architecture import Architecture, UNetArchitecture
from pipelines.models.card import (
    InputSpecification,
    ModelCard,
    TrainingData,
    write_card,
)
from pipelines.models.registry import ModelUnavailable, load_model
from pipelines.phantom.recipe import Dialect
from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.architecture import DiffusionArchitecture
from pipelines.synthetic_enhancement.contours import ANGLES
from pipelines.synthetic_enhancement.features import (
    CHANNELS,
    MOMENTS,
    SIZE,
    SPACING_MM,
    Ablation,
    Circumstances,
    HeartCrop,
    SlicePlan,
    crop_heart,
    describe,
    field_grid,
    slice_inputs,
    withheld_channels,
)
from pipelines.synthetic_enhancement.network import (
    CONDITION,
    GUESS_INPUTS,
    GUESS_MODEL,
    GUESS_OUTPUTS,
    NOISE,
    REFINER_INPUTS,
    REFINER_MODEL,
    REFINER_OUTPUTS,
    STRIDE,
    condition_of,
    guess_input,
    guess_output,
    input_places,
    refiner_input,
)
from pipelines.training.emidec import find_cases
from pipelines.training.heart_clips import HeartClips, Population, pack_clips, read_clips
from pipelines.training.semi_synthetic import Part, pack_patients, part_of
from pipelines.training.steps import Progress, TrainingResult, train_steps

__all__ = [
    "Continuation",
    "EnhancementRecipe",
    "Hearts",
    "Patients",
    "TrainingHeart",
    "case_name",
    "circumstances_of",
    "disturbed_heart",
    "enhancement_scale",
    "held_out_seeds",
    "normalised_enhancement",
    "normalised_slices",
    "prepare_hearts",
    "train_first_guess",
    "train_refiner",
    "training_heart",
    "training_hearts",
]

HELD_OUT = 0.15
"""Share of the seeds, the last ones, that no weight is fitted to."""
BLOOD = 0.8
"""Blood on the scale of the target: dense scar of a phantom is a quarter brighter than blood in late enhancement."""
_REMOTE_PX_MIN = 12
_BLOOD_MIN = 0.4
"""Blood of a slice exceeds its muscle by at least this share of what it does on the median slice."""
_SCAR_OVER_BLOOD = (0.9, 2.2)
"""Limits of what dense scar exceeds muscle by, relative to blood, on real images."""
_SCAR_PX_MIN = 15
_PATIENTS_LICENCE = "CC-BY-NC-SA-4.0"
"""Of EMIDEC; weights that were fitted to it inherit it."""
_PATIENT, _STUDY = "emidec-", "study-"
"""How names of cases of patients begin."""
SLICE_SHARE = 0.02
"""Share of the muscle of a slice that has to be scar for the slice to hold enhancement."""


@dataclass(frozen=True, slots=True)
class EnhancementRecipe:
    """Everything that decides what a training run does, besides data, steps and seed."""

    features: tuple[int, int, int, int, int, int] = (32, 40, 48, 64, 64, 32)
    refiner_features: tuple[int, ...] = (32, 48, 48)
    steps: int = 3000
    refiner_steps: int = 1400
    batch: int = 16
    peak_rate: float = 2e-3
    refiner_rate: float = 1e-3
    infarct_share: float = 0.2
    """Of the slices that are drawn from the acute infarcts, where there are any."""
    two_moments: float = 0.2
    """Of the slices that are shown at end diastole and end systole alone."""
    unknown: float = 0.3
    """Of the slices whose scanner is not told."""
    inner_px: tuple[float, float] = (0.45, 0.7)
    """Mean error of the inner radius at end diastole and end systole, pixels; it is drawn around that."""
    outer_px: tuple[float, float] = (-0.4, -0.75)
    uneven_px: float = 0.6
    """Standard deviation of the error around the ventricle, half of it the same at all moments."""
    ablation: Ablation | None = None
    """What is kept from a first guess that is trained for comparison; ``None`` of networks for use."""
    dice: float = 0.3
    """Weight of 1 − Dice of the lesion."""
    slice_weight: float = 0.5
    """Weight of the cross-entropy of the slice."""
    patient_share: float = 0.3
    """Of the slices that are drawn from semi-synthetic pairs, where there are any."""


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


def enhancement_scale(
    image: NDArray[np.float32], labels: NDArray[np.uint8], lesions: NDArray[np.uint8]
) -> tuple[float, float]:
    """Signal of remote muscle on late enhancement (S, n, n), and what dense scar exceeds it by.

    Remote is the median of muscle away from every lesion; the unit comes from the blood, which every heart has.
    """
    muscle, lesion = labels == Label.MYO, lesions > 0
    remote = muscle & ~ndimage.binary_dilation(lesion, np.ones((1, 5, 5), np.bool_))
    zero = float(np.median(image[remote if remote.sum() > 50 else muscle]))
    blood = ndimage.binary_erosion(labels == Label.LV, np.ones((1, 3, 3), np.bool_))
    unit = max((float(np.median(image[blood])) - zero) / BLOOD, 0.02) if blood.any() else 0.2
    return zero, unit


def normalised_slices(
    image: NDArray[np.float32], labels: NDArray[np.uint8], lesions: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Late enhancement whose slices were each scaled by themselves, on a scale of remote muscle 0 and dense scar 1.

    Such are the images of EMIDEC as PNG: remote muscle of one heart differs by up to 50 of 255 grey values from slice
    to slice, and blood exceeds it by 10 to 40.

    Parameters
    ----------
    image : (S, n, n) float32
    labels : (S, n, n) uint8
        Values of :class:`pipelines.segmentation.labels.Label`.
    lesions : (S, n, n) uint8
        0 where muscle is no scar, 2 obstruction.

    Returns
    -------
    (S, n, n) float32
        −0.5 … 1.5. Zero of a slice is the median of its muscle away from scar, blood and rim, or where it has none the
        grey value that far below its blood as on the median slice. The unit follows the contrast of blood and muscle
        of the slice; what dense scar exceeds that by is the median over slices of the 90th percentile of their infarct,
        and in a heart without one what it is in a phantom.
    """
    zeros, bloods, scars = (np.full(len(image), np.nan) for _ in range(3))
    for index, (plane, label, lesion) in enumerate(zip(image, labels, lesions, strict=True)):
        blood = ndimage.binary_erosion(label == Label.LV, np.ones((3, 3), np.bool_))
        muscle = label == Label.MYO
        healthy = muscle & ~ndimage.binary_dilation(lesion > 0, np.ones((3, 3), np.bool_))
        wall = ndimage.binary_erosion(muscle | (label == Label.LV)) & ~ndimage.binary_dilation(label == Label.LV)
        remote = healthy & wall if (healthy & wall).sum() >= _REMOTE_PX_MIN else healthy
        infarct = muscle & (lesion == 1)
        if blood.sum() >= _REMOTE_PX_MIN:
            bloods[index] = np.median(plane[blood])
        if remote.sum() >= _REMOTE_PX_MIN:
            zeros[index] = np.median(plane[remote])
        if infarct.sum() >= _SCAR_PX_MIN:
            scars[index] = np.percentile(plane[infarct], 90)
    contrast = bloods - zeros
    known = contrast[np.isfinite(contrast)]
    usual = max(float(np.median(known)), 1e-3) if known.size else 0.1
    zeros = np.where(np.isfinite(zeros), zeros, bloods - usual)
    zeros = np.where(np.isfinite(zeros), zeros, np.median(image, axis=(1, 2)))
    contrast = np.where(np.isfinite(contrast), np.maximum(contrast, _BLOOD_MIN * usual), usual)
    over = (scars - zeros) / contrast
    over = over[np.isfinite(over)]
    dense = float(np.clip(np.median(over), *_SCAR_OVER_BLOOD)) if over.size else 1 / BLOOD
    unit = dense * contrast
    return np.clip((image - zeros[:, None, None]) / unit[:, None, None], -0.5, 1.5).astype(np.float32)


def training_hearts(paths: Sequence[Path]) -> Iterator[TrainingHeart]:
    """Hearts of packed clips."""
    return (training_heart(clips) for clips in read_clips(paths))


def held_out_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds that validation and calibration use."""
    return tuple(sorted(seeds)[len(seeds) - math.ceil(HELD_OUT * len(seeds)) :])


def _uneven(rng: np.random.Generator, count: int, moments: int) -> NDArray[np.float64]:
    """Smooth random curves around the ventricle (count, moments, ANGLES) of unit variance."""
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    order = np.arange(1, 9)
    strength = 1 / np.sqrt(1 + (order / 3.0) ** 2)
    strength /= np.sqrt((strength**2).sum())
    waves = np.stack([np.cos(order[:, None] * angle), np.sin(order[:, None] * angle)], axis=1) * strength[:, None, None]
    drawn = rng.standard_normal((count, moments, len(order), 2))
    return np.asarray(np.einsum("nmok,oka->nma", drawn, waves))


def _disturbed(
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
    plan = _disturbed(describe(heart.crop), rng, recipe)
    return replace(heart.crop, inner=np.moveaxis(plan.inner, 1, 0), outer=np.moveaxis(plan.outer, 1, 0))


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
class _Batch:
    inputs: torch.Tensor
    target: torch.Tensor
    lesion: torch.Tensor
    muscle: torch.Tensor
    """(N, 64, 64) each; muscle true and undisturbed."""
    real: torch.Tensor
    """(N,) bool: the target is a patient's image, and like the cine in the left ventricle alone."""

    def to(self, device: str) -> _Batch:
        parts = (self.inputs, self.target, self.lesion, self.muscle, self.real)
        return _Batch(*(part.to(device) for part in parts))


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


def _batch(hearts: Hearts, recipe: EnhancementRecipe, seed: int, step: int) -> _Batch:
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
    plan = _disturbed(together, rng, recipe, np.array(exact))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    inputs = slice_inputs(plan)
    seen = (inputs[:, :MOMENTS] + 1) / 2
    inputs[:, :MOMENTS] = torch.where(
        (plan_whole(plan) | (torch.arange(MOMENTS) < 2))[..., None, None], 2 * _vary(seen, generator) - 1, -1.0
    )
    inputs[:, list(withheld_channels(recipe.ablation))] = 0
    truth = functional.grid_sample(torch.from_numpy(np.stack(truths)), field_grid(plan), align_corners=False)
    return _Batch(
        inputs,
        truth[:, 0],
        (truth[:, 1] > 0.5).float(),
        (truth[:, 2] > 0.5).float(),
        torch.tensor(real, dtype=torch.bool),
    )


def plan_whole(plan: SlicePlan) -> torch.Tensor:
    """Whether all moments of each slice are there, (N, 1)."""
    return torch.from_numpy(plan.scalars[:, 6:] > 0)


def _weights(batch: _Batch) -> torch.Tensor:
    """Weight of each pixel of the image: muscle most, then what lies beside it; of a real image its ventricle alone."""
    near = functional.max_pool2d(batch.muscle[:, None], 3, 1, 1)[:, 0]
    cavity = batch.inputs[:, MOMENTS + 1].clamp(0, 1)
    heart = (batch.inputs[:, MOMENTS + 1] + batch.inputs[:, MOMENTS + 2]).clamp(0, 1)
    around = torch.where(batch.real[:, None, None], 0.5 * cavity, 0.15 + 0.5 * heart)
    return around + 3 * near


def _guess_loss(network: torch.nn.Module, batch: _Batch, recipe: EnhancementRecipe) -> torch.Tensor:
    first = guess_output(network(guess_input(batch.inputs)), batch.inputs)
    weights = _weights(batch)
    image = (weights * (first.image - batch.target).square()).sum() / weights.sum()
    near = functional.max_pool2d(batch.muscle[:, None], 3, 1, 1)[:, 0]
    entropy = functional.binary_cross_entropy_with_logits(first.logit, batch.lesion, reduction="none")
    enhances = (near * entropy).sum() / near.sum().clamp(min=1)
    likely = first.logit.sigmoid() * near
    overlap = 1 - (2 * (likely * batch.lesion).sum() + 1) / (likely.sum() + batch.lesion.sum() + 1)
    shares = batch.lesion.sum((1, 2)) / batch.muscle.sum((1, 2)).clamp(min=1)
    of_slice = functional.binary_cross_entropy_with_logits(first.slice_logit, (shares > SLICE_SHARE).float())
    return 3 * image + enhances + recipe.dice * overlap + recipe.slice_weight * of_slice


def _refiner_loss(
    network: torch.nn.Module, guesser: torch.nn.Module, batch: _Batch, seed: int, step: int
) -> torch.Tensor:
    """Flow matching: the velocity that leads from the first guess with noise to the image, at a random time."""
    with torch.inference_mode():
        first = guess_output(guesser(guess_input(batch.inputs)), batch.inputs)
    condition = condition_of(batch.inputs, first).clone()
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    start = first.image.clone() + NOISE * torch.randn(first.image.shape, generator=generator).to(first.image.device)
    time = torch.rand(len(start), generator=generator).to(start.device)
    share = time[:, None, None]
    image = (1 - share) * start + share * batch.target
    found = functional.pixel_shuffle(network(refiner_input(image, condition), 1000 * time), STRIDE)[:, 0]
    weights = _weights(batch)
    return (weights * (found - (batch.target - start)).square()).sum() / weights.sum()


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


@dataclass(frozen=True, slots=True)
class Continuation:
    """Trained networks that a run goes on from.

    Attributes
    ----------
    models : Path
        Folder that holds their folders.
    rate : float
        Learning rate of the first guess; the refiner has half of it.
    """

    models: Path
    rate: float = 5e-4


def case_name(identifier: str) -> str:
    """Name that a patient of EMIDEC has in the card of a network."""
    return _PATIENT + identifier


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


def train_first_guess(
    hearts: Hearts,
    output: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = True,
    recipe: EnhancementRecipe | None = None,
    go_on: Continuation | None = None,
    stop_after: int | None = None,
    report: Callable[[Progress], None] | None = None,
    command: str = "dicom-node train synthetic-enhancement",
) -> TrainingResult:
    """Train the network that gives image, probability map and slice probability at once.

    Parameters
    ----------
    hearts : Hearts
    output : Path
        Receives ``checkpoint.safetensors``, ``weights.safetensors`` and ``card.yaml``.
    steps : int or None
        Steps in all; the recipe's own number by default.
    go_on : Continuation or None
        Begin with the weights of a trained network instead of random ones.
    stop_after : int or None
        Stop after this step, to go on later.
    command : str
        Stands in the card.

    Raises
    ------
    ValueError
        Nothing to train on, a checkpoint of another run, or weights to go on from that do not fit, have seen hearts
        that are held out, or have learnt what an ablation would keep from them.
    """
    recipe = recipe or EnhancementRecipe()
    if recipe.ablation is not None and go_on is not None:
        raise ValueError(
            f"an ablation begins with new weights: those in {go_on.models} have learnt from what would be kept from it"
        )
    architecture = UNetArchitecture(
        in_channels=GUESS_INPUTS, out_channels=GUESS_OUTPUTS, features=recipe.features, norm="batch"
    )
    outputs = tuple(
        f"{what}, pixel {pixel} of 2 × 2"
        for what in ("late enhancement", "logit of enhancement", "logit of the slice")
        for pixel in range(1, 5)
    )
    task = "synthetic late enhancement from short-axis cine: first guess"
    summary = (
        "Gives the late enhancement that a slice might have shown, the probability of enhancement of each pixel of its "
        "muscle and of the slice, from cine and the motion of the wall."
    )
    if recipe.ablation is not None:
        summary += f" Trained for comparison with others alone: ablation {recipe.ablation}."
    torch.manual_seed(seed)
    return _train(
        _Run(GUESS_MODEL, task, summary, outputs, architecture, command),
        lambda network, step: _guess_loss(network, _batch(hearts, recipe, seed, step).to(device), recipe),
        hearts,
        output,
        recipe,
        recipe.steps if steps is None else steps,
        recipe.peak_rate if go_on is None else go_on.rate,
        models=None if go_on is None else go_on.models,
        seed=seed,
        device=device,
        resume=resume,
        stop_after=stop_after,
        report=report,
    )


def train_refiner(
    hearts: Hearts,
    guesser: torch.nn.Module,
    output: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = True,
    recipe: EnhancementRecipe | None = None,
    go_on: Continuation | None = None,
    stop_after: int | None = None,
    report: Callable[[Progress], None] | None = None,
    command: str = "dicom-node train synthetic-enhancement",
) -> TrainingResult:
    """Train the refiner on what the first network says of the same hearts; arguments as :func:`train_first_guess`.

    Parameters
    ----------
    guesser : torch.nn.Module
        The trained first network; it is not changed.
    """
    recipe = recipe or EnhancementRecipe()
    architecture = DiffusionArchitecture(
        in_channels=REFINER_INPUTS,
        out_channels=REFINER_OUTPUTS,
        features=recipe.refiner_features,
        residual_blocks=1,
        groups=8,
    )
    guesser.to(device).eval()
    torch.manual_seed(seed)
    return _train(
        _Run(
            REFINER_MODEL,
            "synthetic late enhancement from short-axis cine: samples around the first guess",
            "Gives the velocity of flow matching that leads from the first guess with noise to a sample of the late "
            "enhancement.",
            tuple(f"velocity, pixel {pixel} of 2 × 2" for pixel in range(1, 5)),
            architecture,
            command,
        ),
        lambda network, step: _refiner_loss(
            network, guesser, _batch(hearts, recipe, seed + 1, step).to(device), seed, step
        ),
        hearts,
        output,
        recipe,
        recipe.refiner_steps if steps is None else steps,
        recipe.refiner_rate if go_on is None else go_on.rate / 2,
        models=None if go_on is None else go_on.models,
        seed=seed,
        device=device,
        resume=resume,
        stop_after=stop_after,
        report=report,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """What a card says of a network."""

    model: str
    task: str
    summary: str
    outputs: tuple[str, ...]
    architecture: Architecture
    command: str


def _train(
    run: _Run,
    loss: Callable[[torch.nn.Module, int], torch.Tensor],
    hearts: Hearts,
    output: Path,
    recipe: EnhancementRecipe,
    steps: int,
    rate: float,
    *,
    models: Path | None,
    seed: int,
    device: str,
    resume: bool,
    stop_after: int | None,
    report: Callable[[Progress], None] | None,
) -> TrainingResult:
    if steps < 1 or not (hearts.all or hearts.infarcts or hearts.patients):
        raise ValueError(f"{steps} steps on {len(hearts.cases)} hearts: at least one of each")
    network = run.architecture.build()
    if recipe.ablation is not None:
        _make_blind(network, recipe.ablation)
    earlier = None if models is None else _put_in_weights(models, network, run.model, hearts.held_out)
    card = output / "card.yaml"
    decisive = {name: value for name, value in asdict(recipe).items() if not name.endswith("steps")}
    before = {} if earlier is None else {"weights before": earlier.weights_sha256, "rate": rate}
    trained = train_steps(
        network,
        lambda step: loss(network, step),
        clip=1.0,
        peak_rate=rate,
        steps=steps,
        settings={"model": run.model, "recipe": decisive, "hearts": len(hearts.cases), "seed": seed} | before,
        output=output,
        device=device,
        resume=resume,
        stop_after=stop_after,
        report=report,
        kept=lambda done, sha256: write_card(_card(run, sha256, hearts, done, earlier), card),
    )
    return TrainingResult(
        run.model, steps, hearts.cases, hearts.held_out, trained.loss, trained.path, card, trained.sha256
    )


def _make_blind(network: torch.nn.Module, ablation: Ablation) -> None:
    """Let a new first network ignore what an ablation keeps from it.

    Weights of inputs that are zero in training have no gradient: where they begin at zero they stay there, and whatever
    these inputs are in use does not matter.
    """
    first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    with torch.no_grad():
        first.weight[:, input_places(withheld_channels(ablation))] = 0


def _put_in_weights(models: Path, network: torch.nn.Module, model: str, held_out: Sequence[str]) -> ModelCard:
    """Put the weights of a trained network into a new one, and return their card."""
    try:
        loaded = load_model(model, root=models)
    except ModelUnavailable as error:
        raise ValueError(f"training cannot go on from {models}: {error}") from error
    seen = sorted(set(loaded.card.training.cases) & set(held_out))
    if seen:
        raise ValueError(
            f"training cannot go on from {models / model}: it has seen {len(seen)} of the hearts kept out, such as "
            f"{seen[0]}"
        )
    try:
        network.load_state_dict(loaded.network.state_dict())
    except RuntimeError as error:
        raise ValueError(f"training cannot go on from {models / model}: its network has other layers") from error
    return loaded.card


def _training_data(run: _Run, hearts: Hearts, steps: int, earlier: ModelCard | None) -> TrainingData:
    """What a card says of the hearts, of those of earlier weights too."""
    cases = hearts.cases if earlier is None else tuple(dict.fromkeys((*earlier.training.cases, *hearts.cases)))
    patients, studies = (sum(case.startswith(kind) for case in cases) for kind in (_PATIENT, _STUDY))
    name = f"{len(cases) - patients - studies} simulated hearts"
    phantoms_out = sum(not case.startswith((_PATIENT, _STUDY)) for case in hearts.held_out)
    split = (
        f"by seed: {phantoms_out} of the last seeds held out for validation and calibration; figures are reported on "
        "other seeds"
    )
    if studies:
        name += f", {studies} studies of a site with their acquired late enhancement"
        split += (
            f"; by patient: {sum(case.startswith(_STUDY) for case in hearts.held_out)} studies of the last 15 % of the "
            "site's patients held out"
        )
    if patients:
        name += f", {patients} patients of EMIDEC with a cine simulated from their anatomy"
        split += "; by patient: every third of EMIDEC is reported on, every fifth of the others held out for decisions"
    if earlier is not None:
        split += (
            f"; went on from version {earlier.version}, SHA-256 {earlier.weights_sha256}, "
            f"{earlier.training.steps} steps: {earlier.training.command}"
        )
    source = "pipelines/phantom, docs/phantom.md; the default law of motion and scar"
    if patients:
        source += "; Lalande et al., Data 2020, doi:10.3390/data5040089"
    licence = f"Apache-2.0 (simulated), {_PATIENTS_LICENCE} (EMIDEC)" if patients else "Apache-2.0"
    return TrainingData(
        name=name,
        licence=f"{licence}, that of the site (its studies)" if studies else licence,
        source=f"{source}; studies of one site" if studies else source,
        cases=cases,
        split=split,
        steps=steps,
        command=run.command,
    )


def _shown(*, patients: bool, studies: bool) -> str:
    """What has been shown on patients, for a reader of the results."""
    if studies:
        return "Trained on simulated cines and on studies of one site: what it says holds there at most."
    return f"Trained on simulated {'cines' if patients else 'hearts'} only: nothing here has been shown on patients."


def _card(run: _Run, sha256: str, hearts: Hearts, steps: int, earlier: ModelCard | None) -> ModelCard:
    training = _training_data(run, hearts, steps, earlier)
    patients, studies = (any(case.startswith(kind) for case in training.cases) for kind in (_PATIENT, _STUDY))
    names = (
        CHANNELS
        if run.model == GUESS_MODEL
        else (
            *("image on its way", "first guess", "probability of enhancement"),
            *(CHANNELS[channel] for channel in CONDITION),
        )
    )
    return ModelCard(
        name=run.model,
        version="0.2.0" if patients else "0.1.0",
        task=run.task,
        licence=_PATIENTS_LICENCE if patients else "Apache-2.0",
        weights_sha256=sha256,
        summary=run.summary,
        input=InputSpecification(
            size=SIZE,
            field="heart crop",
            spacing_mm=SPACING_MM,
            channels=names,
            normalisation="2nd and 98th percentile of 154 mm around the left ventricle over slices and phases to 0 and "
            "1, clipped to 0 … 1.25, then to −1 … 1.5; blocks of 2 × 2 pixels become channels",
        ),
        output=run.outputs,
        label_weights=(),
        architecture=run.architecture,
        training=training,
        limits=(
            _shown(patients=patients, studies=studies),
            "What it shows of scar follows from motion, thickness and grey values of cine by the law of the simulator; "
            "where a patient's scar does not show in these, it cannot be seen.",
            "Stunned and hibernating muscle moves like scar.",
        ),
        not_for=(
            "Anything but research: not for deciding on treatment, nor instead of contrast-enhanced imaging where that "
            "can be had.",
            "Images other than short-axis balanced steady-state free precession cine.",
            *(("Commercial use: the weights inherit the licence of their training data.",) if patients else ()),
        ),
    )
