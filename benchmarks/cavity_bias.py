"""What the bias of the cavity, two numbers of a segmentation model's card, does to volumes.

python benchmarks/cavity_bias.py ACDC --fold 1 --phantoms 962000:12 --bias 0,0 --bias 0.2,8 --bias 0.4,14
python benchmarks/cavity_bias.py ACDC --fold 0 --bias 0,0 --bias 0.2,8     # once, of what was chosen

Choose on folds and phantoms that no figure is reported on. Each patient is shown as acquired and in foreign styles.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipelines.evaluation.foreign_style import ForeignStyle
from pipelines.evaluation.segmentation import EvaluatedHeart, cases_of_fold, dice, patient_heart, phantom_heart
from pipelines.models.registry import PACKAGED, load_model_once
from pipelines.segmentation.decision import likeliest_labels
from pipelines.segmentation.labels import Label
from pipelines.segmentation.segment import FINE_MODEL, LOCALISER, keep_plausible, on_image, see_heart
from pipelines.training.acdc import find_patients, read_patient
from pipelines.training.phantoms import case_recipe

STYLES = (None, ForeignStyle.GE, ForeignStyle.VIDA, ForeignStyle.EQUALISED)
LABELS = (Label.LV, Label.MYO, Label.RV)


def hearts(data: Path, folds: list[int], phantoms: str) -> Iterator[tuple[str, EvaluatedHeart]]:
    """Hearts with the name of the set that each belongs to."""
    folders = {folder.name: folder for folder in find_patients(data)}
    for fold in folds:
        for name in cases_of_fold(data, fold):
            patient = read_patient(folders[name])
            for style in STYLES:
                yield "as acquired" if style is None else style.value, patient_heart(patient, style)
    if phantoms:
        first, count = map(int, phantoms.split(":"))
        for seed in range(first, first + count):
            yield "phantoms", phantom_heart(case_recipe(seed))


def measured(heart: EvaluatedHeart, models: Path, biases: list[tuple[float, float]]) -> NDArray[np.float64]:
    """Volume found, volume true (ml) and Dice of each bias, phase and label: (B, 2, 3, 3)."""
    spacing = heart.stack.geometry.pixel_spacing
    seen = see_heart(heart.stack, load_model_once(LOCALISER, "cpu", models), load_model_once(FINE_MODEL, "cpu", models))
    first_row, end_row, first_column, end_column = seen.crop
    intervals = heart.stack.geometry.slice_intervals() * spacing[0] * spacing[1] / 1000
    out = np.zeros((len(biases), 2, len(LABELS), 3))
    for phase in range(2):
        native = on_image(seen.probability[phase], seen, spacing)
        for index, bias in enumerate(biases):
            labels = np.zeros(heart.truth.shape[1:], np.uint8)
            chosen = likeliest_labels(native, bias, spacing[0] * spacing[1])
            labels[:, first_row:end_row, first_column:end_column] = keep_plausible(chosen)
            for column, label in enumerate(LABELS):
                found, true = labels == label, heart.truth[phase] == label
                volumes = [float(mask.sum((1, 2)) @ intervals) for mask in (found, true)]
                out[index, phase, column] = (*volumes, dice(found, true))
    return out


def main(
    data: Path,
    fold: Annotated[list[int], typer.Option(help="Folds of patients.")] = [1, 2, 3, 4],  # noqa: B006 - typer copies it
    phantoms: Annotated[str, typer.Option(help="FIRST:COUNT of phantoms.")] = "",
    bias: Annotated[list[str], typer.Option(help="a,b of the bias.")] = ["0,0"],  # noqa: B006
    models: Path = PACKAGED,
) -> None:
    """Measure."""
    biases = [(float(text.split(",")[0]), float(text.split(",")[1])) for text in bias]
    rows: dict[str, list[NDArray[np.float64]]] = {}
    for name, heart in hearts(data, fold, phantoms):
        rows.setdefault(name, []).append(measured(heart, models, biases))
    table = Table("set", "n", "a, b", "EDV %", "ESV %", "LVEF", "RVEF", "mass %", "Dice LV/MYO/RV")
    for name, found in rows.items():
        values = np.stack(found)
        for index, text in enumerate(bias):
            table.add_row(name, str(len(values)), text, *described(values[:, index]))
    Console(width=150).print("Mean absolute error, then bias", table)


def described(values: NDArray[np.float64]) -> list[str]:
    """Figures of one set and bias, from (N, 2, 3, 3)."""

    def error(found: NDArray[np.float64], true: NDArray[np.float64], relative: bool) -> str:
        off = 100 * (found - true) / true if relative else found - true
        return f"{np.abs(off).mean():.2f} {off.mean():+.2f}"

    def fraction(column: int, kind: int) -> NDArray[np.float64]:
        return np.asarray(100 * (1 - values[:, 1, column, kind] / values[:, 0, column, kind]))

    return [
        error(values[:, 0, 0, 0], values[:, 0, 0, 1], True),
        error(values[:, 1, 0, 0], values[:, 1, 0, 1], True),
        error(fraction(0, 0), fraction(0, 1), False),
        error(fraction(2, 0), fraction(2, 1), False),
        error(values[:, 0, 1, 0], values[:, 0, 1, 1], True),
        "/".join(f"{values[:, :, column, 2].mean():.4f}" for column in range(3)),
    ]


if __name__ == "__main__":
    typer.run(main)
