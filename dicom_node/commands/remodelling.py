"""``dicom-node train remodelling`` and ``dicom-node evaluate remodelling``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.commands.terminal import JsonFlag, console, print_json, table
from dicom_node.commands.training import Device, FirstSeed, MadePhantoms, ResumeAll, shown_evaluation, step_progress
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from pipelines.evaluation.remodelling import RemodellingEvaluation
    from pipelines.training.remodelling_hearts import RemodellingHeart
    from pipelines.training.steps import Progress

__all__ = ["evaluate", "train"]

_TRAIN, _EVALUATE = "train remodelling", "evaluate remodelling"
_FIRST_TEST_SEED = 900000


def train(
    clips: Annotated[
        Path | None, typer.Option(file_okay=False, help="Packed clips of acute infarcts; what is missing is made.")
    ] = None,
    phantoms: Annotated[int, typer.Option(min=1, help="With --clips: number of phantoms.")] = 360,
    phantom_seed: FirstSeed = 710000,
    studies: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Your own studies: DICOM.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="CSV with columns study (StudyInstanceUID or folder), remodelling (1 or 0) and, where known, "
            "infarct_percent.",
        ),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="With --studies: do not start from the model of the package.")
    ] = False,
    images: Annotated[
        bool, typer.Option(help="With --no-images: morphology and motion only, for comparison; it has no attribution.")
    ] = True,
    output: Annotated[Path, typer.Option(help="Folder for hearts, checkpoints, weights and card.")] = Path("runs"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of each training; the recipe's own by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, sampling and folds.")] = 0,
    device: Device = "cpu",
    resume: ResumeAll = True,
    as_json: JsonFlag = False,
) -> None:
    """Train the remodelling classifier on phantoms, or on your own studies with their outcomes."""
    from dataclasses import replace

    from pipelines.models.registry import PACKAGED, ModelUnavailable
    from pipelines.phantom.law import DEFAULT_LAW
    from pipelines.remodelling.network import REMODELLING_MODEL
    from pipelines.training.heart_clips import Population, pack_clips
    from pipelines.training.remodelling import RemodellingRecipe, train_remodelling
    from pipelines.training.remodelling_hearts import clip_hearts, hearts_of_studies

    if (clips is None) == (studies is None) or (studies is None) != (labels is None):
        raise ConfigurationError("give either --clips, or --studies and --labels", subject=_TRAIN)
    folder = output / REMODELLING_MODEL
    recipe = RemodellingRecipe(images=images)
    declined: dict[str, str] = {}
    with step_progress(as_json) as progress:
        task = progress.add_task("hearts", total=None, detail="")

        def counted(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        def report(name: str, state: Progress) -> None:
            detail = f"{name}: loss {state.loss:.4f}, {state.seconds_per_step:.2f} s a step"
            progress.update(task, description="training", completed=state.step, total=state.steps, detail=detail)

        try:
            hearts: list[RemodellingHeart]
            if clips is not None:
                seeds = range(phantom_seed, phantom_seed + phantoms)
                files = pack_clips(clips, seeds, Population.ACUTE_INFARCT, DEFAULT_LAW, report=counted)
                hearts = clip_hearts(files, folder / "hearts", counted)
                source = f"pipelines/phantom, docs/phantom.md; seeds {seeds.start} to {seeds.stop - 1}"
                command = (
                    f"dicom-node train remodelling --clips DIR --phantoms {phantoms} --phantom-seed {phantom_seed} "
                    f"--seed {seed}{'' if images else ' --no-images'}"
                )
            elif studies is not None and labels is not None:
                hearts, declined = hearts_of_studies(studies, labels, folder / "hearts", device=device, report=counted)
                source = "studies of one site with their outcomes"
                command = "dicom-node train remodelling --studies DIR --labels FILE.csv"
            trained = train_remodelling(
                hearts,
                folder,
                command=command,
                source=source,
                seed=seed,
                device=device,
                resume=resume,
                tuned_from=PACKAGED if studies is not None and not from_scratch else None,
                recipe=recipe if steps is None else replace(recipe, steps=steps),
                report=report,
            )
        except (ValueError, ModelUnavailable) as error:
            raise ConfigurationError(str(error), subject=_TRAIN) from error
    if as_json:
        print_json({"trained": trained, "hearts": len(hearts), "declined": declined})
        return
    for study, why in declined.items():
        console.print(f"not used: {study}: {why}")
    console.print(
        f"{trained.weights} after {trained.steps} steps on {len(hearts)} hearts, sha256 {trained.weights_sha256}"
    )


def evaluate(
    phantoms: MadePhantoms = None,
    seed: FirstSeed = _FIRST_TEST_SEED,
    pessimistic: Annotated[
        bool, typer.Option("--pessimistic", help="Phantoms whose motion tells less of their scar.")
    ] = False,
    studies: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Your own studies: DICOM.")] = None,
    labels: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Their outcomes, as for `train remodelling`.")
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of a training: the hearts of its folds, held out."),
    ] = None,
    hearts: Annotated[Path, typer.Option(help="Keeps what was measured, so that a stopped evaluation goes on.")] = Path(
        "runs/remodelling/measured"
    ),
    models: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder that holds remodelling.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of another model, with --held-out of another training: compared on the same hearts (DeLong).",
        ),
    ] = None,
    real: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="DICOM of patients without acute infarct, told as if they had one; may be repeated.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare the risk of remodelling with the outcome, on phantoms or on your own studies."""
    from pipelines.evaluation.remodelling import (
        Beside,
        evaluate_held_out,
        evaluate_remodelling,
        evaluate_studies,
    )
    from pipelines.models.registry import PACKAGED

    given = sum(source is not None for source in (phantoms, studies, held_out))
    if given != 1 or (studies is None) != (labels is None):
        sentence = "give one of --phantoms, --held-out, or --studies and --labels"
        raise ConfigurationError(sentence, subject=_EVALUATE)
    if held_out is not None and real:
        raise ConfigurationError("--real needs --phantoms or --studies", subject=_EVALUATE)
    beside = Beside(tuple(real or ()), against)
    with shown_evaluation("remodelling", "hearts", as_json) as shown:
        if held_out is not None:
            found = evaluate_held_out(held_out, against)
        elif studies is not None and labels is not None:
            found = evaluate_studies(
                studies, labels, hearts=hearts, models=models or PACKAGED, beside=beside, report=shown.counted
            )
        else:
            found = evaluate_remodelling(
                phantoms or 0,
                seed=seed,
                pessimistic=pessimistic,
                hearts=hearts,
                models=models or PACKAGED,
                beside=beside,
                report=shown.counted,
            )
    if as_json:
        print_json(found.to_json())
        return
    _print(found)


