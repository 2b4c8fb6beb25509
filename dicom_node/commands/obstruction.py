"""``dicom-node train obstruction`` and ``dicom-node evaluate obstruction``."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.commands.terminal import JsonFlag, print_json, table
from dicom_node.commands.training import (
    Device,
    FirstSeed,
    ResumeAll,
    Seed,
    UnseenSeed,
    print_result,
    shown_evaluation,
    shown_training,
)
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from pipelines.evaluation.figures import Distribution
    from pipelines.evaluation.obstruction import Ablated, ObstructionEvaluation, SecondOpinion
    from pipelines.statistics import Estimate
    from pipelines.training.steps import Progress as TrainingProgress
    from pipelines.training.steps import TrainingResult

__all__ = ["evaluate_obstruction", "train_obstruction"]

_PHANTOMS = 60
_STEPS = 1000


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
    phantom_seed: FirstSeed = 710000,
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
    full: Annotated[
        bool, typer.Option("--full", help="Size and schedule of the paper (AdamW 1e-4, 8,000 steps) instead of ours.")
    ] = False,
    pretraining_steps: Annotated[
        int, typer.Option(min=0, help="First steps, which teach where scar lies (phantoms only).")
    ] = 600,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps in all after that; left out: 1,000, and 8,000 with --full.")
    ] = None,
    kept_out: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="With --model network: phantoms kept out to calibrate and to judge, the last; left out: the last 15 % "
            "of either outcome.",
        ),
    ] = None,
    stop_after: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --model network: stop after this step, calibrated; a later run without it goes on."
        ),
    ] = None,
    target: Annotated[
        Learnt, typer.Option(help="With --model network: learn obstruction, as in the paper, or infarct depth.")
    ] = Learnt.OBSTRUCTION,
    rate: Annotated[
        float | None,
        typer.Option(
            min=1e-6, max=0.1, help="Largest learning rate; left out: 1e-3, and 1e-4 with --full and with --studies."
        ),
    ] = None,
    ablation: Annotated[
        list[str] | None,
        typer.Option(help="Train this variant instead, for comparison; may be given several times, or `all`."),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="With --ablation: folder of `evaluate obstruction --hearts`, whose hearts are told too.",
        ),
    ] = None,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that make phantoms.")] = 1,
    device: Device = "cpu",
    resume: ResumeAll = True,
    as_json: JsonFlag = False,
) -> None:
    """Fit the wall model or train the network on phantoms, or fine-tune on a site's studies; stopped runs go on."""
    from pipelines.evaluation.obstruction import ablate
    from pipelines.obstruction.network import FULL, NARROW
    from pipelines.training.obstruction_recipe import FULL_RATE, FULL_STEPS, PEAK_RATE, ObstructionRecipe, Target
    from pipelines.training.obstruction_runs import (
        Phantoms,
        fine_tune,
        fit_wall_to_phantoms,
        prepare_phantoms,
        train_on_phantoms,
    )
    from pipelines.training.steps import Run

    if (clips is None) == (studies is None):
        raise ConfigurationError("give either --clips or --studies", subject="train obstruction")
    if studies is not None and labels is None:
        raise ConfigurationError("--studies needs --labels", subject="train obstruction")
    steps = steps or (FULL_STEPS if full else _STEPS)
    rate = rate or (FULL_RATE if full or studies is not None else PEAK_RATE)
    recipe = ObstructionRecipe(
        FULL if full else NARROW, Target(target), steps=steps, pretraining_steps=pretraining_steps, peak_rate=rate
    )
    made = Phantoms(clips or Path(), phantoms, phantom_seed, workers)
    run = Run(seed, device, resume)
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
                run=run,
                prepared=shown.packed,
                report=report,
            )
        elif model is Model.WALL and not ablation:
            result = fit_wall_to_phantoms(made, output, seed=seed, prepared=shown.packed)
        elif ablation:
            ready = prepare_phantoms(made, output, recipe, run, prepared=shown.packed, report=report)
            result = ablate(ready, output, names=ablation, run=run, measured=measured, report=report)
        else:
            result = train_on_phantoms(
                made,
                output,
                recipe,
                replace(run, stop_after=stop_after),
                kept_out=kept_out,
                prepared=shown.packed,
                report=report,
            )
    if not isinstance(result, list):
        print_result(result, as_json)
    elif as_json:
        print_json(result)
    else:
        _print_ablation(result)


def evaluate_obstruction(
    phantoms: Annotated[
        int | None, typer.Option(min=4, help="Phantoms with an acute infarct, made for this; 60 if nothing is given.")
    ] = None,
    seed: UnseenSeed = 900000,
    pessimistic: Annotated[
        bool, typer.Option("--pessimistic", help="Phantoms whose motion explains less of the scar.")
    ] = False,
    studies: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="A site's own studies instead: DICOM.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Their labels, as for `train obstruction`.")
    ] = None,
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
    against: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder of another model, compared on the same hearts (DeLong's test)."
        ),
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
    from pipelines.evaluation.obstruction import Beside, evaluate, evaluate_studies
    from pipelines.models.registry import PACKAGED

    if (studies is None) != (labels is None) or (studies is not None and phantoms is not None):
        raise ConfigurationError("give --phantoms, or --studies with --labels", subject="evaluate obstruction")
    beside = Beside(tuple(real or ()), ablation, against)
    root = models or PACKAGED
    with shown_evaluation("obstruction", "hearts", as_json) as shown:
        if studies is not None and labels is not None:
            found = evaluate_studies(studies, labels, beside=beside, hearts=hearts, models=root, report=shown.counted)
        else:
            found = evaluate(
                phantoms or _PHANTOMS,
                seed,
                pessimistic=pessimistic,
                beside=beside,
                hearts=hearts,
                models=root,
                report=shown.counted,
            )
    if as_json:
        print_json(found.to_json())
        return
    _print(found)


