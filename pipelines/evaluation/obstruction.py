"""Obstruction as the node estimates it: on phantoms, on a site's studies, and on patients without acute infarct."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from pipelines.cine.assemble import assemble
from pipelines.evaluation.figures import Distribution, distribution, plain, spread_out
from pipelines.evaluation.obstruction_hearts import (
    MeasuredHeart,
    clips_of,
    kept_hearts,
    labelled_heart,
    measured_phantom,
    measured_stack,
    measured_study,
    probability_of,
)
from pipelines.models.registry import PACKAGED, LoadedModel, is_installed, load_model
from pipelines.obstruction.network import MODEL, NETWORK_MODEL, ObstructionNetwork
from pipelines.obstruction.predict import heart_score, slice_logits
from pipelines.obstruction.wall import LOWEST_FIFTH, MOTIONS
from pipelines.phantom.law import DEFAULT_LAW, PESSIMISTIC_LAW
from pipelines.statistics import (
    Calibration,
    Estimate,
    NetBenefit,
    auc,
    auc_interval,
    bootstrap_interval,
    brier_score,
    calibration,
    compare_aucs,
    decision_curve,
    sensitivity_at_specificity,
)
from pipelines.training.labelled_studies import files_of_studies, read_labels
from pipelines.training.obstruction_hearts import split
from pipelines.training.obstruction_network import ABLATION, train_variant, validate
from pipelines.training.obstruction_runs import Prepared
from pipelines.training.steps import Progress, Run

__all__ = [
    "Ablated",
    "Beside",
    "Compared",
    "HeartEstimate",
    "ObstructionEvaluation",
    "SecondOpinion",
    "ablate",
    "evaluate",
    "evaluate_studies",
    "ideal_order",
]

PAPER = {"R(2+1)D alone": 0.6445, "with BERT": 0.6545, "with the mask branch": 0.6797, "with both": 0.727}
"""Areas of Yan et al. on 130 patients of whom 44 had an obstruction."""
_SPECIFICITY = 0.7558
"""Of the paper."""


@dataclass(frozen=True, slots=True)
class HeartEstimate:
    """The estimate for one heart beside what is true of it.

    Attributes
    ----------
    name : str
        ``phantom-`` and its seed, or that of a study in a card.
    obstruction : bool
        Whether its short axis shows one, or the table of a site says so.
    bleeding : bool
        Whether that has haemorrhage, which shows in cine; not known of a site's studies.
    evidence : float
        Logarithm of the likelihood ratio for obstruction of who knows depth, size and contraction of the infarct, see
        :func:`pipelines.phantom.evidence.obstruction_evidence`; NaN of studies.
    lost : float
        Motion that the wall has truly lost around the infarct; NaN of studies.
    probability : float or None
        As estimated; ``None`` where declined.
    refused : str
        Why, empty where it was not.
    """

    name: str
    obstruction: bool
    bleeding: bool
    evidence: float
    lost: float
    probability: float | None
    refused: str


@dataclass(frozen=True, slots=True)
class Compared:
    """One number of the same hearts, beside the model.

    Attributes
    ----------
    name : str
    auc : float
    auc_ci : (float, float)
        95 %, DeLong.
    difference : float
        Area less that of the model.
    p_value : float
        DeLong's test against the model.
    """

    name: str
    auc: float
    auc_ci: tuple[float, float]
    difference: float
    p_value: float


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """Figures of the model that is shown beside the reported one, on the same hearts.

    Attributes
    ----------
    model : str
        Version and SHA-256 of the weights.
    auc, brier : Estimate
        As in :class:`ObstructionEvaluation`.
    difference : Estimate
        Area less that of the model reported, 95 %, and ``p_value`` of DeLong's test.
    calibration_slope, calibration_intercept, correlation : float
        Correlation is Spearman's, of both probabilities; NaN where one model gives all hearts one probability, and so
        are slope and intercept of that model.
    probabilities : tuple of float
        Of the hearts that were not declined, in their order.
    """

    model: str
    auc: Estimate
    brier: Estimate
    calibration_slope: float
    calibration_intercept: float
    sensitivity: float
    difference: Estimate
    p_value: float
    correlation: float
    real: dict[str, Distribution]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ObstructionEvaluation:
    """Figures over phantoms or a site's studies, and distributions over patients; what is not known is NaN.

    Attributes
    ----------
    hearts, events, refused : int
        All, those with obstruction among the measured, and those that the node declines.
    data, model : str
        What they are; version and SHA-256 of the weights.
    auc : Estimate
        With DeLong's interval.
    bayes_auc : float
        Of an observer who knows depth, size and contraction of the infarct and recognises every haemorrhage, and no
        other core (:func:`ideal_order`), on the same phantoms.
    motion_auc : Estimate
        Of the motion that the worst fifth of the muscle has truly lost: what a reader of the true motion would reach
        on the same phantoms.
    brier : Estimate
        With bootstrap interval; ``brier_prevalence`` is that of knowing only how frequent obstruction is.
    calibration_slope, calibration_intercept : float
        NaN where all hearts have one probability.
    sensitivity : float
        At the paper's specificity, 75.6 %.
    auc_bleeding, auc_other : float or None
        Of obstruction with and without haemorrhage, each against hearts without obstruction.
    comparisons : tuple of Compared
        Another model, the motion truly lost of phantoms, and each motion that the wall model reads by itself: how
        little of it there is in the fifth of the wall that moves least.
    paper : dict of str to float
    second_opinion : SecondOpinion or None
        ``None`` where there is no such model.
    """

    hearts: int
    events: int
    refused: int
    data: str
    model: str
    auc: Estimate
    bayes_auc: float
    motion_auc: Estimate
    brier: Estimate
    brier_prevalence: float
    calibration_slope: float
    calibration_intercept: float
    sensitivity: float
    auc_bleeding: float | None
    auc_other: float | None
    decision_curve: tuple[NetBenefit, ...]
    comparisons: tuple[Compared, ...]
    ablation: tuple[dict[str, Any], ...]
    real: dict[str, Distribution]
    paper: dict[str, float]
    estimates: tuple[HeartEstimate, ...]
    second_opinion: SecondOpinion | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; figures that do not exist are ``None``."""
        values = asdict(self)
        spread_out(values, "auc", "motion_auc", "brier")
        if (second := values["second_opinion"]) is not None:
            spread_out(second, "auc", "brier", "difference")
        return cast("dict[str, Any]", plain(values))


