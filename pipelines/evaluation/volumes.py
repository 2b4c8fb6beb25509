"""Volumes and ejection fractions against what is true of phantoms: valve planes, intervals, badge, quality checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.cine.stack import CineStack, StudyContext
from pipelines.errors import AnalysisRefused
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Chamber, Interval, VentricularFunction
from pipelines.function.measure import measure_function
from pipelines.function.slices import SliceMeasures
from pipelines.function.uncertainty import (
    KeyPhase,
    VolumeErrors,
    ejection_fraction_bounds,
    mass_bounds,
    volume_bounds,
    volume_errors,
)
from pipelines.phantom.truth import TruthFacts
from pipelines.quality.assess import assess_quality, overall_grade
from pipelines.quality.findings import Grade, QualityCheck, QualityFinding
from pipelines.segmentation.labels import CineSegmentation

__all__ = [
    "BadgeRow",
    "Errors",
    "FindingRow",
    "IntervalRow",
    "MeasuredVolumes",
    "StudyVolumes",
    "badge_table",
    "errors_of",
    "finding_table",
    "graded_again",
    "interval_table",
    "number_errors",
    "study_volumes",
    "true_volumes",
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
class MeasuredVolumes:
    """Numbers of one phantom, measured one way.

    Attributes
    ----------
    numbers : dict of str to float
        By the names of ``NUMBERS``; empty when nothing can be measured.
    errors : dict of str to VolumeErrors
        What the volumes among them may be off by, by the same names.
    """

    numbers: dict[str, float]
    errors: dict[str, VolumeErrors]

    def intervals(self) -> dict[str, Interval]:
        """Intervals of the numbers, as the node gives them with the errors of the contours that it has today."""
        found: dict[str, Interval] = {}
        if "LVM" in self.numbers:
            found["LVM"] = mass_bounds(self.numbers["LVM"])
        for chamber in Chamber:
            names = tuple(f"{chamber}{phase}V" for phase in KeyPhase)
            if not set(names) <= set(self.errors):
                continue
            edv, esv = (
                volume_bounds(chamber, phase, self.errors[name]) for phase, name in zip(KeyPhase, names, strict=True)
            )
            found |= dict(zip(names, (edv, esv), strict=True))
            fraction = ejection_fraction_bounds(edv, esv, *(self.errors[name].ml for name in names))
            if fraction is not None:
                found[f"{chamber}EF"] = fraction
        return found


NOTHING = MeasuredVolumes({}, {})


@dataclass(frozen=True, slots=True)
class StudyVolumes:
    """Volumes of one phantom, as the node reports them.

    Attributes
    ----------
    true : dict of str to float
        By the names of ``NUMBERS``.
    reported : MeasuredVolumes
        Cut at the valve planes where long-axis views show them.
    short_axis : MeasuredVolumes
        From the short axis alone.
    badge : str
        Name of the grade, or ``REFUSED`` where the quality is too low for numbers.
    findings : dict of str to (str, float or None)
        By quality check: name of its grade, and the value it was given for. Limits can be tried on them.
    """

    true: dict[str, float]
    reported: MeasuredVolumes
    short_axis: MeasuredVolumes
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
class IntervalRow:
    """Intervals of one number over cases."""

    cases: int
    held: int
    """How many hold the truth."""
    half_width: float
    """Mean of half the width, in the unit of the number."""


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


def true_volumes(facts: TruthFacts) -> dict[str, float]:
    """What is true of a phantom, by the names of ``NUMBERS``."""
    return {
        "LVEDV": facts.lv_edv_ml,
        "LVESV": facts.lv_esv_ml,
        "LVEF": facts.lv_ef_percent,
        "LVM": facts.lv_mass_g,
        "RVEDV": facts.rv_edv_ml,
        "RVESV": facts.rv_esv_ml,
        "RVEF": facts.rv_ef_percent,
    }


def study_volumes(
    stack: CineStack,
    segmentation: CineSegmentation,
    reported: SliceMeasures,
    short_axis: SliceMeasures,
    true: dict[str, float],
) -> StudyVolumes:
    """Measure volumes both ways and grade the study, as the package ``ventricular_function`` does.

    Parameters
    ----------
    reported
        Slices cut at the valve planes, where there are any.
    short_axis
        The same slices as the short axis alone shows them.
    true
        By the names of ``NUMBERS``.
    """
    alone = _function(stack, short_axis)
    found = alone if reported is short_axis else _function(stack, reported)
    if found is None:
        return StudyVolumes(true, NOTHING, _measured(alone, short_axis), REFUSED, {})
    quality = assess_quality(stack, segmentation, reported, found)
    badge = REFUSED if quality.refusal is not None else quality.overall.name
    findings = {str(one.check): (one.grade.name, one.value) for one in quality.findings}
    return StudyVolumes(true, _measured(found, reported), _measured(alone, short_axis), badge, findings)


def _function(stack: CineStack, slices: SliceMeasures) -> VentricularFunction | None:
    try:
        return measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), StudyContext("2.25.1"))
    except AnalysisRefused:
        return None


def _measured(function: VentricularFunction | None, slices: SliceMeasures) -> MeasuredVolumes:
    if function is None:
        return NOTHING
    found = {one.quantity.value.split("_")[0]: one.value for one in function.measurements()}
    errors: dict[str, VolumeErrors] = {}
    for one in (function.lv, function.rv):
        if one is not None:
            off = volume_errors(one.chamber, slices, one.curve, function.keyframes)
            errors |= {f"{one.chamber}{phase}V": off[phase] for phase in KeyPhase}
    return MeasuredVolumes({name: found[name] for name in NUMBERS if name in found}, errors)


def graded_again(study: StudyVolumes) -> StudyVolumes:
    """The study with the badge that its findings and intervals have by the rule of today."""
    if study.badge == REFUSED:
        return study
    findings = [
        QualityFinding(QualityCheck(name), Grade[grade], "", value) for name, (grade, value) in study.findings.items()
    ]
    return replace(study, badge=overall_grade(findings).name)


def number_errors(studies: Sequence[StudyVolumes]) -> dict[str, dict[str, Errors]]:
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
            pairs = [(one.true[name], found[name]) for one in numbered if name in (found := _way(one, way).numbers)]
            rows[name] = errors_of(pairs)
            if not name.endswith("EF"):
                rows[f"{name}_percent"] = errors_of([(100.0, 100 * found / true) for true, found in pairs])
        by_way[way] = rows
    return by_way


def _way(study: StudyVolumes, way: str) -> MeasuredVolumes:
    return study.reported if way == "reported" else study.short_axis


def interval_table(studies: Sequence[StudyVolumes], way: str = "reported") -> dict[str, IntervalRow]:
    """How often intervals hold the truth, by number, over the studies that got numbers.

    Parameters
    ----------
    way : str
        ``reported`` or ``short_axis``.
    """
    numbered = [(one.true, _way(one, way).intervals()) for one in studies if one.badge != REFUSED]
    table = {}
    for name in NUMBERS:
        found = [(true[name], intervals[name]) for true, intervals in numbered if name in intervals]
        if found:
            held = sum(one.lower <= true <= one.upper for true, one in found)
            half = float(np.mean([(one.upper - one.lower) / 2 for _, one in found]))
            table[name] = IntervalRow(len(found), held, half)
    return table


def badge_table(studies: Sequence[StudyVolumes]) -> dict[str, BadgeRow]:
    """Errors by badge, best badge first, refused studies last."""
    table: dict[str, BadgeRow] = {}
    for badge in (*(grade.name for grade in sorted(Grade)), REFUSED):
        members = [one for one in studies if one.badge == badge]
        if members:
            errors = np.abs([one.reported.numbers.get("LVEF", np.nan) - one.true["LVEF"] for one in members])
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
    pairs = [(one.true[name], one.reported.numbers.get(name, float("nan"))) for one in studies]
    return errors_of([(100.0, 100 * found / true) for true, found in pairs] if percent else pairs)
