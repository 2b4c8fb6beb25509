"""Figures of synthetic enhancement over the hearts that were judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.enhancement_ablations import TRAINED, Ablated
from pipelines.evaluation.figures import plain
from pipelines.evaluation.heart_statistics import (
    agreement,
    area,
    area_with_interval,
    exact_interval,
    interval,
    mean,
    reliability,
    resampled,
)
from pipelines.evaluation.synthetic_hearts import HeartResult
from pipelines.synthetic_enhancement.features import Ablation
from pipelines.synthetic_enhancement.measure import EXTENT_SEEN

__all__ = ["EnhancementEvaluation", "summarise"]


@dataclass(frozen=True, slots=True)
class EnhancementEvaluation:
    """Figures over phantoms of one law; intervals are 95 % of a bootstrap over hearts."""

    hearts: int
    declined: int
    image_shown: int
    scarred: int
    hyperintense: dict[str, Any]
    intermediate: dict[str, Any]
    auc: dict[str, float]
    auc_detail: dict[str, Any]
    """The same with intervals and numbers of cases."""
    patient_auc_by_disease: dict[str, Any]
    """Scarred hearts of one disease, and every heart without scar."""
    hallucination_rate: float
    """Of the hearts without any scar: reported hyperintense extent of 1 % and more. Where that is 0 no image with
    enhancement is shown either."""
    hallucination_interval: tuple[float, float]
    """Exact (Clopper-Pearson) 95 % interval."""
    image_hallucination_rate: float
    """The same without the operating point: of the image alone, shown or not."""
    extents_by_disease: dict[str, Any]
    """Means of true scar, of the measure on the simulated late enhancement, and of the reported extent."""
    ablations: dict[str, Any]
    acquired_hallucination_rate: float
    """The same on the simulated late enhancement itself: what the measure makes of noise and of blood at the rim."""
    miss_rate: float
    """Of the hearts whose true scar is 1 % of the muscle and more: hyperintense extent below 1 %."""
    miss_rate_by_size: dict[str, Any]
    calibration: dict[str, Any]
    classifiers: dict[str, Any]
    ceiling: dict[str, Any]
    seconds: float
    results: tuple[HeartResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; figures that do not exist are ``None``."""
        return plain(asdict(self))


def summarise(results: Sequence[HeartResult]) -> EnhancementEvaluation:
    """Figures over the hearts of one evaluation."""
    done = [result for result in results if result.declined is None]
    scarred = [result for result in done if result.patient[0]]
    free = [result for result in done if result.lesion_percent < 0.01]
    visible = [result for result in done if result.lesion_percent >= EXTENT_SEEN]

    def missed(members: Sequence[HeartResult]) -> float:
        return mean([result.hyperintense[1] < EXTENT_SEEN for result in members])

    sizes = {"1 to 5 %": (1, 5), "5 to 15 %": (5, 15), "over 15 %": (15, 101)}
    ceiling = [[(truth, value) for truth, value in result.ceiling_segments] for result in results]
    areas = {
        "slice": area_with_interval([list(result.slices) for result in done]),
        "segment": area_with_interval([list(result.segments) for result in done]),
        "patient": area_with_interval([[result.patient] for result in done]),
    }
    of_hearts = [[(any(t for t, _ in group), max(p for _, p in group))] for group in ceiling]
    return EnhancementEvaluation(
        hearts=len(results),
        declined=len(results) - len(done),
        image_shown=sum(result.shown == "image and probability" for result in done),
        scarred=len(scarred),
        hyperintense={
            **agreement([result.hyperintense for result in done]),
            "of_true_scar": agreement([(result.lesion_percent, result.hyperintense[1]) for result in done]),
        },
        intermediate=agreement([result.intermediate for result in done]),
        auc={name: entry["auc"] for name, entry in areas.items()},
        auc_detail=areas,
        patient_auc_by_disease={
            disease: area_with_interval([[one.patient] for one in done if one.disease == disease or one in free])
            for disease in sorted({one.disease for one in scarred})
        },
        hallucination_rate=mean([result.hyperintense[1] >= EXTENT_SEEN for result in free]),
        hallucination_interval=exact_interval([result.hyperintense[1] >= EXTENT_SEEN for result in free]),
        image_hallucination_rate=mean([result.image_percent >= EXTENT_SEEN for result in free]),
        extents_by_disease=_by_disease(done),
        ablations=_ablation_figures(done),
        acquired_hallucination_rate=mean([result.hyperintense[0] >= EXTENT_SEEN for result in free]),
        miss_rate=missed(visible),
        miss_rate_by_size={
            name: {
                "hearts": len(members := [r for r in visible if low <= r.lesion_percent < high]),
                "rate": missed(members),
            }
            for name, (low, high) in sizes.items()
        },
        calibration={
            "slice": reliability([pair for result in done for pair in result.slices]),
            "segment": reliability([pair for result in done for pair in result.segments]),
            "patient": reliability([result.patient for result in done]),
        },
        classifiers={
            name: {
                "auc": area_with_interval([[(result.patient[0], result.classifiers[name])] for result in done]),
                **reliability([(result.patient[0], result.classifiers[name]) for result in done]),
            }
            for name in (done[0].classifiers if done else {})
        },
        ceiling={"segment": area_with_interval(ceiling), "patient": area_with_interval(of_hearts)},
        seconds=mean([result.seconds for result in done]),
        results=tuple(results),
    )


