"""Evaluation of acquired late enhancement: patients of EMIDEC, and phantoms whose lesions are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from pipelines.cine.stack import LateEnhancementStack
from pipelines.errors import AnalysisRefused
from pipelines.late_enhancement.findings import ExtentMethod, LateEnhancement
from pipelines.late_enhancement.labels import WALL, Tissue
from pipelines.late_enhancement.measure import INTERVAL_OFFSET_PERCENT, extent_of, measure_enhancement
from pipelines.late_enhancement.presence import FLOOR_PERCENT, PresenceLaw
from pipelines.late_enhancement.segment import SEGMENTER, segment_enhancement
from pipelines.models.registry import PACKAGED, load_model_once
from pipelines.phantom.recipe import Disease, PhantomRecipe
from pipelines.phantom.study import PhantomStudy, simulate
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.training.data_set import folds
from pipelines.training.emidec import (
    ASSUMED_PITCH_MM,
    ASSUMED_SPACING_MM,
    EmidecCase,
    find_cases,
    nominal_stack,
    read_case,
    to_stack,
)
from pipelines.training.enhancement_phantoms import phantom_tissues

__all__ = [
    "Calibration",
    "EnhancementCase",
    "EnhancementEvaluation",
    "Estimate",
    "calibrate",
    "compare",
    "evaluate_emidec",
    "evaluate_phantoms",
    "phantom_stack",
    "summarise",
]

_RESAMPLES = 2000
_PARTS: dict[str, tuple[Tissue, ...]] = {
    "cavity": (Tissue.LV,),
    "myocardium": WALL,
    "infarct": (Tissue.INFARCT, Tissue.OBSTRUCTION),
    "infarct_without_obstruction": (Tissue.INFARCT,),
    "obstruction": (Tissue.OBSTRUCTION,),
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its bootstrap interval (95 %, resampling cases) and the number of cases."""

    value: float
    lower: float
    upper: float
    n: int


