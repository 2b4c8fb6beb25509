"""Training of synthetic late enhancement on phantoms: a first guess, then a refiner that draws samples around it.

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
from pipelines.phantom.recipe import Dialect
from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.architecture import DiffusionArchitecture
from pipelines.synthetic_enhancement.contours import ANGLES
from pipelines.synthetic_enhancement.features import (
    CHANNELS,
    MOMENTS,
    SIZE,
    SPACING_MM,
    Circumstances,
    HeartCrop,
    SlicePlan,
    crop_heart,
    describe,
    field_grid,
    slice_inputs,
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
    refiner_input,
)
from pipelines.training.heart_clips import HeartClips, Population, pack_clips, read_clips
from pipelines.training.steps import Progress, TrainingResult, train_steps

__all__ = [
    "EnhancementRecipe",
    "Hearts",
    "TrainingHeart",
    "circumstances_of",
    "disturbed_heart",
    "enhancement_scale",
    "held_out_seeds",
    "normalised_enhancement",
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
    image_only: bool = False
    """For ablation: no motion of the wall is told."""
    dice: float = 0.3
    """Weight of 1 − Dice of the lesion."""
    slice_weight: float = 0.5
    """Weight of the cross-entropy of the slice."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingHeart:
    """One phantom with the target of a network.

    Attributes
    ----------
    seed : int
    crop : HeartCrop
        From the true masks.
    target : (S, 88, 88) float16
        Late enhancement; nulled remote muscle 0, dense scar 1, blood about 0.8.
    lesion : (S, 88, 88) bool
        Scar, obstruction included.
    disease : str
    """

    seed: int
    crop: HeartCrop
    target: NDArray[np.float16]
    lesion: NDArray[np.bool_]
    disease: str


def training_heart(clips: HeartClips) -> TrainingHeart:
    """Input and target of one phantom."""
    systole = int((clips.labels == Label.LV).sum(axis=(1, 2, 3)).argmin())
    return TrainingHeart(
        clips.seed,
        crop_heart(clips.images, clips.labels, clips.height, 0, systole, circumstances_of(clips)),
        normalised_enhancement(clips),
        clips.lesions > 0,
        str(clips.facts["disease"]),
    )


def circumstances_of(clips: HeartClips) -> Circumstances:
    """What the header of a phantom says of its acquisition."""
    dialect = re.search(r"dialect=([\w-]+)", str(clips.facts["recipe"]))
    maker = Dialect(dialect.group(1)).manufacturer if dialect else None
    return Circumstances(float(clips.facts["field_strength_t"]), maker)


def normalised_enhancement(clips: HeartClips) -> NDArray[np.float16]:
    """Late enhancement (S, 88, 88) on a scale where remote muscle is 0 and dense scar 1."""
    image = clips.enhancement.astype(np.float32)
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


def _disturbed(plan: SlicePlan, rng: np.random.Generator, recipe: EnhancementRecipe) -> SlicePlan:
    """The plan with the errors of a segmentation, turned, scaled and shifted at random."""
    count = len(plan.centre)
    strength = rng.uniform(0, 1.4, (count, 1, 1))
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

    def to(self, device: str) -> _Batch:
        return _Batch(*(part.to(device) for part in (self.inputs, self.target, self.lesion, self.muscle)))


def _batch(
    hearts: Sequence[TrainingHeart], infarcts: Sequence[TrainingHeart], recipe: EnhancementRecipe, seed: int, step: int
) -> _Batch:
    """Slices of one step, a function of seed and step."""
    rng = np.random.default_rng((seed, step))
    plans, truths = [], []
    for _ in range(recipe.batch):
        group = infarcts if infarcts and (not hearts or rng.random() < recipe.infarct_share) else hearts
        heart = group[int(rng.integers(len(group)))]
        place = int(rng.integers(heart.crop.slices))
        plans.append(describe(heart.crop, np.array([place])))
        truths.append(np.stack([heart.target[place], heart.lesion[place], heart.crop.muscle[place]]).astype(np.float32))
    together = SlicePlan(
        **{name: np.concatenate([getattr(plan, name) for plan in plans]) for name in SlicePlan.__dataclass_fields__}
    )
    plan = _disturbed(together, rng, recipe)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    inputs = slice_inputs(plan)
    seen = (inputs[:, :MOMENTS] + 1) / 2
    inputs[:, :MOMENTS] = torch.where(
        (plan_whole(plan) | (torch.arange(MOMENTS) < 2))[..., None, None], 2 * _vary(seen, generator) - 1, -1.0
    )
    if recipe.image_only:
        inputs[:, MOMENTS + 3 : len(CHANNELS) - 7] = 0
        inputs[:, len(CHANNELS) - 6] = 0
    truth = functional.grid_sample(torch.from_numpy(np.stack(truths)), field_grid(plan), align_corners=False)
    return _Batch(inputs, truth[:, 0], (truth[:, 1] > 0.5).float(), (truth[:, 2] > 0.5).float())


