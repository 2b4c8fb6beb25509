"""``dicom-node train registration`` and ``dicom-node evaluate motion``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.commands.terminal import JsonFlag, print_json, table
from dicom_node.commands.training import (
    Device,
    FirstSeed,
    MadePhantoms,
    Resume,
    Seed,
    Steps,
    print_result,
    shown_training,
    step_progress,
)
from dicom_node.commands.volumes import print_badges
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from pipelines.evaluation.motion import MotionEvaluation

__all__ = ["evaluate_motion", "train_registration"]

_KEYFRAMES = ("end_diastole", "mid_systole", "end_systole", "peak_flow", "mid_diastole")


def train_registration(
    phantoms: Annotated[int, typer.Option(min=0, help="Number of phantoms.")] = 70,
    phantom_seed: FirstSeed = 20000,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, file_okay=False, help="DICOM of one patient, used without annotation; may be repeated."
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for images, checkpoint, weights and card.")] = Path("runs"),
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = True,
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


def evaluate_motion(
    phantoms: MadePhantoms = None,
    seed: FirstSeed = 50000,
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
    _print(evaluation)


def _print(evaluation: MotionEvaluation) -> None:
    table(
        f"Keyframes, mean cyclic frame difference, {evaluation.phantoms} phantoms, {evaluation.refused} refused",
        ["", *(f"{key.replace('_', ' ')}>" for key in _KEYFRAMES), "mean>"],
        (
            (view, *(f"{row[key]:.2f}" if key in row else "" for key in (*_KEYFRAMES, "mean")))
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
    print_badges(evaluation.badge, evaluation.findings)
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
