"""``dicom-node train`` and ``dicom-node evaluate``: the trained networks, made and measured by anyone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dicom_node.commands.terminal import JsonFlag, console, print_json, table
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from pipelines.evaluation.enhancement import EnhancementEvaluation
    from pipelines.evaluation.motion import MotionEvaluation
    from pipelines.evaluation.segmentation import CaseResult, SegmentationEvaluation
    from pipelines.evaluation.volume_studies import VolumeEvaluation
    from pipelines.evaluation.volumes import BadgeRow, FindingRow, IntervalRow
    from pipelines.training.steps import Progress as TrainingProgress
    from pipelines.training.steps import TrainingResult

__all__ = ["evaluate_app", "print_result", "shown_training", "step_progress", "train_app"]

train_app = typer.Typer(help="Train a network from data on disk.", no_args_is_help=True)
evaluate_app = typer.Typer(help="Measure a network against annotated data.", no_args_is_help=True)

KEYFRAMES = ("end_diastole", "mid_systole", "end_systole", "peak_flow", "mid_diastole")

AcdcFolder = Annotated[
    Path, typer.Option("--data", exists=True, file_okay=False, help="Folder in the layout of the ACDC challenge.")
]


@train_app.callback()
def _train() -> None:
    """Train a network from data on disk."""


@evaluate_app.callback()
def _evaluate() -> None:
    """Measure a network against annotated data."""


@train_app.command("segmentation")
def train_segmentation(
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Train on patients: folder in the layout of the ACDC challenge."
        ),
    ] = None,
    phantoms: Annotated[int | None, typer.Option(min=1, help="Train on this many phantoms, and on nobody.")] = None,
    phantom_seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom; seeds count up.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for checkpoint, weights and card.")] = Path("runs"),
    model: Annotated[str, typer.Option(help="heart-localiser or ventricle-segmentation.")] = "ventricle-segmentation",
    fold: Annotated[int, typer.Option(min=-1, max=4, help="Fold kept out of training; -1 keeps none out.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all; the recipe's own number by default.")] = None,
    coarse_steps: Annotated[
        int | None, typer.Option(min=0, help="How many of the first steps use a smaller, cheaper grid.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, sampling and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or a CUDA device.")] = "cpu",
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
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="Stop after this step, to go on later or elsewhere.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in the output folder.")] = True,
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
            stop_after=stop_after,
        )
    print_result(result, as_json)


@train_app.command("registration")
def train_registration(
    phantoms: Annotated[int, typer.Option(min=0, help="Number of phantoms.")] = 70,
    phantom_seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom; seeds count up.")] = 20000,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, file_okay=False, help="DICOM of one patient, used without annotation; may be repeated."
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for images, checkpoint, weights and card.")] = Path("runs"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all; the recipe's own number by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, sampling and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or a CUDA device.")] = "cpu",
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in the output folder.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Train the registration network; a stopped run goes on where it stopped."""
    from pipelines.training.registration import train_registration as train_network

    with shown_training("registration", as_json) as shown:
        result = train_network(
            output,
            phantoms=phantoms,
            phantom_seed=phantom_seed,
            folders=data or [],
            steps=steps,
            seed=seed,
            device=device,
            resume=resume,
            report=shown.step,
            report_packing=shown.packed,
        )
    print_result(result, as_json)


@train_app.command("long-axis")
def train_long_axis(
    phantoms: Annotated[int, typer.Option(min=1, help="Number of phantoms.")] = 220,
    phantom_seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom; seeds count up.")] = 500000,
    output: Annotated[Path, typer.Option(help="Folder for images, checkpoint, weights and card.")] = Path("runs"),
    steps: Annotated[int, typer.Option(min=1, help="Steps in all.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, sampling and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or a CUDA device.")] = "cpu",
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in the output folder.")] = True,
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


@train_app.command("enhancement")
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
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all; the recipe's own number by default.")] = None,
    first_layers: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Model whose layers the segmentation begins with."),
    ] = None,
    add_phantoms: Annotated[int, typer.Option(min=0, help="Phantoms beside the patients of the segmentation.")] = 0,
    add_phantom_seed: Annotated[int, typer.Option(min=0, help="Seed of the first of them.")] = 810000,
    phantom_share: Annotated[float, typer.Option(min=0, max=1, help="Part of each batch that is phantoms.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, sampling and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or a CUDA device.")] = "cpu",
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoints in the output folder.")] = True,
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


