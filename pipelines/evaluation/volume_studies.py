"""Volumes, intervals and badges of phantoms, without strain; kept in a folder, so that rules can be tried again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import AnalysisRefused
from pipelines.evaluation.motion import read_long_axis
from pipelines.evaluation.volumes import (
    BadgeRow,
    Errors,
    FindingRow,
    IntervalRow,
    MeasuredVolumes,
    StudyVolumes,
    badge_table,
    errors_of,
    finding_table,
    graded_again,
    interval_table,
    number_errors,
    study_volumes,
    true_volumes,
)
from pipelines.function.slices import measure_slices
from pipelines.function.uncertainty import VolumeErrors
from pipelines.function.valve_cut import cut_by_views
from pipelines.models.registry import list_models
from pipelines.motion.phantoms import measured_recipe
from pipelines.phantom.assembled import cine_study
from pipelines.phantom.identity import recipe_key
from pipelines.phantom.study import simulate
from pipelines.phantom.truth import measure_truth
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import segment

__all__ = ["VolumeEvaluation", "VolumeStudy", "evaluate_volumes", "kept_studies", "summarise_volumes"]

_NETWORKS = ("heart-localiser", "ventricle-segmentation", "long-axis-segmentation")


@dataclass(frozen=True, slots=True)
class VolumeStudy:
    """What came of one phantom.

    Attributes
    ----------
    recipe : str
        Key of the recipe that it was made from (:func:`pipelines.phantom.identity.recipe_key`).
    weights : str
        First digits of the digests of the networks that took part: what others gave is not mixed up with it.
    refused : str or None
        Why nothing was measured.
    volumes : StudyVolumes or None
        ``None`` where nothing was measured.
    """

    seed: int
    disease: str
    vendor: str
    faults: tuple[str, ...]
    recipe: str
    weights: str
    refused: str | None
    volumes: StudyVolumes | None


@dataclass(frozen=True, slots=True)
class VolumeEvaluation:
    """Figures over phantoms."""

    phantoms: int
    refused: int
    seeds: tuple[int, ...]
    weights: tuple[str, ...]
    errors: dict[str, dict[str, Errors]]
    """As :func:`number_errors` gives them."""
    lvef_by_group: dict[str, Errors]
    """By fault, ``no fault`` and vendor, points."""
    intervals: dict[str, dict[str, IntervalRow]]
    """``reported`` and ``short_axis``, each by number."""
    badge: dict[str, BadgeRow]
    badge_without_fault: dict[str, BadgeRow]
    findings: dict[str, FindingRow]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def weights_in_use() -> str:
    """First digits of the digests of the networks of the package that volumes are measured with."""
    cards = {card.name: card.weights_sha256 for card in list_models()}
    return "-".join(cards[name][:8] for name in _NETWORKS)


def evaluate_volumes(
    count: int,
    *,
    seed: int = 0,
    faults: bool = False,
    keep: Path | None = None,
    report: Callable[[VolumeStudy, int, int], None] | None = None,
) -> tuple[VolumeStudy, ...]:
    """Measure and grade phantoms as the node would, segmentation and long axis included, strain left out.

    Parameters
    ----------
    count : int
    seed : int
        Of the first phantom; seeds count up.
    faults : bool
        Whether the acquisitions of three in five phantoms have a fault.
    keep : Path or None
        Folder for what came of each phantom; what lies there from the same networks is not made again.
    report : callable
        Called after each phantom.
    """
    results = []
    for number in range(count):
        one = _kept(keep, seed + number, faults) or _measure(seed + number, faults)
        if keep is not None:
            _keep(keep, one)
        results.append(one)
        if report is not None:
            report(one, number + 1, count)
    return tuple(results)


def _measure(seed: int, faults: bool) -> VolumeStudy:
    recipe = measured_recipe(seed, faults=faults)
    study = simulate(recipe)
    facts = measure_truth(study).facts
    faulty = tuple(sorted(map(str, recipe.faults)))
    named = (seed, str(recipe.disease), str(recipe.dialect), faulty, recipe_key(recipe), weights_in_use())
    cines = cine_study(study)
    stack = cines.short_axis
    try:
        if stack is None:
            raise SegmentationRefused("The study holds no short-axis cine stack.")
        segmentation = segment(stack)
        views = read_long_axis(cines, stack, segmentation)
        alone = measure_slices(stack, segmentation)
    except (AnalysisRefused, SegmentationRefused) as refusal:
        return VolumeStudy(*named, str(refusal), None)
    reported = alone if views is None else cut_by_views(alone, stack, views)
    return VolumeStudy(*named, None, study_volumes(stack, segmentation, reported, alone, true_volumes(facts)))


def _keep(folder: Path, study: VolumeStudy) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{study.seed}.json"
    being_written = path.with_suffix(".part")
    being_written.write_text(json.dumps(asdict(study), indent=1))
    being_written.rename(path)


def _kept(folder: Path | None, seed: int, faults: bool) -> VolumeStudy | None:
    """What lies in the folder of this phantom, where it is of the same networks and recipe."""
    path = None if folder is None else folder / f"{seed}.json"
    if path is None or not path.exists():
        return None
    study = _read(path)
    recipe = recipe_key(measured_recipe(seed, faults=faults))
    return study if (study.weights, study.recipe) == (weights_in_use(), recipe) else None


def kept_studies(folder: Path) -> tuple[VolumeStudy, ...]:
    """Everything that a folder keeps, by seed."""
    return tuple(sorted((_read(path) for path in folder.glob("*.json")), key=lambda one: one.seed))


def _read(path: Path) -> VolumeStudy:
    """A kept study: intervals and badge are those of the limits and errors that the node has today."""
    document = json.loads(path.read_text())
    volumes = document.pop("volumes")
    faults = tuple(document.pop("faults"))
    if volumes is None:
        return VolumeStudy(**document, faults=faults, volumes=None)
    ways = {
        way: MeasuredVolumes(
            volumes[way]["numbers"], {name: VolumeErrors(**one) for name, one in volumes[way]["errors"].items()}
        )
        for way in ("reported", "short_axis")
    }
    findings = {name: (grade, value) for name, (grade, value) in volumes["findings"].items()}
    measured = StudyVolumes(**(volumes | ways | {"findings": findings}))
    return VolumeStudy(**document, faults=faults, volumes=graded_again(measured))


def summarise_volumes(studies: Sequence[VolumeStudy]) -> VolumeEvaluation:
    """Figures over phantoms."""
    done = [one for one in studies if one.volumes is not None]
    volumes = [one.volumes for one in done if one.volumes is not None]
    groups: dict[str, list[tuple[float, float]]] = {}
    for one in done:
        assert one.volumes is not None
        pair = (one.volumes.true["LVEF"], one.volumes.reported.numbers.get("LVEF", float("nan")))
        for name in (*(one.faults or ("no fault",)), one.vendor):
            groups.setdefault(name, []).append(pair)
    return VolumeEvaluation(
        phantoms=len(studies),
        refused=len(studies) - len(done),
        seeds=tuple(one.seed for one in studies),
        weights=tuple(sorted({one.weights for one in studies})),
        errors=number_errors(volumes),
        lvef_by_group={name: errors_of(pairs) for name, pairs in sorted(groups.items())},
        intervals={way: interval_table(volumes, way) for way in ("reported", "short_axis")},
        badge=badge_table(volumes),
        badge_without_fault=badge_table([one.volumes for one in done if one.volumes is not None and not one.faults]),
        findings=finding_table(volumes),
    )
