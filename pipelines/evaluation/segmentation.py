"""Evaluation of the segmentation on annotated patients, through the whole path that a study takes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, StackGeometry
from pipelines.evaluation.fairness import (
    Trait,
    TraitGroup,
    crop_thumbnail,
    gap,
    habitus,
    phantom_traits,
    told_by_crops,
    trait_groups,
)
from pipelines.evaluation.figures import plain
from pipelines.evaluation.foreign_style import ForeignStyle, restyle
from pipelines.models.registry import PACKAGED, list_models
from pipelines.phantom.recipe import PhantomRecipe
from pipelines.segmentation.confidence import LIKELY_WRONG
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import FINE_MODEL, LOCALISER, segment
from pipelines.statistics import Estimate
from pipelines.tissue import MYOCARDIAL_DENSITY_G_ML
from pipelines.training.acdc import AcdcPatient, acdc_set, find_patients, nominal_sources, read_patient, to_stack
from pipelines.training.data_set import folds
from pipelines.training.phantoms import END_SYSTOLE, simulate_case

__all__ = [
    "CaseResult",
    "ConfidenceSummary",
    "EvaluatedHeart",
    "FunctionError",
    "MeasureSummary",
    "SegmentationEvaluation",
    "Volumes",
    "cases_of_fold",
    "evaluate",
    "evaluate_phantoms",
    "patient_heart",
    "phantom_heart",
    "surface_distances",
    "volumes",
]

_FEWEST_SLICES = 10
LABELS = (Label.LV, Label.MYO, Label.RV)


@dataclass(frozen=True, slots=True)
class Volumes:
    """Volumes of one phase, ml."""

    LV: float
    MYO: float
    RV: float


@dataclass(frozen=True, slots=True)
class MeasureSummary:
    """One measure of one label over all cases; ``mean``, ``min`` and ``max`` over both phases of every case."""

    mean: float
    min: float
    max: float
    ED: float
    ES: float


@dataclass(frozen=True, slots=True)
class FunctionError:
    """Difference of an index from the truth over all cases: mean absolute, mean, and 95 % limits of agreement."""

    mae: float
    bias: float
    loa: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class EvaluatedHeart:
    """One heart at end diastole and end systole with its true labels.

    Attributes
    ----------
    truth : (2, S, R, C) uint8
        Values of :class:`~pipelines.segmentation.labels.Label`.
    traits : dict
        What is known of the person and the scanner.
    """

    identifier: str
    group: str
    stack: CineStack
    truth: NDArray[np.uint8]
    traits: dict[Trait, str]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Results on one patient; measures are pairs of end diastole and end systole."""

    patient: str
    group: str
    refused: str | None
    dice: dict[str, tuple[float, float]]
    hd95_mm: dict[str, tuple[float, float]]
    assd_mm: dict[str, tuple[float, float]]
    function: dict[str, tuple[float, float]]
    """Measured and true value of each index."""
    agreement: float
    seconds: float
    traits: dict[Trait, str] = field(default_factory=dict)
    slices: tuple[tuple[float, float, bool], ...] = ()
    """Predicted and true Dice of each slice with a label found or true, and whether any was found."""
    thumbnail: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    @property
    def mean_dice(self) -> float:
        """Mean over labels and phases."""
        return float(np.mean([value for pair in self.dice.values() for value in pair]))


