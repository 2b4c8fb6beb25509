"""``dicom-node train enhancement`` and ``dicom-node evaluate enhancement``: acquired late enhancement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.commands.terminal import JsonFlag, print_json, table
from dicom_node.commands.training import (
    Device,
    FirstSeed,
    MadePhantoms,
    ResumeAll,
    Seed,
    Steps,
    print_result,
    shown_evaluation,
    shown_training,
)
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from pipelines.evaluation.enhancement import EnhancementEvaluation

__all__ = ["evaluate_enhancement", "train_enhancement"]


def train_enhancement(
    data: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder of EMIDEC with images and labels as PNG.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for checkpoints, weights and cards.")] = Path("runs"),
    model: Annotated[
        str | None,
        typer.Option(help="enhancement-localiser or enhancement-segmentation; left out: one after the other."),
    ] = None,
    fold: Annotated[int, typer.Option(min=-1, max=4, help="Fold kept out of training; -1 keeps none out.")] = 0,
    steps: Steps = None,
    first_layers: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Model whose layers the segmentation begins with."),
    ] = None,
    add_phantoms: Annotated[int, typer.Option(min=0, help="Phantoms beside the patients of the segmentation.")] = 0,
    add_phantom_seed: Annotated[int, typer.Option(min=0, help="Seed of the first of them.")] = 810000,
    phantom_share: Annotated[float, typer.Option(min=0, max=1, help="Part of each batch that is phantoms.")] = 0.2,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: ResumeAll = True,
    as_json: JsonFlag = False,
) -> None:
    """Train the networks of acquired late enhancement; a stopped run goes on where it stopped."""
    from pipelines.training.enhancement import RECIPES, AddedPhantoms
    from pipelines.training.enhancement import train_enhancement as train_network

    for name in RECIPES if model is None else [model]:
        with shown_training("enhancement", as_json) as shown:
            result = train_network(
                data,
                output / name,
                model=name,
                fold=None if fold < 0 else fold,
                steps=steps,
                first_layers=first_layers,
                added=AddedPhantoms(add_phantoms, add_phantom_seed, phantom_share) if add_phantoms else None,
                seed=seed,
                device=device,
                resume=resume,
                report=shown.step,
            )
        print_result(result, as_json)


def evaluate_enhancement(
    emidec: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of EMIDEC with images and labels as PNG."),
    ] = None,
    phantoms: MadePhantoms = None,
    seed: FirstSeed = 800000,
    fold: Annotated[int, typer.Option(min=-1, max=4, help="Only this fold of the patients; -1: all.")] = 0,
    cases: Annotated[list[str] | None, typer.Option("--case", help="Only this case; may be repeated.")] = None,
    models: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of the networks; left out: the package's.")
    ] = None,
    calibration: Annotated[
        bool, typer.Option("--calibrate", help="Print the laws of presence and interval that these cases give.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Read late enhancement as the node would, and compare with annotated patients or with phantoms."""
    from pipelines.evaluation.enhancement import EnhancementCase, calibrate, evaluate_emidec, evaluate_phantoms
    from pipelines.models.registry import PACKAGED

    if (emidec is None) == (phantoms is None):
        raise ConfigurationError("give either --emidec or --phantoms", subject="evaluate enhancement")
    root = models or PACKAGED
    with shown_evaluation("enhancement", "cases", as_json) as shown:

        def report(result: EnhancementCase, number: int, total: int) -> None:
            found = result.refused or f"{result.percent:.0f} %, true {result.percent_true:.0f} %"
            shown.case(f"{result.case}: {found}", number, total)

        if emidec is not None:
            evaluation = evaluate_emidec(
                emidec, fold=None if fold < 0 else fold, cases=cases or None, models=root, report=report
            )
        else:
            evaluation = evaluate_phantoms(phantoms or 1, seed=seed, models=root, report=report)
        laws = calibrate(evaluation.results) if calibration else None
    if laws is not None:
        print_json(laws)
        return
    if as_json:
        print_json(evaluation.to_json())
        return
    _print(evaluation)


def _print(evaluation: EnhancementEvaluation) -> None:
    seen = len(evaluation.seen_in_training)
    table(
        f"Overlap, {evaluation.cases} cases, {evaluation.refused} refused",
        ["", "Dice>", "95 % interval>", "cases>"],
        (
            (name.replace("_", " "), f"{one.value:.3f}", f"{one.lower:.3f} … {one.upper:.3f}", str(one.n))
            for name, one in evaluation.dice.items()
        ),
        caption=f"{seen} of the cases were in the training data: these figures say nothing about new patients"
        if seen
        else "no case was in the training data",
    )
    table(
        "Presence by case",
        ["", "accuracy>", "95 % interval>", "with>", "of>", "AUC>", "Brier>"],
        (
            (
                name,
                f"{one['accuracy']:.3f}",
                f"{one['lower']:.3f} … {one['upper']:.3f}",
                str(one["with"]),
                str(one["n"]),
                f"{one['auc']:.3f}" if "auc" in one else "",
                f"{one['brier']:.3f}",
            )
            for name, one in evaluation.presence.items()
        ),
    )
    table(
        "Extent, points of the left ventricular muscle",
        ["method", "r>", "bias>", "limits of agreement>", "mean absolute error>"],
        (
            (
                name,
                f"{one['r']:.3f}",
                f"{one['bias']:+.1f}",
                f"{one['loa_low']:+.1f} … {one['loa_high']:+.1f}",
                f"{one['mae']:.1f}",
            )
            for name, one in evaluation.extent.items()
        ),
        caption=f"the network's interval covers {100 * evaluation.interval_coverage:.0f} %. {evaluation.remark}",
    )