def _print(found: RemodellingEvaluation) -> None:
    table(
        f"Area under the curve, {found.hearts} hearts of which {found.events} remodelled, {found.refused} declined",
        ["model", "AUC>", "95 %>", "less combined>", "p (DeLong)>"],
        [
            *(
                (
                    row.model,
                    f"{row.auc:.3f}",
                    f"{row.auc_ci[0]:.3f} … {row.auc_ci[1]:.3f}",
                    f"{row.difference:+.3f}",
                    "" if row.model == "combined" else f"{row.p_value:.2f}",
                )
                for row in found.ablation
            ),
            *(
                (
                    row.model,
                    f"{row.auc:.3f}",
                    f"{row.auc_ci[0]:.3f} … {row.auc_ci[1]:.3f}",
                    f"{row.difference:+.3f}",
                    f"{row.p_value:.2f}",
                )
                for row in (found.against,)
                if row is not None
            ),
            ("true probability", f"{found.bayes_auc:.3f}", "{:.3f} … {:.3f}".format(*found.bayes_auc_ci), "", ""),
            *((f"paper: {name}", f"{area:.3f}", "", "", "") for name, area in found.paper.items()),
        ],
        caption=found.caution,
    )
    table(
        "Calibration and use",
        ["", "value>"],
        [
            ("Brier score", f"{found.brier:.3f} ({found.brier_ci[0]:.3f} … {found.brier_ci[1]:.3f})"),
            ("Brier score of the true probability", f"{found.bayes_brier:.3f}"),
            ("calibration slope", f"{found.calibration_slope:.2f}"),
            ("calibration intercept", f"{found.calibration_intercept:+.2f}"),
            ("sensitivity at a specificity of 85 %", f"{found.sensitivity:.2f}"),
            *(
                (
                    f"net benefit at {point['threshold']:.0%} (treat all)",
                    f"{point['model']:+.3f} ({point['treat_all']:+.3f})",
                )
                for point in found.decision_curve
            ),
            *(
                (
                    "attribution within the left ventricle (by chance)",
                    f"{place.in_ventricle:.0%} ({place.by_chance:.0%})",
                )
                for place in (found.attribution,)
                if place is not None
            ),
            *(
                (
                    f"risk in {name}, {one.patients} patients, {one.declined} declined: quartiles, highest",
                    ", ".join(f"{100 * value:.0f} %" for value in (*one.quartiles, one.highest)),
                )
                for name, one in found.real.items()
            ),
        ],
    )
