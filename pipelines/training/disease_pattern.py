"""Training of the disease pattern on the groups of ACDC, with masks of the node's own segmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from pipelines.cine.stack import StudyContext
from pipelines.disease_pattern.architecture import LogisticArchitecture
from pipelines.disease_pattern.features import FEATURES, pattern_features
from pipelines.disease_pattern.findings import Pattern
from pipelines.disease_pattern.network import PATTERN_MODEL
from pipelines.errors import AnalysisRefused
from pipelines.function.curves import find_keyframes
from pipelines.function.measure import measure_function
from pipelines.function.slices import measure_slices
from pipelines.models.card import (
    InputSpecification,
    ModelCard,
    TrainingData,
    write_card,
)
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import segment
from pipelines.synthetic_enhancement.features import Circumstances
from pipelines.synthetic_enhancement.measure import heart_of
from pipelines.training.acdc import find_patients, read_patient, to_stack

__all__ = ["GROUPS", "Patients", "TrainedPattern", "classifier", "patients_of", "train_pattern"]

GROUPS = {
    "NOR": Pattern.NORMAL,
    "DCM": Pattern.DILATED,
    "HCM": Pattern.HYPERTROPHIC,
    "MINF": Pattern.OLD_INFARCT,
    "RV": Pattern.ABNORMAL_RV,
}
_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_INNER_FOLDS = 4
_MARGIN = 2.0
"""A heart may depart twice as far as the 95th percentile of the training from its mean."""


@dataclass(frozen=True, slots=True, eq=False)
class Patients:
    """Features of N patients.

    Attributes
    ----------
    names : (N,) str
    features : (N, len(FEATURES)) float64
    patterns : (N,) int
        Index into :class:`Pattern`.
    declined : dict of str to str
        Patients that the node would decline, and why.
    """

    names: NDArray[np.str_]
    features: NDArray[np.float64]
    patterns: NDArray[np.intp]
    declined: dict[str, str]


@dataclass(frozen=True, slots=True)
class TrainedPattern:
    """Result of a training: the files written, and the penalty chosen."""

    weights: Path
    card: Path
    weights_sha256: str
    patients: int
    penalty: float


def patients_of(data: Path, report: Callable[[str, int, int], None] | None = None) -> Patients:
    """Features of the patients of a folder in ACDC's layout, segmented as the node does it.

    Raises
    ------
    AcdcLayoutError
        The folder is not in ACDC's layout.
    ModelUnavailable
        The networks of the segmentation are missing.
    """
    names, features, patterns = [], [], []
    declined: dict[str, str] = {}
    folders = sorted(find_patients(data))
    for number, folder in enumerate(folders, 1):
        patient = read_patient(folder)
        if report is not None:
            report(f"{patient.identifier} {patient.group}", number, len(folders))
        if patient.group not in GROUPS:
            continue
        stack = to_stack(patient)
        context = StudyContext(
            study_instance_uid="2.25.1",
            height_m=None if patient.height_cm is None else patient.height_cm / 100,
            weight_kg=patient.weight_kg,
        )
        try:
            slices = measure_slices(stack, segment(stack))
            frames = find_keyframes(stack, slices.lv_ml)
            function = measure_function(stack, slices, frames, context)
            heart = heart_of(stack, slices, frames, Circumstances(None, None))
            features.append(pattern_features(function, heart.crop))
        except (AnalysisRefused, SegmentationRefused) as refusal:
            declined[patient.identifier] = str(refusal)
            continue
        names.append(patient.identifier)
        patterns.append(list(Pattern).index(GROUPS[patient.group]))
    return Patients(np.array(names), np.array(features), np.array(patterns, np.intp), declined)


def classifier() -> Pipeline:
    """An unfitted multinomial logistic model; its penalty is chosen by the log loss of folds of what it is given."""
    folds = StratifiedKFold(_INNER_FOLDS, shuffle=True, random_state=1)
    return make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            Cs=_PENALTIES,
            cv=folds,
            scoring="neg_log_loss",
            max_iter=2000,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
        ),
    )


def train_pattern(patients: Patients, output: Path, command: str) -> TrainedPattern:
    """Fit the classifier to all patients and write weights and card.

    Raises
    ------
    ValueError
        A pattern has fewer patients than there are folds.
    """
    counts = np.bincount(patients.patterns, minlength=len(Pattern))
    if counts.min() < _INNER_FOLDS:
        raise ValueError(f"{counts.min()} patients of one pattern: {_INNER_FOLDS} of each are needed")
    fitted = classifier().fit(patients.features, patients.patterns)
    scaler, model = fitted[0], fitted[-1]
    departure = np.sqrt(np.mean(np.square(scaler.transform(patients.features)), axis=1))
    tensors = {
        "means": _tensor(scaler.mean_),
        "scales": _tensor(scaler.scale_),
        "limit": _tensor(np.array(_MARGIN * np.percentile(departure, 95))),
        "linear.weight": _tensor(model.coef_),
        "linear.bias": _tensor(model.intercept_),
    }
    content = safetensors.torch.save(tensors)
    folder = output / PATTERN_MODEL
    folder.mkdir(parents=True, exist_ok=True)
    weights, card = folder / "weights.safetensors", folder / "card.yaml"
    weights.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    write_card(_card(patients, sha256, command), card)
    return TrainedPattern(weights, card, sha256, len(patients.names), float(np.ravel(model.C_)[0]))


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float64))


def _card(patients: Patients, sha256: str, command: str) -> ModelCard:
    return ModelCard(
        name=PATTERN_MODEL,
        version="1.0.0",
        task="resemblance of a heart to five groups of patients",
        licence="CC-BY-NC-SA-4.0",
        weights_sha256=sha256,
        summary="Multinomial logistic model of volumes, wall and motion at end diastole and end systole.",
        input=InputSpecification(
            size=len(FEATURES),
            field="numbers",
            channels=FEATURES,
            normalisation="each in standard deviations from the mean of the training",
        ),
        output=tuple(pattern.words for pattern in Pattern),
        label_weights=(),
        architecture=LogisticArchitecture(in_features=len(FEATURES), classes=len(Pattern)),
        training=TrainingData(
            name="ACDC, end diastole and end systole",
            licence="CC-BY-NC-SA-4.0",
            source="Bernard et al., IEEE TMI 2018, doi:10.1109/TMI.2018.2837502; masks of the node's segmentation",
            cases=tuple(sorted(patients.names.tolist())),
            split="all patients; figures are those of five folds, each by a model that had not seen the fold",
            steps=1,
            command=command,
        ),
        limits=(
            "One hospital (Dijon), two Siemens scanners; each group as frequent as any other, with clear-cut cases.",
            "The segmentation that gives the masks has itself been trained on images and masks of most of these "
            "patients.",
            "The patients' age and sex are not in this copy of the data, so neither is used.",
        ),
        not_for=(
            "Diagnosis, or any decision about a patient: research use only.",
            "Children, congenital heart disease, and hearts of another kind than the five groups.",
            "Commercial use: the weights inherit the licence of their training data.",
        ),
    )
