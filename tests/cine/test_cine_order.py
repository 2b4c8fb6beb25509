"""The order of phases from attributes that do not say the phase: believed when the pixels agree, else declined."""

from __future__ import annotations

import random

import numpy as np
import pytest
from cine_scanner import COLUMNS, ROWS, edit, expected_values, mean_values, stack
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from pipelines.cine.assemble import assemble_datasets
from pipelines.cine.order import _greedy, _least_length, _length, _shortened, disorder, median_allowed
from pipelines.cine.stack import CineStudy, OmissionReason

PHASES = 20


def beating(slice_index: int, phase: int, *, phases: int = PHASES, noise: float = 20.0) -> np.ndarray:
    """A bright disc that contracts fast and fills slowly, on noise."""
    time = phase / phases
    contracted = np.sin(np.pi * min(time / 0.35, 1.0) / 2) if time < 0.35 else 1 - (time - 0.35) / 0.65
    row, column = np.mgrid[:ROWS, :COLUMNS]
    radius = 12.0 - 0.5 * slice_index - 5.0 * contracted
    inside = np.clip(radius - np.hypot(row - ROWS / 2, column - COLUMNS / 2) + 0.5, 0.0, 1.0)
    generator = np.random.default_rng(1000 * slice_index + phase)
    return (200 + 900 * inside + generator.normal(0, noise, inside.shape)).clip(0, 4095).astype(np.uint16)


