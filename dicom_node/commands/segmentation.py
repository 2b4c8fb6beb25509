"""``dicom-node train segmentation`` and ``dicom-node evaluate segmentation``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.commands.terminal import JsonFlag, console, print_json, table
from dicom_node.commands.training import (
    Device,
    FirstSeed,
    Resume,
    Seed,
    Steps,
    UnseenSeed,
    print_result,
    shown_evaluation,
    shown_training,
)
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from pipelines.evaluation.segmentation import CaseResult, SegmentationEvaluation

__all__ = ["evaluate_segmentation", "train_segmentation"]


def train_segmentation(
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Train on patients: folder in the layout of the ACDC challenge."
        ),
    ] = None,
    phantoms: Annotated[int | None, typer.Option(min=1, help="Train on this many phantoms, and on nobody.")] = None,
    phantom_seed: FirstSeed = 0,
    output: Annotated[Path, typer.Option(help="Folder for checkpoint, weights and card.")] = Path("runs"),
    model: Annotated[str, typer.Option(help="heart-localiser or ventricle-segmentation.")] = "ventricle-segmentation",
    fold: Annotated[int, typer.Option(min=-1, max=4, help="Fold kept out of training; -1 keeps none out.")] = 0,
    steps: Steps = None,
    coarse_steps: Annotated[
        int | None, typer.Option(min=0, help="How many of the first steps use a smaller, cheaper grid.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    from_model: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Go on from the weights of this model folder, with the looks of other vendors and more phantoms.",
        ),
    ] = None,
    add_phantoms: Annotated[int, typer.Option(min=0, help="With --from-model: phantoms added to the data.")] = 150,
    add_phantom_seed: Annotated[
        int, typer.Option(min=0, help="With --from-model: seed of the first of them.")
    ] = 700000,
    phantom_share: Annotated[
        float, typer.Option(min=0, max=1, help="With --from-model: part of each batch that is phantoms.")
    ] = 0.3,
    phantom_faults: Annotated[
        float, typer.Option(min=0, max=1, help="With --from-model: part of these phantoms that have a fault.")
    ] = 0.25,
    rate: Annotated[float, typer.Option(min=1e-6, max=0.1, help="With --from-model: learning rate.")] = 8e-4,
    features: Annotated[
        tuple[int, int, int, int, int, int] | None,
        typer.Option(
            min=1,
            help="Features of the five levels and of the last layer; the recipe's own by default. With --from-model "
            "none may be fewer than that model has: it goes on from there.",
        ),
    ] = None,
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="Stop after this step, to go on later or elsewhere.")
    ] = None,
    resume: Resume = True,
    as_json: JsonFlag = False,
) -> None:
    """Train the localiser or the segmentation network; stopped runs go on where they stopped."""
    from pipelines.training.acdc import acdc_set
    from pipelines.training.phantoms import phantom_set
    from pipelines.training.segmentation import Continuation, train

    if (data is None) == (phantoms is None):
        raise ConfigurationError("give either --data or --phantoms", subject="train segmentation")
    folder = output / (model if fold < 0 else f"{model}-fold{fold}")
    go_on = None
    if from_model is not None:
        go_on = Continuation(from_model, add_phantoms, add_phantom_seed, phantom_share, rate, fault_rate=phantom_faults)
    with shown_training("segmentation", as_json) as shown:
        result = train(
            acdc_set(data) if data is not None else phantom_set(phantoms or 0, phantom_seed),
            folder,
            model=model,
            fold=None if fold < 0 else fold,
            steps=steps,
            coarse_steps=coarse_steps,
            seed=seed,
            device=device,
            resume=resume,
            report=shown.step,
            go_on=go_on,
            features=features,
            stop_after=stop_after,
        )
    print_result(result, as_json)


def evaluate_segmentation(
    data: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Patients in the layout of the ACDC challenge.")
    ] = None,
    phantoms: Annotated[int | None, typer.Option(min=1, help="Number of phantoms, instead of patients.")] = None,
    seed: UnseenSeed = 950000,
    severe: Annotated[
        bool, typer.Option("--severe", help="Phantoms of which three in five are severe HCM or RV overload.")
    ] = False,
    faulty: Annotated[bool, typer.Option("--faulty", help="Phantoms each of which has a fault.")] = False,
    foreign_style: Annotated[
        str | None,
        typer.Option(help="Show patients with the grey values and sharpness of another scanner: ge, vida, equalised."),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(min=0, max=4, help="Only the cases of this fold of the same folder.")
    ] = None,
    cases: Annotated[list[str] | None, typer.Option("--case", help="Only this case; may be repeated.")] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Output folder of `train segmentation --fold -1` with both networks; left out: those of the package.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Segment every case as the node would, localiser included, and compare with its annotation."""
    from pipelines.evaluation.foreign_style import ForeignStyle
    from pipelines.evaluation.segmentation import evaluate, evaluate_phantoms
    from pipelines.models.registry import PACKAGED
    from pipelines.training.phantoms import case_recipe, severe_recipe, with_a_fault

    if (data is None) == (phantoms is None):
        raise ConfigurationError("give either --data or --phantoms", subject="evaluate segmentation")
    if phantoms is not None and (fold is not None or cases or foreign_style is not None):
        raise ConfigurationError("--fold, --case and --foreign-style need --data", subject="evaluate segmentation")
    root = models or PACKAGED
    try:
        style = ForeignStyle(foreign_style) if foreign_style is not None else None
    except ValueError as error:
        known = ", ".join(ForeignStyle)
        raise ConfigurationError(
            f"there is no style {foreign_style!r}; there are {known}", subject="evaluate segmentation"
        ) from error
    with shown_evaluation("segmentation", "cases", as_json) as shown:

        def report(result: CaseResult, number: int, total: int) -> None:
            found = result.refused or f"mean Dice {result.mean_dice:.3f}"
            shown.case(f"{result.patient}: {found}", number, total)

        if data is not None:
            evaluation = evaluate(data, cases=cases or None, fold=fold, models=root, style=style, report=report)
        else:
            draw = severe_recipe if severe else case_recipe
            recipes = [draw(number) for number in range(seed, seed + (phantoms or 0))]
            if faulty:
                recipes = [with_a_fault(recipe) for recipe in recipes]
            evaluation = evaluate_phantoms(recipes, models=root, report=report)
    if as_json:
        print_json(evaluation.to_json())
        return
    _print(evaluation)


