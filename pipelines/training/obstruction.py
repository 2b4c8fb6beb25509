"""Training of the obstruction network: on packed phantoms, or on a site's own studies with a table of labels."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from pipelines.models.card import (
    InputSpecification,
    ModelCard,
    TrainingData,
    read_card,
    write_card,
)
from pipelines.obstruction.architecture import ClipArchitecture, WallArchitecture
from pipelines.obstruction.clips import (
    END_SYSTOLE_FRAME,
    SPACING_MM,
    WIDE,
    images_around_ventricle,
    in_time,
    normalised_phases,
)
from pipelines.obstruction.network import FRAMES, FULL, MODEL, NARROW, SIZE, MaskBranch, ObstructionNetwork
from pipelines.obstruction.predict import heart_logit, slice_logits
from pipelines.obstruction.wall_model import WallModel
from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.contours import wall_radii
from pipelines.training.checkpoint import save_atomically
from pipelines.training.heart_clips import HeartClips, Population, pack_clips, read_clips
from pipelines.training.labelled_studies import read_labels
from pipelines.training.obstruction_calibration import calibrate, platt
from pipelines.training.obstruction_studies import segmented_studies
from pipelines.training.obstruction_wall import fit_wall, walls_of_clips, walls_of_studies
from pipelines.training.schedule import polynomial_rate
from pipelines.training.steps import Progress, TrainingResult, train_steps

__all__ = [
    "ABLATION",
    "PEAK_RATE",
    "LabelledHeart",
    "Target",
    "Validated",
    "fine_tune",
    "fit_wall_to_phantoms",
    "hearts_of_clips",
    "hearts_of_studies",
    "infarct_depth",
    "packed",
    "prepare_phantoms",
    "pretrain",
    "split",
    "train_obstruction",
    "train_on_phantoms",
    "train_variant",
    "validate",
]

_GREY = 200.0
"""Grey value 1 in packed clips."""
_BATCH = 16
_EVENTS = 0.4
"""Share of clips with obstruction in a batch: about that of patients in the paper."""
PEAK_RATE = 1e-3
"""Ten times that of the paper, which starts from weights of other videos and trains five times as long."""
_MASK_WEIGHT = 0.05
_INFARCTED = 0.7
"""Share of the clips without obstruction that show infarct: all of the paper's do, and remote muscle is told easily."""
_VALIDATED = 0.15
_CLIP = 5.0

ABLATION: dict[str, tuple[bool, int | None]] = {
    "neither": (False, None),
    "BERT": (True, None),
    "mask 16": (False, 16),
    "both, grid 16": (True, 16),
    "both, grid 4": (True, 4),
    "both, grid 32": (True, 32),
    "both, raw grid": (True, 64),
}
"""What the paper takes away or changes: transformer, and blocks of a side of the mask branch (``None``: no branch)."""


