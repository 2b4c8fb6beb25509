"""Classify the disease pattern of one study: probabilities, and what each feature contributed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.disease_pattern.features import ASSUMED_BSA_M2, FEATURES
from pipelines.disease_pattern.findings import Contribution, DiseasePattern, Pattern
from pipelines.disease_pattern.network import LogisticNetwork
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.models.registry import LoadedModel

__all__ = ["classify_pattern"]

_CONTRIBUTIONS = 6


def classify_pattern(features: NDArray[np.float64], assumed_size: bool, model: LoadedModel) -> DiseasePattern:
    """Tell which group of patients a heart resembles.

    Parameters
    ----------
    features : (len(FEATURES),) float64
    assumed_size : bool
        Whether the body surface area in them was assumed.
    model : LoadedModel

    Raises
    ------
    AnalysisRefused
        The heart is unlike every patient that the classifier learnt from.
    """
    network = model.network
    assert isinstance(network, LogisticNetwork)
    with torch.inference_mode():
        values = torch.from_numpy(features)[None].to(model.device)
        logits = network(values)[0].cpu().numpy()
        standardised = network.standardised(values)[0].cpu().numpy()
        weights = network.linear.weight.detach().cpu().numpy()
    departure, limit = float(np.sqrt(np.mean(standardised**2))), float(network.limit)
    if departure > limit:
        sentence = (
            f"The heart is unlike the patients that the classifier learnt from ({departure:.1f} standard deviations, "
            f"limit {limit:.1f}): no pattern is told."
        )
        raise AnalysisRefused(RefusalReason.NOT_SUITABLE, sentence)
    odds = np.exp(logits - logits.max())
    order = np.argsort(-odds)
    moved = (weights[order[0]] - weights[order[1]]) * standardised
    strongest = np.argsort(-np.abs(moved))[:_CONTRIBUTIONS]
    return DiseasePattern(
        probabilities={name: float(value) for name, value in zip(Pattern, odds / odds.sum(), strict=True)},
        contributions=tuple(
            Contribution(FEATURES[index], float(features[index]), float(moved[index])) for index in strongest
        ),
        features=dict(zip(FEATURES, map(float, features), strict=True)),
        departure=departure,
        assumed_size=assumed_size,
        notes=_notes(assumed_size),
        models=(model.identity,),
    )


def _notes(assumed_size: bool) -> tuple[str, ...]:
    notes = [
        "A resemblance to groups of patients, not a diagnosis: five groups of one hospital, each as frequent as any "
        "other; a heart of another kind is put into one of them all the same.",
        "Told from end diastole and end systole of the short axis alone. Neither age, sex, symptoms nor late "
        "enhancement are looked at.",
    ]
    if assumed_size:
        notes.append(
            f"Height or weight is not known: volumes were indexed by {ASSUMED_BSA_M2} m², so the pattern of a small or "
            "large patient may be wrong."
        )
    return tuple(notes)