def _print(evaluation: SegmentationEvaluation) -> None:
    seen = len(evaluation.seen_in_training)
    table(
        f"Overlap and distance, {evaluation.cases} cases, {evaluation.refused} refused",
        ["", "Dice>", "worst>", "ED>", "ES>", "HD95 mm>", "worst>", "ASSD mm>", "worst>"],
        (
            (
                label,
                f"{dice.mean:.3f}",
                f"{dice.min:.3f}",
                f"{dice.ED:.3f}",
                f"{dice.ES:.3f}",
                f"{evaluation.hd95_mm[label].mean:.2f}",
                f"{evaluation.hd95_mm[label].max:.2f}",
                f"{evaluation.assd_mm[label].mean:.2f}",
                f"{evaluation.assd_mm[label].max:.2f}",
            )
            for label, dice in evaluation.dice.items()
        ),
        caption=f"{seen} of the cases were in the training data: these figures say nothing about new patients"
        if seen
        else "no case was in the training data",
    )
    table(
        "Function",
        ["", "mean absolute error>", "bias>", "limits of agreement>"],
        (
            (name, f"{error.mae:.2f}", f"{error.bias:+.2f}", f"{error.loa[0]:+.1f} … {error.loa[1]:+.1f}")
            for name, error in evaluation.function.items()
        ),
    )
    table(
        "Groups",
        ["group", "cases>", *(f"{label}>" for label in evaluation.dice), "LVEF error>"],
        (
            (name, group.cases, *(f"{value:.3f}" for value in group.dice.values()), f"{group.LVEF_mae:.2f}")
            for name, group in evaluation.groups.items()
        ),
    )
    table(
        "Persons and scanners",
        ["", "group", "cases>", "refused>", "mean Dice>", "LVEF error>"],
        (
            (group.trait, group.value, group.cases, group.refused, f"{group.dice:.3f}", f"{group.lvef_error:.2f}")
            for group in evaluation.fairness
        ),
        caption="gap in Dice between best and worst group of three and more: "
        + (", ".join(f"{trait} {value:.3f}" for trait, value in evaluation.gaps.items() if value == value) or "none"),
    )
    sure = evaluation.confidence
    if sure.correlation == sure.correlation:
        console.print(
            f"Confidence of {sure.slices} slices: correlation with their Dice {sure.correlation:.2f}, predicted "
            f"{sure.predicted:.3f}, true {sure.true:.3f}; {100 * sure.flagged:.0f} % flagged, of the worst tenth "
            f"{100 * sure.sensitivity:.0f} %; {sure.overlooked} slices with a ventricle where none was found."
        )
    told = evaluation.fat_told_by_crops
    if told is not None and told.value == told.value:
        console.print(
            f"Subcutaneous fat above the median is told from the crops with an area under the curve of "
            f"{told.value:.2f} ({told.low:.2f} to {told.high:.2f}); chance is 0.50."
        )
    table(
        "Worst cases",
        ["case", "group", "mean Dice>", "LVEF error>", "refused"],
        (
            (one.patient, one.group, f"{one.dice:.3f}", f"{one.LVEF_error:+.1f}", one.refused)
            for one in evaluation.worst
        ),
    )