@train_app.command("synthetic-enhancement")
def train_synthetic_enhancement(
    clips: Annotated[Path, typer.Option(help="Folder of packed phantoms; made where it lacks some.")] = Path("clips"),
    phantoms: Annotated[int, typer.Option(min=0, help="Number of phantoms of every disease.")] = 480,
    phantom_seed: Annotated[int, typer.Option(min=0, help="Seed of the first; seeds count up.")] = 700000,
    infarcts: Annotated[int, typer.Option(min=0, help="Number of phantoms with an acute infarct.")] = 360,
    infarct_seed: Annotated[int, typer.Option(min=0, help="Seed of the first; seeds count up.")] = 710000,
    output: Annotated[Path, typer.Option(help="Folder for the folders of the networks.")] = Path("runs"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the first guess.")] = None,
    refiner_steps: Annotated[int | None, typer.Option(min=1, help="Steps of the refiner.")] = None,
    emidec: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Learn from patients of EMIDEC as well: their late enhancement, cines simulated from their anatomy.",
        ),
    ] = None,
    emidec_share: Annotated[
        float, typer.Option(min=0, max=1, help="With --emidec or --studies: part of each batch that is patients.")
    ] = 0.3,
    emidec_draws: Annotated[int, typer.Option(min=1, help="With --emidec: cines simulated of each patient.")] = 3,
    studies: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Learn from a site's own studies as well: DICOM of cine and acquired late enhancement.",
        ),
    ] = None,
    from_model: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Go on from the networks in this folder; that of sequences is kept."
        ),
    ] = None,
    rate: Annotated[float, typer.Option(min=1e-6, max=0.1, help="With --from-model: learning rate.")] = 5e-4,
    calibrate: Annotated[
        bool, typer.Option(help="Calibrate at the end; without: train synthetic-calibration does it.")
    ] = True,
    ablation: Annotated[
        str | None,
        typer.Option(
            help="For comparison alone: train only the first guess, told everything, without the motion of the wall "
            "(no-motion) or without grey values (no-image)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, sampling and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or a CUDA device.")] = "cpu",
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoints in the output folder.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Train the networks of synthetic late enhancement and calibrate them; stopped runs go on."""
    from pipelines.synthetic_enhancement.features import Ablation
    from pipelines.training.steps import Run
    from pipelines.training.synthetic_hearts import Patients
    from pipelines.training.synthetic_networks import Continuation
    from pipelines.training.synthetic_recipe import EnhancementRecipe
    from pipelines.training.synthetic_run import train_synthetic_enhancement as train_networks

    if ablation is not None and ablation not in tuple(Ablation):
        raise ConfigurationError(
            f"--ablation is {ablation!r}: one of {', '.join(Ablation)}", subject="train synthetic-enhancement"
        )
    with shown_training("synthetic-enhancement", as_json) as shown:
        results = train_networks(
            output,
            clips=clips,
            seeds=range(phantom_seed, phantom_seed + phantoms),
            infarct_seeds=range(infarct_seed, infarct_seed + infarcts),
            run=Run(seed, device, resume),
            recipe=EnhancementRecipe(
                patient_share=emidec_share, ablation=None if ablation is None else Ablation(ablation)
            ),
            steps=steps,
            refiner_steps=refiner_steps,
            patients=None if emidec is None else Patients(emidec, emidec_draws),
            studies=studies,
            go_on=None if from_model is None else Continuation(from_model, rate),
            calibrated=calibrate,
            report=lambda _, progress: shown.step(progress),
            report_packing=shown.packed,
        )
    if as_json:
        print_json(results)
        return
    for result in results:
        print_result(result, as_json)


@train_app.command("scar-sequence")
def train_scar_sequence(
    clips: Annotated[Path, typer.Option(help="Folder of packed phantoms; made where it lacks some.")] = Path("clips"),
    phantoms: Annotated[int, typer.Option(min=0, help="Number of phantoms of every disease.")] = 480,
    phantom_seed: Annotated[int, typer.Option(min=0, help="Seed of the first; seeds count up.")] = 700000,
    infarcts: Annotated[int, typer.Option(min=0, help="Number of phantoms with an acute infarct.")] = 360,
    infarct_seed: Annotated[int, typer.Option(min=0, help="Seed of the first; seeds count up.")] = 710000,
    output: Annotated[Path, typer.Option(help="Folder for the folder of the network.")] = Path("runs"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, sampling and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or a CUDA device.")] = "cpu",
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in the output folder.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Train alone the network of synthetic enhancement that reads the wall moment by moment; calibrate after it."""
    from pipelines.synthetic_enhancement.sequence import MODEL
    from pipelines.training.scar_sequence import train_scar_sequence as train_network
    from pipelines.training.steps import Run
    from pipelines.training.synthetic_hearts import prepare_hearts

    with shown_training("scar-sequence", as_json) as shown:
        hearts = prepare_hearts(
            clips,
            range(phantom_seed, phantom_seed + phantoms),
            range(infarct_seed, infarct_seed + infarcts),
            shown.packed,
        )
        result = train_network(
            hearts,
            output / MODEL,
            run=Run(seed, device, resume),
            steps=steps,
            report=shown.step,
            command=f"dicom-node train scar-sequence --phantoms {phantoms} --phantom-seed {phantom_seed} "
            f"--infarcts {infarcts} --infarct-seed {infarct_seed} --seed {seed}",
        )
    print_result(result, as_json)


