"""Figures of volumes: errors both ways, coverage of the intervals, errors by badge."""

from __future__ import annotations

import math

import hearts
import pytest

from pipelines.cine.stack import StudyContext
from pipelines.evaluation.volumes import (
    NOTHING,
    MeasuredVolumes,
    StudyVolumes,
    badge_table,
    errors_of,
    finding_table,
    interval_table,
    number_errors,
    study_volumes,
)
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Chamber
from pipelines.function.measure import measure_function
from pipelines.function.slices import measure_slices
from pipelines.function.uncertainty import CONTOUR_ERROR_MM, KeyPhase, VolumeErrors

TRUE = {"LVEDV": 100.0, "LVESV": 40.0, "LVEF": 60.0, "LVM": 90.0, "RVEDV": 120.0, "RVESV": 60.0, "RVEF": 50.0}


Findings = dict[str, tuple[str, float | None]]


def study(
    ef: float,
    edv: float,
    badge: str,
    *,
    alone: float = 50.0,
    findings: Findings | None = None,
) -> StudyVolumes:
    found = MeasuredVolumes({"LVEF": ef, "LVEDV": edv, "RVEF": 54.0, "RVEDV": 90.0}, {})
    return StudyVolumes(TRUE, found, MeasuredVolumes({"LVEF": alone}, {}), badge, findings or {})


REFUSED = StudyVolumes(TRUE, NOTHING, NOTHING, "REFUSED", {})


def test_errors_are_measured_minus_true_and_leave_out_what_is_not_there() -> None:
    errors = errors_of([(10, 12), (10, 7), (10, math.nan)])
    assert (errors.cases, errors.mae, errors.bias, errors.worst) == (2, 2.5, -0.5, 3.0)
    assert errors_of([]).cases == 0
    assert math.isnan(errors_of([]).mae)


def test_volumes_are_compared_both_ways_and_in_percent_of_the_truth() -> None:
    rows = number_errors([study(58, 110, "GOOD"), study(63, 95, "POOR", alone=66), study(10, 10, "REFUSED")])
    assert rows["reported"]["LVEF"].mae == 2.5
    assert rows["short_axis"]["LVEF"].bias == pytest.approx(-2.0)
    assert rows["reported"]["LVEDV_percent"].mae == pytest.approx(7.5)
    assert rows["short_axis"]["LVEDV"].cases == 0
    assert "LVEF_percent" not in rows["reported"]


def test_intervals_that_hold_the_truth_are_counted_both_ways() -> None:
    """LV volumes of 100 and 40 ml, each of no more than 1 ml by other errors; a mm of contour is 5 ml at ES."""

    def off(edv: float, esv: float) -> MeasuredVolumes:
        errors = {"LVEDV": VolumeErrors(edv, 1.0, 1.0, 0.0), "LVESV": VolumeErrors(esv, 1.0, 1.0, 5.0)}
        return MeasuredVolumes({"LVEDV": edv, "LVESV": esv}, errors)

    studies = [
        StudyVolumes(TRUE, off(100.5, 40.0), off(103.0, 90.0), "GOOD", {}),
        StudyVolumes(TRUE, off(102.0, 40.0), off(99.5, 40.0), "POOR", {}),
        REFUSED,
    ]
    table = interval_table(studies)
    assert list(table) == ["LVEDV", "LVESV", "LVEF"]
    assert (table["LVEDV"].cases, table["LVEDV"].held, table["LVEDV"].half_width) == (2, 1, pytest.approx(1.0))
    assert table["LVESV"].held == 2
    inside, outside = CONTOUR_ERROR_MM[Chamber.LV, KeyPhase.END_SYSTOLE]
    half = (math.hypot(1, 5 * inside) + math.hypot(1, 5 * outside)) / 2
    assert table["LVESV"].half_width == pytest.approx(half)
    alone = interval_table(studies, "short_axis")
    assert (alone["LVEDV"].held, alone["LVESV"].held) == (1, 1)


def test_intervals_are_those_that_the_node_gives() -> None:
    stack, segmentation = hearts.draw(hearts.beating(12), hearts.geometry())
    slices = measure_slices(stack, segmentation)
    function = measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), StudyContext("2.25.1"))
    found = study_volumes(stack, segmentation, slices, slices, TRUE)
    given = {one.quantity.value.split("_")[0]: one.interval for one in function.measurements() if one.interval}
    intervals = found.reported.intervals()
    assert {"LVEDV", "LVESV", "LVEF", "LVM", "RVEDV", "RVESV", "RVEF"} == set(intervals)
    for name, interval in intervals.items():
        assert (interval.lower, interval.upper) == pytest.approx((given[name].lower, given[name].upper))


def test_badges_count_what_they_say() -> None:
    studies = [study(58, 1, "GOOD"), study(64, 1, "GOOD"), study(50, 1, "POOR"), REFUSED]
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
        StudyVolumes(TRUE, NOTHING, NOTHING, "REFUSED", {shape: ("UNUSABLE", None)}),
    ]
    table = finding_table(studies)
    assert list(table) == [shape]
    row = table[shape]
    assert (row.lvef_with.cases, row.lvef_with.mae) == (1, 10)
    assert (row.lvef_without.cases, row.lvef_without.mae) == (2, 1.5)
    assert (row.rvef_with.mae, row.rvef_without.mae) == (4, 4)
