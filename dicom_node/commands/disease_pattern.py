"""``dicom-node train pattern`` and ``dicom-node evaluate pattern``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.commands.terminal import JsonFlag, console, print_json, table
from dicom_node.commands.training import AcdcFolder, step_progress
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from pipelines.training.disease_pattern import Patients

__all__ = ["evaluate", "train"]


def train(
    data: AcdcFolder,
    output: Annotated[Path, typer.Option(help="Folder for the folder of weights and card.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    """Fit the classifier of disease patterns to the groups of ACDC, with masks of the node's segmentation."""
    from pipelines.training.disease_pattern import train_pattern

    patients = _patients(data, "train pattern", as_json)
    try:
        trained = train_pattern(patients, output, "dicom-node train pattern --data DIR")
    except ValueError as error:
        raise ConfigurationError(str(error), subject="train pattern") from error
    if as_json:
        print_json(trained)
        return
    console.print(f"{trained.weights} of {trained.patients} patients, sha256 {trained.weights_sha256}")


def evaluate(
    data: AcdcFolder,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the five folds.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Judge the groups of ACDC by five folds, with masks of the node's segmentation."""
    from pipelines.evaluation.disease_pattern import evaluate_patterns
    from pipelines.models.registry import list_models

    patients = _patients(data, "evaluate pattern", as_json)
    seen = next((card.training.cases for card in list_models() if card.name == "ventricle-segmentation"), ())
    try:
        figures = evaluate_patterns(patients, seen, seed=seed).to_json()
    except ValueError as error:
        raise ConfigurationError(str(error), subject="evaluate pattern") from error
    if as_json:
        print_json({"pattern": figures})
        return
    table("Disease patterns", ["figure", "value>"], _rows(figures))


def _rows(figures: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name in ("accuracy", "unseen"):
        found = figures[name]
        if found["share"] is not None:
            low, high = found["interval"]
            rows.append((name, f"{found['share']:.3f} ({low:.3f} … {high:.3f}) of {found['patients']}"))
    rows += [(name, f"{figures[name]:.3f}") for name in ("log_loss", "brier", "expected_calibration_error")]
    rows += [(f"wrong: {name}", said) for name, said in figures["wrong"].items()]
    return rows


def _patients(data: Path, subject: str, quiet: bool) -> Patients:
    from pipelines.models.registry import ModelUnavailable
    from pipelines.training.acdc import AcdcLayoutError
    from pipelines.training.disease_pattern import patients_of

    with step_progress(quiet) as progress:
        task = progress.add_task("patients", total=None, detail="")

        def report(name: str, number: int, total: int) -> None:
            progress.update(task, completed=number, total=total, detail=name)

        try:
            return patients_of(data, report)
        except (AcdcLayoutError, ModelUnavailable) as error:
            raise ConfigurationError(str(error), subject=subject) from error
