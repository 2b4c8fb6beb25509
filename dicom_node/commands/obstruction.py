"""``dicom-node train obstruction`` and ``dicom-node evaluate obstruction``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.commands.terminal import JsonFlag, print_json, table
from dicom_node.commands.training import print_result, shown_training, step_progress
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from pipelines.evaluation.obstruction import Ablated
    from pipelines.training.steps import Progress as TrainingProgress
    from pipelines.training.steps import TrainingResult

__all__ = ["evaluate_obstruction", "train_obstruction"]


class Model(enum.StrEnum):
    """What is learnt from phantoms."""

    WALL = "wall"
    NETWORK = "network"


class Learnt(enum.StrEnum):
    """What a network learns of each slice."""

    OBSTRUCTION = "obstruction"
    DEPTH = "depth"


def train_obstruction(
    clips: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder of packed phantoms; the missing ones are made there."),
    ] = None,
    model: Annotated[
        Model,
        typer.Option(help="With --clips: the wall model, or the network. With --studies it is that of --start."),
    ] = Model.WALL,
    phantoms: Annotated[int, typer.Option(min=8, help="Phantoms with an acute infarct to train on.")] = 360,
    phantom_seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom; seeds count up.")] = 710000,
    studies: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Fine-tune on a site's own studies: DICOM, a folder for each."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="CSV with the columns study and obstruction (1 or 0)."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder of the model to fine-tune; left out: that of the package."
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for checkpoint, weights and card.")] = Path("runs/obstruction"),
    full: Annotated[bool, typer.Option("--full", help="The size of the paper instead of the narrow one.")] = False,
    pretraining_steps: Annotated[
        int, typer.Option(min=0, help="First steps, which teach where scar lies (phantoms only).")
    ] = 600,
    steps: Annotated[int, typer.Option(min=1, help="Steps in all after that.")] = 1000,
    target: Annotated[
        Learnt, typer.Option(help="With --model network: learn obstruction, as in the paper, or infarct depth.")
    ] = Learnt.OBSTRUCTION,
    rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 1e-3,
    ablation: Annotated[
        list[str] | None,
        typer.Option(help="Train this variant instead, for comparison; may be given several times, or `all`."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, sampling and augmentation.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that make phantoms.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or a CUDA device.")] = "cpu",
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoints in the output folder.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Fit the wall model or train the network on phantoms, or fine-tune on a site's studies; stopped runs go on."""
    from pipelines.evaluation.obstruction import ablate
    from pipelines.training.obstruction import (
        Target,
        fine_tune,
        fit_wall_to_phantoms,
        prepare_phantoms,
        train_on_phantoms,
    )

    if (clips is None) == (studies is None):
        raise ConfigurationError("give either --clips or --studies", subject="train obstruction")
    if studies is not None and labels is None:
        raise ConfigurationError("--studies needs --labels", subject="train obstruction")
    with shown_training("obstruction", as_json) as shown:

        def report(_name: str, state: TrainingProgress) -> None:
            shown.step(state)

        result: TrainingResult | list[Ablated]
        if studies is not None and labels is not None:
            result = fine_tune(
                studies,
                labels,
                output,
                start=start,
                steps=steps,
                peak_rate=rate,
                seed=seed,
                device=device,
                resume=resume,
                prepared=shown.packed,
                report=report,
            )
        elif model is Model.WALL and not ablation:
            result = fit_wall_to_phantoms(
                clips or Path(),
                output,
                phantoms=phantoms,
                first_seed=phantom_seed,
                seed=seed,
                workers=workers,
                prepared=shown.packed,
            )
        elif ablation:
            ready = prepare_phantoms(
                clips or Path(),
                output,
                phantoms=phantoms,
                first_seed=phantom_seed,
                full=full,
                pretraining_steps=pretraining_steps,
                peak_rate=rate,
                seed=seed,
                workers=workers,
                device=device,
                resume=resume,
                prepared=shown.packed,
                report=report,
            )
            result = ablate(
                ready,
                output,
                names=ablation,
                steps=steps,
                peak_rate=rate,
                seed=seed,
                device=device,
                resume=resume,
                report=report,
            )
        else:
            result = train_on_phantoms(
                clips or Path(),
                output,
                phantoms=phantoms,
                first_seed=phantom_seed,
                full=full,
                pretraining_steps=pretraining_steps,
                steps=steps,
                peak_rate=rate,
                seed=seed,
                target=Target(target),
                workers=workers,
                device=device,
                resume=resume,
                prepared=shown.packed,
                report=report,
            )
    if not isinstance(result, list):
        print_result(result, as_json)
    elif as_json:
        print_json(result)
    else:
        table(
            "Ablation, hearts kept out",
            ["", "steps>", "parameters>", "AUC>", "slice AUC>", "p>"],
            (
                (
                    one.name,
                    one.steps,
                    one.parameters,
                    f"{one.auc.value:.3f} ({one.auc.low:.2f} to {one.auc.high:.2f})",
                    f"{one.slice_auc.value:.3f}",
                    f"{one.p_value:.2f}",
                )
                for one in result
            ),
        )


def evaluate_obstruction(
    phantoms: Annotated[int, typer.Option(min=4, help="Phantoms with an acute infarct, made for this.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom: none that was trained on.")] = 900000,
    pessimistic: Annotated[
        bool, typer.Option("--pessimistic", help="Phantoms whose motion explains less of the scar.")
    ] = False,
    real: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Patients without acute infarct: ACDC's layout, or DICOM; may be repeated.",
        ),
    ] = None,
    models: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of the model; left out: the package's.")
    ] = None,
    ablation: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="JSON of `train obstruction --ablation`, to print.")
    ] = None,
    hearts: Annotated[
        Path | None, typer.Option(help="Keeps what was measured, so that a stopped evaluation goes on.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Estimate obstruction as the node would, its own segmentation included, and compare with what is true."""
    from pipelines.evaluation.obstruction import evaluate
    from pipelines.models.registry import PACKAGED, ModelUnavailable

    with step_progress(as_json) as progress:
        task = progress.add_task("hearts", total=None, detail="")

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, detail="")

        try:
            found = evaluate(
                phantoms,
                seed,
                pessimistic=pessimistic,
                real=real or (),
                ablation=ablation,
                hearts=hearts,
                models=models or PACKAGED,
                report=report,
            )
        except (ValueError, ModelUnavailable) as error:
            raise ConfigurationError(str(error), subject="evaluate obstruction") from error
    if as_json:
        print_json(found.to_json())
        return
    table(
        f"Obstruction, {found.phantoms} phantoms, {found.law} law, {found.refused} refused",
        ["", ">"],
        [
            ("AUC", f"{found.auc.value:.3f} ({found.auc.low:.3f} to {found.auc.high:.3f})"),
            ("AUC of the motion truly lost", f"{found.motion_auc.value:.3f}"),
            ("AUC of an ideal observer", f"{found.bayes_auc:.3f}"),
            ("Brier score", f"{found.brier.value:.3f}"),
            ("calibration slope", f"{found.calibration_slope:.2f}"),
            ("calibration intercept", f"{found.calibration_intercept:.2f}"),
            ("sensitivity at 76 % specificity", f"{found.sensitivity:.2f}"),
        ],
    )
    table(
        "Single numbers of the same phantoms, beside the model",
        ["", "AUC>", "p>"],
        (
            (one.name, f"{one.auc:.3f} ({one.auc_ci[0]:.3f} to {one.auc_ci[1]:.3f})", f"{one.p_value:.2f}")
            for one in found.comparisons
        ),
    )
