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
from pipelines.obstruction.architecture import ClipArchitecture, Pooling, WallArchitecture
from pipelines.obstruction.clips import (
    END_SYSTOLE_FRAME,
    SPACING_MM,
    WIDE,
    images_around_ventricle,
    in_time,
    normalised_phases,
)
from pipelines.obstruction.network import (
    FRAMES,
    FULL,
    MODEL,
    NARROW,
    NETWORK_MODEL,
    SIZE,
    MaskBranch,
    ObstructionNetwork,
)
from pipelines.obstruction.predict import heart_score, slice_logits
from pipelines.obstruction.wall_model import WallModel
from pipelines.segmentation.labels import Label
from pipelines.training.checkpoint import save_atomically
from pipelines.training.heart_clips import HeartClips, Population, pack_clips, read_clips
from pipelines.training.labelled_studies import read_labels
from pipelines.training.obstruction_calibration import calibrate, platt
from pipelines.training.obstruction_studies import segmented_studies
from pipelines.training.obstruction_targets import infarct_depth, retained_area
from pipelines.training.obstruction_wall import fit_wall, walls_of_clips, walls_of_studies
from pipelines.training.schedule import polynomial_rate
from pipelines.training.steps import Progress, TrainingResult, train_steps

__all__ = [
    "ABLATION",
    "FULL_RATE",
    "FULL_STEPS",
    "PEAK_RATE",
    "LabelledHeart",
    "Target",
    "Validated",
    "fine_tune",
    "fit_wall_to_phantoms",
    "hearts_of_clips",
    "hearts_of_studies",
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
FULL_RATE, FULL_STEPS = 1e-4, 8000
"""Those of the paper, for the network of its size."""
_FULL_WARM_UP = 1500
_MASK_WEIGHT = 0.05
_SCAR_WEIGHT = 4.0
"""Of blocks that show scar, beside those that do not."""
_RETAINED_WEIGHT = 10.0
"""Of the motion of the wall, beside depth and place of the infarct: its squared error is a tenth of theirs."""
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
    """How deep the infarct goes: a number of every slice, where obstruction is one bit of few. The mask branch draws
    where the infarct lies and what is left of the motion, which every place of the wall tells."""


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
        How deep the infarct of each slice goes, 0 … 1.
    retained : (S, 88, 88) float16 or None
        What the wall has left standing: both as in :mod:`pipelines.training.obstruction_targets`.
    """

    name: str
    clips: NDArray[np.uint8]
    obstruction: bool
    places: NDArray[np.bool_] | None = None
    scar: NDArray[np.bool_] | None = None
    depth: NDArray[np.float64] | None = None
    retained: NDArray[np.float16] | None = None

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
        retained=retained_area(clips.labels[0], clips.labels[end_systole]).astype(np.float16),
    )


def packed(images: NDArray[np.float32], end_diastole: int, end_systole: int) -> NDArray[np.uint8]:
    """Motion-normalised clips (S, 30, 88, 88) of images (T, S, 88, 88), grey values 0 … 250."""
    clips = in_time(images, normalised_phases(end_diastole, end_systole, len(images)))
    return np.ascontiguousarray(clips.transpose(1, 0, 2, 3)).round().astype(np.uint8)


def split(
    hearts: Sequence[LabelledHeart], kept_out: int | None = None
) -> tuple[list[LabelledHeart], list[LabelledHeart]]:
    """Hearts to train on, and those kept out to validate on.

    Parameters
    ----------
    kept_out : int, optional
        How many: the last by name. Left out: of either outcome the last 15 %, at least one.
    """
    if kept_out is not None:
        by_name = sorted(hearts, key=lambda heart: heart.name)
        return by_name[: len(by_name) - kept_out], by_name[len(by_name) - kept_out :]
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
    """(N, K, 64, 64), 0 … 1: what the mask branch draws; ``None`` where places are not known"""


class _Sampler:
    """Draws augmented batches, with and without what is looked for in a fixed share.

    Where places are known, (S, 88, 88) or (S, K, 88, 88) of each heart, each clip has its own label. Where only hearts
    have labels, a batch is the slices of two hearts, and the likeliest slice of each must bear the label of its heart.
    ``alike`` tells the slices that are most like those looked for. ``as_they_come`` draws all slices alike.
    """

    def __init__(
        self,
        clips: Sequence[NDArray[np.uint8]],
        labels: Sequence[NDArray[np.bool_] | NDArray[np.float64]],
        places: Sequence[NDArray[np.bool_] | NDArray[np.float16] | None],
        seed: int,
        alike: Sequence[NDArray[np.bool_]] | None = None,
        *,
        as_they_come: bool = False,
    ) -> None:
        self._clips, self._labels, self._places, self._seed = clips, labels, places, seed
        self._placed = all(each is not None for each in places)
        self._as_they_come = as_they_come
        pairs = np.array([(heart, index) for heart, each in enumerate(clips) for index in range(len(each))])
        flat = np.concatenate([np.asarray(each, np.float64) for each in labels]) > 0
        self._with, self._without = pairs[flat], pairs[~flat]
        self._alike = self._without if alike is None else pairs[~flat & np.concatenate(alike)]
        if not len(self._with) or not len(self._without):
            raise ValueError("hearts with and without obstruction are needed to learn from")

    def _chosen(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Heart and slice of each clip (N, 2), their bags (N,), and the labels of the bags (B,)."""
        if self._as_they_come:
            whole = np.concatenate([self._with, self._without])
            drawn = whole[rng.integers(len(whole), size=_BATCH)]
            return (
                drawn,
                np.arange(_BATCH),
                np.array([self._labels[heart][index] for heart, index in drawn], np.float64),
            )
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
        nowhere = np.zeros((1, WIDE, WIDE), np.float32)
        places = [
            nowhere
            if (known := self._places[heart]) is None
            else known[index].astype(np.float32).reshape(-1, WIDE, WIDE)
            for heart, index in chosen
        ]
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
        told = [
            (heart.depth, np.stack([heart.scar, heart.retained], axis=1, dtype=np.float16))
            for heart in hearts
            if heart.depth is not None and heart.scar is not None and heart.retained is not None
        ]
        if len(told) < len(hearts):
            raise ValueError("depth and place of the infarct and the motion of the wall are needed to learn depth")
        depths, maps = [depth for depth, _ in told], [both for _, both in told]
        return _Sampler([heart.clips for heart in hearts], depths, maps, seed, as_they_come=True)
    return _Sampler(
        [heart.clips for heart in hearts],
        [heart.slice_labels() for heart in hearts],
        [heart.places for heart in hearts],
        seed,
        [heart.slice_labels() if heart.scar is None else np.asarray(heart.scar.any(axis=(1, 2))) for heart in hearts],
    )


def _moved(
    clips: NDArray[np.uint8], places: NDArray[np.float32], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flip, rotate, shift and scale clips (N, 30, 88, 88) and places (N, K, 88, 88) and cut out 64 × 64 pixels."""
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
    return images, functional.grid_sample(torch.from_numpy(places), grid, align_corners=False)


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
    target: Target,
    step: int,
) -> torch.Tensor:
    batch = sampler.draw(step)
    clips = batch.clips.to(device).contiguous(memory_format=torch.channels_last_3d)
    last = network.features(clips)[-1]
    told = _of_bags(network.classify(last), batch.bags.to(device), len(batch.labels), network.architecture.pooling)
    loss = functional.binary_cross_entropy_with_logits(told, batch.labels.to(device))
    if branch is None or batch.shares is None:
        return loss
    shares, drawn = functional.avg_pool2d(batch.shares.to(device), SIZE // branch.grid), branch(last)
    if target is Target.OBSTRUCTION:
        return loss + _MASK_WEIGHT * functional.mse_loss(drawn[:, 0], shares[:, 0])
    motion = functional.mse_loss(drawn[:, 1], shares[:, 1])
    return loss + _place_of_scar(drawn[:, 0], shares[:, 0]) + _RETAINED_WEIGHT * motion


def _of_bags(logits: torch.Tensor, bags: torch.Tensor, count: int, pooling: Pooling) -> torch.Tensor:
    """Logits (B,) of bags of slices, pooled as those of a heart are."""
    if pooling == "largest":
        lowest = torch.full((count,), -torch.inf, device=logits.device)
        return lowest.scatter_reduce(0, bags, logits, "amax")
    shares = torch.zeros(count, device=logits.device)
    mean = shares.scatter_reduce(0, bags, logits.sigmoid(), "mean", include_self=False)
    return torch.logit(mean, eps=1e-6)


def _place_of_scar(drawn: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    weight = torch.tensor(_SCAR_WEIGHT, device=drawn.device)
    return functional.binary_cross_entropy_with_logits(drawn, shares, pos_weight=weight)


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
        shares = functional.avg_pool2d(batch.shares.to(device), 4)
        return _place_of_scar(_branch(both)(_network(both).features(clips)[-1])[:, 0], shares[:, 0])

    return _made(both, loss, hearts, output, "scar", steps, peak_rate, seed, device, resume, None, report)[0]


def _joined(architecture: ClipArchitecture, grid: int | None, target: Target = Target.OBSTRUCTION) -> nn.ModuleDict:
    """The network and the branch that learns with it and is left out of its weights."""
    parts: dict[str, nn.Module] = {"network": ObstructionNetwork(architecture)}
    if grid is not None:
        parts["branch"] = MaskBranch(architecture.widths[-1], grid, 2 if target is Target.DEPTH else 1)
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
    target: str,
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
        "target": target,
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
        rate=_rate_of(_network(both).architecture),
    )
    return _own(load_file(trained.path)), trained.loss


def _rate_of(architecture: ClipArchitecture) -> Callable[[int, int, float], float]:
    """Learning rate by step: that of the paper for a network of its size, a shorter warm-up for the narrow one."""
    if architecture.widths == FULL.widths:
        return partial(polynomial_rate, warm_up=_FULL_WARM_UP, longest=0.2)
    return polynomial_rate


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
    """Train on the target; the network with averaged weights, and the mean loss of the last 200 steps."""
    torch.manual_seed(seed)
    both = _joined(architecture, grid, target)
    if start is not None:
        # A variant without a transformer takes what it has.
        own = _network(both).state_dict()
        _network(both).load_state_dict({name: start[name] for name in own})
    sampler = _sampler(hearts, seed, target)
    loss = partial(_loss, _network(both), _branch(both) if grid is not None else None, sampler, device, target)
    averaged, last = _made(
        both, loss, hearts, output, target, steps, peak_rate, seed, device, resume, stop_after, report
    )
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
    """(N,), the score of each heart, see :func:`pipelines.obstruction.predict.heart_score`"""
    outcomes: NDArray[np.bool_]
    slices: NDArray[np.float64]
    """(M,), of every slice of every heart"""
    slice_outcomes: NDArray[np.bool_]


def validate(network: ObstructionNetwork, hearts: Sequence[LabelledHeart], device: str = "cpu") -> Validated:
    """Logits of hearts with their labels."""
    logits = [slice_logits(network, _clips_as_they_are(heart), device) for heart in hearts]
    return Validated(
        np.array([heart_score(network, each) for each in logits]),
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
    kept_out: int | None = None,
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
    kept_out : int, optional
        Hearts kept out, see :func:`split`.
    stop_after : int, optional
        Stop after this step, to go on later; the weights so far are calibrated too.

    Raises
    ------
    ValueError
        One outcome is missing among the hearts trained on or kept out, or the checkpoint is of another run.
    """
    training, held_out = split(hearts, kept_out)
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
    write_card(_card(architecture, sha256, data, target), card)
    return TrainingResult(
        NETWORK_MODEL, steps, cases, tuple(heart.name for heart in held_out), loss, weights, card, sha256
    )


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


def _card(architecture: ClipArchitecture, sha256: str, data: TrainingData, target: Target) -> ModelCard:
    by_depth = target is Target.DEPTH
    seen = (
        "It sees no obstruction: it was taught how deep infarcts go and how their walls move, and deep and large ones "
        "have an obstruction more often.",
    )
    return ModelCard(
        name=NETWORK_MODEL,
        version="0.1.0",
        task=f"classification of short-axis cine clips of acute infarcts{' by their depth' if by_depth else ''}: "
        "microvascular obstruction",
        licence="Apache-2.0",
        weights_sha256=sha256,
        summary="Probability of microvascular obstruction from cine alone, by slice, in acute reperfused infarct"
        f"{': the depth of the infarct in each slice, its mean over the slices calibrated' if by_depth else ''}.",
        input=InputSpecification(
            size=SIZE,
            field="heart crop",
            spacing_mm=SPACING_MM,
            channels=tuple(f"frame {number}" for number in (1, FRAMES)),
            normalisation="2nd and 98th percentile of 154 mm around the ventricle over slices and phases to 0 and 1, "
            f"clipped to 0 … 1.25; {FRAMES} frames from end diastole, end systole at frame {END_SYSTOLE_FRAME + 1}",
        ),
        output=("logit of the depth of the infarct" if by_depth else "logit of obstruction",),
        label_weights=(1.0,),
        architecture=architecture,
        training=data,
        limits=(
            *(seen if by_depth else ()),
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
        hearts.append(LabelledHeart(one.case, clips, one.obstruction))
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
    kept_out: int | None = None,
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
            split(hearts, kept_out)[0],
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
    kept_out: int | None = None,
    stop_after: int | None = None,
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
    target, kept_out, stop_after
        See :func:`train_obstruction`.

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
        kept_out=kept_out,
        peak_rate=peak_rate,
        seed=seed,
        workers=workers,
        device=device,
        resume=resume,
        prepared=prepared,
        report=report,
    )
    size = " --full" if full else ""
    kept = "of either outcome the last 15 % of the seeds" if kept_out is None else f"the last {kept_out} hearts"
    if kept_out is not None:
        size += f" --kept-out {kept_out}"
    stopped = "" if stop_after is None else f" --stop-after {stop_after}"
    data = TrainingData(
        name=f"{len(ready.hearts)} phantoms with an acute infarct, default law",
        licence="Apache-2.0",
        source="pipelines/phantom, docs/phantom.md",
        cases=(),
        split=f"{kept} kept out; evaluation uses seeds from 900000 on",
        steps=steps,
        command=f"dicom-node train obstruction --clips DIR --model network --target {target} --phantoms {phantoms} "
        f"--phantom-seed {first_seed}{size} "
        f"--pretraining-steps {pretraining_steps} --steps {steps}{stopped} --rate {peak_rate:g} --seed {seed}",
    )
    return train_obstruction(
        ready.hearts,
        output,
        # A heart with an obstruction has a large infarct: all of its slices tell.
        architecture=ready.architecture.model_copy(update={"pooling": "mean" if target is Target.DEPTH else "largest"}),
        steps=steps,
        peak_rate=peak_rate,
        seed=seed,
        start=ready.start,
        data=data,
        target=target,
        kept_out=kept_out,
        device=device,
        resume=resume,
        stop_after=stop_after,
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
        data=told_from(len(hearts), "by patient: of either outcome the last 15 %, by a hash of the study, kept out"),
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
