"""Effect of each fault of the acquisition on synthetic enhancement: the same infarcts without it and with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.synthetic_hearts import HeartResult, judge_phantom
from pipelines.models.registry import PACKAGED
from pipelines.phantom.recipe import Fault
from pipelines.synthetic_enhancement.load import load_networks
from pipelines.training.heart_clips import Population, clip_recipe

__all__ = ["FaultyStudy", "evaluate_faults", "summarise_faults"]

NO_FAULT = "no fault"
_DISAGREEMENT = ("does not bear out", "is no measurement")
"""How reasons end that do not lie in the acquisition: image and probability of the heart contradict each other."""


@dataclass(frozen=True, slots=True)
class FaultyStudy:
    """One heart with one fault, or with none (``NO_FAULT``)."""

    fault: str
    result: HeartResult


def evaluate_faults(
    count: int,
    *,
    seed: int = 900000,
    faults: Sequence[Fault] = (),
    models: Path = PACKAGED,
    report: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Analyse acute infarcts as the node would, each without a fault and with each of the phantom's.

    Parameters
    ----------
    count : int
        Hearts; each is analysed once for every fault and once without.
    seed : int
        Of the first heart; seeds count up.
    faults : sequence of Fault
        Faults to try; all where none is named.
    models : Path
    report : callable
        Is called after each study with its name.

    Returns
    -------
    dict
        See :func:`summarise_faults`.

    Raises
    ------
    ModelUnavailable
        A network is missing.
    """
    networks = load_networks(root=models)
    kinds: tuple[Fault | None, ...] = (None, *sorted(faults or Fault))
    studies = []
    for number in range(count):
        recipe = clip_recipe(seed + number, Population.ACUTE_INFARCT)
        for kind in kinds:
            name = NO_FAULT if kind is None else str(kind)
            faulty = replace(recipe, faults=frozenset() if kind is None else frozenset({kind}))
            studies.append(FaultyStudy(name, judge_phantom(faulty, networks)))
            if report is not None:
                report(f"{recipe.seed} {name}", len(studies), count * len(kinds))
    return summarise_faults(studies)


def summarise_faults(studies: list[FaultyStudy]) -> dict[str, Any]:
    """Figures by fault.

    Returns
    -------
    dict
        By fault: studies; how many were declined, shown with their image, and with the probability alone; how many of
        those for a reason of the acquisition or the measurement, and not because image and probability contradict
        each other alone; why, with the number of studies of each reason; mean and largest absolute change of the
        probability and of the extent on the image against the same heart without a fault, points.
    """
    clean = {one.result.seed: one.result for one in studies if one.fault == NO_FAULT}
    found: dict[str, Any] = {}
    for fault in dict.fromkeys(one.fault for one in studies):
        results = [one.result for one in studies if one.fault == fault]
        answered = [one for one in results if one.declined is None]
        compared = [(one, clean[one.seed]) for one in answered if clean[one.seed].declined is None]
        found[fault] = {
            "studies": len(results),
            "declined": len(results) - len(answered),
            "image": sum(one.shown == "image and probability" for one in answered),
            "probability_alone": sum(one.shown == "probability" for one in answered),
            "withheld_for_quality": sum(
                any(not any(words in reason for words in _DISAGREEMENT) for reason in one.withheld) for one in answered
            ),
            "reasons": dict(
                Counter(
                    reason for one in results for reason in (one.withheld if one.declined is None else (one.declined,))
                )
            ),
            "probability_change": _mean([abs(one.patient[1] - other.patient[1]) for one, other in compared]),
            "extent_change_points": _mean([abs(one.image_percent - other.image_percent) for one, other in compared]),
            "probability_change_most": _most([abs(one.patient[1] - other.patient[1]) for one, other in compared]),
            "extent_change_most_points": _most(
                [abs(one.image_percent - other.image_percent) for one, other in compared]
            ),
        }
    return found


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _most(values: list[float]) -> float | None:
    return round(max(values), 4) if values else None