@dataclass(frozen=True, slots=True)
class Ablated:
    """Figures of one variant in the ablation.

    Attributes
    ----------
    name : str
        As in :data:`pipelines.training.obstruction_network.ABLATION`.
    steps : int
    parameters : int
        Of what inference needs.
    hearts, events : int
        Kept out, and those of them with obstruction.
    auc : Estimate
        Of the largest logit of each heart, with DeLong's interval.
    slice_auc : Estimate
        Over slices, as if they were independent.
    p_value : float
        Of DeLong's test against the first row.
    node_hearts, node_events : int
        Measured by the node, see ``measured`` of :func:`ablate`; 0 without any.
    node_auc : Estimate or None
        The same of these hearts, and ``node_p_value`` its test against the first row.
    node_less_package, node_p_package : float or None
        Area less that of the model of the package on these hearts, and DeLong's test against it.
    """

    name: str
    steps: int
    parameters: int
    hearts: int
    events: int
    auc: Estimate
    slice_auc: Estimate
    p_value: float
    node_hearts: int = 0
    node_events: int = 0
    node_auc: Estimate | None = None
    node_p_value: float | None = None
    node_less_package: float | None = None
    node_p_package: float | None = None


def ablate(
    ready: Prepared,
    output: Path,
    *,
    names: Sequence[str],
    run: Run | None = None,
    measured: Path | None = None,
    report: Callable[[str, Progress], None] | None = None,
) -> list[Ablated]:
    """Train each variant on the same hearts with the same seed and as many steps, and compare on the hearts kept out.

    Parameters
    ----------
    output : Path
        Receives a folder for each variant.
    names : sequence of str
        Keys of :data:`pipelines.training.obstruction_network.ABLATION`, or ``all``.
    measured : Path, optional
        What :func:`evaluate` has kept in ``hearts``: other phantoms, measured by the node, which are told too.

    Raises
    ------
    ValueError
        A variant is not known, or the hearts kept out, or those measured, all have one label.
    """
    names = tuple(ABLATION) if "all" in names else tuple(names)
    unknown = [name for name in names if name not in ABLATION]
    if unknown:
        raise ValueError(f"no variant is named {unknown[0]!r}; there are: all; {'; '.join(ABLATION)}")
    run = run or Run()
    training, held_out = split(ready.hearts)
    rows: list[Ablated] = []
    first: NDArray[np.float64] | None = None
    others = [] if measured is None else kept_hearts(measured)
    told = np.array([heart.facts["obstruction"] for heart in others], np.bool_)
    first_of_node: NDArray[np.float64] | None = None
    packaged = _told_by_package(others) if others else None
    for name in names:
        network = train_variant(
            name,
            training,
            output,
            ready.recipe,
            run,
            start=ready.start,
            report=None if report is None else partial(report, name),
        )
        found = validate(network, held_out, run.device)
        first = found.hearts if first is None else first
        of_node = np.array(
            [heart_score(network, slice_logits(network, clips_of(heart), run.device)) for heart in others]
        )
        first_of_node = of_node if first_of_node is None else first_of_node
        beside = None if packaged is None else compare_aucs(told, of_node, packaged)
        rows.append(
            Ablated(
                name=name,
                steps=ready.recipe.steps,
                parameters=sum(each.numel() for each in network.parameters()),
                hearts=len(held_out),
                events=int(found.outcomes.sum()),
                auc=auc_interval(found.outcomes, found.hearts),
                slice_auc=auc_interval(found.slice_outcomes, found.slices),
                p_value=compare_aucs(found.outcomes, found.hearts, first).p_value,
                node_hearts=len(others),
                node_events=int(told.sum()),
                node_auc=auc_interval(told, of_node) if others else None,
                node_p_value=compare_aucs(told, of_node, first_of_node).p_value if others else None,
                node_less_package=None if beside is None else beside.difference.value,
                node_p_package=None if beside is None else beside.p_value,
            )
        )
    return rows