@train_app.command("synthetic-calibration")
def train_synthetic_calibration(
    models: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder that holds the networks and a calibration.")
    ],
    clips: Annotated[Path, typer.Option(help="Folder of packed phantoms; made where it lacks some.")] = Path("clips"),
    phantoms: Annotated[int, typer.Option(min=8, help="Number of phantoms of every disease.")] = 46,
    phantom_seed: Annotated[int, typer.Option(min=0, help="Seed of the first; seeds count up.")] = 840000,
    device: Annotated[str, typer.Option(help="cpu or a CUDA device.")] = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Calibrate the networks of synthetic late enhancement anew, on phantoms that no weight was fitted to."""
    from pipelines.models.registry import ModelUnavailable
    from pipelines.training.enhancement_calibration import recalibrate

    with shown_training("synthetic-calibration", as_json) as shown:
        try:
            path = recalibrate(
                models,
                clips,
                range(phantom_seed, phantom_seed + phantoms),
                device=device,
                report=shown.packed,
                command=f"dicom-node train synthetic-calibration --phantoms {phantoms} --phantom-seed {phantom_seed}",
            )
        except ModelUnavailable as error:
            raise ConfigurationError(str(error), subject="train synthetic-calibration") from error
    if as_json:
        print_json({"calibration": path})
    else:
        console.print(f"{path}")


@evaluate_app.command("long-axis")
def evaluate_long_axis(
    phantoms: Annotated[int | None, typer.Option(min=1, help="Number of phantoms to compare with.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom: none that was trained on.")] = 700000,
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


@evaluate_app.command("enhancement")
def evaluate_enhancement(
    emidec: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of EMIDEC with images and labels as PNG."),
    ] = None,
    phantoms: Annotated[int | None, typer.Option(min=1, help="Number of phantoms, made for this.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom; seeds count up.")] = 800000,
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
    from pipelines.models.registry import PACKAGED, ModelUnavailable

    if (emidec is None) == (phantoms is None):
        raise ConfigurationError("give either --emidec or --phantoms", subject="evaluate enhancement")
    root = models or PACKAGED
    with step_progress(as_json) as progress:
        task = progress.add_task("cases", total=None, detail="")

        def report(result: EnhancementCase, number: int, total: int) -> None:
            detail = f"{result.case}: {result.refused or f'{result.percent:.0f} %, true {result.percent_true:.0f} %'}"
            progress.update(task, completed=number, total=total, detail=detail)

        try:
            if emidec is not None:
                evaluation = evaluate_emidec(
                    emidec, fold=None if fold < 0 else fold, cases=cases or None, models=root, report=report
                )
            else:
                evaluation = evaluate_phantoms(phantoms or 1, seed=seed, models=root, report=report)
            laws = calibrate(evaluation.results) if calibration else None
        except (ValueError, ModelUnavailable) as error:
            raise ConfigurationError(str(error), subject="evaluate enhancement") from error
    if laws is not None:
        print_json(laws)
        return
    if as_json:
        print_json(evaluation.to_json())
        return
    _print_enhancement(evaluation)


@evaluate_app.command("segmentation")
def evaluate_segmentation(
    data: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Patients in the layout of the ACDC challenge.")
    ] = None,
    phantoms: Annotated[int | None, typer.Option(min=1, help="Number of phantoms, instead of patients.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom: none that was trained on.")] = 950000,
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
    from pipelines.models.registry import PACKAGED, ModelUnavailable
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
    with step_progress(as_json) as progress:
        task = progress.add_task("cases", total=None, detail="")

        def report(result: CaseResult, number: int, total: int) -> None:
            detail = f"{result.patient}: {result.refused or f'mean Dice {result.mean_dice:.3f}'}"
            progress.update(task, completed=number, total=total, detail=detail)

        try:
            if data is not None:
                evaluation = evaluate(data, cases=cases or None, fold=fold, models=root, style=style, report=report)
            else:
                draw = severe_recipe if severe else case_recipe
                recipes = [draw(number) for number in range(seed, seed + (phantoms or 0))]
                if faulty:
                    recipes = [with_a_fault(recipe) for recipe in recipes]
                evaluation = evaluate_phantoms(recipes, models=root, report=report)
        except (ValueError, ModelUnavailable) as error:
            raise ConfigurationError(str(error), subject="evaluate segmentation") from error
    if as_json:
        print_json(evaluation.to_json())
        return
    _print_evaluation(evaluation)


@evaluate_app.command("motion")
def evaluate_motion(
    phantoms: Annotated[int | None, typer.Option(min=1, help="Number of phantoms, made for this.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom; seeds count up.")] = 50000,
    faults: Annotated[bool, typer.Option("--faults", help="Give three in five acquisitions a fault.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="DICOM of one patient, or patients in the layout of ACDC."),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder that holds motion-registration; left out: that of the package."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Follow motion, find keyframes and measure strain as the node would, and compare with what is true."""
    from pipelines.evaluation.external import AnnotationError
    from pipelines.evaluation.motion import PhantomResult, evaluate_acdc, evaluate_folder, evaluate_phantoms
    from pipelines.models.registry import PACKAGED, ModelUnavailable
    from pipelines.training.acdc import AcdcLayoutError

    if (data is None) == (phantoms is None):
        raise ConfigurationError("give either --data or --phantoms", subject="evaluate motion")
    root = models or PACKAGED
    try:
        if data is not None and any(data.rglob("Info.cfg")):
            print_json(evaluate_acdc(data, models=root).to_json())
            return
        if data is not None:
            print_json([result.to_json() for result in evaluate_folder(data, models=root)])
            return
        with step_progress(as_json) as progress:
            task = progress.add_task("phantoms", total=None, detail="")

            def report(result: PhantomResult, number: int, total: int) -> None:
                detail = result.refused or f"{result.disease}, {result.vendor}"
                progress.update(task, completed=number, total=total, detail=detail)

            evaluation = evaluate_phantoms(phantoms or 0, seed=seed, faults=faults, models=root, report=report)
    except (AnnotationError, AcdcLayoutError, ModelUnavailable) as error:
        raise ConfigurationError(str(error), subject="evaluate motion") from error
    if as_json:
        print_json(evaluation.to_json())
        return
    _print_motion(evaluation)


