"""Probability of enhancement in patients of ACDC, which have two phases and no late enhancement.

All that can be asked is whether those with an old infarct get a higher probability than the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cine.stack import StudyContext
from pipelines.errors import AnalysisRefused
from pipelines.evaluation.figures import plain
from pipelines.evaluation.heart_statistics import area_with_interval, mean
from pipelines.evaluation.synthetic_hearts import see
from pipelines.models.registry import PACKAGED
from pipelines.sampling import Sampling
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.synthetic_enhancement.load import load_networks
from pipelines.training.acdc import find_patients, read_patient, to_stack

__all__ = ["AcdcEvaluation", "evaluate_acdc"]


@dataclass(frozen=True, slots=True)
class AcdcEvaluation:
    """Probability of enhancement in patients of ACDC, two phases each."""

    patients: int
    declined: dict[str, str]
    auc_minf_vs_nor: float
    auc_minf_vs_rest: float
    auc_detail: dict[str, Any]
    """The same with intervals and numbers of patients."""
    auc_by_classifier: dict[str, Any]
    """Old infarct against normal, by way."""
    by_group: dict[str, dict[str, float]]
    probabilities: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; figures that do not exist are ``None``."""
        return plain(asdict(self))


def evaluate_acdc(
    data: Path,
    *,
    models: Path = PACKAGED,
    groups: Sequence[str] = ("MINF", "NOR", "DCM", "HCM", "RV"),
    report: Callable[[str, int, int], None] | None = None,
) -> AcdcEvaluation:
    """Probability of enhancement of patients in ACDC's layout, from end diastole and end systole alone.

    The networks of this analysis have seen no patient. The segmentation that finds the wall was trained on these
    patients' images and masks.

    Raises
    ------
    AcdcLayoutError
        The folder is not in ACDC's layout.
    ModelUnavailable
        A network is missing.
    """
    networks = load_networks(root=models)
    folders = sorted(find_patients(data))
    probabilities: dict[str, float] = {}
    ways: dict[str, dict[str, float]] = {}
    group_of: dict[str, str] = {}
    declined: dict[str, str] = {}
    for number, folder in enumerate(folders, 1):
        patient = read_patient(folder)
        if patient.group not in groups:
            continue
        try:
            seen = see(to_stack(patient), StudyContext(study_instance_uid="2.25.1"), networks, Sampling(2, 1))
        except (AnalysisRefused, SegmentationRefused) as refusal:
            declined[patient.identifier] = str(refusal)
            continue
        group_of[patient.identifier] = patient.group
        probabilities[patient.identifier] = seen.result.study_probability
        for entry in seen.result.classifiers:
            ways.setdefault(entry.name, {})[patient.identifier] = entry.probability
        if report is not None:
            report(f"{patient.identifier} {patient.group}", number, len(folders))

    def against(values: dict[str, float], others: Sequence[str]) -> dict[str, Any]:
        kept = [name for name in values if group_of[name] == "MINF" or group_of[name] in others]
        return area_with_interval([[(group_of[name] == "MINF", values[name])] for name in kept])

    rest = [group for group in groups if group != "MINF"]
    detail = {
        "auc_minf_vs_nor": against(probabilities, ["NOR"]),
        "auc_minf_vs_rest": against(probabilities, rest),
    }
    by_group = {group: [value for name, value in probabilities.items() if group_of[name] == group] for group in groups}
    return AcdcEvaluation(
        patients=len(probabilities) + len(declined),
        declined=declined,
        auc_minf_vs_nor=detail["auc_minf_vs_nor"]["auc"],
        auc_minf_vs_rest=detail["auc_minf_vs_rest"]["auc"],
        auc_detail=detail,
        auc_by_classifier={name: against(values, ["NOR"]) for name, values in ways.items()},
        by_group={
            group: {"patients": len(values), "mean": mean(values), "median": float(np.median(values))}
            for group, values in by_group.items()
            if values
        },
        probabilities=probabilities,
    )