def hearts(slices: int = 5, *, phases: int = PHASES) -> list[Dataset]:
    images = stack(slices=slices, phases=phases)
    for number, ds in enumerate(images):
        ds.PixelData = beating(number // phases, number % phases, phases=phases).tobytes()
        # All of one moment, so that no other attribute tells them apart.
        ds.ContentTime = ds.AcquisitionTime = "101100"
    return images


def moment(rank: int) -> str:
    return f"{101100 + 0.04 * rank:.2f}"


def ordered_by(images: list[Dataset], attribute: str, ranks: list[int]) -> list[Dataset]:
    """Leave only one attribute that orders them; ``ranks`` within each slice."""
    for number, ds in enumerate(images):
        rank = ranks[number % len(ranks)] if len(ranks) < len(images) else ranks[number]
        if attribute == "irregular TriggerTime":
            ds.TriggerTime = f"{rank * rank * 1.9:.1f}"
        else:
            del ds.TriggerTime
        if attribute == "InstanceNumber":
            ds.InstanceNumber = rank + 1
        else:
            del ds.InstanceNumber
        if attribute in {"ContentTime", "AcquisitionTime"}:
            setattr(ds, attribute, moment(rank))
    return images


WEAK = ["InstanceNumber", "ContentTime", "AcquisitionTime", "irregular TriggerTime"]
NAMED = {"irregular TriggerTime": "TriggerTime"}
TRUE = np.stack([[beating(s, t) for s in range(5)] for t in range(PHASES)])


def assembled(images: list[Dataset]) -> CineStudy:
    random.Random(5).shuffle(images)
    (study,) = assemble_datasets(images)
    return study


@pytest.mark.parametrize("attribute", WEAK)
def test_a_weak_attribute_that_the_pixels_bear_out_is_taken(attribute: str) -> None:
    study = assembled(ordered_by(hearts(), attribute, list(range(PHASES))))
    assert study.short_axis is not None
    np.testing.assert_array_equal(study.short_axis.pixels, TRUE)
    assert not study.omissions


@given(st.sampled_from(WEAK), st.integers(0, 10_000))
@settings(max_examples=12, deadline=None)
def test_a_weak_attribute_that_the_pixels_contradict_is_named_and_the_frames_declined(attribute, seed) -> None:
    ranks: list[int] = []
    source = random.Random(seed)
    for _ in range(5):
        own = list(range(PHASES))
        source.shuffle(own)
        ranks += own
    study = assembled(ordered_by(hearts(), attribute, ranks))
    assert not study.stacks
    (entry,) = study.omissions
    assert entry.detail.startswith(f"Only {NAMED.get(attribute, attribute)} could put its images in order of phase")
    assert len(entry.sop_instance_uids) == 100


@pytest.mark.parametrize("attribute", WEAK)
def test_every_other_phase_first_is_seen(attribute: str) -> None:
    ranks = [phase // 2 if phase % 2 == 0 else 10 + phase // 2 for phase in range(PHASES)]
    assert not assembled(ordered_by(hearts(), attribute, ranks)).stacks


def test_the_next_attribute_decides_where_the_first_is_contradicted() -> None:
    images = hearts()
    for number, ds in enumerate(images):
        phase = number % PHASES
        del ds.TriggerTime
        ds.AcquisitionTime = moment(phase * 7 % PHASES)
        ds.ContentTime = moment(phase * 3 % PHASES)
        ds.InstanceNumber = number + 1
    study = assembled(images)
    assert study.short_axis is not None
    np.testing.assert_array_equal(study.short_axis.pixels, TRUE)
    assert study.short_axis.sources[3][0].instance_number is not None


@given(st.sampled_from(["TriggerTime", "TemporalPositionIdentifier"]), st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_a_strong_attribute_that_instance_number_denies_is_held_against_the_pixels(attribute: str, seed: int) -> None:
    """Whichever of the two the pixels bear out is taken: a regular grid of trigger times may be dealt out wrongly."""
    wrong = list(range(PHASES))
    random.Random(seed).shuffle(wrong)
    for dealt, counted in ((wrong, list(range(PHASES))), (list(range(PHASES)), wrong)):
        images = hearts()
        for number, ds in enumerate(images):
            phase = number % PHASES
            del ds.TriggerTime
            setattr(ds, attribute, f"{40.0 * dealt[phase]:.1f}" if attribute == "TriggerTime" else dealt[phase] + 1)
            ds.InstanceNumber = counted[phase] + 1
        study = assembled(images)
        assert study.short_axis is not None
        np.testing.assert_array_equal(study.short_axis.pixels, TRUE)
        assert not study.omissions


def equal_pairs(every: int) -> list[float]:
    """Trigger times of which one in ``every`` is that of the frame before."""
    return [40.0 * (phase - (phase % every == every - 1)) for phase in range(PHASES)]


@pytest.mark.parametrize("every", [2, 3, 20])
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("attribute", ["InstanceNumber", "ContentTime", "AcquisitionTime"])
def test_frames_of_equal_trigger_times_are_all_used_where_another_attribute_counts_on(
    attribute, declared, every
) -> None:
    images = hearts()
    times = equal_pairs(every)
    ordered_by(images, attribute, list(range(PHASES)))
    for number, ds in enumerate(images):
        ds.TriggerTime = f"{times[number % PHASES]:.1f}"
        if not declared:
            ds.CardiacNumberOfImages = None
    study = assembled(images)
    assert study.short_axis is not None
    np.testing.assert_array_equal(study.short_axis.pixels, TRUE)
    assert not study.omissions


def test_of_equal_trigger_times_the_attribute_that_goes_with_them_decides() -> None:
    images = hearts()
    times = equal_pairs(2)
    for number, ds in enumerate(images):
        phase = number % PHASES
        ds.TriggerTime = f"{times[phase]:.1f}"
        ds.ContentTime = moment(phase * 7 % PHASES)
        ds.InstanceNumber = number + 1
    study = assembled(images)
    assert study.short_axis is not None
    np.testing.assert_array_equal(study.short_axis.pixels, TRUE)


def test_equal_trigger_times_that_nothing_tells_apart_are_not_called_another_acquisition() -> None:
    images = hearts()
    times = equal_pairs(2)
    for number, ds in enumerate(images):
        ds.TriggerTime = f"{times[number % PHASES]:.1f}"
        del ds.InstanceNumber
    study = assembled(images)
    assert study.short_axis is not None
    assert study.short_axis.phases == PHASES // 2
    (entry,) = study.omissions
    assert len(entry.sop_instance_uids) == 50
    assert entry.detail.startswith("Other images of its series with the same trigger times")


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("numbered", ["one after the other", "by turns"])
def test_a_repeat_within_a_series_is_still_a_repeat(numbered: str, declared: bool) -> None:
    images = hearts()
    again = hearts()
    for number, (first, second) in enumerate(zip(images, again, strict=True)):
        place = number % PHASES
        second.SOPInstanceUID = first.SOPInstanceUID + ".2"
        by_turns = numbered == "by turns"
        first.InstanceNumber = 2 * place + 1 if by_turns else place + 1
        second.InstanceNumber = 2 * place + 2 if by_turns else PHASES + place + 1
        for ds in (first, second):
            ds.CardiacNumberOfImages = PHASES if declared else None
    study = assembled(images + again)
    assert study.short_axis is not None
    assert study.short_axis.phases == PHASES
    (entry,) = study.omissions
    assert entry.reason is OmissionReason.REPEATED_ACQUISITION
    assert len(entry.sop_instance_uids) == 100


def by_trigger_time(ds: Dataset, phase: int) -> None:
    ds.TriggerTime = f"{40.0 * phase:.1f}"


def by_temporal_position(ds: Dataset, phase: int) -> None:
    ds.TriggerTime, ds.TemporalPositionIdentifier = "0", phase + 1


def by_private_phase(ds: Dataset, phase: int) -> None:
    del ds.TriggerTime
    ds.add_new(0x20010010, "LO", "Philips Imaging DD 001")
    ds.add_new(0x20011008, "IS", str(phase + 1))


@given(
    which=st.sets(st.integers(0, 4), min_size=1),
    state=st.sampled_from([by_trigger_time, by_temporal_position, by_private_phase]),
    by_turns=st.booleans(),
    told=st.sampled_from(["", "AcquisitionNumber", "SeriesInstanceUID"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15, deadline=None)
def test_a_slice_acquired_again_is_one_acquisition_however_it_is_numbered(which, state, by_turns, told, seed) -> None:
    noise = np.random.default_rng(seed)
    images, again = hearts(), hearts()
    for number, (first, second) in enumerate(zip(images, again, strict=True)):
        place = number % PHASES
        second.SOPInstanceUID = first.SOPInstanceUID + ".0.7"
        pixels = np.frombuffer(second.PixelData, "<u2") + noise.integers(0, 40, ROWS * COLUMNS)
        second.PixelData = pixels.astype("<u2").tobytes()
        if told:
            setattr(second, told, "2.25.2" if told == "SeriesInstanceUID" else 2)
        first.InstanceNumber = 2 * place + 1 if by_turns else place + 1
        second.InstanceNumber = 2 * place + 2 if by_turns else PHASES + place + 1
        for ds in (first, second):
            del ds.CardiacNumberOfImages
            state(ds, place)
    study = assembled(images + [ds for number, ds in enumerate(again) if number // PHASES in which])
    assert study.short_axis is not None
    assert (study.short_axis.phases, study.short_axis.slices) == (PHASES, 5)
    for index in range(5):
        taken = [row[index].sop_instance_uid.endswith(".0.7") for row in study.short_axis.sources]
        assert all(taken) or not any(taken)
    assert sum(len(entry.sop_instance_uids) for entry in study.omissions) == PHASES * len(which)
    assert {entry.reason for entry in study.omissions} == {OmissionReason.REPEATED_ACQUISITION}


def test_one_slice_in_another_order_is_left_out_alone() -> None:
    ranks = list(range(PHASES)) * 5
    ranks[80:] = [(phase * 7) % PHASES for phase in range(PHASES)]
    study = assembled(ordered_by(hearts(), "InstanceNumber", ranks))
    assert study.short_axis is not None
    np.testing.assert_array_equal(study.short_axis.pixels, TRUE[:, :4])
    (entry,) = study.omissions
    assert entry.reason is OmissionReason.NOT_CINE
    assert len(entry.sop_instance_uids) == PHASES


def test_slices_in_which_nothing_moves_go_with_the_others() -> None:
    images = ordered_by(hearts(), "InstanceNumber", list(range(PHASES)))
    for number, ds in enumerate(images[:PHASES]):
        ds.PixelData = np.random.default_rng(number).normal(300, 20, (ROWS, COLUMNS)).astype(np.uint16).tobytes()
    study = assembled(images)
    assert study.short_axis is not None
    assert study.short_axis.slices == 5


@given(st.integers(10, 40), st.integers(0, 40), st.booleans(), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_the_true_order_begins_anywhere_and_runs_either_way(phases, start, backwards, slice_index) -> None:
    frames = np.stack([beating(slice_index, t, phases=phases) for t in range(phases)]).astype(np.float32)
    frames = np.roll(frames[::-1] if backwards else frames, start, axis=0)
    found = disorder(frames)
    # The pixels never tell where a cycle begins.
    assert found is None or found < median_allowed(phases)


@given(st.integers(10, 30), st.integers(0, 10_000), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_no_path_is_shorter_than_what_is_said_to_be_the_least(count: int, seed: int, dimensions: int) -> None:
    """So an order that is taken without a search for a smoother one would be taken after it, too."""
    points = np.random.default_rng(seed).normal(size=(count, dimensions))
    apart = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    least = _least_length(apart)
    assert 0 <= least <= _shortened(apart, _greedy(apart)) + 1e-9
    if dimensions == 1:
        assert least <= _length(apart, list(np.argsort(points[:, 0]))) + 1e-9


@given(st.integers(2, 60), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_noise_has_no_order(count: int, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(300, 20, (count, 64, 64)).astype(np.float32)
    assert disorder(noise) is None
    assert disorder(np.zeros((count, 64, 64), np.float32)) is None


@st.composite
def creators(draw: st.DrawFn) -> str:
    words = [word.upper() if draw(st.booleans()) else word for word in ("Philips", "Imaging", "DD", "001")]
    between, after = draw(st.sampled_from([" ", "  "])), draw(st.sampled_from(["", " ", "\0", "   "]))
    return draw(st.sampled_from(["", " "])) + between.join(words) + after


@given(creators(), st.integers(0x10, 0x20), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_private_creators_however_they_are_spelt(creator: str, block: int, source: random.Random) -> None:
    images = stack(slices=3)
    numbers = list(range(1, len(images) + 1))
    source.shuffle(numbers)
    for number, (ds, instance) in enumerate(zip(images, numbers, strict=True)):
        ds.TriggerTime, ds.InstanceNumber = "0", instance
        ds.add_new(0x20010000 | block, "LO", creator)
        ds.add_new(0x20010000 | block << 8 | 0x08, "IS", str(number % 20 + 1))
    (study,) = assemble_datasets(images)
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(20, 3))


@given(st.floats(-2000, 200), st.sampled_from([15.0, 40.0, 60.0]), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_a_grid_of_trigger_times_may_begin_before_the_r_wave(start: float, step: float, source: random.Random) -> None:
    images = stack(slices=3, rr=step * 20)
    numbers = list(range(1, len(images) + 1))
    source.shuffle(numbers)
    for number, (ds, instance) in enumerate(zip(images, numbers, strict=True)):
        ds.TriggerTime, ds.InstanceNumber = f"{start + step * (number % 20):.1f}", instance
    (study,) = assemble_datasets(images)
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(20, 3))
    np.testing.assert_allclose(np.diff(study.short_axis.trigger_times[:, 0]), step, atol=0.11)


@pytest.mark.parametrize("value", ["12;5", "n/a"])
def test_a_time_that_cannot_be_read_is_said_where_nothing_orders_the_frames(value: str) -> None:
    images = edit(hearts(), InstanceNumber=None, ContentTime=None, AcquisitionTime=None)
    for ds in images:
        del ds.TriggerTime
        ds.add_new(0x00181060, "LO", value)
    study = assembled(images)
    assert not study.stacks
    assert any(f"TriggerTime cannot be read as a number ('{value}')." in entry.detail for entry in study.omissions)
