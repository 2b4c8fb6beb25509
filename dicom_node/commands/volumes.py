"""``dicom-node evaluate volumes``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.commands.terminal import JsonFlag, print_json, table
from dicom_node.commands.training import FirstSeed, MadePhantoms, step_progress
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from pipelines.evaluation.volume_studies import VolumeEvaluation
    from pipelines.evaluation.volumes import BadgeRow, FindingRow, IntervalRow

__all__ = ["evaluate_volumes_of_phantoms", "print_badges"]

_HELD = ("interval holds>", "half width>")


def evaluate_volumes_of_phantoms(
    phantoms: MadePhantoms = None,
    seed: FirstSeed = 50000,
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
    _print(evaluation)


def _print(evaluation: VolumeEvaluation) -> None:
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
    print_badges(evaluation.badge, evaluation.findings)
    _print_badge_errors(evaluation.badge_without_fault, " without a fault")


def _held(row: IntervalRow | None) -> tuple[str, str]:
    if row is None:
        return "", ""
    return f"{row.held} of {row.cases} ({100 * row.held / row.cases:.0f} %)", f"{row.half_width:.1f}"


def print_badges(badges: Mapping[str, BadgeRow], findings: Mapping[str, FindingRow]) -> None:
    """Print the errors of each badge, and those with a concern of each quality check and without."""
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
