"""Obstruction as the node estimates it, on phantoms that no network has seen and on patients without acute infarct."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.assemble import assemble
from pipelines.evaluation.obstruction_hearts import (
    measured_phantom,
    measured_stack,
    measured_study,
    probability_of,
)
from pipelines.models.registry import PACKAGED, LoadedModel, load_model
from pipelines.obstruction.network import MODEL, ObstructionNetwork
from pipelines.obstruction.wall import LOWEST_FIFTH, MOTIONS
from pipelines.phantom.law import DEFAULT_LAW, PESSIMISTIC_LAW
from pipelines.statistics import (
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
from pipelines.training.obstruction import ABLATION, PEAK_RATE, Prepared, split, train_variant, validate
from pipelines.training.steps import Progress

__all__ = [
    "Ablated",
    "Compared",
    "Distribution",
    "ObstructionEvaluation",
    "PhantomEstimate",
    "ablate",
    "evaluate",
    "ideal_order",
]

_SPECIFICITY = 0.7558
"""Of the paper."""


@dataclass(frozen=True, slots=True)
class PhantomEstimate:
    """The estimate for one phantom beside its truth.

    Attributes
    ----------
    seed : int
    obstruction : bool
        Whether its short axis shows one.
    bleeding : bool
        Whether that has haemorrhage, which shows in cine.
    evidence : float
        Logarithm of the likelihood ratio for obstruction of who knows depth, size and contraction of the infarct, see
        :func:`pipelines.phantom.evidence.obstruction_evidence`.
    lost : float
        Motion that the wall has truly lost around the infarct.
    probability : float or None
        As estimated; ``None`` where declined.
    refused : str
        Why, empty where it was not.
    """

    seed: int
    obstruction: bool
    bleeding: bool
    evidence: float
    lost: float
    probability: float | None
    refused: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """Probabilities of a group of patients without acute infarct, where they should be low.

    Attributes
    ----------
    patients, declined : int
    quartiles : (float, float, float)
    highest : float
    remark : str
        How the clips came about.
    """

    patients: int
    declined: int
    quartiles: tuple[float, float, float]
    highest: float
    remark: str


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
class ObstructionEvaluation:
    """Figures over phantoms, and distributions over patients.

    Attributes
    ----------
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
    sensitivity : float
        At the paper's specificity, 75.6 %.
    auc_bleeding, auc_other : float or None
        Of obstruction with and without haemorrhage, each against hearts without obstruction.
    comparisons : tuple of Compared
        The motion truly lost, and each motion that the wall model reads by itself: how little of it there is in the
        fifth of the wall that moves least.
    """

    phantoms: int
    first_seed: int
    law: str
    events: int
    refused: int
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
    estimates: tuple[PhantomEstimate, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = asdict(self)
        plain["auc"] = self.auc.value
        plain["auc_ci"] = [self.auc.low, self.auc.high]
        plain["motion_auc"] = self.motion_auc.value
        plain["motion_auc_ci"] = [self.motion_auc.low, self.motion_auc.high]
        plain["brier"] = self.brier.value
        plain["brier_ci"] = [self.brier.low, self.brier.high]
        return plain


@dataclass(frozen=True, slots=True)
class Ablated:
    """Figures of one variant in the ablation.

    Attributes
    ----------
    name : str
        As in :data:`pipelines.training.obstruction.ABLATION`.
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
    """

    name: str
    steps: int
    parameters: int
    hearts: int
    events: int
    auc: Estimate
    slice_auc: Estimate
    p_value: float


def ablate(
    ready: Prepared,
    output: Path,
    *,
    names: Sequence[str],
    steps: int,
    peak_rate: float = PEAK_RATE,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = True,
    report: Callable[[str, Progress], None] | None = None,
) -> list[Ablated]:
    """Train each variant on the same hearts with the same seed and as many steps, and compare on the hearts kept out.

    Parameters
    ----------
    output : Path
        Receives a folder for each variant.
    names : sequence of str
        Keys of :data:`pipelines.training.obstruction.ABLATION`, or ``all``.

    Raises
    ------
    ValueError
        A variant is not known, or the hearts kept out all have one label.
    """
    names = tuple(ABLATION) if "all" in names else tuple(names)
    unknown = [name for name in names if name not in ABLATION]
    if unknown:
        raise ValueError(f"no variant is named {unknown[0]!r}; there are: all; {'; '.join(ABLATION)}")
    training, held_out = split(ready.hearts)
    rows: list[Ablated] = []
    first: NDArray[np.float64] | None = None
    for name in names:
        network = train_variant(
            name,
            training,
            output,
            architecture=ready.architecture,
            steps=steps,
            peak_rate=peak_rate,
            seed=seed,
            start=ready.start,
            device=device,
            resume=resume,
            report=None if report is None else partial(report, name),
        )
        found = validate(network, held_out, device)
        first = found.hearts if first is None else first
        rows.append(
            Ablated(
                name=name,
                steps=steps,
                parameters=sum(each.numel() for each in network.parameters()),
                hearts=len(held_out),
                events=int(found.outcomes.sum()),
                auc=auc_interval(found.outcomes, found.hearts),
                slice_auc=auc_interval(found.slice_outcomes, found.slices),
                p_value=compare_aucs(found.outcomes, found.hearts, first).p_value,
            )
        )
    return rows


def ideal_order(estimate: PhantomEstimate) -> float:
    """Rank of a phantom by the likelihood ratio of what an ideal observer of the simulator's law could know.

    A haemorrhage is certain; without it depth, size and contraction of the infarct speak. Faint cores are taken to be
    invisible, so a network that sees them may do better.
    """
    return math.inf if estimate.obstruction and estimate.bleeding else estimate.evidence


def evaluate(
    phantoms: int,
    first_seed: int,
    *,
    pessimistic: bool = False,
    real: Sequence[Path] = (),
    ablation: Path | None = None,
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
    real : sequence of Path
        Folders in ACDC's layout, or of DICOM.
    ablation : Path, optional
        JSON of ``dicom-node train obstruction --ablation``, reported beside.
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
    estimates: list[PhantomEstimate] = []
    features: list[NDArray[np.float64]] = []
    for done, seed in enumerate(range(first_seed, first_seed + phantoms), 1):
        heart = measured_phantom(seed, law, hearts)
        facts = heart.facts
        estimates.append(
            PhantomEstimate(
                seed=seed,
                obstruction=facts["obstruction"],
                bleeding=facts["bleeding"],
                evidence=facts["evidence"],
                lost=facts["lost"],
                probability=probability_of(heart, model),
                refused=heart.refused,
            )
        )
        if estimates[-1].probability is not None:
            features.append(heart.features)
        if report is not None:
            report(done, phantoms)
    known = [(one, one.probability) for one in estimates if one.probability is not None]
    outcomes = np.array([one.obstruction for one, _ in known])
    probabilities = np.array([probability for _, probability in known])
    fitted = calibration(outcomes, probabilities)
    share = float(outcomes.mean())
    return ObstructionEvaluation(
        phantoms=phantoms,
        first_seed=first_seed,
        law="pessimistic" if pessimistic else "default",
        events=int(outcomes.sum()),
        refused=phantoms - len(known),
        auc=auc_interval(outcomes, probabilities),
        bayes_auc=auc(outcomes, [ideal_order(one) for one, _ in known]),
        motion_auc=auc_interval(outcomes, [one.lost for one, _ in known]),
        brier=bootstrap_interval(outcomes, probabilities, brier_score),
        brier_prevalence=share * (1 - share),
        calibration_slope=fitted.slope,
        calibration_intercept=fitted.intercept,
        sensitivity=sensitivity_at_specificity(outcomes, probabilities, _SPECIFICITY),
        auc_bleeding=_auc_of([one for one, _ in known], probabilities, bleeding=True),
        auc_other=_auc_of([one for one, _ in known], probabilities, bleeding=False),
        decision_curve=decision_curve(outcomes, probabilities),
        comparisons=_comparisons([one for one, _ in known], outcomes, probabilities, np.stack(features)),
        ablation=tuple(json.loads(ablation.read_text(encoding="utf-8"))) if ablation is not None else (),
        real={name: found for folder in real for name, found in _real(folder, model).items()},
        estimates=tuple(estimates),
    )


def _comparisons(
    estimates: Sequence[PhantomEstimate],
    outcomes: NDArray[np.bool_],
    probabilities: NDArray[np.float64],
    features: NDArray[np.float64],
) -> tuple[Compared, ...]:
    least = features.reshape(len(features), len(MOTIONS), -1)[:, :, LOWEST_FIFTH]
    scores = {
        "motion truly lost": np.array([one.lost for one in estimates]),
        **{motion: -column for motion, column in zip(MOTIONS, least.T, strict=True)},
    }
    rows = []
    for name, score in scores.items():
        area, compared = auc_interval(outcomes, score), compare_aucs(outcomes, score, probabilities)
        rows.append(Compared(name, area.value, (area.low, area.high), compared.difference.value, compared.p_value))
    return tuple(rows)


def _auc_of(
    estimates: Sequence[PhantomEstimate], probabilities: NDArray[np.float64], *, bleeding: bool
) -> float | None:
    chosen = np.array([not one.obstruction or one.bleeding is bleeding for one in estimates])
    outcomes = np.array([one.obstruction for one in estimates])[chosen]
    return auc(outcomes, probabilities[chosen]) if len(set(outcomes.tolist())) == 2 else None


def _real(folder: Path, model: LoadedModel) -> dict[str, Distribution]:
    """Distributions over the patients of a folder: by group where it is in ACDC's layout, else over all."""
    if any(folder.rglob("Info.cfg")):
        return _acdc(folder, model)
    studies = assemble(sorted(path for path in folder.rglob("*") if path.is_file()))
    found = [probability_of(measured_study(study), model) for study in studies if study.stacks]
    return {folder.name: _distribution(found, "full cine, the node's own segmentation")}


def _acdc(folder: Path, model: LoadedModel) -> dict[str, Distribution]:
    """By group, from the two phases that were published, with the labels that experts drew."""
    from pipelines.training.acdc import find_patients, read_patient, to_stack

    by_group: dict[str, list[float | None]] = defaultdict(list)
    for path in sorted(find_patients(folder)):
        patient = read_patient(path)
        labels = np.stack([frame.labels for frame in patient.frames])
        by_group[patient.group].append(probability_of(measured_stack(to_stack(patient), labels, 0, 1), model))
    remark = "two phases, labels drawn by experts"
    if isinstance(model.network, ObstructionNetwork):
        remark += "; the frames between are interpolated, which no movie looks like"
    return {f"ACDC {group}": _distribution(found, remark) for group, found in sorted(by_group.items())}


def _distribution(found: Sequence[float | None], remark: str) -> Distribution:
    known = np.array([value for value in found if value is not None])
    if not known.size:
        nan = float("nan")
        return Distribution(len(found), len(found), (nan, nan, nan), nan, remark)
    low, middle, high = (float(each) for each in np.quantile(known, [0.25, 0.5, 0.75]))
    return Distribution(len(found), len(found) - known.size, (low, middle, high), float(known.max()), remark)
