"""Figures of volumes: errors both ways, coverage of the intervals, errors by badge."""

from __future__ import annotations

import math

import pytest

from pipelines.evaluation.volumes import (
    StudyVolumes,
    badge_table,
    errors_of,
    finding_table,
    volume_coverage,
    volume_errors,
)

TRUE = {"LVEDV": 100.0, "LVESV": 40.0, "LVEF": 60.0, "LVM": 90.0, "RVEDV": 120.0, "RVESV": 60.0, "RVEF": 50.0}


Findings = dict[str, tuple[str, float | None]]


def study(
    ef: float,
    edv: float,
    badge: str,
    *,
    alone: float = 50.0,
    held: bool = True,
    findings: Findings | None = None,
) -> StudyVolumes:
    found = {"LVEF": ef, "LVEDV": edv, "RVEF": 54.0, "RVEDV": 90.0}
    return StudyVolumes(TRUE, found, {"LVEF": alone}, {"LVEF": held}, badge, findings or {})


def test_errors_are_measured_minus_true_and_leave_out_what_is_not_there() -> None:
    errors = errors_of([(10, 12), (10, 7), (10, math.nan)])
    assert (errors.cases, errors.mae, errors.bias, errors.worst) == (2, 2.5, -0.5, 3.0)
    assert errors_of([]).cases == 0
    assert math.isnan(errors_of([]).mae)


def test_volumes_are_compared_both_ways_and_in_percent_of_the_truth() -> None:
    rows = volume_errors([study(58, 110, "GOOD"), study(63, 95, "POOR", alone=66), study(10, 10, "REFUSED")])
    assert rows["reported"]["LVEF"].mae == 2.5
    assert rows["short_axis"]["LVEF"].bias == pytest.approx(-2.0)
    assert rows["reported"]["LVEDV_percent"].mae == pytest.approx(7.5)
    assert rows["short_axis"]["LVEDV"].cases == 0
    assert "LVEF_percent" not in rows["reported"]


def test_coverage_and_badge_count_what_they_say() -> None:
    studies = [
        study(58, 1, "GOOD"),
        study(64, 1, "GOOD", held=False),
        study(50, 1, "POOR"),
        StudyVolumes(TRUE, {}, {}, {}, "REFUSED", {}),
    ]
    assert volume_coverage(studies) == {"LVEF": pytest.approx(2 / 3)}
    table = badge_table(studies)
    assert list(table) == ["GOOD", "POOR", "REFUSED"]
    assert (table["GOOD"].cases, table["GOOD"].mae, table["GOOD"].worst, table["GOOD"].within_3_points) == (
        2,
        3,
        4,
        0.5,
    )
    assert (table["POOR"].mae, table["POOR"].within_3_points) == (10, 0)
    assert (table["GOOD"].rvef.mae, table["GOOD"].rvef.bias) == (4, 4)
    assert table["GOOD"].lvedv_percent.bias == pytest.approx(-99)
    assert table["GOOD"].rvedv_percent.bias == pytest.approx(-25)
    assert table["REFUSED"].cases == 1
    assert table["REFUSED"].rvef.cases == 0
    assert math.isnan(table["REFUSED"].mae)


def test_each_check_is_held_against_the_errors_with_and_without_its_concern() -> None:
    shape, gating = "shape", "gating"
    studies = [
        study(50, 100, "POOR", findings={shape: ("POOR", 3.0), gating: ("GOOD", None)}),
        study(58, 100, "GOOD", findings={shape: ("GOOD", 1.0), gating: ("EXCELLENT", 0.0)}),
        study(61, 100, "GOOD", findings={gating: ("EXCELLENT", 0.0)}),
        StudyVolumes(TRUE, {}, {}, {}, "REFUSED", {shape: ("UNUSABLE", None)}),
    ]
    table = finding_table(studies)
    assert list(table) == [shape]
    row = table[shape]
    assert (row.lvef_with.cases, row.lvef_with.mae) == (1, 10)
    assert (row.lvef_without.cases, row.lvef_without.mae) == (2, 1.5)
    assert (row.rvef_with.mae, row.rvef_without.mae) == (4, 4)
