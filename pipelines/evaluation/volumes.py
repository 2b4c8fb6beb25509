"""Volumes and ejection fractions against what is true of phantoms: valve planes, intervals, badge, quality checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.cine.stack import CineStack, StudyContext
from pipelines.errors import AnalysisRefused
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import VentricularFunction
from pipelines.function.measure import measure_function
from pipelines.function.slices import SliceMeasures
from pipelines.phantom.truth import TruthFacts
from pipelines.quality.assess import assess_quality
from pipelines.quality.findings import Grade
from pipelines.segmentation.labels import CineSegmentation

__all__ = [
    "BadgeRow",
    "Errors",
    "FindingRow",
    "StudyVolumes",
    "badge_table",
    "errors_of",
    "finding_table",
    "study_volumes",
    "volume_coverage",
    "volume_errors",
]

NUMBERS = ("LVEDV", "LVESV", "LVEF", "LVM", "RVEDV", "RVESV", "RVEF")
"""Volumes in ml, mass in g, ejection fractions in %."""
REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of a number over cases, measured − true."""

    cases: int
    mae: float
    bias: float
    worst: float


@dataclass(frozen=True, slots=True)
class StudyVolumes:
    """Volumes of one phantom, as the node reports them.

    Attributes
    ----------
    true : dict of str to float
        By the names of ``NUMBERS``.
    reported : dict of str to float
        Cut at the valve planes where long-axis views show them; empty when nothing can be measured.
    short_axis : dict of str to float
        From the short axis alone.
    covered : dict of str to bool
        Whether the interval of a reported number holds the truth; numbers without an interval are left out.
    badge : str
        Name of the grade, or ``REFUSED`` where the quality is too low for numbers.
    findings : dict of str to (str, float or None)
        By quality check: name of its grade, and the value it was given for. Limits can be tried on them.
    """

    true: dict[str, float]
    reported: dict[str, float]
    short_axis: dict[str, float]
    covered: dict[str, bool]
    badge: str
    findings: dict[str, tuple[str, float | None]]


@dataclass(frozen=True, slots=True)
class BadgeRow:
    """Errors of the studies that got one badge: ejection fractions in points, volumes in percent of the true one."""

    cases: int
    mae: float
    """Of LVEF, as are ``worst`` and ``within_3_points``."""
    worst: float
    within_3_points: float
    """Share of the studies."""
    rvef: Errors
    lvedv_percent: Errors
    rvedv_percent: Errors


@dataclass(frozen=True, slots=True)
class FindingRow:
    """Errors of the studies with a concern of one check, and of those without: ejection fractions in points."""

    lvef_with: Errors
    lvef_without: Errors
    rvef_with: Errors
    rvef_without: Errors


def errors_of(pairs: Sequence[tuple[float, float]]) -> Errors:
    """Errors of pairs of a true and a measured value; pairs with a value that is not finite are left out."""
    differences = np.array([found - true for true, found in pairs], dtype=np.float64)
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return Errors(0, float("nan"), float("nan"), float("nan"))
    magnitude = np.abs(differences)
    return Errors(len(differences), float(magnitude.mean()), float(differences.mean()), float(magnitude.max()))


def study_volumes(
    stack: CineStack,
    segmentation: CineSegmentation,
    reported: SliceMeasures,
    short_axis: SliceMeasures,
    facts: TruthFacts,
) -> StudyVolumes:
    """Measure volumes both ways and grade the study, as the package ``ventricular_function`` does.

    Parameters
    ----------
    reported
        Slices cut at the valve planes, where there are any.
    short_axis
        The same slices as the short axis alone shows them.
    """
    true = {
        "LVEDV": facts.lv_edv_ml,
        "LVESV": facts.lv_esv_ml,
        "LVEF": facts.lv_ef_percent,
        "LVM": facts.lv_mass_g,
        "RVEDV": facts.rv_edv_ml,
        "RVESV": facts.rv_esv_ml,
        "RVEF": facts.rv_ef_percent,
    }
    alone = _function(stack, short_axis)
    found = alone if reported is short_axis else _function(stack, reported)
    if found is None:
        return StudyVolumes(true, {}, _numbers(alone), {}, REFUSED, {})
    quality = assess_quality(stack, segmentation, reported, found)
    badge = REFUSED if quality.refusal is not None else quality.overall.name
    covered = {
        name: one.interval.lower <= true[name] <= one.interval.upper
        for one in found.measurements()
        if (name := _name(one.quantity.value)) in true and one.interval is not None
    }
    findings = {str(one.check): (one.grade.name, one.value) for one in quality.findings}
    return StudyVolumes(true, _numbers(found), _numbers(alone), covered, badge, findings)


