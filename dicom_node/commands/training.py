"""``dicom-node train`` and ``dicom-node evaluate``: both groups of commands, and what their commands have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dicom_node.commands.terminal import console, print_json
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from pipelines.training.steps import Progress as TrainingProgress
    from pipelines.training.steps import TrainingResult

__all__ = [
    "AcdcFolder",
    "Device",
    "FirstSeed",
    "MadePhantoms",
    "Resume",
    "ResumeAll",
    "Seed",
    "Steps",
    "UnseenSeed",
    "evaluate_app",
    "print_result",
    "shown_evaluation",
    "shown_training",
    "step_progress",
    "train_app",
]

train_app = typer.Typer(help="Train a network from data on disk.", no_args_is_help=True)
evaluate_app = typer.Typer(help="Measure a network against annotated data.", no_args_is_help=True)

AcdcFolder = Annotated[
    Path, typer.Option("--data", exists=True, file_okay=False, help="Folder in the layout of the ACDC challenge.")
]
Device = Annotated[str, typer.Option(help="cpu or a CUDA device.")]
Seed = Annotated[int, typer.Option(help="Seed of initialisation, sampling and augmentation.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps in all; the recipe's own number by default.")]
Resume = Annotated[bool, typer.Option(help="Go on from the checkpoint in the output folder.")]
ResumeAll = Annotated[bool, typer.Option(help="Go on from the checkpoints in the output folder.")]
"""Of a command that makes several trainings."""
FirstSeed = Annotated[int, typer.Option(min=0, help="Seed of the first phantom; seeds count up.")]
UnseenSeed = Annotated[int, typer.Option(min=0, help="Seed of the first phantom: none that was trained on.")]
MadePhantoms = Annotated[int | None, typer.Option(min=1, help="Number of phantoms, made for this.")]


@train_app.callback()
def _train() -> None:
    """Train a network from data on disk."""


@evaluate_app.callback()
def _evaluate() -> None:
    """Measure a network against annotated data."""


@dataclass(frozen=True, slots=True)
class ShownTraining:
    """What a running training tells the terminal."""

    progress: Progress
    task: TaskID

    def packed(self, done: int, total: int) -> None:
        """Phantoms made so far."""
        self.progress.update(self.task, completed=done, total=total, detail="phantoms made")

    def step(self, state: TrainingProgress) -> None:
        """Steps made so far."""
        detail = f"loss {state.loss:.4f}, {state.seconds_per_step:.2f} s a step"
        self.progress.update(self.task, completed=state.step, total=state.steps, detail=detail)


@contextmanager
def shown_training(command: str, quiet: bool) -> Iterator[ShownTraining]:
    """Show a training while it runs; what it cannot do is a mistake in the arguments of ``train command``."""
    with step_progress(quiet) as progress:
        try:
            yield ShownTraining(progress, progress.add_task(command, total=None, detail=""))
        except ValueError as error:
            raise ConfigurationError(str(error), subject=f"train {command}") from error


@dataclass(frozen=True, slots=True)
class ShownEvaluation:
    """What a running evaluation tells the terminal."""

    progress: Progress
    task: TaskID

    def case(self, said: str, number: int, total: int) -> None:
        """Cases done so far, and what there is to say of the last."""
        self.progress.update(self.task, completed=number, total=total, detail=said)

    def counted(self, number: int, total: int) -> None:
        """Cases done so far."""
        self.case("", number, total)


@contextmanager
def shown_evaluation(command: str, cases: str, quiet: bool) -> Iterator[ShownEvaluation]:
    """Show an evaluation while it runs; what it cannot do is a mistake in the arguments of ``evaluate command``."""
    from pipelines.models.registry import ModelUnavailable

    with step_progress(quiet) as progress:
        try:
            yield ShownEvaluation(progress, progress.add_task(cases, total=None, detail=""))
        except (ValueError, ModelUnavailable) as error:
            raise ConfigurationError(str(error), subject=f"evaluate {command}") from error


def print_result(result: TrainingResult, as_json: bool) -> None:
    """Say where weights lie and what was kept out of training."""
    if as_json:
        print_json(result)
        return
    console.print(
        f"{result.weights} after {result.steps} steps, loss {result.loss:.4f}, sha256 {result.weights_sha256}"
    )
    if result.held_out_cases:
        console.print(f"kept out of training: {', '.join(result.held_out_cases)}")


def step_progress(quiet: bool) -> Progress:
    """Progress of steps or cases on the terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        disable=quiet,
        transient=True,
    )
