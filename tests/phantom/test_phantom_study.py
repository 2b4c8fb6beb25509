from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from pipelines.cine.stack import View
from pipelines.phantom import Disease, Fault, PhantomRecipe, PhantomStudy, RecipeError, simulate
from pipelines.phantom.generator import training_examples, training_recipe
from pipelines.segmentation.labels import Label

SMALL = PhantomRecipe(seed=9, slices=4, phases=6, rows=72, columns=80, spacing_mm=3.0, long_axis=False)


def test_equal_recipes_give_equal_studies_whatever_the_number_of_threads() -> None:
    one, other = simulate(SMALL, workers=1), simulate(SMALL, workers=3)
    assert np.array_equal(one.short_axis.pixels, other.short_axis.pixels)
    assert np.array_equal(one.short_axis.labels, other.short_axis.labels)
    different = simulate(dataclasses.replace(SMALL, seed=10))
    assert not np.array_equal(one.short_axis.pixels, different.short_axis.pixels)


def test_a_seed_gives_the_same_study_in_a_fresh_process() -> None:
    script = (
        "import hashlib; from pipelines.phantom import PhantomRecipe, simulate; "
        "cine = simulate(PhantomRecipe(seed=9, slices=4, phases=6, rows=72, columns=80, spacing_mm=3.0, "
        "long_axis=False)).short_axis; "
        "print(hashlib.sha256(cine.pixels.tobytes() + cine.labels.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    cine = simulate(SMALL).short_axis
    assert hashlib.sha256(cine.pixels.tobytes() + cine.labels.tobytes()).hexdigest() == other


def test_voxels_of_a_fine_stack_close_on_the_analytic_volumes() -> None:
    recipe = PhantomRecipe(
        seed=2, slices=38, pitch_mm=3.0, phases=4, rows=96, columns=110, spacing_mm=1.4, long_axis=False
    )
    study = simulate(recipe)
    cine = study.short_axis
    voxel = np.prod(cine.geometry.pixel_spacing) * cine.geometry.pitch / 1000
    for phase, state in enumerate(study.states):
        cavity = (cine.labels[phase] == Label.LV).sum() * voxel
        assert cavity == pytest.approx(state.lv_volume_ml, rel=0.01)
    muscle = (cine.labels == Label.MYO).sum(axis=(1, 2, 3)) * voxel * 1.05
    assert muscle == pytest.approx(np.full(4, study.subject.lv_mass_g), rel=0.01)
    right = (cine.labels == Label.RV).sum(axis=(1, 2, 3)) * voxel
    assert right == pytest.approx(np.array([state.rv_volume_ml for state in study.states]), rel=0.02)


def test_a_study_has_every_view_and_lesions_where_they_belong(infarct_study: PhantomStudy) -> None:
    assert [cine.view for cine in infarct_study.cines] == [View.SAX, View.LAX_2CH, View.LAX_3CH, View.LAX_4CH]
    cine, lge = infarct_study.short_axis, infarct_study.enhancement
    assert lge is not None
    assert {0, 1, 2} <= set(np.unique(cine.lesions))
    assert (cine.labels[cine.lesions > 0] == Label.MYO).all()
    assert set(np.unique(infarct_study.cines[3].atria)) == {0, 1, 2}
    # Apex first along the normal.
    base = infarct_study.heart.axes[2]
    assert (np.diff(cine.geometry.positions @ base) > 0).all()
    assert cine.geometry.normal @ base > 0.97


def test_late_enhancement_shows_infarct_bright_and_obstruction_dark(infarct_study: PhantomStudy) -> None:
    lge = infarct_study.enhancement
    assert lge is not None
    remote = (lge.labels == Label.MYO) & (lge.lesions == 0)
    signed = lge.phase_sensitive.astype(float)
    infarct, core, muscle = (np.median(signed[m]) for m in (lge.lesions == 1, lge.lesions == 2, remote))
    assert infarct > muscle + 150
    assert core < infarct - 150


def test_grey_values_are_those_of_cine(infarct_study: PhantomStudy) -> None:
    cine = infarct_study.short_axis
    blood, muscle = (np.median(cine.pixels[cine.labels == label]) for label in (Label.LV, Label.MYO))
    assert 1.8 < blood / muscle < 4.0


@pytest.mark.parametrize("fault", [Fault.MISTRIGGER, Fault.GHOSTING, Fault.LOW_SNR])
def test_faults_of_acquisition_change_images_and_not_truth(fault: Fault) -> None:
    good, bad = simulate(SMALL), simulate(dataclasses.replace(SMALL, faults=frozenset({fault})))
    assert np.array_equal(good.short_axis.labels, bad.short_axis.labels)
    difference = np.abs(good.short_axis.pixels.astype(int) - bad.short_axis.pixels)
    assert difference.mean() > 1


def test_low_snr_and_ghosts_are_seen_beside_the_noise() -> None:
    good = simulate(SMALL).short_axis
    blood = ndimage.binary_erosion(good.labels == Label.LV, np.ones((1, 1, 3, 3)))

    def noise(pixels: np.ndarray) -> float:
        second = pixels - 0.5 * (np.roll(pixels, 1, -1) + np.roll(pixels, -1, -1))
        return float(np.median(np.abs(second[blood])))

    def with_fault(fault: Fault) -> np.ndarray:
        return simulate(dataclasses.replace(SMALL, faults=frozenset({fault}))).short_axis.pixels.astype(float)

    assert noise(with_fault(Fault.LOW_SNR)) > 2 * noise(good.pixels.astype(float))
    ghosts = with_fault(Fault.GHOSTING) - good.pixels
    assert np.median(np.abs(ghosts[blood])) > 2 * noise(good.pixels.astype(float))


def test_faults_of_planning_change_the_stack() -> None:
    recipe = dataclasses.replace(SMALL, slices=9, phases=4)
    good = simulate(recipe)

    def with_fault(fault: Fault) -> PhantomStudy:
        return simulate(dataclasses.replace(recipe, faults=frozenset({fault})))

    missing = with_fault(Fault.MISSING_SLICES).short_axis.geometry
    assert len(missing.positions) < 9
    assert np.diff(missing.positions @ missing.normal).max() > 1.5 * missing.pitch
    poor = with_fault(Fault.POOR_COVERAGE).short_axis
    assert poor.labels.shape[1] == 6
    wrong = with_fault(Fault.WRONG_VIEW).short_axis.geometry
    assert wrong.normal @ good.heart.axes[2] == pytest.approx(np.cos(np.radians(30)), abs=0.03)
    unsteady = with_fault(Fault.ARRHYTHMIA).short_axis.rr_intervals
    assert np.ptp(unsteady) > 3 * np.ptp(good.short_axis.rr_intervals)
    shifted = with_fault(Fault.BREATHING).short_axis
    assert np.allclose(shifted.geometry.positions, good.short_axis.geometry.positions)
    assert not np.array_equal(shifted.labels, good.short_axis.labels)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seed": -1}, "seed"),
        ({"phases": 2}, "phases"),
        ({"field_strength_t": 7.0}, "field_strength_t"),
        ({"transmurality": 0.5}, "infarct"),
        ({"disease": Disease.INFARCT, "transmurality": 0.1}, "transmurality"),
        ({"disease": Disease.INFARCT, "acute": False, "obstruction": True}, "chronic"),
        ({"pitch_mm": 50.0}, "pitch_mm"),
    ],
)
def test_impossible_recipes_say_what_to_change(change: dict[str, object], word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        dataclasses.replace(SMALL, **change)


def test_the_generator_draws_different_phantoms_without_disk() -> None:
    examples = training_examples(40, size=64, spacing_mm=3.0, slices=3, phases=4)
    first, second = next(examples), next(examples)
    assert first.images.shape == (4, 3, 64, 64)
    assert first.images.shape == first.labels.shape
    assert not np.array_equal(first.labels, second.labels)
    assert (first.labels == Label.LV).any()
    assert len({training_recipe(seed).disease for seed in range(40)}) == len(Disease)
