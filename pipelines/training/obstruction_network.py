"""Training of the obstruction network: where scar lies, then obstruction or depth, then calibration and card."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from pipelines.models.card import TrainingData, write_card
from pipelines.obstruction.architecture import ClipArchitecture, Pooling
from pipelines.obstruction.network import FULL, NETWORK_MODEL, SIZE, MaskBranch, ObstructionNetwork
from pipelines.obstruction.predict import heart_score, slice_logits
from pipelines.training.checkpoint import save_atomically
from pipelines.training.obstruction_batches import Sampler, clips_as_they_are, sampler_of, scar_sampler
from pipelines.training.obstruction_calibration import calibrate, platt
from pipelines.training.obstruction_card import network_card
from pipelines.training.obstruction_hearts import LabelledHeart, split
from pipelines.training.obstruction_recipe import ObstructionRecipe, Target
from pipelines.training.schedule import polynomial_rate
from pipelines.training.steps import Progress, Run, TrainingResult, train_steps

__all__ = ["ABLATION", "Validated", "pretrain", "train_obstruction", "train_variant", "validate"]

_FULL_WARM_UP = 1500
_MASK_WEIGHT = 0.05
_SCAR_WEIGHT = 4.0
"""Of blocks that show scar, beside those that do not."""
_RETAINED_WEIGHT = 10.0
"""Of the motion of the wall, beside depth and place of the infarct: its squared error is a tenth of theirs."""
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


def _loss(
    network: ObstructionNetwork,
    branch: MaskBranch | None,
    sampler: Sampler,
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
    recipe: ObstructionRecipe,
    run: Run | None = None,
    report: Callable[[Progress], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Teach the convolutions where scar lies, on a grid of 16 × 16 blocks, and return the weights of the network.

    It stands for the weights of other videos that the paper starts from: it tells features of motion and wall, and
    nothing of obstruction.

    Parameters
    ----------
    hearts : sequence of LabelledHeart
        With ``scar``; hearts with anything else than an acute infarct may be among them.
    recipe : ObstructionRecipe
        Of which ``pretraining_steps`` are made.

    Raises
    ------
    ValueError
        A heart has no ``scar``, or the checkpoint is of another run.
    """
    run = run or Run()
    sampler = scar_sampler(hearts, run.seed)
    torch.manual_seed(run.seed)
    both = _joined(recipe.architecture, 16)

    def loss(step: int) -> torch.Tensor:
        batch = sampler.draw(step)
        assert batch.shares is not None
        clips = batch.clips.to(run.device).contiguous(memory_format=torch.channels_last_3d)
        shares = functional.avg_pool2d(batch.shares.to(run.device), 4)
        return _place_of_scar(_branch(both)(_network(both).features(clips)[-1])[:, 0], shares[:, 0])

    return _made(both, loss, hearts, output, "scar", recipe.pretraining_steps, recipe.peak_rate, run, report)[0]


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
    run: Run,
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
        "seed": run.seed,
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
        device=run.device,
        resume=run.resume,
        stop_after=run.stop_after,
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
    output: Path,
    recipe: ObstructionRecipe,
    grid: int | None,
    start: dict[str, torch.Tensor] | None,
    run: Run,
    report: Callable[[Progress], None] | None,
) -> tuple[ObstructionNetwork, float]:
    """Train on the target; the network with averaged weights, and the mean loss of the last 200 steps."""
    torch.manual_seed(run.seed)
    both = _joined(recipe.architecture, grid, recipe.target)
    if start is not None:
        # A variant without a transformer takes what it has.
        own = _network(both).state_dict()
        _network(both).load_state_dict({name: start[name] for name in own})
    sampler = sampler_of(hearts, run.seed, recipe.target)
    branch = _branch(both) if grid is not None else None
    loss = partial(_loss, _network(both), branch, sampler, run.device, recipe.target)
    averaged, last = _made(both, loss, hearts, output, recipe.target, recipe.steps, recipe.peak_rate, run, report)
    _network(both).load_state_dict(averaged)
    return _network(both).to(run.device).eval(), last


def _own(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("network."): tensor for name, tensor in tensors.items() if name.startswith("network.")}


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
    logits = [slice_logits(network, clips_as_they_are(heart), device) for heart in hearts]
    return Validated(
        np.array([heart_score(network, each) for each in logits]),
        np.array([heart.obstruction for heart in hearts]),
        np.concatenate([each.mean(axis=0) for each in logits]),
        np.concatenate([heart.slice_labels() for heart in hearts]),
    )


def train_obstruction(
    hearts: Sequence[LabelledHeart],
    output: Path,
    recipe: ObstructionRecipe,
    run: Run | None = None,
    *,
    data: TrainingData,
    start: dict[str, torch.Tensor] | None = None,
    kept_out: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train the obstruction network, calibrate it on hearts kept out, and write weights and card.

    Parameters
    ----------
    hearts : sequence of LabelledHeart
        Those of :func:`split` that are kept out calibrate the probabilities.
    output : Path
        Receives ``checkpoint.safetensors``, ``weights.safetensors`` and ``card.yaml``.
    recipe : ObstructionRecipe
    run : Run, optional
        Where it stops before the last step, the weights so far are calibrated too.
    data : TrainingData
        For the card: cases and steps are filled in.
    start : dict of str to tensor, optional
        Weights to start from, of :func:`pretrain` or of a model to fine-tune.
    kept_out : int, optional
        Hearts kept out, see :func:`split`.

    Raises
    ------
    ValueError
        One outcome is missing among the hearts trained on or kept out, or the checkpoint is of another run.
    """
    run = run or Run()
    training, held_out = split(hearts, kept_out)
    for name, part in (("trained on", training), ("kept out", held_out)):
        if len({heart.obstruction for heart in part}) < 2:
            raise ValueError(f"the {len(part)} hearts {name} all have the same label; give more hearts of both")
    network, loss = _steps(training, output, recipe, 16, start, run, report)
    validated = validate(network, held_out, run.device)
    calibrate(network, validated.hearts, validated.outcomes, run.seed)
    network.slice_calibration.copy_(torch.tensor(platt(validated.slices, validated.slice_outcomes)))
    weights, card = output / "weights.safetensors", output / "card.yaml"
    save_atomically(network.state_dict(), weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    cases = tuple(heart.name for heart in training)
    data = data.model_copy(update={"cases": cases, "steps": run.stop_after or recipe.steps})
    write_card(network_card(recipe.architecture, sha256, data, recipe.target), card)
    return TrainingResult(
        NETWORK_MODEL, recipe.steps, cases, tuple(heart.name for heart in held_out), loss, weights, card, sha256
    )


def train_variant(
    name: str,
    hearts: Sequence[LabelledHeart],
    output: Path,
    recipe: ObstructionRecipe,
    run: Run | None = None,
    *,
    start: dict[str, torch.Tensor] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> ObstructionNetwork:
    """Train one variant of the network on all hearts given, to learn obstruction.

    Parameters
    ----------
    name : str
        Key of :data:`ABLATION`.
    output : Path
        Receives a folder for the variant.
    recipe, run, start
        The same for all variants that are to be compared.
    """
    transformer, grid = ABLATION[name]
    architecture = recipe.architecture.model_copy(update={"transformer": transformer})
    return _steps(
        hearts,
        output / name.replace(", ", "-").replace(" ", "-"),
        replace(recipe, architecture=architecture, target=Target.OBSTRUCTION),
        grid,
        start,
        run or Run(),
        report,
    )[0]
