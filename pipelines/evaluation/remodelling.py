"""The remodelling classifier on phantoms that it has not seen, measured as the node measures a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pipelines.models.card import read_card
from pipelines.models.registry import PACKAGED, LoadedModel, load_model
from pipelines.phantom.law import DEFAULT_LAW, PESSIMISTIC_LAW
from pipelines.phantom.truth import remodelling_truth
from pipelines.remodelling.features import FEATURES, Feature
from pipelines.remodelling.measure import combined_model, predictors_of
from pipelines.remodelling.network import REMODELLING_MODEL, RemodellingNetwork
from pipelines.statistics import (
    Estimate,
    auc_interval,
    bootstrap_interval,
    brier_score,
    calibration,
    compare_aucs,
    decision_curve,
    sensitivity_at_specificity,
)
from pipelines.training.remodelling import BRANCHES, HELD_OUT_FILE, branch_logits
from pipelines.training.remodelling_hearts import RemodellingHeart, hearts_of_studies, phantom_heart, phantom_recipe

__all__ = [
    "AblationRow",
    "FeatureError",
    "RemodellingEvaluation",
    "compare_with_outcomes",
    "evaluate_held_out",
    "evaluate_remodelling",
    "predicted",
]

Array = NDArray[np.float64]

PAPER = {"cine network": 0.865, "cine network and conventional parameters": 0.889}
"""Areas of the LVAR study (Int J Cardiol 2026), 76 patients of whom 22 remodelled."""
CAUTION = (
    "The outcome is drawn from the simulator's own law of infarct size, obstruction, GLS and LA reservoir strain: a "
    "model trained on that law and tested on it learns the law. Nothing here says anything about patients."
)
_SPECIFICITY = 0.85
"""That of the study's network."""


@dataclass(frozen=True, slots=True)
class AblationRow:
    """One model on the same hearts.

    Attributes
    ----------
    model : str
        ``image``, ``morphology``, ``motion``, ``all`` (the network) or ``combined``.
    auc : float
    auc_ci : (float, float)
        95 %, DeLong.
    difference : float
        Area less that of the combined model.
    p_value : float
        DeLong's test against the combined model; NaN of that itself.
    """

    model: str
    auc: float
    auc_ci: tuple[float, float]
    difference: float
    p_value: float


@dataclass(frozen=True, slots=True)
class FeatureError:
    """Measured less true over the hearts."""

    hearts: int
    bias: float
    mean_absolute: float


