"""Disease patterns against the groups of ACDC, five folds, with masks of the node's own segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.model_selection import StratifiedKFold

from pipelines.disease_pattern.findings import Pattern
from pipelines.training.disease_pattern import Patients, classifier

__all__ = ["PatternEvaluation", "evaluate_patterns"]

_FOLDS = 5
_BINS = 5


@dataclass(frozen=True, slots=True)
class PatternEvaluation:
    """Figures of five folds; each patient is judged by a model that had not seen it.

    Attributes
    ----------
    accuracy : dict
        Share of right patterns, with the exact (Clopper-Pearson) 95 % interval.
    unseen : dict
        The same of the patients that the segmentation was not trained on either.
    confusion : dict of str to dict of str to int
        True group, then the likeliest pattern.
    log_loss, brier : float
        Brier score summed over the patterns (0 to 2).
    expected_calibration_error : float
        Of the probability of the likeliest pattern, five bins of equal count.
    accuracy_by_draw : tuple of float
        Of the same folds drawn with other seeds: how much depends on the draw.
    """

    patients: int
    declined: dict[str, str]
    accuracy: dict[str, Any]
    unseen: dict[str, Any]
    confusion: dict[str, dict[str, int]]
    log_loss: float
    brier: float
    expected_calibration_error: float
    accuracy_by_draw: tuple[float, ...]
    wrong: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def evaluate_patterns(
    patients: Patients, segmentation_cases: Sequence[str], *, seed: int = 0, draws: int = 5
) -> PatternEvaluation:
    """Judge patients by five folds, stratified by group.

    Parameters
    ----------
    patients : Patients
    segmentation_cases : sequence of str
        Patients that the segmentation was trained on.
    seed : int
        Of the folds.
    draws : int
        Further draws of the folds, for ``accuracy_by_draw``.

    Raises
    ------
    ValueError
        A pattern has fewer patients than there are folds.
    """
    probabilities = _cross_validated(patients, seed)
    truth, chosen = patients.patterns, probabilities.argmax(axis=1)
    right = chosen == truth
    unseen = ~np.isin(patients.names, list(segmentation_cases))
    keys = [str(pattern) for pattern in Pattern]
    of_truth = probabilities[np.arange(len(truth)), truth]
    return PatternEvaluation(
        patients=len(truth),
        declined=patients.declined,
        accuracy=_share(right),
        unseen=_share(right[unseen]),
        confusion={
            keys[group]: {keys[other]: int(((truth == group) & (chosen == other)).sum()) for other in range(len(keys))}
            for group in range(len(keys))
        },
        log_loss=float(-np.log(np.maximum(of_truth, 1e-12)).mean()),
        brier=float(np.square(probabilities - np.eye(len(keys))[truth]).sum(axis=1).mean()),
        expected_calibration_error=_calibration_error(probabilities.max(axis=1), right),
        accuracy_by_draw=tuple(
            float((_cross_validated(patients, seed + 1 + draw).argmax(axis=1) == truth).mean()) for draw in range(draws)
        ),
        wrong={
            str(patients.names[index]): f"{keys[truth[index]]} as {keys[chosen[index]]} "
            f"({probabilities[index, chosen[index]]:.2f})"
            for index in np.flatnonzero(~right)
        },
    )


def _cross_validated(patients: Patients, seed: int) -> NDArray[np.float64]:
    fewest = int(np.bincount(patients.patterns, minlength=len(Pattern)).min())
    if fewest < _FOLDS:
        raise ValueError(f"{fewest} patients of one pattern: {_FOLDS} of each are needed")
    found = np.zeros((len(patients.patterns), len(Pattern)))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    for seen, held in folds.split(patients.features, patients.patterns):
        model = classifier().fit(patients.features[seen], patients.patterns[seen])
        found[held] = model.predict_proba(patients.features[held])
    return found


def _share(right: NDArray[np.bool_]) -> dict[str, Any]:
    if not right.size:
        return {"share": None, "interval": None, "patients": 0}
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="exact")
    return {"share": float(right.mean()), "interval": (interval.low, interval.high), "patients": len(right)}


def _calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    parts = np.array_split(np.argsort(confidence, kind="stable"), _BINS)
    errors = [abs(confidence[part].mean() - right[part].mean()) * len(part) for part in parts if len(part)]
    return float(sum(errors) / len(right))
