"""Training of synthetic late enhancement: a first guess, then a refiner that draws samples around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional

from pipelines.models.architecture import UNetArchitecture
from pipelines.models.card import ModelCard
from pipelines.models.registry import ModelUnavailable, load_model
from pipelines.synthetic_enhancement.architecture import DiffusionArchitecture
from pipelines.synthetic_enhancement.features import MOMENTS, Ablation, withheld_channels
from pipelines.synthetic_enhancement.network import (
    GUESS_INPUTS,
    GUESS_OUTPUTS,
    NOISE,
    REFINER_INPUTS,
    REFINER_OUTPUTS,
    STRIDE,
    condition_of,
    guess_input,
    guess_output,
    input_places,
    refiner_input,
)
from pipelines.training.steps import Progress, Run, TrainingResult
from pipelines.training.synthetic_batches import Batch, batch_of
from pipelines.training.synthetic_cards import NetworkFacts, guess_facts, network_card, refiner_facts
from pipelines.training.synthetic_hearts import SLICE_SHARE, Hearts
from pipelines.training.synthetic_recipe import EnhancementRecipe
from pipelines.training.synthetic_steps import train_on_hearts

__all__ = ["Continuation", "train_first_guess", "train_refiner"]


def _weights(batch: Batch) -> torch.Tensor:
    """Weight of each pixel of the image: muscle most, then what lies beside it; of a real image its ventricle alone."""
    near = functional.max_pool2d(batch.muscle[:, None], 3, 1, 1)[:, 0]
    cavity = batch.inputs[:, MOMENTS + 1].clamp(0, 1)
    heart = (batch.inputs[:, MOMENTS + 1] + batch.inputs[:, MOMENTS + 2]).clamp(0, 1)
    around = torch.where(batch.real[:, None, None], 0.5 * cavity, 0.15 + 0.5 * heart)
    return around + 3 * near


def _guess_loss(network: torch.nn.Module, batch: Batch, recipe: EnhancementRecipe) -> torch.Tensor:
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
    network: torch.nn.Module, guesser: torch.nn.Module, batch: Batch, seed: int, step: int
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


def train_first_guess(
    hearts: Hearts,
    output: Path,
    *,
    run: Run | None = None,
    recipe: EnhancementRecipe | None = None,
    steps: int | None = None,
    go_on: Continuation | None = None,
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
    command : str
        Stands in the card.

    Raises
    ------
    ValueError
        Nothing to train on, a checkpoint of another run, or weights to go on from that do not fit, have seen hearts
        that are held out, or have learnt what an ablation would keep from them.
    """
    run, recipe = run or Run(), recipe or EnhancementRecipe()
    if recipe.ablation is not None and go_on is not None:
        raise ValueError(
            f"an ablation begins with new weights: those in {go_on.models} have learnt from what would be kept from it"
        )
    architecture = UNetArchitecture(
        in_channels=GUESS_INPUTS, out_channels=GUESS_OUTPUTS, features=recipe.features, norm="batch"
    )
    torch.manual_seed(run.seed)
    return _train(
        guess_facts(architecture, recipe.ablation, command),
        lambda network, step: _guess_loss(network, batch_of(hearts, recipe, run.seed, step).to(run.device), recipe),
        hearts,
        output,
        run,
        recipe,
        recipe.steps if steps is None else steps,
        recipe.peak_rate if go_on is None else go_on.rate,
        None if go_on is None else go_on.models,
        report,
    )


def train_refiner(
    hearts: Hearts,
    guesser: torch.nn.Module,
    output: Path,
    *,
    run: Run | None = None,
    recipe: EnhancementRecipe | None = None,
    steps: int | None = None,
    go_on: Continuation | None = None,
    report: Callable[[Progress], None] | None = None,
    command: str = "dicom-node train synthetic-enhancement",
) -> TrainingResult:
    """Train the refiner on what the first network says of the same hearts; arguments as :func:`train_first_guess`.

    Parameters
    ----------
    guesser : torch.nn.Module
        The trained first network; it is not changed.
    """
    run, recipe = run or Run(), recipe or EnhancementRecipe()
    architecture = DiffusionArchitecture(
        in_channels=REFINER_INPUTS,
        out_channels=REFINER_OUTPUTS,
        features=recipe.refiner_features,
        residual_blocks=1,
        groups=8,
    )
    guesser.to(run.device).eval()
    torch.manual_seed(run.seed)
    return _train(
        refiner_facts(architecture, command),
        lambda network, step: _refiner_loss(
            network, guesser, batch_of(hearts, recipe, run.seed + 1, step).to(run.device), run.seed, step
        ),
        hearts,
        output,
        run,
        recipe,
        recipe.refiner_steps if steps is None else steps,
        recipe.refiner_rate if go_on is None else go_on.rate / 2,
        None if go_on is None else go_on.models,
        report,
    )


def _train(
    facts: NetworkFacts,
    loss: Callable[[torch.nn.Module, int], torch.Tensor],
    hearts: Hearts,
    output: Path,
    run: Run,
    recipe: EnhancementRecipe,
    steps: int,
    rate: float,
    models: Path | None,
    report: Callable[[Progress], None] | None,
) -> TrainingResult:
    if steps < 1 or not (hearts.all or hearts.infarcts or hearts.patients):
        raise ValueError(f"{steps} steps on {len(hearts.cases)} hearts: at least one of each")
    network = facts.architecture.build()
    if recipe.ablation is not None:
        _make_blind(network, recipe.ablation)
    earlier = None if models is None else _put_in_weights(models, network, facts.model, hearts.held_out)
    return train_on_hearts(
        network,
        lambda step: loss(network, step),
        hearts,
        output,
        run,
        model=facts.model,
        steps=steps,
        peak_rate=rate,
        recipe=asdict(recipe),
        further={} if earlier is None else {"weights before": earlier.weights_sha256, "rate": rate},
        card=lambda done, sha256: network_card(facts, sha256, hearts, done, earlier),
        report=report,
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
