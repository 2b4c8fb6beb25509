"""The remodelling classifier on phantoms and studies that it has not seen, measured as the node measures a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.cine.files import dicom_files, files_by_study
from pipelines.evaluation.figures import Distribution, distribution, plain
from pipelines.models.card import ModelCard, read_card
from pipelines.models.registry import PACKAGED, LoadedModel, load_model
from pipelines.phantom.law import DEFAULT_LAW, PESSIMISTIC_LAW
from pipelines.phantom.truth import remodelling_truth
from pipelines.remodelling.attribution import guided_grad_cam
from pipelines.remodelling.features import FEATURES, Feature
from pipelines.remodelling.measure import combined_model, predictors_of
from pipelines.remodelling.network import REMODELLING_MODEL, RemodellingNetwork
from pipelines.remodelling.volume import SIZE, WIDE
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
from pipelines.training.labelled_studies import StudyFiles
from pipelines.training.remodelling import BRANCHES, HELD_OUT_FILE, branch_logits
from pipelines.training.remodelling_hearts import (
    GREY,
    RemodellingHeart,
    hearts_of_studies,
    phantom_heart,
    phantom_recipe,
    study_heart,
)

__all__ = [
    "AblationRow",
    "AttributionPlace",
    "Beside",
    "FeatureError",
    "RemodellingEvaluation",
    "compare_with_outcomes",
    "evaluate_held_out",
    "evaluate_remodelling",
    "evaluate_studies",
    "place_of_attribution",
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
        ``image``, ``morphology``, ``motion``, ``all`` (the network) or ``combined``, or that of ``--against``.
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
class AttributionPlace:
    """Where the attribution of a network that sees images lies, mean over the hearts with any.

    Attributes
    ----------
    hearts : int
    in_ventricle : float
        Share of the attribution, over all keyframes and levels, within cavity and muscle of the left ventricle.
    by_chance : float
        Share of the pixels that are such.
    """

    hearts: int
    in_ventricle: float
    by_chance: float


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
    against : AblationRow or None
        The combined model of another training on the same hearts.
    real : dict of str to Distribution
        Patients without an acute infarct, for whom the node declines unless a route is wrong about them.
    decision_curve : tuple of dict
        Net benefit by threshold.
    errors : dict of str to FeatureError
        Of what the law looks at: GLS, reservoir strain, infarct size.
    attribution : AttributionPlace or None
        ``None`` of a network that sees no images, and of hearts told by several networks.
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
    against: AblationRow | None
    real: dict[str, Distribution]
    decision_curve: tuple[dict[str, float], ...]
    errors: dict[str, FeatureError]
    attribution: AttributionPlace | None
    paper: dict[str, float]
    caution: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; figures that do not exist are ``None``."""
        return cast("dict[str, Any]", plain(asdict(self)))


@dataclass(frozen=True, slots=True)
class Beside:
    """What is reported beside the figures of a model.

    Attributes
    ----------
    real : sequence of Path
        Folders of DICOM of patients without an acute infarct.
    against : Path or None
        Folder of another model, told on the same hearts.
    """

    real: Sequence[Path] = ()
    against: Path | None = None


