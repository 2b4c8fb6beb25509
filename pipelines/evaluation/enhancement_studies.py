"""Enhancement predicted from the cine of a site's own studies, beside the late enhancement that they acquired."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr

from pipelines.cine.files import dicom_files, files_by_study
from pipelines.cine.stack import CineStudy
from pipelines.errors import AnalysisRefused
from pipelines.evaluation.figures import plain, spread_out
from pipelines.function.findings import Keyframes
from pipelines.function.slices import SliceMeasures
from pipelines.late_enhancement.findings import ExtentMethod, LateEnhancement
from pipelines.models.registry import PACKAGED
from pipelines.quality.findings import QualityAssessment
from pipelines.statistics import (
    Estimate,
    auc_interval,
    bootstrap_interval,
    brier_score,
    calibration,
)
from pipelines.study import analyse_study
from pipelines.synthetic_enhancement.load import Networks, load_networks
from pipelines.synthetic_enhancement.measure import EXTENT_SEEN, synthesise
from pipelines.training.labelled_studies import StudyFiles, study_of
from pipelines.ventricular_function.steps import ShortAxis

__all__ = ["PredictedBesideAcquired", "StudiesEvaluation", "evaluate_studies"]


@dataclass(frozen=True, slots=True)
class PredictedBesideAcquired:
    """One study.

    Attributes
    ----------
    case : str
        Its StudyInstanceUID, hashed.
    acquired_percent, predicted_percent : float
        Enhanced part of the muscle on the acquired images, and as predicted from cine.
    probability : float
        That there is enhancement, from cine.
    declined : str
        Why there are no figures, empty where there are.
    """

    case: str
    acquired_percent: float
    predicted_percent: float
    probability: float
    declined: str = ""


@dataclass(frozen=True, slots=True)
class StudiesEvaluation:
    """Figures over the studies that both were found in; intervals are 95 %.

    Attributes
    ----------
    studies, seen_in_training, declined : int
        All below the folder; those left out since weights were fitted to them; those without a prediction, or without
        late enhancement that could be measured.
    enhanced : int
        Of the others, with an acquired extent of 1 % of the muscle and more.
    extent : dict
        Pearson's r with Fisher's interval, bias and limits of agreement of the predicted extent, % of the muscle.
    auc, brier : Estimate
        Of the probability against the acquired extent of 1 %: DeLong's interval, and of a bootstrap.
    missed, invented : int
        Enhanced studies with a predicted extent below 1 %, and others with one of 1 % and more.
    """

    studies: int
    seen_in_training: int
    declined: int
    enhanced: int
    extent: dict[str, Any]
    auc: Estimate
    brier: Estimate
    calibration_slope: float
    missed: int
    invented: int
    results: tuple[PredictedBesideAcquired, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; figures that do not exist are ``None``."""
        values = asdict(self)
        spread_out(values, "auc", "brier")
        return cast("dict[str, Any]", plain(values))


def evaluate_studies(
    folder: Path, *, models: Path = PACKAGED, report: Callable[[str, int, int], None] | None = None
) -> StudiesEvaluation:
    """Predict enhancement from the cines of a site as the node would, and compare with what it acquired.

    Parameters
    ----------
    folder : Path
        DICOM of cine and late enhancement.
    models : Path
        Folder that holds the networks of synthetic enhancement.
    report : callable
        Is called with the case, and the studies done and wanted.

    Raises
    ------
    ValueError
        There is no study, or none with figures.
    ModelUnavailable
        A network is missing.
    """
    networks = load_networks(root=models)
    fitted = set(networks.first.card.training.cases)
    files = [StudyFiles(uid, paths) for uid, paths in sorted(files_by_study(dicom_files(folder)).items()) if uid]
    wanted = [one for one in files if one.case not in fitted]
    results = []
    for done, one in enumerate(wanted, 1):
        results.append(_compared(one, networks))
        if report is not None:
            report(one.case, done, len(wanted))
    known = [one for one in results if not one.declined]
    if not known:
        why = f"such as {results[0].declined}" if results else f"{len(files)} studies, all seen in training"
        raise ValueError(f"no study of {folder} can be compared: {why}")
    return _figures(len(files), len(files) - len(wanted), results, known)


def _compared(files: StudyFiles, networks: Networks) -> PredictedBesideAcquired:
    nan = math.nan
    study = study_of(files)
    if study is None:
        return PredictedBesideAcquired(files.case, nan, nan, nan, "Its files hold no cine.")
    wanted = (ShortAxis, SliceMeasures, Keyframes, QualityAssessment, LateEnhancement)
    findings = analyse_study(study, wanted)
    if any(cast("type", kind) not in findings.values for kind in wanted):
        why = "; ".join(one.sentence for one in findings.refusals if one.because_of is None)
        return PredictedBesideAcquired(files.case, nan, nan, nan, why)
    try:
        predicted, probability = _predicted(study, findings.values, networks)
    except AnalysisRefused as refusal:
        return PredictedBesideAcquired(files.case, nan, nan, nan, str(refusal))
    acquired = findings[LateEnhancement].extent(ExtentMethod.NETWORK).percent
    return PredictedBesideAcquired(files.case, acquired, predicted, probability)


def _predicted(study: CineStudy, values: Mapping[type, Any], networks: Networks) -> tuple[float, float]:
    """Extent, % of the muscle, and probability, with networks from anywhere."""
    found = synthesise(
        values[cast("type", ShortAxis)],
        values[SliceMeasures],
        values[Keyframes],
        values[QualityAssessment],
        study.context,
        networks,
    )
    return found.hyperintense.percent, found.study_probability


def _figures(
    studies: int,
    seen: int,
    results: list[PredictedBesideAcquired],
    known: list[PredictedBesideAcquired],
) -> StudiesEvaluation:
    acquired, predicted, probability = (
        np.array([getattr(one, name) for one in known])
        for name in ("acquired_percent", "predicted_percent", "probability")
    )
    enhanced = acquired >= EXTENT_SEEN
    nothing = Estimate(math.nan, math.nan, math.nan)
    both = bool(enhanced.any()) and not enhanced.all()
    varied = both and float(np.ptp(probability)) > 0
    return StudiesEvaluation(
        studies=studies,
        seen_in_training=seen,
        declined=len(results) - len(known),
        enhanced=int(enhanced.sum()),
        extent=_agreement(acquired, predicted),
        auc=auc_interval(enhanced, probability) if both else nothing,
        brier=bootstrap_interval(enhanced, probability, brier_score) if both else nothing,
        calibration_slope=calibration(enhanced, probability).slope if varied else math.nan,
        missed=int((enhanced & (predicted < EXTENT_SEEN)).sum()),
        invented=int((~enhanced & (predicted >= EXTENT_SEEN)).sum()),
        results=tuple(results),
    )


def _agreement(acquired: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, Any]:
    difference = predicted - acquired
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else math.nan
    bias = float(difference.mean())
    found: dict[str, Any] = {
        "r": math.nan,
        "r_interval": (math.nan, math.nan),
        "bias_percent": bias,
        "limits_percent": (bias - 1.96 * spread, bias + 1.96 * spread),
        "studies": len(difference),
    }
    if len(difference) > 3 and acquired.std() > 0 and predicted.std() > 0:
        fitted = pearsonr(acquired, predicted)
        interval = fitted.confidence_interval()
        found |= {"r": float(fitted.statistic), "r_interval": (float(interval.low), float(interval.high))}
    return found