def _told_by_package(hearts: Sequence[MeasuredHeart]) -> NDArray[np.float64]:
    """Probability by the model of the package."""
    model = load_model(MODEL)
    return np.array([probability_of(heart, model) for heart in hearts], np.float64)


def ideal_order(estimate: HeartEstimate) -> float:
    """Rank of a phantom by the likelihood ratio of what an ideal observer of the simulator's law could know.

    A haemorrhage is certain; without it depth, size and contraction of the infarct speak. Faint cores are taken to be
    invisible, so a network that sees them may do better.
    """
    return math.inf if estimate.obstruction and estimate.bleeding else estimate.evidence


@dataclass(frozen=True, slots=True)
class Beside:
    """What is reported beside the figures of a model.

    Attributes
    ----------
    real : sequence of Path
        Patients without an acute infarct: folders in ACDC's layout, or of DICOM.
    ablation : Path or None
        JSON of ``dicom-node train obstruction --ablation``.
    against : Path or None
        Folder of another model, told on the same hearts and compared by DeLong's test.
    """

    real: Sequence[Path] = ()
    ablation: Path | None = None
    against: Path | None = None


def evaluate(
    phantoms: int,
    first_seed: int,
    *,
    pessimistic: bool = False,
    beside: Beside | None = None,
    hearts: Path | None = None,
    models: Path = PACKAGED,
    report: Callable[[int, int], None] | None = None,
) -> ObstructionEvaluation:
    """Estimate obstruction in phantoms with acute infarcts through the node's own segmentation, and compare.

    Parameters
    ----------
    phantoms : int
    first_seed : int
        Of phantoms that nothing was trained on.
    pessimistic : bool
        Follow :data:`pipelines.phantom.law.PESSIMISTIC_LAW`.
    beside : Beside, optional
    hearts : Path, optional
        Keeps what was measured, so that a stopped evaluation goes on and another model is soon evaluated.
    report : callable
        Is called with the hearts done and wanted.

    Raises
    ------
    ValueError
        All phantoms, or those that were not declined, have the same outcome.
    ModelUnavailable
        There is no obstruction network in ``models``.
    """
    model = load_model(MODEL, root=models)
    law = PESSIMISTIC_LAW if pessimistic else DEFAULT_LAW
    measured: list[tuple[str, MeasuredHeart]] = []
    for done, seed in enumerate(range(first_seed, first_seed + phantoms), 1):
        measured.append((f"phantom-{seed}", measured_phantom(seed, law, hearts)))
        if report is not None:
            report(done, phantoms)
    last = first_seed + phantoms - 1
    law_name = "pessimistic" if pessimistic else "default"
    data = f"acute infarcts of the phantom, {law_name} law, seeds {first_seed} to {last}"
    return _evaluation(measured, data, model, _second_model(models), beside or Beside())


def _second_model(models: Path) -> LoadedModel | None:
    """The network that is shown beside the model reported, where the folder has one."""
    return load_model(NETWORK_MODEL, root=models) if is_installed(NETWORK_MODEL, models) else None