@evaluate_app.command("volumes")
def evaluate_volumes_of_phantoms(
    phantoms: Annotated[int | None, typer.Option(min=1, help="Number of phantoms, made for this.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom; seeds count up.")] = 50000,
    faults: Annotated[bool, typer.Option("--faults", help="Give three in five acquisitions a fault.")] = False,
    keep: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for what came of each phantom; what it holds is not made again. Without --phantoms all of it.",
        ),
    ] = None,
    calibration: Annotated[
        bool, typer.Option("--calibrate", help="Print the errors of contours that these phantoms give.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure volumes and grade studies as the node would, without strain, and compare with what is true."""
    from pipelines.evaluation.volume_calibration import calibrate
    from pipelines.evaluation.volume_studies import VolumeStudy, evaluate_volumes, kept_studies, summarise_volumes

    if phantoms is None and keep is None:
        raise ConfigurationError("give --phantoms, --keep or both", subject="evaluate volumes")
    if phantoms is None and keep is not None:
        studies = kept_studies(keep)
    else:
        with step_progress(as_json) as progress:
            task = progress.add_task("phantoms", total=None, detail="")

            def report(result: VolumeStudy, number: int, total: int) -> None:
                detail = result.refused or f"{result.disease}, {result.vendor}"
                progress.update(task, completed=number, total=total, detail=detail)

            studies = evaluate_volumes(phantoms or 0, seed=seed, faults=faults, keep=keep, report=report)
    if not studies:
        raise ConfigurationError(f"{keep} holds no studies", subject="evaluate volumes")
    if calibration:
        print_json(calibrate(studies).to_json())
        return
    evaluation = summarise_volumes(studies)
    if as_json:
        print_json(evaluation.to_json())
        return
    _print_volumes(evaluation)


@evaluate_app.command("lge")
def evaluate_lge(
    phantoms: Annotated[int | None, typer.Option(min=1, help="Number of phantoms, made for this.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom: none that was trained on.")] = 900000,
    pessimistic: Annotated[
        bool, typer.Option("--pessimistic", help="Phantoms whose motion and grey values tell less of the scar.")
    ] = False,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Ask again without motion, without images and with other steps.")
    ] = False,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="With --phantoms or --emidec: folder of another first guess, such as train synthetic-enhancement "
            "--ablation makes; may be given several times, the others are held against the first.",
        ),
    ] = None,
    by_fault: Annotated[
        bool, typer.Option("--by-fault", help="Infarcts, each without a fault and with every one of the phantom's.")
    ] = False,
    fault: Annotated[
        list[str] | None, typer.Option(help="With --by-fault: this fault in place of all; may be given several times.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Patients in the layout of ACDC, two phases each.")
    ] = None,
    emidec: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="EMIDEC as PNG slices: real late enhancement, cines simulated from the patients' anatomy.",
        ),
    ] = None,
    studies: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="A site's own studies, cine with acquired late enhancement; those that the networks learnt from are "
            "left out.",
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            help="Patients of --emidec: reported (every third, never trained on), held-out (for decisions) or training."
        ),
    ] = "reported",
    models: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder that holds both networks; left out: the package's."),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Folder that keeps each heart, so that a run goes on where it stopped.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="PNG of ten phantoms, the three worst among them; needs --keep.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Predict enhancement from cine as the node would, and compare with what is true."""
    from pipelines.evaluation.enhancement_faults import evaluate_faults
    from pipelines.evaluation.enhancement_studies import evaluate_studies
    from pipelines.evaluation.synthetic_acdc import evaluate_acdc
    from pipelines.evaluation.synthetic_enhancement import evaluate_emidec, evaluate_phantoms
    from pipelines.evaluation.synthetic_hearts import HeartResult
    from pipelines.models.registry import PACKAGED, ModelUnavailable
    from pipelines.phantom.recipe import Fault
    from pipelines.training.semi_synthetic import Part

    if part not in tuple(Part):
        raise ConfigurationError(f"--part is {part!r}: one of {', '.join(Part)}", subject="evaluate lge")
    if sum(source is not None for source in (data, phantoms, emidec, studies)) != 1:
        raise ConfigurationError("give one of --phantoms, --data, --emidec and --studies", subject="evaluate lge")
    if pictures is not None and (keep is None or phantoms is None or by_fault):
        raise ConfigurationError("--pictures needs --phantoms and --keep", subject="evaluate lge")
    if (by_fault or ablations) and phantoms is None:
        raise ConfigurationError("--by-fault and --ablations need --phantoms", subject="evaluate lge")
    if against and phantoms is None and emidec is None:
        raise ConfigurationError("--against needs --phantoms or --emidec", subject="evaluate lge")
    if by_fault and (ablations or against or keep is not None or pessimistic):
        raise ConfigurationError("--by-fault goes with --phantoms and --seed alone", subject="evaluate lge")
    if fault and not by_fault:
        raise ConfigurationError("--fault needs --by-fault", subject="evaluate lge")
    unknown = set(fault or ()) - set(Fault)
    if unknown:
        raise ConfigurationError(
            f"--fault is {', '.join(sorted(unknown))}: one of {', '.join(Fault)}", subject="evaluate lge"
        )
    root = models or PACKAGED
    with step_progress(as_json) as progress:
        task = progress.add_task("hearts", total=None, detail="")

        def patient(name: str, number: int, total: int) -> None:
            progress.update(task, completed=number, total=total, detail=name)

        def phantom(result: HeartResult, number: int, total: int) -> None:
            progress.update(task, completed=number, total=total, detail=result.declined or result.disease)

        try:
            if data is not None:
                found = {"acdc": evaluate_acdc(data, models=root, report=patient).to_json()}
            elif studies is not None:
                found = {"site": evaluate_studies(studies, models=root, report=patient).to_json()}
            elif emidec is not None:
                evaluation = evaluate_emidec(
                    emidec,
                    part=Part(part),
                    pessimistic=pessimistic,
                    against=against or (),
                    models=root,
                    keep=keep,
                    report=phantom,
                )
                found = {"semi_synthetic_pessimistic" if pessimistic else "semi_synthetic": evaluation.to_json()}
            elif by_fault:
                wanted = [Fault(name) for name in fault or ()]
                found = {
                    "faults": evaluate_faults(phantoms or 0, seed=seed, faults=wanted, models=root, report=patient)
                }
            else:
                evaluation = evaluate_phantoms(
                    phantoms or 0,
                    seed=seed,
                    pessimistic=pessimistic,
                    ablations=ablations,
                    against=against or (),
                    models=root,
                    keep=keep,
                    report=phantom,
                )
                found = {"phantom_pessimistic" if pessimistic else "phantom": evaluation.to_json()}
                if pictures is not None and keep is not None:
                    from pipelines.evaluation.enhancement_pictures import draw_pictures

                    draw_pictures(evaluation.results, keep, pictures)
        except (ValueError, ModelUnavailable) as error:
            raise ConfigurationError(str(error), subject="evaluate lge") from error
    if as_json:
        print_json(found)
        return
    for name, figures in found.items():
        _print_synthetic(name, figures)