class Target(enum.StrEnum):
    """What a network learns of each slice; calibrated to obstruction in either case."""

    OBSTRUCTION = "obstruction"
    """As in the paper."""
    DEPTH = "depth"
    """How deep the infarct goes: a number of every slice, where obstruction is one bit of few."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledHeart:
    """One heart to learn from.

    Attributes
    ----------
    name : str
        Identifier of the case.
    clips : (S, 30, 88, 88) uint8
        Motion-normalised clips of its slices; grey values 0 … 1.25 times 200.
    obstruction : bool
        Whether the heart has one.
    places : (S, 88, 88) bool or None
        Where it lies at end diastole; ``None`` where only the heart has a label.
    scar : (S, 88, 88) bool or None
        Where the infarct lies, obstruction included.
    depth : (S,) float64 or None
        How deep the infarct of each slice goes, 0 … 1, see :func:`infarct_depth`.
    """

    name: str
    clips: NDArray[np.uint8]
    obstruction: bool
    places: NDArray[np.bool_] | None = None
    scar: NDArray[np.bool_] | None = None
    depth: NDArray[np.float64] | None = None

    def slice_labels(self) -> NDArray[np.bool_]:
        """Whether each slice shows obstruction; the label of the heart where nothing finer is known."""
        if self.places is None:
            return np.full(len(self.clips), self.obstruction)
        return np.asarray(self.places.any(axis=(1, 2)))


def hearts_of_clips(paths: Sequence[Path]) -> Iterator[LabelledHeart]:
    """Packed phantoms (:mod:`pipelines.training.heart_clips`) with what is true of them."""
    for clips in read_clips(paths):
        yield _of_phantom(clips)


def _of_phantom(clips: HeartClips) -> LabelledHeart:
    area = (clips.labels == Label.LV).sum(axis=(1, 2, 3))
    # Phase 0 is end diastole; a movie whose smallest cavity were that phase would hold no systole.
    end_systole = 1 + int(np.argmin(area[1:]))
    places = clips.lesions == 2
    return LabelledHeart(
        name=f"phantom-{clips.seed}",
        clips=packed(clips.images.astype(np.float32), 0, end_systole),
        obstruction=bool(places.any()),
        places=places,
        scar=clips.lesions > 0,
        depth=infarct_depth(clips.labels[0], clips.lesions > 0),
    )


def infarct_depth(labels: NDArray[np.uint8], scar: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of the wall's thickness that is scar, mean of the deepest eighth of the circle, (S,), 0 … 1.

    Parameters
    ----------
    labels : (S, n, n) uint8
        Values of :class:`pipelines.segmentation.labels.Label`.
    scar : (S, n, n) bool
    """
    wall = wall_radii(labels)
    ventricle = (labels == Label.LV) | (labels == Label.MYO)
    # The length of each ray that lies in scar, from the same centre.
    within = wall_radii(np.where(scar, Label.LV, np.where(ventricle, Label.MYO, Label.BACKGROUND)).astype(np.uint8))
    share = np.clip(within.inner / np.maximum(wall.outer - wall.inner, 1), 0, 1)
    return np.asarray(np.sort(share, axis=1)[:, -share.shape[1] // 8 :].mean(axis=1), np.float64)


def packed(images: NDArray[np.float32], end_diastole: int, end_systole: int) -> NDArray[np.uint8]:
    """Motion-normalised clips (S, 30, 88, 88) of images (T, S, 88, 88), grey values 0 … 250."""
    clips = in_time(images, normalised_phases(end_diastole, end_systole, len(images)))
    return np.ascontiguousarray(clips.transpose(1, 0, 2, 3)).round().astype(np.uint8)


def split(hearts: Sequence[LabelledHeart]) -> tuple[list[LabelledHeart], list[LabelledHeart]]:
    """Hearts to train on, and those kept out to validate on: of either outcome the last 15 % by name, at least one."""
    training, held_out = [], []
    for outcome in (False, True):
        ordered = sorted((heart for heart in hearts if heart.obstruction is outcome), key=lambda heart: heart.name)
        held = min(max(1, round(_VALIDATED * len(ordered))), len(ordered))
        training += ordered[: len(ordered) - held]
        held_out += ordered[len(ordered) - held :]
    return training, held_out


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    clips: torch.Tensor
    """(N, 1, 30, 64, 64)"""
    bags: torch.Tensor
    """(N,) int64, 0 … B − 1: clips that share a label, of which the likeliest must bear it"""
    labels: torch.Tensor
    """(B,)"""
    shares: torch.Tensor | None
    """(N, 64, 64), 0 … 1; ``None`` where places are not known"""


class _Sampler:
    """Draws augmented batches, with and without what is looked for in a fixed share.

    Where places are known, each clip has its own label. Where only hearts have labels, a batch is the slices of two
    hearts, and the likeliest slice of each must bear the label of its heart. ``alike`` tells the slices that are most
    like those looked for.
    """

    def __init__(
        self,
        clips: Sequence[NDArray[np.uint8]],
        labels: Sequence[NDArray[np.bool_] | NDArray[np.float64]],
        places: Sequence[NDArray[np.bool_] | None],
        seed: int,
        alike: Sequence[NDArray[np.bool_]] | None = None,
    ) -> None:
        self._clips, self._labels, self._places, self._seed = clips, labels, places, seed
        self._placed = all(each is not None for each in places)
        pairs = np.array([(heart, index) for heart, each in enumerate(clips) for index in range(len(each))])
        flat = np.concatenate([np.asarray(each, np.float64) for each in labels]) > 0
        self._with, self._without = pairs[flat], pairs[~flat]
        self._alike = self._without if alike is None else pairs[~flat & np.concatenate(alike)]
        if not len(self._with) or not len(self._without):
            raise ValueError("hearts with and without obstruction are needed to learn from")

    def _chosen(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Heart and slice of each clip (N, 2), their bags (N,), and the labels of the bags (B,)."""
        if self._placed:
            events = round(_EVENTS * _BATCH)
            of_events = self._with[rng.integers(len(self._with), size=events)]
            alike = round(_INFARCTED * (_BATCH - events)) if len(self._alike) else 0
            likened = self._alike[rng.integers(len(self._alike), size=alike)] if alike else self._without[:0]
            others = self._without[rng.integers(len(self._without), size=_BATCH - events - alike)]
            drawn = np.concatenate([of_events, likened, others])
            targets = np.array([self._labels[heart][index] for heart, index in drawn], np.float64)
            return drawn, np.arange(_BATCH), targets
        chosen, bags = [], []
        for bag, pairs in enumerate((self._with, self._without)):
            heart = int(pairs[rng.integers(len(pairs)), 0])
            count = min(len(self._clips[heart]), _BATCH // 2)
            chosen += [(heart, int(index)) for index in rng.choice(len(self._clips[heart]), count, replace=False)]
            bags += [bag] * count
        return np.array(chosen), np.array(bags), np.array([1.0, 0.0])

    def draw(self, step: int) -> _Batch:
        rng = np.random.default_rng([self._seed, step])
        chosen, bags, labels = self._chosen(rng)
        # End diastole is found to a frame or so.
        clips = [np.roll(self._clips[heart][index], rng.integers(-1, 2), axis=0) for heart, index in chosen]
        nowhere = np.zeros((WIDE, WIDE), bool)
        places = [nowhere if (known := self._places[heart]) is None else known[index] for heart, index in chosen]
        images, shares = _moved(np.stack(clips), np.stack(places), rng)
        return _Batch(
            clips=_recoloured(images, rng)[:, None],
            bags=torch.from_numpy(bags),
            labels=torch.from_numpy(labels.astype(np.float32)),
            shares=shares if self._placed else None,
        )


def _sampler(hearts: Sequence[LabelledHeart], seed: int, target: Target = Target.OBSTRUCTION) -> _Sampler:
    """Of clips with and without what is looked for."""
    if target is Target.DEPTH:
        depths = [heart.depth for heart in hearts]
        known = [depth for depth in depths if depth is not None]
        if len(known) < len(hearts):
            raise ValueError("the depth of the infarct is needed to learn it")
        return _Sampler([heart.clips for heart in hearts], known, [heart.scar for heart in hearts], seed)
    return _Sampler(
        [heart.clips for heart in hearts],
        [heart.slice_labels() for heart in hearts],
        [heart.places for heart in hearts],
        seed,
        [heart.slice_labels() if heart.scar is None else np.asarray(heart.scar.any(axis=(1, 2))) for heart in hearts],
    )


def _moved(
    clips: NDArray[np.uint8], places: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flip, rotate, shift and scale clips and places (N, …, 88, 88) and cut out 64 × 64 pixels."""
    count = len(clips)
    angle = rng.uniform(-np.pi / 6, np.pi / 6, count)
    scale = rng.uniform(0.92, 1.08, count) * SIZE / WIDE
    mirrored = rng.choice([-1.0, 1.0], (2, count))
    theta = np.zeros((count, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = np.cos(angle) * scale * mirrored[0], -np.sin(angle) * scale
    theta[:, 1, 0], theta[:, 1, 1] = np.sin(angle) * scale * mirrored[0], np.cos(angle) * scale
    theta[:, :, 1] *= mirrored[1][:, None]
    theta[:, :, 2] = rng.uniform(-0.09, 0.09, (count, 2))
    grid = functional.affine_grid(torch.from_numpy(theta), [count, 1, SIZE, SIZE], align_corners=False)
    images = functional.grid_sample(torch.from_numpy(clips).float() / _GREY, grid, align_corners=False)
    shares = torch.from_numpy(places.astype(np.float32))[:, None]
    return images, functional.grid_sample(shares, grid, align_corners=False)[:, 0]


def _recoloured(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Change contrast, brightness and gamma of clips (N, T, H, W), and add noise."""
    count = len(images)

    def drawn(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32))

    images = images.clamp(min=0) ** drawn(0.8, 1.25)
    images = images * drawn(0.85, 1.15) + drawn(-0.08, 0.08)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    noise = torch.randn(images.shape, generator=generator)
    return (images + drawn(0, 0.03) * noise).clamp(0, 1.25)


def _loss(
    network: ObstructionNetwork,
    branch: MaskBranch | None,
    sampler: _Sampler,
    device: str,
    step: int,
) -> torch.Tensor:
    batch = sampler.draw(step)
    clips = batch.clips.to(device).contiguous(memory_format=torch.channels_last_3d)
    last = network.features(clips)[-1]
    likeliest = torch.full((len(batch.labels),), -torch.inf, device=device)
    likeliest = likeliest.scatter_reduce(0, batch.bags.to(device), network.classify(last), "amax")
    loss = functional.binary_cross_entropy_with_logits(likeliest, batch.labels.to(device))
    if branch is not None and batch.shares is not None:
        target = functional.avg_pool2d(batch.shares.to(device), SIZE // branch.grid)
        loss = loss + _MASK_WEIGHT * functional.mse_loss(branch(last), target)
    return loss


def pretrain(
    hearts: Sequence[LabelledHeart],
    output: Path,
    *,
    architecture: ClipArchitecture = NARROW,
    steps: int,
    peak_rate: float = PEAK_RATE,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = True,
    report: Callable[[Progress], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Teach the convolutions where scar lies, on a grid of 16 × 16 blocks, and return the weights of the network.

    It stands for the weights of other videos that the paper starts from: it tells features of motion and wall, and
    nothing of obstruction.

    Parameters
    ----------
    hearts : sequence of LabelledHeart
        With ``scar``; hearts with anything else than an acute infarct may be among them.

    Raises
    ------
    ValueError
        A heart has no ``scar``, or the checkpoint is of another run.
    """
    scars = [heart.scar for heart in hearts]
    known = [scar for scar in scars if scar is not None]
    if len(known) < len(hearts):
        raise ValueError("places of the scar are needed to learn them")
    torch.manual_seed(seed)
    both = _joined(architecture, 16)
    sampler = _Sampler(
        [heart.clips for heart in hearts], [np.asarray(scar.any(axis=(1, 2))) for scar in known], scars, seed
    )

    def loss(step: int) -> torch.Tensor:
        batch = sampler.draw(step)
        assert batch.shares is not None
        clips = batch.clips.to(device).contiguous(memory_format=torch.channels_last_3d)
        target = functional.avg_pool2d(batch.shares.to(device), 4)
        found = _branch(both)(_network(both).features(clips)[-1])
        return functional.binary_cross_entropy_with_logits(found, target, pos_weight=torch.tensor(4.0, device=device))

    return _made(both, loss, hearts, output, steps, peak_rate, seed, device, resume, None, report)[0]


def _joined(architecture: ClipArchitecture, grid: int | None) -> nn.ModuleDict:
    """The network and the branch that learns with it and is left out of its weights."""
    parts: dict[str, nn.Module] = {"network": ObstructionNetwork(architecture)}
    if grid is not None:
        parts["branch"] = MaskBranch(architecture.widths[-1], grid)
    return nn.ModuleDict(parts)


def _network(both: nn.ModuleDict) -> ObstructionNetwork:
    return cast("ObstructionNetwork", both["network"])


def _branch(both: nn.ModuleDict) -> MaskBranch:
    return cast("MaskBranch", both["branch"])


def _made(
    both: nn.ModuleDict,
    loss: Callable[[int], torch.Tensor],
    hearts: Sequence[LabelledHeart],
    output: Path,
    steps: int,
    peak_rate: float,
    seed: int,
    device: str,
    resume: bool,
    stop_after: int | None,
    report: Callable[[Progress], None] | None,
) -> tuple[dict[str, torch.Tensor], float]:
    """Make the steps of one training; the averaged weights of the network, and the mean loss of the last 200 steps."""
    from safetensors.torch import load_file

    settings: dict[str, object] = {
        "architecture": _network(both).architecture.model_dump(mode="json"),
        "grid": _branch(both).grid if "branch" in both else None,
        "hearts": [heart.name for heart in hearts],
        "steps": steps,
        "seed": seed,
        "peak_rate": peak_rate,
    }
    trained = train_steps(
        both,
        loss,
        clip=_CLIP,
        peak_rate=peak_rate,
        steps=steps,
        settings=settings,
        output=output,
        device=device,
        resume=resume,
        stop_after=stop_after,
        report=report,
        rate=polynomial_rate,
    )
    return _own(load_file(trained.path)), trained.loss


def _steps(
    hearts: Sequence[LabelledHeart],
    architecture: ClipArchitecture,
    grid: int | None,
    output: Path,
    *,
    steps: int,
    peak_rate: float,
    seed: int,
    device: str,
    resume: bool,
    target: Target = Target.OBSTRUCTION,
    stop_after: int | None = None,
    start: dict[str, torch.Tensor] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> tuple[ObstructionNetwork, float]:
    """Train on obstruction; the network with averaged weights, and the mean loss of the last 200 steps."""
    torch.manual_seed(seed)
    both = _joined(architecture, grid)
    if start is not None:
        # A variant without a transformer takes what it has.
        own = _network(both).state_dict()
        _network(both).load_state_dict({name: start[name] for name in own})
    sampler = _sampler(hearts, seed, target)
    loss = partial(_loss, _network(both), _branch(both) if grid is not None else None, sampler, device)
    averaged, last = _made(both, loss, hearts, output, steps, peak_rate, seed, device, resume, stop_after, report)
    _network(both).load_state_dict(averaged)
    return _network(both).to(device).eval(), last


def _own(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("network."): tensor for name, tensor in tensors.items() if name.startswith("network.")}


def _clips_as_they_are(heart: LabelledHeart) -> NDArray[np.float32]:
    """Clips (S, 30, 64, 64) of a heart without augmentation."""
    margin = (WIDE - SIZE) // 2
    inner = heart.clips[:, :, margin : margin + SIZE, margin : margin + SIZE]
    return np.ascontiguousarray(inner.astype(np.float32) / _GREY)


@dataclass(frozen=True, slots=True, eq=False)
class Validated:
    """Logits and labels of hearts that were not trained on, without augmentation."""

    hearts: NDArray[np.float64]
    """(N,), the largest logit of the slices of each heart"""
    outcomes: NDArray[np.bool_]
    slices: NDArray[np.float64]
    """(M,), of every slice of every heart"""
    slice_outcomes: NDArray[np.bool_]


def validate(network: ObstructionNetwork, hearts: Sequence[LabelledHeart], device: str = "cpu") -> Validated:
    """Logits of hearts with their labels."""
    logits = [slice_logits(network, _clips_as_they_are(heart), device) for heart in hearts]
    return Validated(
        np.array([heart_logit(each) for each in logits]),
        np.array([heart.obstruction for heart in hearts]),
        np.concatenate([each.mean(axis=0) for each in logits]),
        np.concatenate([heart.slice_labels() for heart in hearts]),
    )


def train_obstruction(
    hearts: Sequence[LabelledHeart],
    output: Path,
    *,
    architecture: ClipArchitecture = NARROW,
    steps: int,
    peak_rate: float = PEAK_RATE,
    seed: int = 0,
    start: dict[str, torch.Tensor] | None = None,
    data: TrainingData,
    target: Target = Target.OBSTRUCTION,
    device: str = "cpu",
    resume: bool = True,
    stop_after: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train the obstruction network, calibrate it on hearts kept out, and write weights and card.

    Parameters
    ----------
    hearts : sequence of LabelledHeart
        Those of :func:`split` that are kept out calibrate the probabilities.
    output : Path
        Receives ``checkpoint.safetensors``, ``weights.safetensors`` and ``card.yaml``.
    architecture : ClipArchitecture
    start : dict of str to tensor, optional
        Weights to start from, of :func:`pretrain` or of a model to fine-tune.
    data : TrainingData
        For the card: cases and steps are filled in.
    target : Target
    stop_after : int, optional
        Stop after this step, to go on later; the weights so far are calibrated too.

    Raises
    ------
    ValueError
        One outcome is missing among the hearts trained on or kept out, or the checkpoint is of another run.
    """
    training, held_out = split(hearts)
    for name, part in (("trained on", training), ("kept out", held_out)):
        if len({heart.obstruction for heart in part}) < 2:
            raise ValueError(f"the {len(part)} hearts {name} all have the same label; give more hearts of both")
    network, loss = _steps(
        training,
        architecture,
        16,
        output,
        steps=steps,
        peak_rate=peak_rate,
        seed=seed,
        device=device,
        resume=resume,
        target=target,
        stop_after=stop_after,
        start=start,
        report=report,
    )
    validated = validate(network, held_out, device)
    calibrate(network, validated.hearts, validated.outcomes, seed)
    network.slice_calibration.copy_(torch.tensor(platt(validated.slices, validated.slice_outcomes)))
    weights, card = output / "weights.safetensors", output / "card.yaml"
    save_atomically(network.state_dict(), weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    cases = tuple(heart.name for heart in training)
    data = data.model_copy(update={"cases": cases, "steps": stop_after or steps})
    write_card(_card(architecture, sha256, data), card)
    return TrainingResult(MODEL, steps, cases, tuple(heart.name for heart in held_out), loss, weights, card, sha256)


def train_variant(
    name: str,
    hearts: Sequence[LabelledHeart],
    output: Path,
    *,
    architecture: ClipArchitecture = NARROW,
    steps: int,
    peak_rate: float = PEAK_RATE,
    seed: int = 0,
    start: dict[str, torch.Tensor] | None = None,
    device: str = "cpu",
    resume: bool = True,
    report: Callable[[Progress], None] | None = None,
) -> ObstructionNetwork:
    """Train one variant of the network on all hearts given.

    Parameters
    ----------
    name : str
        Key of :data:`ABLATION`.
    output : Path
        Receives a folder for the variant.
    steps, peak_rate, seed, start
        The same for all variants that are to be compared.
    """
    transformer, grid = ABLATION[name]
    network, _ = _steps(
        hearts,
        architecture.model_copy(update={"transformer": transformer}),
        grid,
        output / name.replace(", ", "-").replace(" ", "-"),
        steps=steps,
        peak_rate=peak_rate,
        seed=seed,
        device=device,
        resume=resume,
        start=start,
        report=report,
    )
    return network


def _card(architecture: ClipArchitecture, sha256: str, data: TrainingData) -> ModelCard:
    return ModelCard(
        name=MODEL,
        version="0.1.0",
        task="classification of short-axis cine clips of acute infarcts: microvascular obstruction",
        licence="Apache-2.0",
        weights_sha256=sha256,
        summary="Probability of microvascular obstruction from cine alone, by slice, in acute reperfused infarct.",
        input=InputSpecification(
            size=SIZE,
            field="heart crop",
            spacing_mm=SPACING_MM,
            channels=tuple(f"frame {number}" for number in (1, FRAMES)),
            normalisation="2nd and 98th percentile of 154 mm around the ventricle over slices and phases to 0 and 1, "
            f"clipped to 0 … 1.25; {FRAMES} frames from end diastole, end systole at frame {END_SYSTOLE_FRAME + 1}",
        ),
        output=("logit of obstruction",),
        label_weights=(1.0,),
        architecture=architecture,
        training=data,
        limits=(
            "How obstruction shows in cine is a law of the simulator where the network was trained on simulated "
            "hearts: its probabilities say nothing about patients until they were measured on patients.",
            "The grid of its features is coarse: an attribution map shows a region, not the extent of an obstruction.",
        ),
        not_for=(
            "Diagnosis, or any decision about a patient: research use only.",
            "Hearts without an acute reperfused infarct: it was trained on nothing else.",
        ),
    )


def hearts_of_studies(
    folder: Path, labels: Path, *, device: str = "cpu", report: Callable[[str, str], None] | None = None
) -> list[LabelledHeart]:
    """A site's own studies, segmented as the node does, with the labels of a table.

    Parameters
    ----------
    folder, labels, device, report
        See :func:`pipelines.training.obstruction_studies.segmented_studies`.

    Raises
    ------
    LabelTableError
        See :mod:`pipelines.training.labelled_studies`.
    """
    hearts = []
    for one in segmented_studies(folder, labels, device=device, report=report):
        images, _, _ = images_around_ventricle(one.stack.pixels, one.labels, one.stack.geometry, one.end_diastole)
        clips = packed(np.float32(_GREY) * images, one.end_diastole, one.end_systole)
        hearts.append(LabelledHeart(one.name, clips, one.obstruction))
    return hearts


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Phantoms to train on, and weights to start from."""

    hearts: list[LabelledHeart]
    architecture: ClipArchitecture
    start: dict[str, torch.Tensor] | None


def prepare_phantoms(
    folder: Path,
    output: Path,
    *,
    phantoms: int,
    first_seed: int,
    full: bool = False,
    pretraining_steps: int,
    peak_rate: float = PEAK_RATE,
    seed: int = 0,
    workers: int = 1,
    device: str = "cpu",
    resume: bool = True,
    prepared: Callable[[int, int], None] | None = None,
    report: Callable[[str, Progress], None] | None = None,
) -> Prepared:
    """Make the phantoms that are missing, and learn where scar lies on those that are trained on.

    Parameters
    ----------
    folder : Path
        Packed phantoms; receives the missing ones.
    output : Path
        Receives ``pretraining``.
    """
    seeds = range(first_seed, first_seed + phantoms)
    paths = pack_clips(folder, seeds, Population.ACUTE_INFARCT, workers=workers, report=prepared)
    hearts = list(hearts_of_clips(paths))
    architecture = FULL if full else NARROW
    start = None
    if pretraining_steps:
        start = pretrain(
            split(hearts)[0],
            output / "pretraining",
            architecture=architecture,
            steps=pretraining_steps,
            peak_rate=peak_rate,
            seed=seed,
            device=device,
            resume=resume,
            report=None if report is None else partial(report, "pretraining"),
        )
    return Prepared(hearts, architecture, start)


def train_on_phantoms(
    folder: Path,
    output: Path,
    *,
    phantoms: int,
    first_seed: int,
    full: bool = False,
    pretraining_steps: int,
    steps: int,
    peak_rate: float = PEAK_RATE,
    seed: int = 0,
    target: Target = Target.OBSTRUCTION,
    workers: int = 1,
    device: str = "cpu",
    resume: bool = True,
    prepared: Callable[[int, int], None] | None = None,
    report: Callable[[str, Progress], None] | None = None,
) -> TrainingResult:
    """Make the phantoms that are missing, learn where scar lies, then learn obstruction.

    Parameters
    ----------
    folder : Path
        Packed phantoms; receives the missing ones.
    output : Path
        Receives ``pretraining``, ``checkpoint.safetensors``, ``weights.safetensors`` and ``card.yaml``.

    Raises
    ------
    ValueError
        See :func:`train_obstruction`.
    """
    ready = prepare_phantoms(
        folder,
        output,
        phantoms=phantoms,
        first_seed=first_seed,
        full=full,
        pretraining_steps=pretraining_steps,
        peak_rate=peak_rate,
        seed=seed,
        workers=workers,
        device=device,
        resume=resume,
        prepared=prepared,
        report=report,
    )
    size = " --full" if full else ""
    data = TrainingData(
        name=f"{len(ready.hearts)} phantoms with an acute infarct, default law",
        licence="Apache-2.0",
        source="pipelines/phantom, docs/phantom.md",
        cases=(),
        split="of either outcome the last 15 % of the seeds kept out; evaluation uses seeds from 900000 on",
        steps=steps,
        command=f"dicom-node train obstruction --clips DIR --model network --target {target} --phantoms {phantoms} "
        f"--phantom-seed {first_seed}{size} "
        f"--pretraining-steps {pretraining_steps} --steps {steps} --rate {peak_rate:g} --seed {seed}",
    )
    return train_obstruction(
        ready.hearts,
        output,
        architecture=ready.architecture,
        steps=steps,
        peak_rate=peak_rate,
        seed=seed,
        start=ready.start,
        data=data,
        target=target,
        device=device,
        resume=resume,
        report=None if report is None else partial(report, "obstruction"),
    )


def fine_tune(
    studies: Path,
    labels: Path,
    output: Path,
    *,
    start: Path | None = None,
    steps: int,
    peak_rate: float = PEAK_RATE / 10,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = True,
    prepared: Callable[[int, int], None] | None = None,
    report: Callable[[str, Progress], None] | None = None,
) -> TrainingResult:
    """Fine-tune a model of obstruction on a site's own studies, with labels of whole hearts.

    A network is trained further and calibrated on studies kept out. Of a wall model the score is kept, and calibrated
    to all studies, none of which it has seen.

    Parameters
    ----------
    studies, labels : Path
        See :func:`hearts_of_studies`.
    start : Path, optional
        Folder of the model to start from; that of the package when left out.
    prepared : callable
        Is called with the studies read and the number of labels.

    Raises
    ------
    ValueError
        The table or the model cannot be used; see also :func:`train_obstruction`.
    """
    from safetensors.torch import load_file

    from pipelines.models.registry import PACKAGED, load_model

    model = start or PACKAGED / MODEL
    architecture = read_card(model / "card.yaml").architecture
    if not isinstance(architecture, ClipArchitecture | WallArchitecture):
        raise ValueError(f"{model} is no model of obstruction")
    done = 0
    count = len(read_labels(labels, "obstruction"))

    left_out: list[str] = []

    def one_read(name: str, refused: str) -> None:
        nonlocal done
        done += 1
        if refused:
            left_out.append(f"{name}: {refused}")
        if prepared is not None:
            prepared(done, count)

    def told_from(count_used: int, split: str) -> TrainingData:
        if not count_used:
            raise ValueError(f"none of {count} studies can be used, such as {left_out[0]}")
        return TrainingData(
            name=f"{count_used} studies of a site, after the weights of {model.name}",
            licence="that of the site",
            source="studies and labels of a site",
            cases=(),
            split=split,
            steps=steps,
            command="dicom-node train obstruction --studies DIR --labels FILE.csv "
            f"--steps {steps} --rate {peak_rate:g}",
        )

    if isinstance(architecture, WallArchitecture):
        walls = walls_of_studies(studies, labels, device=device, report=one_read)
        data = told_from(len(walls), "the score has seen none of them; its calibration is fitted to all")
        network = load_model(model.name, root=model.parent).network
        return fit_wall(walls, output, data=data, start=cast("WallModel", network), seed=seed)
    hearts = hearts_of_studies(studies, labels, device=device, report=one_read)
    return train_obstruction(
        hearts,
        output,
        architecture=architecture,
        steps=steps,
        peak_rate=peak_rate,
        seed=seed,
        start=load_file(model / "weights.safetensors"),
        data=told_from(len(hearts), "of either outcome the last 15 % by name kept out"),
        device=device,
        resume=resume,
        report=None if report is None else partial(report, "fine-tuning"),
    )


def fit_wall_to_phantoms(
    folder: Path,
    output: Path,
    *,
    phantoms: int,
    first_seed: int,
    seed: int = 0,
    workers: int = 1,
    prepared: Callable[[int, int], None] | None = None,
) -> TrainingResult:
    """Make the phantoms that are missing, draw their contours as the node does, and fit the wall model.

    Parameters
    ----------
    folder : Path
        Packed phantoms; receives the missing ones.
    output : Path
        Receives ``contours``, ``weights.safetensors`` and ``card.yaml``.

    Raises
    ------
    ValueError
        See :func:`pipelines.training.obstruction_wall.fit_wall`.
    """
    seeds = range(first_seed, first_seed + phantoms)
    paths = pack_clips(folder, seeds, Population.ACUTE_INFARCT, workers=workers, report=prepared)
    hearts = walls_of_clips(paths, output / "contours", prepared)
    data = TrainingData(
        name="simulated acute infarcts, default law",
        licence="Apache-2.0",
        source="pipelines/phantom, docs/phantom.md",
        cases=(),
        split="calibrated on five folds held out; evaluation uses seeds from 900000 on",
        steps=1,
        command=f"dicom-node train obstruction --clips DIR --phantoms {phantoms} --phantom-seed {first_seed} "
        f"--seed {seed}",
    )
    return fit_wall(hearts, output, data=data, seed=seed)