def _by_disease(results: Sequence[HeartResult]) -> dict[str, Any]:
    found = {}
    for disease in sorted({one.disease for one in results}):
        members = [one for one in results if one.disease == disease]
        found[disease] = {
            "hearts": len(members),
            "true_percent": mean([one.lesion_percent for one in members]),
            "acquired_percent": mean([one.hyperintense[0] for one in members]),
            "predicted_percent": mean([one.hyperintense[1] for one in members]),
        }
    return found


def _ablation_figures(results: Sequence[HeartResult]) -> dict[str, Any]:
    """Figures over hearts by what was changed.

    Networks that were asked again without an input are held against everything, those that were trained without one
    against the first of them. Differences are those of the same hearts, their intervals of a bootstrap over these.
    """
    tried = [one for one in results if one.ablations]
    names = tuple(tried[0].ablations) if tried else ()
    trained = next((name for name in names if name.startswith(TRAINED)), "")
    draws = resampled(len(tried))
    found: dict[str, Any] = {}
    for name in names:
        reference = trained if name.startswith(TRAINED) else str(Ablation.EVERYTHING)
        parts, beside = ([one.ablations[which] for one in tried] for which in (name, reference))
        errors = np.array([part.squared_error for part in parts])
        more = errors - np.array([part.squared_error for part in beside])
        found[name] = {"squared_error": float(errors.mean()), "squared_error_interval": _of_means(errors, draws)}
        if name != reference:
            found[name]["more_squared_error"] = float(more.mean())
            found[name]["more_squared_error_interval"] = _of_means(more, draws)
        if parts[0].deviation is not None:
            found[name]["deviation"] = mean([part.deviation or 0.0 for part in parts])
        if parts[0].hyperintense_percent is not None:
            found[name]["hyperintense"] = agreement(
                [
                    (one.hyperintense[0], part.hyperintense_percent or 0.0)
                    for one, part in zip(tried, parts, strict=True)
                ]
            )
        if parts[0].probability is not None:
            found[name]["auc"] = area_with_interval(
                [[(one.patient[0], part.probability or 0.0)] for one, part in zip(tried, parts, strict=True)]
            )
        if parts[0].logit is not None:
            found[name]["auc_uncalibrated"] = {
                "slice": area_with_interval(of_slices := _logits_of_slices(tried, parts)),
                "patient": area_with_interval(
                    [[(one.patient[0], part.logit or 0.0)] for one, part in zip(tried, parts, strict=True)]
                ),
            }
            if name != reference:
                other = _logits_of_slices(tried, beside)
                found[name]["less_auc_slice"] = area(other) - area(of_slices)
                found[name]["less_auc_slice_interval"] = interval(
                    [area([other[i] for i in chosen]) - area([of_slices[i] for i in chosen]) for chosen in draws]
                )
    return found


def _logits_of_slices(results: Sequence[HeartResult], parts: Sequence[Ablated]) -> list[list[tuple[bool, float]]]:
    """Truth and uncalibrated logit of the slices of each heart."""
    return [
        [(scar, value) for (scar, _), value in zip(one.slices, part.slices, strict=True)]
        for one, part in zip(results, parts, strict=True)
    ]


def _of_means(values: NDArray[np.float64], draws: Sequence[NDArray[np.intp]]) -> tuple[float, float]:
    return interval([float(values[chosen].mean()) for chosen in draws])