def plan_whole(plan: SlicePlan) -> torch.Tensor:
    """Whether all moments of each slice are there, (N, 1)."""
    return torch.from_numpy(plan.scalars[:, 6:] > 0)


def _weights(batch: _Batch) -> torch.Tensor:
    """Weight of each pixel of the image: muscle most, then what lies beside it."""
    near = functional.max_pool2d(batch.muscle[:, None], 3, 1, 1)[:, 0]
    heart = (batch.inputs[:, MOMENTS + 1] + batch.inputs[:, MOMENTS + 2]).clamp(0, 1)
    return 0.15 + 0.5 * heart + 3 * near


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
        Hearts of every disease, and acute infarcts.
    cases : tuple of str
    held_out : tuple of str
    """

    all: tuple[TrainingHeart, ...]
    infarcts: tuple[TrainingHeart, ...]
    cases: tuple[str, ...]
    held_out: tuple[str, ...]


def prepare_hearts(
    clips: Path,
    seeds: Sequence[int],
    infarct_seeds: Sequence[int] = (),
    report: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> Hearts:
    """Hearts of the seeds that weights may be fitted to; clips that the folder lacks are made.

    Parameters
    ----------
    clips : Path
        Folder of :func:`pack_clips`.
    seeds, infarct_seeds : sequence of int
        Hearts of every disease, and acute infarcts. The last 15 % of each are held out.
    report : callable
        Is called with the phantoms done and wanted.
    workers : int
        Processes that make clips.
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
    return Hearts(parts[0], parts[1], tuple(cases), tuple(held))


def train_first_guess(
    hearts: Hearts,
    output: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = True,
    recipe: EnhancementRecipe | None = None,
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
    stop_after : int or None
        Stop after this step, to go on later.
    command : str
        Stands in the card.

    Raises
    ------
    ValueError
        Nothing to train on, or a checkpoint of another run.
    """
    recipe = recipe or EnhancementRecipe()
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
    torch.manual_seed(seed)
    return _train(
        _Run(GUESS_MODEL, task, summary, outputs, architecture, command),
        lambda network, step: _guess_loss(
            network, _batch(hearts.all, hearts.infarcts, recipe, seed, step).to(device), recipe
        ),
        hearts,
        output,
        recipe,
        recipe.steps if steps is None else steps,
        recipe.peak_rate,
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
            network, guesser, _batch(hearts.all, hearts.infarcts, recipe, seed + 1, step).to(device), seed, step
        ),
        hearts,
        output,
        recipe,
        recipe.refiner_steps if steps is None else steps,
        recipe.refiner_rate,
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
    seed: int,
    device: str,
    resume: bool,
    stop_after: int | None,
    report: Callable[[Progress], None] | None,
) -> TrainingResult:
    if steps < 1 or not (hearts.all or hearts.infarcts):
        raise ValueError(f"{steps} steps on {len(hearts.cases)} phantoms: at least one of each")
    network = run.architecture.build()
    card = output / "card.yaml"
    decisive = {name: value for name, value in asdict(recipe).items() if not name.endswith("steps")}
    trained = train_steps(
        network,
        lambda step: loss(network, step),
        clip=1.0,
        peak_rate=rate,
        steps=steps,
        settings={"model": run.model, "recipe": decisive, "hearts": len(hearts.cases), "seed": seed},
        output=output,
        device=device,
        resume=resume,
        stop_after=stop_after,
        report=report,
        kept=lambda done, sha256: write_card(_card(run, sha256, hearts, done), card),
    )
    return TrainingResult(
        run.model, steps, hearts.cases, hearts.held_out, trained.loss, trained.path, card, trained.sha256
    )


def _card(run: _Run, sha256: str, hearts: Hearts, steps: int) -> ModelCard:
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
        version="0.1.0",
        task=run.task,
        licence="Apache-2.0",
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
        training=TrainingData(
            name=f"{len(hearts.cases)} simulated hearts",
            licence="Apache-2.0",
            source="pipelines/phantom, docs/phantom.md; the default law of motion and scar",
            cases=hearts.cases,
            split=f"by seed: {len(hearts.held_out)} of the last seeds held out for validation and calibration; figures "
            "are reported on other seeds",
            steps=steps,
            command=run.command,
        ),
        limits=(
            "Trained on simulated hearts only: nothing here has been shown on patients.",
            "What it shows of scar follows from motion, thickness and grey values of cine by the law of the simulator; "
            "where a patient's scar does not show in these, it cannot be seen.",
            "Stunned and hibernating muscle moves like scar.",
        ),
        not_for=(
            "Anything but research: not for deciding on treatment, nor instead of contrast-enhanced imaging where that "
            "can be had.",
            "Images other than short-axis balanced steady-state free precession cine.",
        ),
    )