@dataclass(frozen=True, slots=True)
class RemodellingEvaluation:
    """Figures of the combined model over phantoms; intervals are 95 %.

    Attributes
    ----------
    hearts, refused, events : int
        Measured, declined by the node, and with adverse remodelling among the measured.
    data : str
        What they are.
    model : str
        Version and SHA-256 of the weights.
    auc, brier, calibration_slope, calibration_intercept, sensitivity : float
        ``sensitivity`` at a specificity of 85 %.
    bayes_auc : float
        Of the probability that outcomes were drawn with, against the same outcomes: by chance it can be below ``auc``.
    bayes_brier : float
        Of the same.
    ablation : tuple of AblationRow
    decision_curve : tuple of dict
        Net benefit by threshold.
    errors : dict of str to FeatureError
        Of what the law looks at: GLS, reservoir strain, infarct size.
    paper : dict of str to float
    caution : str
    seconds : float
        Mean time that the node took for everything before the classifier.
    """

    hearts: int
    refused: int
    events: int
    data: str
    model: str
    auc: float
    auc_ci: tuple[float, float]
    bayes_auc: float
    bayes_auc_ci: tuple[float, float]
    brier: float
    brier_ci: tuple[float, float]
    bayes_brier: float
    calibration_slope: float
    calibration_intercept: float
    sensitivity: float
    ablation: tuple[AblationRow, ...]
    decision_curve: tuple[dict[str, float], ...]
    errors: dict[str, FeatureError]
    paper: dict[str, float]
    caution: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; figures that do not exist are ``None``."""
        return cast("dict[str, Any]", _plain(asdict(self)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value


def evaluate_remodelling(
    count: int,
    *,
    seed: int = 900000,
    pessimistic: bool = False,
    hearts: Path,
    models: Path = PACKAGED,
    report: Callable[[int, int], None] | None = None,
) -> RemodellingEvaluation:
    """Measure phantoms as the node does, its own segmentation included, and compare risk with outcome.

    Parameters
    ----------
    count : int
    seed : int
        Of the first phantom; seeds count up. The training has seen those from 710000 on.
    pessimistic : bool
        Draw the phantoms by the pessimistic law of motion and scar.
    hearts : Path
        Keeps what was measured, so that a stopped evaluation goes on and another model is soon evaluated.
    models : Path
        Folder of the model; by default the one that comes with the package.
    report : callable
        Is called with the phantoms done and wanted.

    Raises
    ------
    ModelUnavailable
        There is no such model in ``models``.
    ValueError
        All measured phantoms have the same outcome.
    """
    law = PESSIMISTIC_LAW if pessimistic else DEFAULT_LAW
    model = load_model(REMODELLING_MODEL, root=models)
    measured: list[RemodellingHeart] = []
    errors: dict[str, list[float]] = {}
    refused = 0
    network = cast("RemodellingNetwork", model.network)
    for number in range(count):
        heart = phantom_heart(seed + number, law, hearts)
        if isinstance(heart, str):
            refused += 1
        else:
            measured.append(heart)
            _note_errors(
                errors, heart, remodelling_truth(phantom_recipe(seed + number, law)).la_reservoir_percent, network
            )
        if report is not None:
            report(number + 1, count)
    law_name = "pessimistic" if pessimistic else "default"
    data = f"acute infarcts of the phantom, {law_name} law, seeds {seed} to {seed + count - 1}"
    return _evaluation(measured, refused, data, CAUTION, errors, model)


def evaluate_studies(
    studies: Path,
    labels: Path,
    *,
    hearts: Path,
    models: Path = PACKAGED,
    report: Callable[[int, int], None] | None = None,
) -> RemodellingEvaluation:
    """Compare risk with outcome on a site's own studies; for the table see :func:`hearts_of_studies`.

    Raises
    ------
    ModelUnavailable
        There is no such model in ``models``.
    ValueError
        The table cannot be read, a study was seen in training, or all have the same outcome.
    """
    model = load_model(REMODELLING_MODEL, root=models)
    measured, declined = hearts_of_studies(studies, labels, hearts, report=report)
    seen = {heart.identifier for heart in measured} & set(model.card.training.cases)
    if seen:
        raise ValueError(f"{len(seen)} of the studies were in the training of the model: figures on them mean nothing")
    return _evaluation(measured, len(declined), f"{len(measured)} studies of one site", "", {}, model)


def evaluate_held_out(folder: Path) -> RemodellingEvaluation:
    """Figures of the hearts of a training, each by the network that has not seen it.

    They are not figures of the node: simulated hearts have true keyframes and exact features with assumed errors, and
    the combined model, of five numbers, was fitted to the same hearts.

    Raises
    ------
    ValueError
        ``folder`` is not that of a finished training.
    """
    try:
        with np.load(folder / HELD_OUT_FILE, allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise ValueError(f"{folder} holds no {HELD_OUT_FILE} of a finished training: {error}") from error
    card = read_card(folder / "card.yaml")
    return RemodellingEvaluation(
        hearts=len(held["outcome"]),
        refused=0,
        data=f"held-out folds of the training: {card.training.name}",
        model=f"{card.version} {card.weights_sha256}",
        errors={},
        paper=PAPER,
        caution=f"Not measured by the node, and the combined model was fitted to these hearts. {CAUTION}",
        seconds=float("nan"),
        **_figures(
            held["outcome"], held["truth"], held["combined"], dict(zip(BRANCHES, held["branches"].T, strict=True))
        ),
    )


def _evaluation(
    hearts: Sequence[RemodellingHeart],
    refused: int,
    data: str,
    caution: str,
    errors: dict[str, list[float]],
    model: LoadedModel,
) -> RemodellingEvaluation:
    return RemodellingEvaluation(
        hearts=len(hearts),
        refused=refused,
        data=data,
        model=f"{model.identity.version} {model.identity.weights_sha256}",
        errors={
            name: FeatureError(len(values), float(np.mean(values)), float(np.mean(np.abs(values))))
            for name, values in errors.items()
        },
        paper=PAPER,
        caution=caution,
        seconds=float(np.mean([heart.seconds for heart in hearts])),
        **compare_with_outcomes(hearts, cast("RemodellingNetwork", model.network)),
    )


def _note_errors(
    errors: dict[str, list[float]], heart: RemodellingHeart, reservoir: float, network: RemodellingNetwork
) -> None:
    """Add measured less true of what the law looks at."""
    found = heart.measured
    pairs = {
        "GLS_percent": (found.get(Feature.GLS), heart.auxiliary[1]),
        "LA_reservoir_percent": (found.get(Feature.LA_RESERVOIR), reservoir),
        "infarct_percent": (combined_model(network).infarct(found).percent, heart.auxiliary[0]),
    }
    for name, (value, true) in pairs.items():
        if value is not None:
            errors.setdefault(name, []).append(value - true)


def compare_with_outcomes(hearts: Sequence[RemodellingHeart], network: RemodellingNetwork) -> dict[str, Any]:
    """Figures of hearts with measured features, by name as in :class:`RemodellingEvaluation`.

    Raises
    ------
    ValueError
        All hearts have the same outcome.
    """
    probability, scores = predicted(hearts, network)
    return _figures(
        np.array([heart.outcome for heart in hearts]),
        np.array([heart.probability for heart in hearts]),
        probability,
        scores,
    )


def _figures(
    outcome: NDArray[np.bool_], truth: Array, probability: Array, scores: Mapping[str, Array]
) -> dict[str, Any]:
    """Figures of a probability, of the one that outcomes were drawn with, and of scores of other models, (N,) each.

    Scores that are NaN are left out.
    """
    area = auc_interval(outcome, probability)
    known = bool(np.isfinite(truth).all())
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    bayes = auc_interval(outcome, truth) if known else nothing
    brier = bootstrap_interval(outcome, probability, brier_score)
    calibrated = calibration(outcome, probability)
    rows = []
    for name, score in (*scores.items(), ("combined", probability)):
        if not np.isfinite(score).all():
            # A network without images has no such branch.
            continue
        estimate = auc_interval(outcome, score)
        compared = compare_aucs(outcome, score, probability)
        itself = name == "combined"
        rows.append(
            AblationRow(
                name,
                estimate.value,
                (estimate.low, estimate.high),
                compared.difference.value,
                float("nan") if itself else compared.p_value,
            )
        )
    return {
        "events": int(outcome.sum()),
        "auc": area.value,
        "auc_ci": (area.low, area.high),
        "bayes_auc": bayes.value,
        "bayes_auc_ci": (bayes.low, bayes.high),
        "brier": brier.value,
        "brier_ci": (brier.low, brier.high),
        "bayes_brier": brier_score(outcome, truth) if known else float("nan"),
        "calibration_slope": calibrated.slope,
        "calibration_intercept": calibrated.intercept,
        "sensitivity": sensitivity_at_specificity(outcome, probability, _SPECIFICITY),
        "ablation": tuple(rows),
        "decision_curve": tuple(asdict(point) for point in decision_curve(outcome, probability)),
    }


def predicted(
    hearts: Sequence[RemodellingHeart], network: RemodellingNetwork, seed: int = 0
) -> tuple[Array, dict[str, Array]]:
    """Probability of the combined model and scores of the branches of the network, (N,) each."""
    rng = np.random.default_rng(seed)
    features = np.stack([heart.features(rng) for heart in hearts])
    logits = branch_logits(network, np.stack([heart.volume for heart in hearts]), features)
    combined = combined_model(network)
    probabilities = []
    for row, logit in zip(features, logits.fused.tolist(), strict=True):
        given = {name: float(value) for name, value in zip(FEATURES, row, strict=True) if np.isfinite(value)}
        probabilities.append(combined.risk(predictors_of(logit, given, combined.infarct(given).percent)).probability)
    parts = (logits.image, logits.morphology, logits.motion, logits.fused)
    return np.array(probabilities), {name: part.double().numpy() for name, part in zip(BRANCHES, parts, strict=True)}