def _print_ablation(found: list[Ablated]) -> None:
    table(
        "Ablation, hearts kept out",
        [
            "",
            "steps>",
            "parameters>",
            "AUC>",
            "slice AUC>",
            "p>",
            "AUC by the node>",
            "p>",
            "less the package's>",
            "p>",
        ],
        (
            (
                one.name,
                one.steps,
                one.parameters,
                f"{one.auc.value:.3f} ({one.auc.low:.2f} to {one.auc.high:.2f})",
                f"{one.slice_auc.value:.3f}",
                f"{one.p_value:.2f}",
                ""
                if one.node_auc is None
                else f"{one.node_auc.value:.3f} ({one.node_auc.low:.2f} to {one.node_auc.high:.2f})",
                "" if one.node_auc is None else f"{one.node_p_value:.2f}",
                "" if one.node_less_package is None else f"{one.node_less_package:+.3f}",
                "" if one.node_p_package is None else f"{one.node_p_package:.2f}",
            )
            for one in found
        ),
    )


def _print(found: ObstructionEvaluation) -> None:
    table(
        f"Obstruction, {found.data}: {found.events} with one, {found.refused} of {found.hearts} declined",
        ["", ">"],
        [
            *_one_for_all([one.probability for one in found.estimates if one.probability is not None]),
            ("AUC", _with_interval(found.auc)),
            ("AUC of the motion truly lost", _with_interval(found.motion_auc)),
            ("AUC of an ideal observer", _figure(found.bayes_auc, ".3f")),
            *((f"paper: {name}", f"{area:.3f}") for name, area in found.paper.items()),
            ("Brier score", _with_interval(found.brier)),
            ("Brier score of the frequency alone", f"{found.brier_prevalence:.3f}"),
            ("calibration slope", _figure(found.calibration_slope, ".2f")),
            ("calibration intercept", _figure(found.calibration_intercept, "+.2f")),
            ("sensitivity at 76 % specificity", f"{found.sensitivity:.2f}"),
            *(
                (f"net benefit at {point.threshold:.0%} (treat all)", f"{point.model:+.3f} ({point.treat_all:+.3f})")
                for point in found.decision_curve
            ),
        ],
    )
    if found.second_opinion is not None:
        _print_second(found.second_opinion)
    table(
        "Other scores of the same hearts (p: DeLong's test against the model)",
        ["", "AUC>", "less the model>", "p>"],
        (
            (
                one.name,
                f"{one.auc:.3f} ({one.auc_ci[0]:.3f} to {one.auc_ci[1]:.3f})",
                f"{one.difference:+.3f}",
                f"{one.p_value:.2f}",
            )
            for one in found.comparisons
        ),
    )
    if found.ablation:
        table(
            "Variants of the network, as `train obstruction --ablation` told them",
            ["", "steps>", "AUC, kept out>", "AUC, by the node>"],
            (
                (row["name"], row["steps"], *(_area(row.get(name)) for name in ("auc", "node_auc")))
                for row in found.ablation
            ),
        )
    if found.real:
        table(
            "Probability in patients without an acute infarct, %",
            ["", "patients>", "declined>", "25 %>", "median>", "75 %>", "highest>"],
            (
                (
                    name,
                    one.patients,
                    one.declined,
                    *(f"{100 * value:.0f}" for value in (*one.quartiles, one.highest)),
                )
                for name, one in found.real.items()
            ),
        )


def _print_second(found: SecondOpinion) -> None:
    less = found.difference
    table(
        f"Second opinion on the same hearts, {found.model[:14]}",
        ["", ">"],
        [
            *_one_for_all(found.probabilities),
            ("AUC", _with_interval(found.auc)),
            (
                "less the model reported",
                f"{less.value:+.3f} ({less.low:+.3f} to {less.high:+.3f}), p {found.p_value:.3f}",
            ),
            ("Brier score", _with_interval(found.brier)),
            ("calibration slope", _figure(found.calibration_slope, ".2f")),
            ("calibration intercept", _figure(found.calibration_intercept, "+.2f")),
            ("sensitivity at 76 % specificity", f"{found.sensitivity:.2f}"),
            ("rank correlation with the model reported", _figure(found.correlation, ".2f")),
            *((f"{name}: 25 %, median, 75 %, highest", _spread(one)) for name, one in found.real.items()),
        ],
    )


def _one_for_all(probabilities: Sequence[float]) -> list[tuple[str, str]]:
    """What to read first where a model tells no heart from another."""
    if len(set(probabilities)) > 1:
        return []
    return [("one probability for all hearts", f"{100 * probabilities[0]:.0f} %")]


def _with_interval(found: Estimate) -> str:
    if math.isnan(found.value):
        return "not known"
    if math.isnan(found.low):
        return f"{found.value:.3f}, no interval"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _figure(value: float, form: str) -> str:
    return "not determined" if math.isnan(value) else f"{value:{form}}"


def _spread(found: Distribution) -> str:
    return ", ".join(f"{100 * value:.0f} %" for value in (*found.quartiles, found.highest))


def _area(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