def _print_synthetic(name: str, figures: dict[str, Any]) -> None:
    rows = [
        (".".join((name, *path)), value)
        for path, value in _scalars(figures)
        if path[0] not in ("results", "probabilities")
    ]
    table("Synthetic enhancement", ["figure", "value>"], rows)


def _scalars(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every number of a nested document with the way to it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _scalars(item, (*path, str(key)))
    elif not isinstance(value, list):
        yield path, "" if value is None else value


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


def _print_evaluation(evaluation: SegmentationEvaluation) -> None:
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


def _print_enhancement(evaluation: EnhancementEvaluation) -> None:
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


def _print_motion(evaluation: MotionEvaluation) -> None:
    table(
        f"Keyframes, mean cyclic frame difference, {evaluation.phantoms} phantoms, {evaluation.refused} refused",
        ["", *(f"{key.replace('_', ' ')}>" for key in KEYFRAMES), "mean>"],
        (
            (view, *(f"{row[key]:.2f}" if key in row else "" for key in (*KEYFRAMES, "mean")))
            for view, row in evaluation.cfd.items()
        ),
    )
    table(
        "Peak strain, error in points",
        ["component", "cases>", "mean absolute>", "bias>", "worst>", "interval covers>"],
        (
            (
                name,
                str(groups["all"].cases),
                f"{groups['all'].mae:.2f}",
                f"{groups['all'].bias:+.2f}",
                f"{groups['all'].worst:.2f}",
                f"{100 * evaluation.interval_coverage[name]:.0f} %",
            )
            for name, groups in evaluation.strain.items()
        ),
    )
    table(
        "Volumes and ejection fraction, mean absolute error and bias",
        ["", "cases>", "reported>", "bias>", "interval covers>", "short axis alone>", "bias>"],
        (
            (
                name.replace("_percent", ", % of the true one"),
                str(row.cases),
                f"{row.mae:.1f}",
                f"{row.bias:+.1f}",
                f"{100 * evaluation.interval_coverage[name]:.0f} %" if name in evaluation.interval_coverage else "",
                f"{evaluation.ef_error['short_axis'][name].mae:.1f}",
                f"{evaluation.ef_error['short_axis'][name].bias:+.1f}",
            )
            for name, row in evaluation.ef_error["reported"].items()
        ),
    )
    _print_badges(evaluation.badge, evaluation.findings)
    table(
        "Motion in the plane at end systole, mm",
        ["view", "motion>", "end-point error>"],
        (
            (view, f"{evaluation.motion_mm[view]:.2f}", f"{error:.2f}")
            for view, error in evaluation.end_point_mm.items()
        ),
        caption=f"points that fold: {evaluation.folded_percent:.3f} %; "
        f"left after the whole cycle: {evaluation.closure_mm:.2f} mm",
    )


def _print_badges(badges: Mapping[str, BadgeRow], findings: Mapping[str, FindingRow]) -> None:
    _print_badge_errors(badges)
    table(
        "Quality checks: error with a concern and without, points",
        ["check", "cases>", "LVEF with>", "without>", "RVEF with>", "without>"],
        (
            (
                check,
                str(row.lvef_with.cases),
                f"{row.lvef_with.mae:.1f}",
                f"{row.lvef_without.mae:.1f}",
                f"{row.rvef_with.mae:.1f}",
                f"{row.rvef_without.mae:.1f}",
            )
            for check, row in findings.items()
        ),
    )


def _print_badge_errors(badges: Mapping[str, BadgeRow], of: str = "") -> None:
    table(
        f"Badge and errors{of}, points of LVEF and RVEF, % of LVEDV and RVEDV",
        ["badge", "cases>", "LVEF>", "worst>", "within 3>", "RVEF>", "worst>", "LVEDV>", "RVEDV>"],
        (
            (
                badge,
                str(row.cases),
                f"{row.mae:.1f}",
                f"{row.worst:.1f}",
                f"{100 * row.within_3_points:.0f} %",
                f"{row.rvef.mae:.1f}",
                f"{row.rvef.worst:.1f}",
                f"{row.lvedv_percent.mae:.1f}",
                f"{row.rvedv_percent.mae:.1f}",
            )
            for badge, row in badges.items()
        ),
    )


_HELD = ("interval holds>", "half width>")


def _print_volumes(evaluation: VolumeEvaluation) -> None:
    held = evaluation.intervals
    table(
        f"Volumes and ejection fraction, mean absolute error and bias, {evaluation.phantoms} phantoms, "
        f"{evaluation.refused} refused",
        ["", "cases>", "reported>", "bias>", *_HELD, "short axis alone>", "bias>", *_HELD],
        (
            (
                name.replace("_percent", ", % of the true one"),
                str(row.cases),
                f"{row.mae:.1f}",
                f"{row.bias:+.1f}",
                *_held(held["reported"].get(name)),
                f"{evaluation.errors['short_axis'][name].mae:.1f}",
                f"{evaluation.errors['short_axis'][name].bias:+.1f}",
                *_held(held["short_axis"].get(name)),
            )
            for name, row in evaluation.errors["reported"].items()
        ),
    )
    table(
        "LVEF by fault and vendor, points",
        ["", "cases>", "mean absolute>", "bias>", "worst>"],
        (
            (name, str(row.cases), f"{row.mae:.1f}", f"{row.bias:+.1f}", f"{row.worst:.1f}")
            for name, row in evaluation.lvef_by_group.items()
        ),
    )
    _print_badges(evaluation.badge, evaluation.findings)
    _print_badge_errors(evaluation.badge_without_fault, " without a fault")


def _held(row: IntervalRow | None) -> tuple[str, str]:
    if row is None:
        return "", ""
    return f"{row.held} of {row.cases} ({100 * row.held / row.cases:.0f} %)", f"{row.half_width:.1f}"
