"""``dicom-node train long-axis`` and ``dicom-node evaluate long-axis``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.commands.terminal import JsonFlag, print_json
from dicom_node.commands.training import Device, FirstSeed, Resume, Seed, UnseenSeed, print_result, shown_training
from dicom_node.errors import ConfigurationError

__all__ = ["evaluate_long_axis", "train_long_axis"]


def train_long_axis(
    phantoms: Annotated[int, typer.Option(min=1, help="Number of phantoms.")] = 220,
    phantom_seed: FirstSeed = 500000,
    output: Annotated[Path, typer.Option(help="Folder for images, checkpoint, weights and card.")] = Path("runs"),
    steps: Annotated[int, typer.Option(min=1, help="Steps in all.")] = 4000,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = True,
    as_json: JsonFlag = False,
) -> None:
    """Train the long-axis network on simulated views; a stopped run goes on where it stopped."""
    from pipelines.training.long_axis import MODEL, pack_views
    from pipelines.training.long_axis import train_long_axis as train_network

    views = output / f"{MODEL}-views-{phantom_seed}-{phantoms}.npz"
    with shown_training("long-axis", as_json) as shown:
        if not views.is_file():
            pack_views(phantoms, phantom_seed, views, shown.packed)
        result = train_network(
            views, output / MODEL, steps=steps, seed=seed, device=device, resume=resume, report=shown.step
        )
    print_result(result, as_json)


def evaluate_long_axis(
    phantoms: Annotated[int | None, typer.Option(min=1, help="Number of phantoms to compare with.")] = None,
    seed: UnseenSeed = 700000,
    surfaces: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="One subject with DICOM and fitted surfaces of every phase."),
    ] = None,
    models: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of the network; left out: the package's.")
    ] = None,
) -> None:
    """Compare long-axis contours and valve planes with simulated truth or with fitted surfaces; prints JSON."""
    from pipelines.evaluation.long_axis import compare_with_phantoms, compare_with_surfaces
    from pipelines.models.registry import PACKAGED, ModelUnavailable

    if (phantoms is None) == (surfaces is None):
        raise ConfigurationError("give either --phantoms or --surfaces", subject="evaluate long-axis")
    root = models or PACKAGED
    try:
        if surfaces is not None:
            print_json(compare_with_surfaces(surfaces, models=root).to_json())
        else:
            print_json(compare_with_phantoms(phantoms or 1, seed, models=root).to_json())
    except (ValueError, ModelUnavailable) as error:
        raise ConfigurationError(str(error), subject="evaluate long-axis") from error
