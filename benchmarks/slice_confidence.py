"""Fits the confidence of a slice to its Dice with an expert's contours, and says how well it tells.

python benchmarks/slice_confidence.py ACDC --fit-fold 1 --fit-style ge --fit-phantoms 970000:24

``pipelines/segmentation/confidence.py`` holds them. ``dicom-node evaluate segmentation`` says how well they tell.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from pipelines.evaluation.foreign_style import ForeignStyle
from pipelines.evaluation.segmentation import EvaluatedHeart, cases_of_fold, dice, patient_heart, phantom_heart
from pipelines.models.registry import PACKAGED, load_model_once
from pipelines.phantom.recipe import Fault
from pipelines.segmentation.confidence import confidence_terms
from pipelines.segmentation.labels import Label
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import FINE_MODEL, LOCALISER, see_heart, segment
from pipelines.training.acdc import find_patients, read_patient
from pipelines.training.phantoms import case_recipe

FAULTS = tuple(fault for fault in Fault if fault is not Fault.MISSING_SLICES)
LABELS = (Label.LV, Label.MYO, Label.RV)


def terms_and_dice(heart: EvaluatedHeart, models: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Terms (N, 3) and Dice (N,) of the slices where something was labelled."""
    spacing = heart.stack.geometry.pixel_spacing
    seen = see_heart(heart.stack, load_model_once(LOCALISER, "cpu", models), load_model_once(FINE_MODEL, "cpu", models))
    labels = segment(heart.stack, models=models).labels
    terms = confidence_terms(labels, seen.expected, spacing[0] * spacing[1])
    kept, found = [], []
    for place in np.ndindex(labels.shape[:2]):
        drawn, true = labels[place], heart.truth[place]
        shown = [label for label in LABELS if (drawn == label).any() or (true == label).any()]
        if drawn.any():
            kept.append(terms[place])
            found.append(np.mean([dice(drawn == label, true == label) for label in shown]))
    return np.array(kept), np.array(found)


def main(
    data: Path,
    fit_fold: int = 1,
    fit_style: ForeignStyle = ForeignStyle.GE,
    fit_phantoms: Annotated[str, typer.Option(help="FIRST:COUNT of phantoms with faults.")] = "970000:24",
    models: Path = PACKAGED,
) -> None:
    """Fit."""
    folders = {folder.name: folder for folder in find_patients(data)}
    chosen = [patient_heart(read_patient(folders[name]), fit_style) for name in cases_of_fold(data, fit_fold)]
    first, count = map(int, fit_phantoms.split(":"))
    seeds = range(first, first + count)
    recipes = [replace(case_recipe(seed), faults=frozenset({FAULTS[seed % len(FAULTS)]})) for seed in seeds]
    terms, truth = [], []
    for heart in (*chosen, *map(phantom_heart, recipes)):
        try:
            one, found = terms_and_dice(heart, models)
        except SegmentationRefused:
            continue
        terms.append(one)
        truth.append(found)
    design = np.column_stack([np.ones(sum(map(len, truth))), np.concatenate(terms)])
    target = np.concatenate(truth)
    weights = np.linalg.lstsq(design, target, rcond=None)[0]
    predicted = np.clip(design @ weights, 0, 1)
    print(f"{len(target)} slices of {len(truth)} hearts; correlation {np.corrcoef(predicted, target)[0, 1]:.2f}")
    print("intercept, expected, log area, ring:", ", ".join(f"{value:.4g}" for value in weights))
    limit = float(np.quantile(predicted, 0.2))
    worst = target <= np.quantile(target, 0.1)
    held = 100 * (predicted < limit)[worst].mean()
    print(f"least certain fifth: below {limit:.2f}; it holds {held:.0f} % of the worst tenth")


if __name__ == "__main__":
    typer.run(main)