@dataclass(frozen=True, slots=True)
class ConfidenceSummary:
    """How well the predicted Dice of a slice tells its true one, over slices with a label found.

    Attributes
    ----------
    slices : int
    correlation : float
        Pearson's, of predicted and true Dice (mean over the labels that either has).
    predicted, true : float
        Means.
    flagged : float
        Share of the slices predicted below :data:`pipelines.segmentation.confidence.LIKELY_WRONG`.
    sensitivity : float
        Share of the worst tenth of the slices that is flagged.
    overlooked : int
        Slices where there is a ventricle and nothing was found: no confidence tells of them.
    """

    slices: int
    correlation: float
    predicted: float
    true: float
    flagged: float
    sensitivity: float
    overlooked: int


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Results on one diagnostic group."""

    cases: int
    dice: dict[str, float]
    LVEF_mae: float


@dataclass(frozen=True, slots=True)
class WorstCase:
    """One of the cases with the worst results."""

    patient: str
    group: str
    dice: float
    LVEF_error: float
    refused: str | None


@dataclass(frozen=True, slots=True)
class SegmentationEvaluation:
    """The figures of :func:`evaluate`. A refused case counts with Dice 0 and has no distances and no function."""

    cases: int
    refused: int
    seen_in_training: tuple[str, ...]
    """Cases that one of the networks was trained on: figures over them say nothing about new patients."""
    models: dict[str, str]
    """Version and hash of each network."""
    dice: dict[str, MeasureSummary]
    hd95_mm: dict[str, MeasureSummary]
    assd_mm: dict[str, MeasureSummary]
    function: dict[str, FunctionError]
    groups: dict[str, GroupSummary]
    fairness: tuple[TraitGroup, ...]
    gaps: dict[Trait, float]
    """Of each trait, how much lower the mean Dice of its worst group is than that of its best."""
    confidence: ConfidenceSummary
    worst: tuple[WorstCase, ...]
    results: tuple[CaseResult, ...]
    style: ForeignStyle | None = None
    """Whose grey values and sharpness the images were given; ``None`` where they are as acquired."""
    fat_told_by_crops: Estimate | None = None
    """How well a simple classifier tells from the crops who has more subcutaneous fat than the median (phantoms)."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; figures that do not exist are ``None``."""
        found = asdict(self)
        for result in found["results"]:
            del result["thumbnail"], result["slices"]
        return cast("dict[str, Any]", plain(found))


def volumes(labels: NDArray[np.uint8], geometry: StackGeometry) -> Volumes:
    """Volumes of one phase of labels (S, R, C), ml: area of each slice times the tissue it stands for."""
    pixel = geometry.pixel_spacing[0] * geometry.pixel_spacing[1]
    millilitres = [float((labels == label).sum((1, 2)) @ geometry.slice_intervals()) * pixel / 1000 for label in LABELS]
    return Volumes(*millilitres)


def _indices(ed: Volumes, es: Volumes) -> dict[str, float]:
    def fraction(first: float, second: float) -> float:
        return 100 * (first - second) / first if first > 0 else float("nan")

    return {
        "LVEF": fraction(ed.LV, es.LV),
        "LVEDV": ed.LV,
        "LVESV": es.LV,
        "RVEF": fraction(ed.RV, es.RV),
        "LVM": ed.MYO * MYOCARDIAL_DENSITY_G_ML,
    }


