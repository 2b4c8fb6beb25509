"""``dicom-node train synthetic-enhancement``, its parts, and ``dicom-node evaluate lge``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.commands.terminal import JsonFlag, console, print_json, table
from dicom_node.commands.training import (
    Device,
    MadePhantoms,
    Resume,
    ResumeAll,
    Seed,
    UnseenSeed,
    print_result,
    shown_evaluation,
    shown_training,
)
from dicom_node.errors import ConfigurationError

__all__ = ["evaluate_lge", "train_scar_sequence", "train_synthetic_calibration", "train_synthetic_enhancement"]

_Clips = Annotated[Path, typer.Option(help="Folder of packed phantoms; made where it lacks some.")]
_Phantoms = Annotated[int, typer.Option(min=0, help="Number of phantoms of every disease.")]
_Infarcts = Annotated[int, typer.Option(min=0, help="Number of phantoms with an acute infarct.")]
_First = Annotated[int, typer.Option(min=0, help="Seed of the first; seeds count up.")]


def train_synthetic_enhancement(
    clips: _Clips = Path("clips"),
    phantoms: _Phantoms = 480,
    phantom_seed: _First = 700000,
    infarcts: _Infarcts = 360,
    infarct_seed: _First = 710000,
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
    seed: Seed = 0,
    device: Device = "cpu",
    resume: ResumeAll = True,
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


def train_scar_sequence(
    clips: _Clips = Path("clips"),
    phantoms: _Phantoms = 480,
    phantom_seed: _First = 700000,
    infarcts: _Infarcts = 360,
    infarct_seed: _First = 710000,
    output: Annotated[Path, typer.Option(help="Folder for the folder of the network.")] = Path("runs"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = True,
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


def train_synthetic_calibration(
    models: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder that holds the networks and a calibration.")
    ],
    clips: _Clips = Path("clips"),
    phantoms: Annotated[int, typer.Option(min=8, help="Number of phantoms of every disease.")] = 46,
    phantom_seed: _First = 840000,
    device: Device = "cpu",
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


def evaluate_lge(
    phantoms: MadePhantoms = None,
    seed: UnseenSeed = 900000,
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
    from pipelines.models.registry import PACKAGED
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
    with shown_evaluation("lge", "hearts", as_json) as shown:

        def phantom(result: HeartResult, number: int, total: int) -> None:
            shown.case(result.declined or result.disease, number, total)

        if data is not None:
            found = {"acdc": evaluate_acdc(data, models=root, report=shown.case).to_json()}
        elif studies is not None:
            found = {"site": evaluate_studies(studies, models=root, report=shown.case).to_json()}
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
            found = {"faults": evaluate_faults(phantoms or 0, seed=seed, faults=wanted, models=root, report=shown.case)}
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
    if as_json:
        print_json(found)
        return
    for name, figures in found.items():
        _print(name, figures)


def _print(name: str, figures: dict[str, Any]) -> None:
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
