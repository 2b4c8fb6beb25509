from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipelines.cine.stack import CineStack, FrameSource, StackGeometry, View
from pipelines.evaluation.segmentation import dice
from pipelines.models.registry import load_model_once
from pipelines.segmentation.grid import Square
from pipelines.segmentation.labels import Label
from pipelines.segmentation.localise import locate_heart, square_of_votes
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import LOCALISER, keep_plausible, segment, smooth_in_time
from pipelines.training.acdc import find_patients, read_patient, to_stack
from tests.segmentation.drawn_hearts import draw

WHOLE = Square(192.0, 192.0, 384.0)


def stack_of(pixels: np.ndarray, spacing: tuple[float, float] = (1.5, 1.5)) -> CineStack:
    """A stack of given pixels (T, S, R, C), 10 mm apart."""
    phases, slices = pixels.shape[:2]
    source = FrameSource("", "1.2.3", "1.2", None, None, None)
    return CineStack(
        view=View.SAX,
        pixels=pixels.astype(np.float32),
        geometry=StackGeometry(
            positions=np.arange(slices)[:, None] * np.array([0.0, 0.0, 10.0]),
            row_direction=np.array([1.0, 0.0, 0.0]),
            column_direction=np.array([0.0, 1.0, 0.0]),
            pixel_spacing=spacing,
            slice_thickness=8.0,
        ),
        sources=((source,) * slices,) * phases,
        trigger_times=np.zeros((phases, slices)),
        rr_intervals=np.full(slices, 900.0),
        frame_of_reference_uid="1.2.4",
    )


def blob(row: int, column: int, radius: int, votes: float, size: int = 96) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.where((rows - row) ** 2 + (columns - column) ** 2 <= radius**2, votes, 0.0)


def test_the_crop_is_around_what_most_slices_see() -> None:
    square = square_of_votes(blob(40, 60, 12, 20.0), WHOLE)
    assert square is not None
    assert square.row_mm == pytest.approx((40 + 0.5) * 4, abs=3)
    assert square.column_mm == pytest.approx((60 + 0.5) * 4, abs=3)
    assert square.field_mm == pytest.approx(1.35 * 25 * 4, rel=0.1)


def test_a_vessel_seen_in_one_slice_moves_nothing() -> None:
    heart = blob(40, 60, 12, 20.0)
    assert square_of_votes(heart + blob(80, 10, 5, 2.0), WHOLE) == square_of_votes(heart, WHOLE)


@pytest.mark.parametrize("votes", [np.zeros((96, 96)), blob(40, 40, 1, 30.0)])
def test_nothing_or_next_to_nothing_is_no_heart(votes: np.ndarray) -> None:
    assert square_of_votes(votes, WHOLE) is None


def test_smoothing_in_time_is_cyclic_and_keeps_a_constant() -> None:
    values = np.random.default_rng(0).random((20, 2, 3)).astype(np.float32)
    smooth = smooth_in_time(values, cyclic=True)
    assert np.allclose(np.roll(smooth, 7, axis=0), smooth_in_time(np.roll(values, 7, axis=0), cyclic=True), atol=1e-6)
    assert np.allclose(smooth.mean(0), values.mean(0), atol=1e-6)
    assert np.allclose(smooth_in_time(np.ones((20, 1), np.float32), cyclic=False), 1.0)


def test_smoothing_does_not_wrap_where_late_diastole_is_missing() -> None:
    values = np.zeros((20, 1), dtype=np.float32)
    values[0] = 1.0
    assert smooth_in_time(values, cyclic=True)[-1, 0] > 0.001
    assert smooth_in_time(values, cyclic=False)[-1, 0] == 0.0


def test_a_wave_of_one_beat_is_hardly_flattened() -> None:
    wave = np.cos(2 * np.pi * np.arange(30) / 30).astype(np.float32)[:, None]
    assert float(np.abs(smooth_in_time(wave, cyclic=True) - wave).max()) < 0.01


def test_few_phases_are_left_as_they_are() -> None:
    values = np.random.default_rng(1).random((7, 3)).astype(np.float32)
    assert smooth_in_time(values, cyclic=True) is values


def test_islands_go_and_a_part_of_the_rv_at_the_base_stays() -> None:
    labels = np.zeros((6, 60, 60), dtype=np.uint8)
    labels[1:5, 20:40, 20:40] = Label.MYO
    labels[1:5, 25:35, 25:35] = Label.LV
    labels[1:4, 22:38, 10:19] = Label.RV
    labels[5, 20:26, 20:26] = Label.MYO
    labels[5, 20:26, 12:19] = Label.RV  # apart from the rest of the RV, beside the wall
    expected = labels.copy()
    labels[0, 2:6, 50:55] = Label.LV
    labels[3, 50:55, 2:8] = Label.RV
    assert np.array_equal(keep_plausible(labels), expected)