def surface_distances(
    found: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> tuple[float, float]:
    """95th percentile of the Hausdorff distance and average symmetric surface distance of two solids, mm.

    Parameters
    ----------
    found, truth : (S, R, C) bool
    spacing : (float, float, float)
        Slice pitch, distance between rows, between columns, mm.

    Returns
    -------
    hd95, assd
        NaN where either is empty.
    """
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    if not found.any() or not truth.any():
        return float("nan"), float("nan")
    where = np.nonzero(found | truth)
    box = tuple(slice(max(0, int(axis.min()) - 2), int(axis.max()) + 3) for axis in where)
    # MONAI finds edges by erosion: without a margin a solid at the border of the image would have none there.
    first, second = (torch.from_numpy(np.pad(solid[box], 1))[None, None].float() for solid in (found, truth))
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that its own functions pass on.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        hd95 = compute_hausdorff_distance(first, second, include_background=True, percentile=95, spacing=spacing)
        assd = compute_average_surface_distance(first, second, include_background=True, symmetric=True, spacing=spacing)
    return float(hd95), float(assd)


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Dice coefficient of two solids; 1 where both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


def patient_heart(patient: AcdcPatient, style: ForeignStyle | None = None) -> EvaluatedHeart:
    """A patient of ACDC with the expert's labels, as acquired or as another scanner might have shown it."""
    shown = patient if style is None else restyle(patient, style)
    traits = {Trait.DISEASE: patient.group}
    if patient.height_cm and patient.weight_kg:
        traits[Trait.HABITUS] = habitus(patient.height_cm / 100, patient.weight_kg)
    truth = np.stack([frame.labels for frame in patient.frames])
    return EvaluatedHeart(patient.identifier, patient.group, to_stack(shown), truth, traits)


def phantom_heart(recipe: PhantomRecipe) -> EvaluatedHeart:
    """A phantom at end diastole and near end systole with its true labels."""
    return _phantom(recipe)[0]


def _phantom(recipe: PhantomRecipe) -> tuple[EvaluatedHeart, float]:
    study = simulate_case(recipe)
    cine, phases = study.short_axis, [0, END_SYSTOLE]
    stack = CineStack(
        view=cine.view,
        pixels=cine.pixels[phases].astype(np.float32),
        geometry=cine.geometry,
        sources=nominal_sources(f"phantom-{recipe.seed}", range(2), cine.pixels.shape[1]),
        trigger_times=cine.trigger_times[phases],
        rr_intervals=cine.rr_intervals,
        frame_of_reference_uid=f"phantom-{recipe.seed}",
    )
    heart = EvaluatedHeart(
        f"phantom-{recipe.seed}", str(recipe.disease), stack, cine.labels[phases], phantom_traits(study)
    )
    return heart, study.subject.body.fat_mm


def _evaluate_heart(heart: EvaluatedHeart, models: Path) -> CaseResult:
    stack = heart.stack
    begin = time.perf_counter()
    try:
        segmentation = segment(stack, models=models)
    except SegmentationRefused as refusal:
        none, zero = (float("nan"), float("nan")), (0.0, 0.0)
        names = [label.name for label in LABELS]
        return CaseResult(
            heart.identifier,
            heart.group,
            str(refusal),
            dict.fromkeys(names, zero),
            dict.fromkeys(names, none),
            dict.fromkeys(names, none),
            {},
            0.0,
            time.perf_counter() - begin,
            heart.traits,
        )
    seconds = time.perf_counter() - begin
    geometry = stack.geometry
    spacing = (geometry.pitch, *geometry.pixel_spacing)
    overlaps: dict[str, tuple[float, float]] = {}
    far: dict[str, tuple[float, float]] = {}
    near: dict[str, tuple[float, float]] = {}
    for label in LABELS:
        pairs = [(found == label, true == label) for found, true in zip(segmentation.labels, heart.truth, strict=True)]
        distances = [surface_distances(found, truth, spacing) for found, truth in pairs]
        overlaps[label.name] = (dice(*pairs[0]), dice(*pairs[1]))
        far[label.name] = (distances[0][0], distances[1][0])
        near[label.name] = (distances[0][1], distances[1][1])
    measured = _indices(*(volumes(found, geometry) for found in segmentation.labels))
    true = _indices(*(volumes(labels, geometry) for labels in heart.truth))
    return CaseResult(
        patient=heart.identifier,
        group=heart.group,
        refused=None,
        dice=overlaps,
        hd95_mm=far,
        assd_mm=near,
        function={name: (measured[name], true[name]) for name in measured},
        agreement=float(segmentation.agreement.mean()),
        seconds=seconds,
        traits=heart.traits,
        slices=_slices(segmentation, heart.truth),
        thumbnail=crop_thumbnail(stack.pixels, segmentation),
    )


def _slices(segmentation: CineSegmentation, truth: NDArray[np.uint8]) -> tuple[tuple[float, float, bool], ...]:
    if segmentation.confidence is None:
        return ()
    areas = np.stack([((segmentation.labels == label).sum((2, 3)) + (truth == label).sum((2, 3))) for label in LABELS])
    shared = np.stack([((segmentation.labels == label) & (truth == label)).sum((2, 3)) for label in LABELS])
    there = areas > 0
    true = np.where(there, 2 * shared / np.maximum(areas, 1), 0).sum(0) / np.maximum(there.sum(0), 1)
    found = (segmentation.labels != Label.BACKGROUND).any((2, 3))
    return tuple(
        (float(segmentation.confidence[place]), float(true[place]), bool(found[place]))
        for place in zip(*np.nonzero(there.any(0)), strict=True)
    )


def _confidence(results: Sequence[CaseResult]) -> ConfidenceSummary:
    pairs = [(predicted, true) for result in results for predicted, true, found in result.slices if found]
    overlooked = sum(not found for result in results for _, _, found in result.slices)
    if len(pairs) < _FEWEST_SLICES:
        none = float("nan")
        return ConfidenceSummary(len(pairs), none, none, none, none, none, overlooked)
    predicted, true = np.array(pairs).T
    flagged = predicted < LIKELY_WRONG
    return ConfidenceSummary(
        slices=len(pairs),
        correlation=float(np.corrcoef(predicted, true)[0, 1]),
        predicted=float(predicted.mean()),
        true=float(true.mean()),
        flagged=float(flagged.mean()),
        sensitivity=float(flagged[true <= np.quantile(true, 0.1)].mean()),
        overlooked=overlooked,
    )


def _summary(pairs: list[tuple[float, float]]) -> MeasureSummary:
    values = np.array(pairs, dtype=np.float64)
    if np.isnan(values).all():
        return MeasureSummary(*[float("nan")] * 5)
    phases = [float(np.nanmean(column)) if not np.isnan(column).all() else float("nan") for column in values.T]
    return MeasureSummary(
        float(np.nanmean(values)), float(np.nanmin(values)), float(np.nanmax(values)), phases[0], phases[1]
    )


def _differences(results: Sequence[CaseResult], index: str) -> NDArray[np.float64]:
    pairs = [result.function[index] for result in results if index in result.function]
    differences = np.array([measured - true for measured, true in pairs], dtype=np.float64)
    return differences[np.isfinite(differences)]


def _error(differences: NDArray[np.float64]) -> FunctionError:
    if not len(differences):
        return FunctionError(float("nan"), float("nan"), (float("nan"), float("nan")))
    bias = float(differences.mean())
    spread = 1.96 * float(differences.std(ddof=1)) if len(differences) > 1 else float("nan")
    return FunctionError(float(np.abs(differences).mean()), bias, (bias - spread, bias + spread))


def _summarise(
    results: Sequence[CaseResult], models: Path, style: ForeignStyle | None = None
) -> SegmentationEvaluation:
    cards = {card.name: card for card in list_models(models) if card.name in (LOCALISER, FINE_MODEL)}
    trained_on = {case for card in cards.values() for case in card.training.cases}
    groups = {}
    for group in sorted({result.group for result in results}):
        members = [result for result in results if result.group == group]
        groups[group] = GroupSummary(
            cases=len(members),
            dice={label.name: _summary([member.dice[label.name] for member in members]).mean for label in LABELS},
            LVEF_mae=_error(_differences(members, "LVEF")).mae,
        )
    fairness = trait_groups(
        [
            (
                result.traits,
                None if result.refused else result.mean_dice,
                float(np.abs(_differences([result], "LVEF")).sum()) if len(_differences([result], "LVEF")) else None,
            )
            for result in results
        ]
    )
    worst = sorted(results, key=lambda result: result.mean_dice)[:5]
    return SegmentationEvaluation(
        cases=len(results),
        refused=sum(result.refused is not None for result in results),
        seen_in_training=tuple(result.patient for result in results if result.patient in trained_on),
        models={name: f"{card.version} {card.weights_sha256}" for name, card in cards.items()},
        dice={label.name: _summary([result.dice[label.name] for result in results]) for label in LABELS},
        hd95_mm={label.name: _summary([result.hd95_mm[label.name] for result in results]) for label in LABELS},
        assd_mm={label.name: _summary([result.assd_mm[label.name] for result in results]) for label in LABELS},
        function={index: _error(_differences(results, index)) for index in ("LVEF", "LVEDV", "LVESV", "RVEF", "LVM")},
        groups=groups,
        fairness=fairness,
        gaps={trait: gap(fairness, trait) for trait in dict.fromkeys(group.trait for group in fairness)},
        confidence=_confidence(results),
        worst=tuple(
            WorstCase(
                result.patient,
                result.group,
                result.mean_dice,
                float(_differences([result], "LVEF").sum()) if result.function else float("nan"),
                result.refused,
            )
            for result in worst
        ),
        results=tuple(results),
        style=style,
    )


def cases_of_fold(data: Path, fold: int) -> tuple[str, ...]:
    """Patients of ``data`` that a network trained with ``fold`` on the same folder has not seen.

    Raises
    ------
    AcdcLayoutError
        The folder is not in ACDC's layout.
    ValueError
        There is no such fold.
    """
    split = folds(acdc_set(data).groups)
    if not 0 <= fold < len(split):
        raise ValueError(f"there is no fold {fold}; folds are 0 to {len(split) - 1}")
    return split[fold]


def evaluate(
    data: Path,
    *,
    cases: Sequence[str] | None = None,
    fold: int | None = None,
    models: Path = PACKAGED,
    style: ForeignStyle | None = None,
    report: Callable[[CaseResult, int, int], None] | None = None,
) -> SegmentationEvaluation:
    """Segment patients in ACDC's layout and compare with their annotation, as three-dimensional volumes.

    Parameters
    ----------
    data : Path
        Folder that holds patient folders at any depth.
    cases : sequence of str or None
        Only these patients.
    fold : int or None
        Only the patients of this fold: those kept out of training where the models were trained with it.
    models : Path
        Folder that holds a folder for each network; by default those that come with the package.
    style : ForeignStyle or None
        Show the patients as another scanner might have: a stand-in for patients of other vendors.
    report : callable
        Is called after each patient with its result, its number and the number of patients.

    Raises
    ------
    AcdcLayoutError
        The folder is not in ACDC's layout.
    ValueError
        A case that is not there, no such fold, or nothing left to evaluate.
    ModelUnavailable
        ``models`` lacks a network, or its weights are not those of its card.
    """
    folders = {folder.name: folder for folder in find_patients(data)}
    wanted = set(folders)
    if cases is not None:
        missing = sorted(set(cases) - wanted)
        if missing:
            raise ValueError(f"{data} has no patient {', '.join(missing)}")
        wanted &= set(cases)
    if fold is not None:
        wanted &= set(cases_of_fold(data, fold))
    if not wanted:
        raise ValueError("no patient is left to evaluate: the cases named are not in the fold named")
    results = []
    for number, name in enumerate(sorted(wanted), start=1):
        results.append(_evaluate_heart(patient_heart(read_patient(folders[name]), style), models))
        if report is not None:
            report(results[-1], number, len(wanted))
    return _summarise(results, models, style)


def evaluate_phantoms(
    recipes: Sequence[PhantomRecipe],
    *,
    models: Path = PACKAGED,
    report: Callable[[CaseResult, int, int], None] | None = None,
) -> SegmentationEvaluation:
    """Segment phantoms at end diastole and near end systole, and compare with what is true.

    Parameters
    ----------
    recipes : sequence of PhantomRecipe
        Such as :func:`pipelines.training.phantoms.case_recipe` draws, with seeds that no network was trained on.
    models : Path
        As in :func:`evaluate`.
    report : callable
        Is called after each phantom with its result, its number and the number of phantoms.

    Raises
    ------
    ValueError
        There is no recipe.
    ModelUnavailable
        As in :func:`evaluate`.
    """
    if not recipes:
        raise ValueError("no phantom is left to evaluate: give at least one")
    results = []
    fat = []
    for number, recipe in enumerate(recipes, start=1):
        heart, fat_mm = _phantom(recipe)
        results.append(_evaluate_heart(heart, models))
        fat.append(fat_mm)
        if report is not None:
            report(results[-1], number, len(recipes))
    seen = [index for index, result in enumerate(results) if result.thumbnail is not None]
    told = told_by_crops(
        [thumbnail for result in results if (thumbnail := result.thumbnail) is not None],
        [fat[index] > float(np.median(fat)) for index in seen],
    )
    return replace(_summarise(results, models), fat_told_by_crops=told)
