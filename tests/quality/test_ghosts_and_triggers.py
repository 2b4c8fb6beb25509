"""Ghosts beside the heart and slices out of step: made on purpose they are found, and what looks like them is not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import hearts
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.cine.stack import CineStack, PhaseEncoding, StudyContext
from pipelines.function.curves import find_keyframes
from pipelines.function.measure import measure_function
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.phantom import Disease, Fault, PhantomRecipe, simulate
from pipelines.phantom.assembled import cine_stack
from pipelines.quality.assess import assess_quality
from pipelines.quality.findings import Grade, QualityCheck, QualityFinding
from pipelines.quality.ghosting import beat_of, ghosting_finding
from pipelines.quality.limits import QualityLimits
from pipelines.quality.triggering import delays_of_slices, triggering_finding
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.synthetic_enhancement.measure import _WITHHELD_BY

LIMITS = QualityLimits()
SIZE = (96, 96)
PHASES = 20
COLUMN, ROW = PhaseEncoding.COLUMN, PhaseEncoding.ROW
AXIS = {COLUMN: 2, ROW: 3}
"""Of (T, S, R, C): columns run from row to row."""


@cache
def drawn(phases: int = PHASES) -> tuple[CineStack, SliceMeasures]:
    grid = hearts.geometry(slices=9, pitch=10.0, spacing=(2.5, 2.5), size=SIZE)
    stack, segmentation = hearts.draw(hearts.beating(phases), grid, SIZE)
    return replace(stack, phase_encoding=COLUMN), measure_slices(stack, segmentation)


def modulated(
    pixels: NDArray[np.float32], axis: int, *, period: float = 5.0, depth: float = 0.5
) -> NDArray[np.float32]:
    """Images whose lines of k-space along an axis are scaled with a period, as by breathing."""
    lines = np.fft.fftfreq(pixels.shape[axis]) * pixels.shape[axis]
    scale = 1 + depth * np.cos(2 * np.pi * lines / period)
    spectrum = np.fft.fft(pixels, axis=axis) * np.expand_dims(scale, tuple(set(range(4)) - {axis}))
    return np.abs(np.fft.ifft(spectrum, axis=axis)).astype(np.float32)


def ghosts(stack: CineStack, slices: SliceMeasures | None = None) -> QualityFinding | None:
    return ghosting_finding(stack, slices or drawn()[1], LIMITS)


def trigger(stack: CineStack, slices: SliceMeasures) -> QualityFinding | None:
    return triggering_finding(stack, slices, LIMITS)


@pytest.mark.parametrize("stated", [COLUMN, ROW, None])
def test_ghosts_are_found_along_the_phase_encoding_or_where_it_is_not_stated_along_either(
    stated: PhaseEncoding | None,
) -> None:
    stack, _ = drawn()
    for along, axis in AXIS.items():
        found = ghosts(replace(stack, pixels=modulated(stack.pixels, axis), phase_encoding=stated))
        assert found is not None
        if stated in (along, None):
            assert found.grade is Grade.POOR
            assert found.value is not None
            assert found.value > 5
            assert len(found.slices) >= 4
            assert "Ghosts" in found.sentence
        else:
            # Along the frequency encoding no ghost can lie: whatever varies there is something else.
            assert (found.grade, found.value, found.slices) == (Grade.EXCELLENT, 0.0, ())


@pytest.mark.parametrize("stated", [COLUMN, ROW])
def test_ghosts_are_found_among_tissue_that_beats_all_around_the_heart(stated: PhaseEncoding) -> None:
    """Real hearts lie among vessels and atria: what beats there is no ghost, and does not hide one."""
    stack, slices = drawn()
    rng = np.random.default_rng(3)
    beat = hearts.contraction(PHASES).astype(np.float32)[:, None, None, None]
    restless = 20 * ndimage.gaussian_filter(rng.normal(0, 1, (1, 9, *SIZE)), (0, 0, 2, 2)) * 7
    pixels = np.where((slices.labels > 0).any(axis=0), stack.pixels, stack.pixels + restless * beat)
    quiet = ghosts(replace(stack, pixels=pixels.astype(np.float32), phase_encoding=stated))
    ghosted = modulated(pixels.astype(np.float32), AXIS[stated])
    found = ghosts(replace(stack, pixels=ghosted, phase_encoding=stated))
    assert quiet is not None
    assert found is not None
    assert (quiet.grade < Grade.POOR, found.grade) == (True, Grade.POOR)


def test_a_heart_without_ghosts_has_none_in_any_noise_of_any_coil() -> None:
    stack, _ = drawn()
    rng = np.random.default_rng(1)
    shade = np.linspace(0.4, 2.0, SIZE[0])[:, None] * np.linspace(1.5, 0.5, SIZE[1])
    for noise in (0.0, 10.0, 60.0):
        parts = rng.normal(0, noise, (2, *stack.pixels.shape)) if noise else np.zeros((2, *stack.pixels.shape))
        # Magnitude of a complex signal: in the dark its floor is Rician.
        rician = np.hypot(0.3 * stack.pixels + parts[0], parts[1]) * shade
        for stated in (COLUMN, ROW, None):
            found = ghosts(replace(stack, pixels=rician.astype(np.float32), phase_encoding=stated))
            assert found is not None
            assert found.grade is Grade.EXCELLENT, (noise, stated, found.value)


def test_noise_alone_leaves_nothing_of_the_beat() -> None:
    noise = np.random.default_rng(2).normal(100, 10, (PHASES, 1, 64, 64)).astype(np.float32)
    assert abs(float(beat_of(noise).power.mean())) < 0.05 * 6 * 100
    beat = 20 * np.cos(2 * np.pi * np.arange(PHASES) / PHASES).astype(np.float32)[:, None, None, None]
    assert float(beat_of(noise + beat).power.mean()) == pytest.approx(PHASES * 200, rel=0.05)
    assert not beat_of(np.full((PHASES, 1, 4, 4), 7, np.float32)).power.any()


@pytest.mark.parametrize("stated", [COLUMN, ROW, None])
def test_a_vessel_that_beats_beside_the_heart_is_no_ghost(stated: PhaseEncoding | None) -> None:
    stack, slices = drawn()
    beat = hearts.contraction(PHASES).astype(np.float32)[:, None, None, None]
    rows, columns = np.nonzero((slices.labels > 0).any(axis=(0, 1)))
    for row, column in ((rows.max() + 9, round(columns.mean())), (round(rows.mean()), columns.min() - 9)):
        down, right = np.ogrid[: SIZE[0], : SIZE[1]]
        away = np.hypot(down - row, right - column)
        pixels = stack.pixels + 200 * beat * (away * 2.5 < 10)
        found = ghosts(replace(stack, pixels=pixels.astype(np.float32), phase_encoding=stated))
        assert found is not None
        assert found.grade < Grade.POOR


def test_ghosts_in_few_slices_are_told_and_do_not_make_the_study_poor() -> None:
    stack, _ = drawn()
    pixels = stack.pixels.copy()
    pixels[:, 3:5] = modulated(stack.pixels, 2)[:, 3:5]
    found = ghosts(replace(stack, pixels=pixels))
    assert found is not None
    assert (found.grade, found.slices) == (Grade.GOOD, (3, 4))
    assert "slice 4, 5" in found.sentence


def test_nothing_is_said_where_ghosts_cannot_be_told() -> None:
    stack, slices = drawn()
    ghosted = replace(stack, pixels=modulated(stack.pixels, 2))
    assert ghosts(ghosted) is not None
    # All but the heart blanked, as some reconstructions do.
    heart = (slices.labels > 0).any(axis=0)
    assert ghosts(replace(ghosted, pixels=np.where(heart, ghosted.pixels, 0).astype(np.float32))) is None
    # Too few phases to tell noise from the beat.
    few = slice(0, PHASES, 4)
    assert ghosts(replace(ghosted, pixels=ghosted.pixels[few]), replace(slices, labels=slices.labels[few])) is None
    # Without a right ventricle it would count as what lies beside the heart.
    assert ghosts(ghosted, replace(slices, rv_mm2=np.zeros_like(slices.rv_mm2))) is None
    # Cropped to the heart, so that nothing is seen beside it.
    rows, columns = (np.flatnonzero(heart.any(axis=(0, axis))) for axis in (2, 1))
    window = (..., slice(rows[0] + 3, rows[-1] - 2), slice(columns[0] + 3, columns[-1] - 2))
    cropped = replace(slices, labels=slices.labels[window])
    assert ghosts(replace(ghosted, pixels=ghosted.pixels[window]), cropped) is None


def turned(phases_late: dict[int, int]) -> tuple[CineStack, SliceMeasures]:
    """The drawn heart with some slices late by a number of phases."""
    stack, slices = drawn()
    labels, pixels = slices.labels.copy(), stack.pixels.copy()
    for index, late in phases_late.items():
        labels[:, index] = np.roll(labels[:, index], late, axis=0)
        pixels[:, index] = np.roll(pixels[:, index], late, axis=0)
    segmentation = hearts.segmentation_of(labels)
    return replace(stack, pixels=pixels), measure_slices(stack, segmentation)


def test_slices_of_one_beat_are_in_step() -> None:
    found = trigger(*drawn())
    assert found is not None
    assert (found.grade, found.value, found.slices) == (Grade.EXCELLENT, 0.0, ())


def test_a_slice_that_begins_at_another_moment_is_named() -> None:
    for late in (6, -5):
        found = trigger(*turned({4: late}))
        assert found is not None
        assert found.grade is Grade.POOR
        assert found.value == pytest.approx(100 * abs(late) / PHASES)
        assert 4 in found.slices
        assert "does not fill and empty" in found.sentence


def test_contraction_that_runs_from_base_to_apex_is_no_wrong_trigger() -> None:
    """A late apex is a finding of the heart: each slice is close to those beside it."""
    found = trigger(*turned({index: index - 4 for index in range(5, 9)}))
    assert found is not None
    assert found.grade < Grade.POOR


def test_a_slice_is_not_judged_by_one_that_the_atrium_enters_in_systole() -> None:
    """As in Sunnybrook SCD0000101: the second slice fills while the ventricle empties, and is not counted then."""
    stack, slices = drawn()
    areas, counted = slices.lv_mm2.copy(), slices.counted.copy()
    base = 1 if slices.base_first else -2
    below = 2 if slices.base_first else -3
    systole = slices.lv_mm2[:, below] < slices.lv_mm2[:, below].mean()
    areas[:, base] = 3 * areas[:, below].max() - 2 * slices.lv_mm2[:, below]
    counted[systole, base] = False
    # Not counted where the atrium is in it, or counted throughout.
    for told in (counted, slices.counted):
        delays, correlations = delays_of_slices(replace(slices, lv_mm2=areas, counted=told))
        assert np.isnan(delays[below])
        assert np.nanmax(np.abs(delays)) == 0
        assert np.nanmin(correlations) > 0.9
        found = trigger(stack, replace(slices, lv_mm2=areas, counted=told))
        assert found is not None
        assert not found.slices
        assert found.grade is Grade.EXCELLENT


def test_a_cycle_that_ends_early_does_not_close() -> None:
    stack, slices = drawn()
    systole = slice(0, 9)
    short = replace(stack, pixels=stack.pixels[systole])
    of_short = measure_slices(short, hearts.segmentation_of(slices.labels[systole]))
    found = trigger(short, of_short)
    assert found is not None
    assert found.grade is Grade.POOR
    assert "does not close" in found.sentence
    # With prospective gating it need not, which is a finding of its own.
    prospective = trigger(replace(short, retrospective=False), of_short)
    assert prospective is not None
    assert "close" not in prospective.sentence


def test_few_phases_or_slices_say_nothing_of_triggers() -> None:
    stack, slices = drawn()
    few = replace(stack, pixels=stack.pixels[::4])
    assert trigger(few, measure_slices(few, hearts.segmentation_of(slices.labels[::4]))) is None
    two = replace(slices, lv_mm2=np.where(np.arange(9) < 6, slices.lv_mm2, 0), counted=slices.counted)
    assert trigger(stack, replace(two, lv_mm2=np.where(np.arange(9) > 3, two.lv_mm2, 0))) is None


@cache
def of_phantom(fault: Fault | None) -> dict[QualityCheck, QualityFinding]:
    """Every finding on a phantom with true contours: a field of view of 195 mm without air in it."""
    recipe = PhantomRecipe(
        seed=61900,
        disease=Disease.NORMAL,
        slices=6,
        phases=12,
        rows=108,
        columns=108,
        spacing_mm=1.8,
        coils=2,
        long_axis=False,
        faults=frozenset({fault} if fault else ()),
    )
    cine = simulate(recipe, workers=1).short_axis
    stack = cine_stack(cine)
    certain = np.ones(cine.labels.shape[:2], np.float32)
    segmentation = CineSegmentation(cine.labels, certain, (0, *cine.labels.shape[2:3], 0, *cine.labels.shape[3:]), ())
    slices = measure_slices(stack, segmentation)
    function = measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), StudyContext("2.25.1"))
    quality = assess_quality(stack, segmentation, slices, function)
    return {found.check: found for found in quality.findings}


@pytest.mark.parametrize("fault", [Fault.GHOSTING, Fault.MISTRIGGER, Fault.ARRHYTHMIA])
def test_faults_of_k_space_are_seen_and_withhold_the_synthetic_image(fault: Fault) -> None:
    found = of_phantom(fault)[QualityCheck.GHOSTING]
    assert found.grade is Grade.POOR
    assert found.check in _WITHHELD_BY


@pytest.mark.parametrize("fault", [None, Fault.BREATHING, Fault.LOW_SNR])
def test_other_faults_are_not_taken_for_them(fault: Fault | None) -> None:
    findings = of_phantom(fault)
    assert findings[QualityCheck.GHOSTING].grade < Grade.POOR
    assert findings[QualityCheck.TRIGGERING].grade < Grade.POOR


def test_the_labels_of_a_drawn_heart_hold_both_ventricles() -> None:
    _, slices = drawn()
    assert {Label.LV, Label.MYO, Label.RV} <= set(np.unique(slices.labels).tolist())