def test_an_empty_phase_stays_empty() -> None:
    assert not keep_plausible(np.zeros((3, 10, 10), dtype=np.uint8)).any()


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 3, 64, 64)), np.full((1, 1, 40, 40), np.nan), np.zeros((1, 0, 40, 40))]
)
def test_what_holds_no_heart_is_refused_with_a_sentence(pixels: np.ndarray) -> None:
    with pytest.raises(SegmentationRefused, match=r"^[A-Z].*\.$"):
        segment(stack_of(pixels))


def test_noise_is_refused() -> None:
    noise = np.random.default_rng(0).normal(100, 20, (2, 4, 160, 160))
    with pytest.raises(SegmentationRefused):
        segment(stack_of(noise))


def test_a_drawn_heart_is_found_where_it_was_drawn() -> None:
    pixels, truth = draw(140, 150, (70.0, 80.0), 18.0, 8.0, 6)
    segmentation = segment(stack_of(pixels[None]))
    first_row, end_row, first_column, end_column = segmentation.crop
    assert first_row < 44
    assert end_row > 96
    assert first_column < 50
    assert end_column > 106
    outside = np.ones(segmentation.labels.shape, dtype=bool)
    outside[:, :, first_row:end_row, first_column:end_column] = False
    assert not segmentation.labels[outside].any()
    assert dice(np.isin(segmentation.labels[0], (Label.LV, Label.MYO)), np.isin(truth, (2, 3))) > 0.7


def test_the_localiser_says_how_bright_the_blood_is() -> None:
    pixels, _ = draw(140, 150, (70.0, 80.0), 18.0, 8.0, 6)
    pixels[:, :12] = 1500.0
    place = locate_heart(stack_of(pixels[None]), load_model_once(LOCALISER))
    assert place.blood == pytest.approx(220.0, abs=20.0)


@pytest.mark.real_data
class TestRealHearts:
    @pytest.fixture(scope="class")
    def stack(self, acdc_dir: Path) -> CineStack:
        return to_stack(read_patient(find_patients(acdc_dir)[0]))

    def test_result_is_on_the_grid_of_the_stack(self, stack: CineStack) -> None:
        segmentation = segment(stack)
        assert segmentation.labels.shape == stack.pixels.shape
        assert segmentation.labels.dtype == np.uint8
        assert segmentation.agreement.shape == stack.pixels.shape[:2]
        assert float(segmentation.agreement.min()) >= 0.0
        assert float(segmentation.agreement.max()) <= 1.0
        assert [model.name for model in segmentation.models] == ["heart-localiser", "ventricle-segmentation"]

    def test_the_same_input_gives_the_same_labels(self, stack: CineStack) -> None:
        assert np.array_equal(segment(stack).labels, segment(stack).labels)

    def test_units_of_grey_do_not_matter(self, stack: CineStack) -> None:
        other = dataclasses.replace(stack, pixels=stack.pixels * 7.5 + 300)
        assert dice(segment(stack).labels > 0, segment(other).labels > 0) > 0.995

    def test_turned_and_mirrored_images_give_turned_and_mirrored_labels(self, stack: CineStack) -> None:
        expected = segment(stack).labels
        for turn in (lambda array: array[..., ::-1], lambda array: np.rot90(array, 1, axes=(2, 3))):
            turned = dataclasses.replace(stack, pixels=np.ascontiguousarray(turn(stack.pixels)))
            found = segment(turned).labels
            for label in (Label.LV, Label.MYO):
                assert dice(found == label, turn(expected) == label) > 0.85

    @pytest.mark.parametrize("phases", [1, 9])
    def test_any_number_of_phases(self, stack: CineStack, phases: int) -> None:
        share = (1 - np.cos(2 * np.pi * np.arange(phases) / phases)) / 2
        pixels = stack.pixels[0] + share[:, None, None, None].astype(np.float32) * (stack.pixels[1] - stack.pixels[0])
        cine = dataclasses.replace(stack, pixels=pixels.astype(np.float32), sources=stack.sources[:1] * phases)
        assert segment(cine).labels.shape[0] == phases

    def test_one_slice_alone_is_segmented(self, stack: CineStack) -> None:
        geometry = dataclasses.replace(stack.geometry, positions=stack.geometry.positions[4:5])
        single = dataclasses.replace(stack, pixels=stack.pixels[:, 4:5], geometry=geometry)
        assert dice(segment(single).labels == Label.LV, segment(stack).labels[:, 4:5] == Label.LV) > 0.8