def evaluate_studies(
    studies: Path,
    labels: Path,
    *,
    beside: Beside | None = None,
    hearts: Path | None = None,
    models: Path = PACKAGED,
    report: Callable[[int, int], None] | None = None,
) -> ObstructionEvaluation:
    """Compare the estimate with a table's labels on a site's own studies, one of each patient.

    Parameters
    ----------
    studies, labels : Path
        See :func:`pipelines.training.obstruction_studies.segmented_studies`.
    hearts : Path, optional
        Keeps what was measured, by StudyInstanceUID.

    Raises
    ------
    ValueError
        The table cannot be read, a study was seen in training, or all have the same outcome.
    ModelUnavailable
        There is no such model in ``models``.
    """
    model = load_model(MODEL, root=models)
    known = read_labels(labels, "obstruction")
    files = files_of_studies(studies, known)
    second = _second_model(models)
    learnt = {case for one in (model, second) if one is not None for case in one.card.training.cases}
    seen = {one.case for one in files.values()} & learnt
    if seen:
        raise ValueError(f"{len(seen)} of the studies were in the training of the model: figures on them mean nothing")
    measured = []
    for done, (name, one) in enumerate(files.items(), 1):
        measured.append((one.case, labelled_heart(one, positive=known[name].positive, folder=hearts)))
        if report is not None:
            report(done, len(files))
    return _evaluation(measured, f"{len(measured)} studies of one site", model, second, beside or Beside())


def _evaluation(
    hearts: Sequence[tuple[str, MeasuredHeart]],
    data: str,
    model: LoadedModel,
    second: LoadedModel | None,
    beside: Beside,
) -> ObstructionEvaluation:
    estimates = [
        HeartEstimate(
            name=name,
            obstruction=heart.facts["obstruction"],
            bleeding=heart.facts.get("bleeding", False),
            evidence=heart.facts.get("evidence", math.nan),
            lost=heart.facts.get("lost", math.nan),
            probability=probability_of(heart, model),
            refused=heart.refused,
        )
        for name, heart in hearts
    ]
    measured = [heart for _, heart in hearts if not heart.refused]
    known = [(one, one.probability) for one in estimates if one.probability is not None]
    if not known:
        raise ValueError(f"none of the {len(hearts)} hearts could be measured: {estimates[0].refused}")
    of_phantoms = all(math.isfinite(one.lost) for one, _ in known)
    outcomes = np.array([one.obstruction for one, _ in known])
    probabilities = np.array([probability for _, probability in known])
    area = auc_interval(outcomes, probabilities)
    fitted = _calibration(outcomes, probabilities)
    share = float(outcomes.mean())
    nothing = Estimate(math.nan, math.nan, math.nan)
    patients = {name: found for folder in beside.real for name, found in _real(folder).items()}
    return ObstructionEvaluation(
        hearts=len(hearts),
        events=int(outcomes.sum()),
        refused=len(hearts) - len(known),
        data=data,
        model=_named(model),
        auc=area,
        bayes_auc=auc(outcomes, [ideal_order(one) for one, _ in known]) if of_phantoms else math.nan,
        motion_auc=auc_interval(outcomes, [one.lost for one, _ in known]) if of_phantoms else nothing,
        brier=bootstrap_interval(outcomes, probabilities, brier_score),
        brier_prevalence=share * (1 - share),
        calibration_slope=fitted.slope,
        calibration_intercept=fitted.intercept,
        sensitivity=sensitivity_at_specificity(outcomes, probabilities, _SPECIFICITY),
        auc_bleeding=_auc_of([one for one, _ in known], probabilities, bleeding=True) if of_phantoms else None,
        auc_other=_auc_of([one for one, _ in known], probabilities, bleeding=False) if of_phantoms else None,
        decision_curve=decision_curve(outcomes, probabilities),
        comparisons=_comparisons([one for one, _ in known], measured, probabilities, beside.against),
        ablation=tuple(json.loads(beside.ablation.read_text(encoding="utf-8"))) if beside.ablation is not None else (),
        real={name: found.told_by(model) for name, found in patients.items()},
        paper=PAPER,
        estimates=tuple(estimates),
        second_opinion=None if second is None else _second_opinion(second, measured, outcomes, probabilities, patients),
    )


def _varied(probabilities: NDArray[np.float64]) -> bool:
    """Whether hearts are told apart at all: a model that a site trained may give all of them one probability."""
    return bool(np.ptp(np.clip(probabilities, 1e-7, 1 - 1e-7)) > 1e-12)


