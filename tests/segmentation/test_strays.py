"""Slices on which something beside the left ventricle was taken for it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.segmentation.confidence import LIKELY_WRONG
from pipelines.segmentation.labels import Label
from pipelines.segmentation.strays import not_left_ventricle, without_left_ventricle

SIZE = 64
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]


def stack(centres: list[tuple[float, float] | None]) -> NDArray[np.uint8]:
    """A left ventricle of radius 12 with a wall of 4 on each slice, ``None`` without."""
    labels = np.zeros((len(centres), SIZE, SIZE), np.uint8)
    for plane, centre in zip(labels, centres, strict=True):
        if centre is not None:
            radius = np.hypot(ROWS - centre[0], COLUMNS - centre[1])
            plane[radius < 12] = Label.MYO
            plane[radius < 8] = Label.LV
    return labels


ALONG = [(20.0 + slice_, 20.0) for slice_ in range(7)]
UNSURE = np.float32(LIKELY_WRONG - 0.1)


def test_a_straight_ventricle_has_none() -> None:
    assert not not_left_ventricle(stack([*ALONG]), np.full(7, UNSURE)).any()


def test_what_lies_beside_at_either_end_is_found() -> None:
    labels = stack([(48.0, 48.0), *ALONG[1:5], (45.0, 45.0), (46.0, 46.0)])
    confidence = np.array([0.3, 0.9, 0.9, 0.9, 0.9, 0.6, 0.3])
    assert not_left_ventricle(labels, confidence).tolist() == [True, False, False, False, False, True, True]


def test_a_slice_behind_one_that_lies_beside_is_held_against_the_last_good_one() -> None:
    labels = stack([*ALONG[:5], (45.0, 45.0), ALONG[6]])
    assert not_left_ventricle(labels, np.array([0.9] * 5 + [0.4] * 2)).tolist() == [False] * 5 + [True, False]


def test_a_slice_that_breathing_moved_is_kept_where_the_network_is_sure() -> None:
    labels = stack([*ALONG[:5], (38.0, 38.0), (39.0, 38.0)])
    assert not not_left_ventricle(labels, np.array([0.9] * 5 + [LIKELY_WRONG, LIKELY_WRONG])).any()
    assert not_left_ventricle(labels, np.array([0.9] * 5 + [UNSURE, UNSURE])).tolist() == [False] * 5 + [True, True]


def test_where_half_the_slices_disagree_none_is_called_wrong() -> None:
    labels = stack([(20.0, 20.0)] * 3 + [(48.0, 48.0)] * 3)
    assert not not_left_ventricle(labels, np.full(6, UNSURE)).any()


def test_a_gap_without_a_ventricle_is_passed_over() -> None:
    labels = stack([*ALONG[:4], None, ALONG[5], (50.0, 50.0)])
    assert not_left_ventricle(labels, np.array([0.9] * 5 + [0.4, 0.4])).tolist() == [False] * 6 + [True]


@given(st.integers(0, 5), st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_one_slice_with_a_ventricle_or_none_at_all_is_never_a_stray(place: int, confidence: list[float]) -> None:
    labels = stack([(30.0, 30.0) if index == place else None for index in range(5)])
    assert not not_left_ventricle(labels, np.array(confidence)).any()


def test_the_likeliest_of_what_is_left_takes_their_place() -> None:
    probability = np.full((2, 4, 1, 1), 0.1, np.float32)
    probability[:, Label.LV], probability[:, Label.RV] = 0.5, 0.3
    changed = without_left_ventricle(probability, np.array([False, True]))
    assert changed.argmax(1).ravel().tolist() == [Label.LV, Label.RV]
    assert probability[1, Label.LV] == 0.5
