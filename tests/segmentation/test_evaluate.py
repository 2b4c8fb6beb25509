from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.segmentation import cases_of_fold, dice, evaluate, surface_distances, volumes
from pipelines.models.registry import ModelUnavailable
from pipelines.segmentation.labels import Label
from pipelines.training.acdc import AcdcLayoutError
from tests.segmentation.test_segment import stack_of


def box(
    first: tuple[int, int, int], end: tuple[int, int, int], shape: tuple[int, int, int] = (6, 40, 40)
) -> np.ndarray:
    solid = np.zeros(shape, dtype=bool)
    solid[first[0] : end[0], first[1] : end[1], first[2] : end[2]] = True
    return solid


def test_dice_of_overlapping_boxes() -> None:
    assert dice(box((1, 10, 10), (3, 20, 20)), box((1, 10, 15), (3, 20, 25))) == pytest.approx(0.5)
    assert dice(box((0, 0, 0), (0, 0, 0)), box((0, 0, 0), (0, 0, 0))) == 1.0
    assert dice(box((0, 0, 0), (0, 0, 0)), box((0, 0, 0), (1, 1, 1))) == 0.0


def test_distances_are_in_millimetres_along_every_axis() -> None:
    truth = box((1, 10, 10), (4, 30, 30))
    assert surface_distances(truth, truth, (10.0, 1.5, 2.0)) == (0.0, 0.0)
    for axis, expected in ((0, 10.0), (1, 1.5), (2, 2.0)):
        moved = np.roll(truth, 1, axis=axis)
        hd95, assd = surface_distances(moved, truth, (10.0, 1.5, 2.0))
        assert hd95 == pytest.approx(expected)
        assert 0 < assd < expected


def test_a_solid_at_the_border_has_an_edge_there() -> None:
    truth = box((0, 0, 0), (6, 40, 40))
    assert surface_distances(truth[:, 2:], truth[:, 2:], (1.0, 1.0, 1.0)) == (0.0, 0.0)
    hd95, _ = surface_distances(box((0, 0, 0), (6, 40, 36)), truth, (1.0, 1.0, 1.0))
    assert hd95 == pytest.approx(4.0)


def test_distance_to_nothing_does_not_exist() -> None:
    empty = np.zeros((6, 40, 40), dtype=bool)
    assert np.isnan(surface_distances(empty, box((1, 1, 1), (2, 2, 2)), (1.0, 1.0, 1.0))).all()


def test_volumes_of_boxes() -> None:
    stack = stack_of(np.zeros((1, 6, 40, 40)), spacing=(2.0, 1.0))
    labels = np.zeros((6, 40, 40), dtype=np.uint8)
    labels[1:4, 10:20, 10:20] = Label.LV
    labels[2, 0:5, 0:4] = Label.RV
    result = volumes(labels, stack.geometry)
    assert pytest.approx((3 * 100 * 2.0 * 10 / 1000, 0.0, 20 * 2.0 * 10 / 1000)) == (result.LV, result.MYO, result.RV)


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AcdcLayoutError):
        evaluate(tmp_path)


def test_cases_that_are_not_there_are_refused(drawn_hearts: Path) -> None:
    with pytest.raises(ValueError, match="patient999"):
        evaluate(drawn_hearts, cases=["patient999"])
    with pytest.raises(ValueError, match="no fold 9"):
        evaluate(drawn_hearts, fold=9)


def test_networks_of_another_folder_are_used_and_missed(drawn_hearts: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=str(tmp_path)):
        evaluate(drawn_hearts, models=tmp_path)


def test_the_report_has_the_agreed_keys_and_is_json(drawn_hearts: Path) -> None:
    held_out = cases_of_fold(drawn_hearts, 0)
    evaluation = evaluate(drawn_hearts, fold=0)
    assert [result.patient for result in evaluation.results] == list(held_out)
    report = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert report["cases"] == len(held_out)
    for measure in ("dice", "hd95_mm", "assd_mm"):
        assert set(report[measure]) == {"LV", "MYO", "RV"}
        assert {"mean", "min", "ED", "ES"} <= set(report[measure]["LV"])
    assert set(report["function"]) == {"LVEF", "LVEDV", "LVESV", "RVEF", "LVM"}
    assert set(report["function"]["LVEF"]) == {"mae", "bias", "loa"}
    assert set(report["groups"]) <= {"NOR", "DCM"}
    assert report["worst"][0]["patient"] in held_out


@pytest.mark.real_data
def test_patients_not_trained_on_are_segmented_well(acdc_dir: Path) -> None:
    held_out = cases_of_fold(acdc_dir, 0)
    evaluation = evaluate(acdc_dir, cases=held_out[:3])
    assert evaluation.seen_in_training == ()
    assert evaluation.refused == 0
    assert evaluation.dice["LV"].mean > 0.90
    assert evaluation.dice["MYO"].mean > 0.82
    assert evaluation.dice["RV"].mean > 0.80


@pytest.mark.real_data
def test_patients_trained_on_are_named(acdc_dir: Path) -> None:
    assert evaluate(acdc_dir, cases=["patient001"]).seen_in_training == ("patient001",)