def evaluate_remodelling(
    count: int,
    *,
    seed: int = 900000,
    pessimistic: bool = False,
    hearts: Path,
    models: Path = PACKAGED,
    beside: Beside | None = None,
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
    beside : Beside, optional
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
    return _evaluation(measured, refused, data, CAUTION, errors, model, beside or Beside(), hearts)


def evaluate_studies(
    studies: Path,
    labels: Path,
    *,
    hearts: Path,
    models: Path = PACKAGED,
    beside: Beside | None = None,
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
    data = f"{len(measured)} studies of one site"
    return _evaluation(measured, len(declined), data, "", {}, model, beside or Beside(), hearts)


def evaluate_held_out(folder: Path, against: Path | None = None) -> RemodellingEvaluation:
    """Figures of the hearts of a training, each by the network that has not seen it.

    They are not figures of the node: simulated hearts have true keyframes and exact features with assumed errors, and
    the combined model, of five numbers, was fitted to the same hearts.

    Parameters
    ----------
    folder : Path
    against : Path or None
        Folder of another training on the same hearts, compared by DeLong's test.

    Raises
    ------
    ValueError
        ``folder`` is not that of a finished training, or that of ``against`` had other hearts.
    """
    held, card = _held_out(folder)
    other = None
    if against is not None:
        compared, other_card = _held_out(against)
        if card.training.cases != other_card.training.cases or not np.array_equal(held["outcome"], compared["outcome"]):
            raise ValueError(f"{against} was trained on other hearts than {folder}: only the same can be compared")
        other = _row(_named(other_card), held["outcome"], compared["combined"], held["combined"])
    return RemodellingEvaluation(
        hearts=len(held["outcome"]),
        refused=0,
        data=f"held-out folds of the training: {card.training.name}",
        model=f"{card.version} {card.weights_sha256}",
        errors={},
        attribution=None,
        against=other,
        real={},
        paper=PAPER,
        caution=f"Not measured by the node, and the combined model was fitted to these hearts. {CAUTION}",
        seconds=float("nan"),
        **_figures(
            held["outcome"], held["truth"], held["combined"], dict(zip(BRANCHES, held["branches"].T, strict=True))
        ),
    )


def _held_out(folder: Path) -> tuple[dict[str, NDArray[Any]], ModelCard]:
    """What a training has kept of its held-out hearts, and its card."""
    try:
        with np.load(folder / HELD_OUT_FILE, allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise ValueError(f"{folder} holds no {HELD_OUT_FILE} of a finished training: {error}") from error
    return held, read_card(folder / "card.yaml")


def _named(card: ModelCard) -> str:
    return f"combined model of --against, {card.version} {card.weights_sha256[:8]}"


def _evaluation(
    hearts: Sequence[RemodellingHeart],
    refused: int,
    data: str,
    caution: str,
    errors: dict[str, list[float]],
    model: LoadedModel,
    beside: Beside,
    folder: Path,
) -> RemodellingEvaluation:
    network = cast("RemodellingNetwork", model.network)
    against = None
    if beside.against is not None:
        other = load_model(REMODELLING_MODEL, root=beside.against)
        outcome = np.array([heart.outcome for heart in hearts])
        first, _ = predicted(hearts, network)
        second, _ = predicted(hearts, cast("RemodellingNetwork", other.network))
        against = _row(_named(other.card), outcome, second, first)
    return RemodellingEvaluation(
        hearts=len(hearts),
        refused=refused,
        data=data,
        model=f"{model.identity.version} {model.identity.weights_sha256}",
        errors={
            name: FeatureError(len(values), float(np.mean(values)), float(np.mean(np.abs(values))))
            for name, values in errors.items()
        },
        attribution=place_of_attribution(hearts, network) if network.images else None,
        against=against,
        real={one.name: _real(one, folder, network) for one in beside.real},
        paper=PAPER,
        caution=caution,
        seconds=float(np.mean([heart.seconds for heart in hearts])),
        **compare_with_outcomes(hearts, network),
    )


def _real(studies: Path, folder: Path, network: RemodellingNetwork) -> Distribution:
    """Spread of the risk over the studies of a folder of DICOM, as if each were an acute infarct."""
    found: list[float | None] = []
    for uid, paths in files_by_study(dicom_files(studies)).items():
        if uid:
            heart = study_heart(StudyFiles(uid, paths), folder, outcome=False)
            found.append(None if isinstance(heart, str) else float(predicted([heart], network)[0][0]))
    if not found:
        raise ValueError(f"{studies} holds no DICOM study: the risk needs a cine of the whole cycle")
    return distribution(found, "full cine, the node's own segmentation, outcome not known")


def place_of_attribution(hearts: Sequence[RemodellingHeart], network: RemodellingNetwork) -> AttributionPlace:
    """Compare where the attribution of each heart lies with where its left ventricle does."""
    rng = np.random.default_rng(0)
    margin = (WIDE - SIZE) // 2
    shares, areas = [], []
    for heart in hearts:
        looked_at = (..., slice(margin, margin + SIZE), slice(margin, margin + SIZE))
        volume = torch.from_numpy(heart.volume[looked_at][None]).float().div_(GREY)
        found = guided_grad_cam(network, volume, torch.from_numpy(heart.features(rng))[None]).numpy()
        if found.any():
            inside = heart.ventricle[looked_at]
            shares.append(float(found[inside].sum() / found.sum()))
            areas.append(float(inside.mean()))
    if not shares:
        return AttributionPlace(0, float("nan"), float("nan"))
    return AttributionPlace(len(shares), float(np.mean(shares)), float(np.mean(areas)))


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
        row = _row(name, outcome, score, probability)
        rows.append(replace(row, p_value=float("nan")) if name == "combined" else row)
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


def _row(name: str, outcome: NDArray[np.generic], score: Array, probability: Array) -> AblationRow:
    """One score beside the probability of the combined model, by DeLong's test."""
    estimate, compared = auc_interval(outcome, score), compare_aucs(outcome, score, probability)
    return AblationRow(name, estimate.value, (estimate.low, estimate.high), compared.difference.value, compared.p_value)


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
