"""What the trainings of all three networks of synthetic enhancement leave behind: checkpoint, weights and card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pipelines.models.card import ModelCard, write_card
from pipelines.training.steps import Progress, Run, TrainingResult, train_steps
from pipelines.training.synthetic_hearts import Hearts

__all__ = ["train_on_hearts"]


def train_on_hearts(
    network: torch.nn.Module,
    loss: Callable[[int], torch.Tensor],
    hearts: Hearts,
    output: Path,
    run: Run,
    *,
    model: str,
    steps: int,
    peak_rate: float,
    recipe: Mapping[str, object],
    further: Mapping[str, object] | None = None,
    card: Callable[[int, str], ModelCard],
    report: Callable[[Progress], None] | None,
) -> TrainingResult:
    """Make the steps of one network, and write its card whenever its weights are written.

    Parameters
    ----------
    network, loss, steps, peak_rate, report
        See :func:`pipelines.training.steps.train_steps`.
    hearts : Hearts
        What the loss is of.
    output : Path
        Receives ``checkpoint.safetensors``, ``weights.safetensors`` and ``card.yaml``.
    model : str
        Name of the network.
    recipe : mapping
        Fields of the recipe: a checkpoint of another is refused. Numbers of steps among them do not count.
    further : mapping, optional
        What else decides the run beside the number of hearts and the seed.
    card : callable
        Card of the network, from the steps done and the SHA-256 of its weights.

    Raises
    ------
    ValueError
        See :func:`pipelines.training.steps.train_steps`.
    """
    decisive = {name: value for name, value in recipe.items() if not name.endswith("steps")}
    settings = {"model": model, "recipe": decisive, "hearts": len(hearts.cases), "seed": run.seed, **(further or {})}
    path = output / "card.yaml"
    trained = train_steps(
        network,
        loss,
        clip=1.0,
        peak_rate=peak_rate,
        steps=steps,
        settings=settings,
        output=output,
        device=run.device,
        resume=run.resume,
        stop_after=run.stop_after,
        report=report,
        kept=lambda done, sha256: write_card(card(done, sha256), path),
    )
    return TrainingResult(model, steps, hearts.cases, hearts.held_out, trained.loss, trained.path, path, trained.sha256)