def _function(stack: CineStack, slices: SliceMeasures) -> VentricularFunction | None:
    try:
        return measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), StudyContext("2.25.1"))
    except AnalysisRefused:
        return None


def _name(quantity: str) -> str:
    return quantity.split("_")[0]


def _numbers(function: VentricularFunction | None) -> dict[str, float]:
    if function is None:
        return {}
    found = {_name(one.quantity.value): one.value for one in function.measurements()}
    return {name: found[name] for name in NUMBERS if name in found}


def volume_errors(studies: Sequence[StudyVolumes]) -> dict[str, dict[str, Errors]]:
    """Errors of each number over the studies that got numbers.

    Returns
    -------
    dict
        ``reported`` and ``short_axis``, each by the names of ``NUMBERS``; beside them ``LVEDV_percent`` and the like,
        in percent of the true volume.
    """
    numbered = [one for one in studies if one.badge != REFUSED]
    by_way: dict[str, dict[str, Errors]] = {}
    for way in ("reported", "short_axis"):
        rows: dict[str, Errors] = {}
        for name in NUMBERS:
            pairs = [(one.true[name], found[name]) for one in numbered if name in (found := getattr(one, way))]
            rows[name] = errors_of(pairs)
            if not name.endswith("EF"):
                rows[f"{name}_percent"] = errors_of([(100.0, 100 * found / true) for true, found in pairs])
        by_way[way] = rows
    return by_way


def volume_coverage(studies: Sequence[StudyVolumes]) -> dict[str, float]:
    """Share of the studies with numbers whose interval holds the truth, by number."""
    held = {
        name: [one.covered[name] for one in studies if one.badge != REFUSED and name in one.covered] for name in NUMBERS
    }
    return {name: float(np.mean(values)) for name, values in held.items() if values}


def badge_table(studies: Sequence[StudyVolumes]) -> dict[str, BadgeRow]:
    """Errors by badge, best badge first, refused studies last."""
    table: dict[str, BadgeRow] = {}
    for badge in (*(grade.name for grade in sorted(Grade)), REFUSED):
        members = [one for one in studies if one.badge == badge]
        if members:
            errors = np.abs([one.reported.get("LVEF", np.nan) - one.true["LVEF"] for one in members])
            known = errors[np.isfinite(errors)]
            nothing = not len(known)
            table[badge] = BadgeRow(
                len(members),
                float("nan") if nothing else float(known.mean()),
                float("nan") if nothing else float(known.max()),
                float("nan") if nothing else float((known <= 3).mean()),
                _errors(members, "RVEF"),
                _errors(members, "LVEDV", percent=True),
                _errors(members, "RVEDV", percent=True),
            )
    return table


def finding_table(studies: Sequence[StudyVolumes]) -> dict[str, FindingRow]:
    """Errors with and without a concern (poor or unusable), by the quality checks that had one in any study."""
    numbered = [one for one in studies if one.badge != REFUSED]
    table: dict[str, FindingRow] = {}
    for check in dict.fromkeys(check for one in numbered for check in one.findings):
        concerned = [_concern(one, check) for one in numbered]
        if any(concerned):
            with_it, without = (
                [one for one, is_so in zip(numbered, concerned, strict=True) if is_so is wanted]
                for wanted in (True, False)
            )
            table[check] = FindingRow(
                _errors(with_it, "LVEF"), _errors(without, "LVEF"), _errors(with_it, "RVEF"), _errors(without, "RVEF")
            )
    return table


def _concern(study: StudyVolumes, check: str) -> bool:
    grade = study.findings.get(check, (Grade.EXCELLENT.name, None))[0]
    return Grade[grade] >= Grade.POOR


def _errors(studies: Sequence[StudyVolumes], name: str, *, percent: bool = False) -> Errors:
    pairs = [(one.true[name], one.reported.get(name, float("nan"))) for one in studies]
    return errors_of([(100.0, 100 * found / true) for true, found in pairs] if percent else pairs)