def _calibration(outcomes: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> Calibration:
    """Slope and intercept; NaN where all probabilities are one."""
    return calibration(outcomes, probabilities) if _varied(probabilities) else Calibration(math.nan, math.nan)


def _named(model: LoadedModel) -> str:
    return f"{model.identity.version} {model.identity.weights_sha256}"


def _second_opinion(
    model: LoadedModel,
    measured: Sequence[MeasuredHeart],
    outcomes: NDArray[np.bool_],
    reported: NDArray[np.float64],
    patients: Mapping[str, _Patients],
) -> SecondOpinion:
    told = np.array([probability_of(heart, model) for heart in measured], np.float64)
    fitted, compared = _calibration(outcomes, told), compare_aucs(outcomes, told, reported)
    return SecondOpinion(
        model=_named(model),
        auc=auc_interval(outcomes, told),
        brier=bootstrap_interval(outcomes, told, brier_score),
        calibration_slope=fitted.slope,
        calibration_intercept=fitted.intercept,
        sensitivity=sensitivity_at_specificity(outcomes, told, _SPECIFICITY),
        difference=compared.difference,
        p_value=compared.p_value,
        correlation=float(spearmanr(told, reported).statistic) if _varied(told) and _varied(reported) else math.nan,
        real={name: found.told_by(model) for name, found in patients.items()},
        probabilities=tuple(float(each) for each in told),
    )


def _comparisons(
    estimates: Sequence[HeartEstimate],
    measured: Sequence[MeasuredHeart],
    probabilities: NDArray[np.float64],
    against: Path | None,
) -> tuple[Compared, ...]:
    """Other scores of the hearts that were not declined, each by DeLong's test against the model."""
    outcomes = np.array([one.obstruction for one in estimates])
    scores: dict[str, NDArray[np.float64]] = {}
    if against is not None:
        other = load_model(MODEL, root=against)
        name = f"the model of --against, {other.identity.version} {other.identity.weights_sha256[:8]}"
        scores[name] = np.array([probability_of(heart, other) for heart in measured], np.float64)
    if all(math.isfinite(one.lost) for one in estimates):
        scores["motion truly lost"] = np.array([one.lost for one in estimates])
    features = np.stack([heart.features for heart in measured])
    least = features.reshape(len(features), len(MOTIONS), -1)[:, :, LOWEST_FIFTH]
    scores |= {motion: -column for motion, column in zip(MOTIONS, least.T, strict=True)}
    rows = []
    for name, score in scores.items():
        area, compared = auc_interval(outcomes, score), compare_aucs(outcomes, score, probabilities)
        rows.append(Compared(name, area.value, (area.low, area.high), compared.difference.value, compared.p_value))
    return tuple(rows)


def _auc_of(estimates: Sequence[HeartEstimate], probabilities: NDArray[np.float64], *, bleeding: bool) -> float | None:
    chosen = np.array([not one.obstruction or one.bleeding is bleeding for one in estimates])
    outcomes = np.array([one.obstruction for one in estimates])[chosen]
    return auc(outcomes, probabilities[chosen]) if len(set(outcomes.tolist())) == 2 else None


@dataclass(frozen=True, slots=True, eq=False)
class _Patients:
    """A group of patients without an acute infarct, measured once for all models."""

    hearts: list[MeasuredHeart]
    remark: str
    interpolated: bool
    """Whether no movie was there, but two of its moments."""

    def told_by(self, model: LoadedModel) -> Distribution:
        """Probabilities by a model."""
        remark = self.remark
        if self.interpolated and isinstance(model.network, ObstructionNetwork):
            remark += "; the frames between are interpolated, which no movie looks like"
        return distribution([probability_of(heart, model) for heart in self.hearts], remark)


def _real(folder: Path) -> dict[str, _Patients]:
    """The patients of a folder: by group where it is in ACDC's layout, else all."""
    if any(folder.rglob("Info.cfg")):
        return _acdc(folder)
    studies = assemble(sorted(path for path in folder.rglob("*") if path.is_file()))
    found = [measured_study(study) for study in studies if study.stacks]
    return {folder.name: _Patients(found, "full cine, the node's own segmentation", interpolated=False)}


def _acdc(folder: Path) -> dict[str, _Patients]:
    """By group, from the two phases that were published, with the labels that experts drew."""
    from pipelines.training.acdc import find_patients, read_patient, to_stack

    by_group: dict[str, list[MeasuredHeart]] = defaultdict(list)
    for path in sorted(find_patients(folder)):
        patient = read_patient(path)
        labels = np.stack([frame.labels for frame in patient.frames])
        by_group[patient.group].append(measured_stack(to_stack(patient), labels, 0, 1))
    remark = "two phases, labels drawn by experts"
    return {f"ACDC {group}": _Patients(found, remark, interpolated=True) for group, found in sorted(by_group.items())}