@dataclass(frozen=True, slots=True)
class EnhancementCase:
    """One case against its annotation; extents in % of the left ventricular muscle."""

    case: str
    group: str
    dice: dict[str, float]
    """NaN where neither has any of it."""
    percent: float
    """By the network; its interval follows."""
    lower: float
    upper: float
    thresholds: dict[str, float]
    """Extent by each threshold."""
    percent_true: float
    obstruction: float
    obstruction_true: float
    infarct_probability: float
    obstruction_probability: float
    agreement: float
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class EnhancementEvaluation:
    """Summary figures of a set of cases."""

    cases: int
    refused: int
    seen_in_training: tuple[str, ...]
    dice: dict[str, Estimate]
    """Over the cases whose annotation holds the part."""
    presence: dict[str, dict[str, Any]]
    """Accuracy, sensitivity, specificity, AUC and Brier score of infarct and obstruction by case."""
    extent: dict[str, dict[str, float]]
    """By method, against the annotation: r, bias, limits of agreement, mean absolute error, points."""
    interval_coverage: float
    remark: str
    results: tuple[EnhancementCase, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Laws of presence and interval, and the number of cases that they come from."""

    infarct: PresenceLaw
    obstruction: PresenceLaw
    interval_factor: float
    cases: int


def compare(
    identifier: str, group: str, stack: LateEnhancementStack, truth: NDArray[np.uint8], models: Path = PACKAGED
) -> EnhancementCase:
    """Segment and measure a stack as the node would, and compare with its true labels.

    Parameters
    ----------
    truth : (S, R, C) uint8
        Values of :class:`~pipelines.late_enhancement.labels.Tissue`.
    models : Path
        Folder that holds a folder for each network.
    """
    true_percent = _true_percent(stack, truth, (Tissue.INFARCT, Tissue.OBSTRUCTION))
    true_obstruction = _true_percent(stack, truth, (Tissue.OBSTRUCTION,))
    try:
        found = measure_enhancement(stack, 0, segment_enhancement(stack, models=models), None)
    except (SegmentationRefused, AnalysisRefused) as refusal:
        nothing = dict.fromkeys(_PARTS, 0.0)
        return EnhancementCase(
            identifier, group, nothing, 0, 0, 0, {}, true_percent, 0, true_obstruction, 0, 0, 0, str(refusal)
        )
    network = found.extent(ExtentMethod.NETWORK)
    interval = network.interval
    return EnhancementCase(
        case=identifier,
        group=group,
        dice={name: _dice(found.labels, truth, parts) for name, parts in _PARTS.items()},
        percent=network.percent,
        lower=math.nan if interval is None else interval.lower,
        upper=math.nan if interval is None else interval.upper,
        thresholds=_thresholds(found),
        percent_true=true_percent,
        obstruction=found.obstruction_percent,
        obstruction_true=true_obstruction,
        infarct_probability=found.infarct.probability,
        obstruction_probability=found.obstruction.probability,
        agreement=found.agreement,
    )


def _thresholds(found: LateEnhancement) -> dict[str, float]:
    return {str(one.method): one.percent for one in found.extents if one.method is not ExtentMethod.NETWORK}


def _true_percent(stack: LateEnhancementStack, truth: NDArray[np.uint8], parts: tuple[Tissue, ...]) -> float:
    wall = np.isin(truth, WALL)
    intervals = stack.geometry.slice_intervals()
    return extent_of(ExtentMethod.NETWORK, np.isin(truth, parts), wall, intervals, 1.0).percent


def _dice(found: NDArray[np.uint8], truth: NDArray[np.uint8], parts: tuple[Tissue, ...]) -> float:
    first, second = np.isin(found, parts), np.isin(truth, parts)
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2 * int(np.count_nonzero(first & second)) / total if total else math.nan


def evaluate_emidec(
    folder: Path,
    *,
    fold: int | None = 0,
    cases: Sequence[str] | None = None,
    models: Path = PACKAGED,
    report: Callable[[EnhancementCase, int, int], None] | None = None,
) -> EnhancementEvaluation:
    """Measure cases of EMIDEC as the node would, with an assumed spacing, and compare with their annotation.

    Parameters
    ----------
    folder : Path
        EMIDEC as PNG.
    fold : int or None
        Only the cases of this fold; ``None``: all.
    cases : sequence of str, optional
        Only these.
    models : Path
        Folder that holds a folder for each network.
    report : callable
        Is called after each case with it, its number and the number of cases.

    Raises
    ------
    EmidecLayoutError, ValueError
        The folder does not hold EMIDEC, or not these cases.
    """
    read = {name: read_case(images) for name, images in find_cases(folder).items()}
    chosen = list(read)
    if fold is not None:
        chosen = list(folds({name: case.group for name, case in read.items()})[fold])
    if cases is not None:
        chosen = [name for name in chosen if name in cases]
    if not chosen:
        raise ValueError(f"{folder} holds none of the cases asked for")
    results = []
    for number, name in enumerate(chosen, 1):
        case: EmidecCase = read[name]
        results.append(compare(name, case.group, to_stack(case), case.labels, models))
        if report is not None:
            report(results[-1], number, len(chosen))
    trained_on = set(load_model_once(SEGMENTER, "cpu", models).card.training.cases)
    remark = (
        f"Localiser and crop included. Spacing is lost in these images: {ASSUMED_SPACING_MM} mm in the plane and "
        f"{ASSUMED_PITCH_MM:g} mm between slices are assumed, which ratios do not depend on."
    )
    return summarise(results, tuple(name for name in chosen if name in trained_on), remark)


def evaluate_phantoms(
    count: int,
    *,
    seed: int = 800000,
    models: Path = PACKAGED,
    report: Callable[[EnhancementCase, int, int], None] | None = None,
) -> EnhancementEvaluation:
    """Measure late enhancement of phantoms, phase sensitive, and compare with the lesions that were simulated.

    Two of three have an infarct, half of these an acute one with obstruction. The networks have seen no phantom: the
    figures tell the distance from patients to phantoms, and not how well patients are read.
    """
    results = []
    for number in range(count):
        acute = True if number % 6 == 0 else None
        recipe = PhantomRecipe(
            seed=seed + number,
            disease=(Disease.INFARCT, Disease.NORMAL, Disease.INFARCT)[number % 3],
            slices=9,
            phases=8,
            rows=144,
            columns=144,
            spacing_mm=1.8,
            long_axis=False,
            late_enhancement=True,
            acute=acute,
            obstruction=acute,
        )
        stack, truth = phantom_stack(simulate(recipe, workers=1))
        group = "infarct" if (truth >= Tissue.INFARCT).any() else "normal"
        results.append(compare(f"phantom-{recipe.seed}", group, stack, truth, models))
        if report is not None:
            report(results[-1], number + 1, count)
    remark = "Phantoms, which the networks have never seen; phase-sensitive images at mid-diastole."
    return summarise(results, (), remark)


def phantom_stack(study: PhantomStudy) -> tuple[LateEnhancementStack, NDArray[np.uint8]]:
    """Phase-sensitive late enhancement of a phantom, and its true labels.

    Raises
    ------
    ValueError
        The phantom was simulated without late enhancement.
    """
    late = study.enhancement
    if late is None:
        raise ValueError("the phantom has no late enhancement: ask its recipe for it")
    stack = nominal_stack(late.phase_sensitive.astype(np.float32), late.geometry, f"phantom-{study.recipe.seed}")
    return stack, phantom_tissues(late)


def summarise(results: Sequence[EnhancementCase], seen: tuple[str, ...], remark: str) -> EnhancementEvaluation:
    """Summarise the comparisons of a set of cases. A refused case counts with Dice 0 and an extent of 0."""
    holding = {
        name: [
            one.dice[name]
            for one in results
            if name in ("cavity", "myocardium")
            or (one.obstruction_true if name == "obstruction" else one.percent_true) > 0
        ]
        for name in _PARTS
    }
    measured = [one for one in results if one.refused is None]
    true = np.array([one.percent_true for one in measured])
    by_method = {"network": np.array([one.percent for one in measured])}
    for method in ExtentMethod:
        if method is not ExtentMethod.NETWORK:
            by_method[str(method)] = np.array([one.thresholds[str(method)] for one in measured])
    inside = [one.lower <= one.percent_true <= one.upper for one in measured]
    return EnhancementEvaluation(
        cases=len(results),
        refused=sum(one.refused is not None for one in results),
        seen_in_training=seen,
        dice={name: _estimate(values) for name, values in holding.items() if values},
        presence={
            "infarct": _presence(
                [one.percent_true > 0 for one in results], [one.infarct_probability for one in results]
            ),
            "obstruction": _presence(
                [one.obstruction_true > 0 for one in results], [one.obstruction_probability for one in results]
            ),
        },
        extent={name: _agreement(values, true) for name, values in by_method.items()} if measured else {},
        interval_coverage=float(np.mean(inside)) if inside else math.nan,
        remark=remark,
        results=tuple(results),
    )


def calibrate(results: Sequence[EnhancementCase]) -> Calibration:
    """The laws that a set of cases would give; for the node, of cases that the network of the evaluation has not seen.

    Presence by Platt's method (Advances in Large Margin Classifiers, 1999), with his targets short of 0 and 1, which
    keep the law of few cases from being certain. The interval by split conformal prediction: the smallest half width,
    in proportion to the extent and an offset, that would have covered the truth of 90 % of further cases.

    Raises
    ------
    ValueError
        All of the cases, or none, hold an infarct or an obstruction.
    """
    measured = [one for one in results if one.refused is None]
    scores = sorted(abs(one.percent - one.percent_true) / (one.percent + INTERVAL_OFFSET_PERCENT) for one in measured)
    rank = min(math.ceil(0.9 * (len(scores) + 1)), len(scores))
    return Calibration(
        infarct=_presence_law([one.percent for one in measured], [one.percent_true > 0 for one in measured]),
        obstruction=_presence_law(
            [one.obstruction for one in measured], [one.obstruction_true > 0 for one in measured]
        ),
        interval_factor=scores[rank - 1],
        cases=len(measured),
    )


def _presence_law(percents: Sequence[float], present: Sequence[bool]) -> PresenceLaw:
    there = np.array(present)
    if there.all() or not there.any():
        raise ValueError("presence can be calibrated only on cases with and cases without it")
    extent = np.log10(np.array(percents) + FLOOR_PERCENT)
    above, below = int(there.sum()), int((~there).sum())
    target = np.where(there, (above + 1) / (above + 2), 1 / (below + 2))

    def loss(parameters: NDArray[np.float64]) -> float:
        logit = parameters[0] * (extent - parameters[1])
        return float((np.logaddexp(0, logit) - target * logit).sum())

    slope, half = minimize(loss, np.array([3.0, float(np.median(extent))]), method="Nelder-Mead").x
    return PresenceLaw(slope=float(slope), half_percent=float(10**half))


def _estimate(values: Sequence[float]) -> Estimate:
    found = np.nan_to_num(np.array(values, dtype=np.float64))
    lower, upper = _bootstrap(found)
    return Estimate(float(found.mean()), lower, upper, len(found))


def _bootstrap(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of the mean; the same for the same values."""
    generator = np.random.default_rng(0)
    means = values[generator.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)
    lower, upper = np.percentile(means, (2.5, 97.5))
    return float(lower), float(upper)


def _presence(truth: Sequence[bool], probability: Sequence[float]) -> dict[str, Any]:
    true, said = np.array(truth), np.array(probability)
    right = (said >= 0.5) == true
    lower, upper = _bootstrap(right.astype(np.float64))
    found: dict[str, Any] = {
        "accuracy": float(right.mean()),
        "lower": lower,
        "upper": upper,
        "n": len(true),
        "with": int(true.sum()),
        "brier": float(((said - true) ** 2).mean()),
    }
    if true.any() and not true.all():
        positive, negative = said[true], said[~true]
        wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
        found |= {
            "auc": float(wins.mean()),
            "sensitivity": float((positive >= 0.5).mean()),
            "specificity": float((negative < 0.5).mean()),
        }
    return found


def _agreement(found: NDArray[np.float64], true: NDArray[np.float64]) -> dict[str, float]:
    error = found - true
    spread = float(error.std(ddof=1)) if len(error) > 1 else math.nan
    bias = float(error.mean())
    varied = len(error) > 2 and found.std() > 0 and true.std() > 0
    return {
        "r": float(np.corrcoef(found, true)[0, 1]) if varied else math.nan,
        "bias": bias,
        "loa_low": bias - 1.96 * spread,
        "loa_high": bias + 1.96 * spread,
        "mae": float(np.abs(error).mean()),
        "n": len(error),
    }
