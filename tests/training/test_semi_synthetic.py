"""Cines simulated from the anatomy of a patient: shape and scar are the case's, motion follows the law."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.late_enhancement.labels import Tissue
from pipelines.phantom.anatomy import Anatomy
from pipelines.phantom.law import PESSIMISTIC_LAW
from pipelines.phantom.recipe import Disease
from pipelines.phantom.study import ENHANCEMENT_GREY, PSIR_ZERO, PhantomStudy
from pipelines.phantom.tables import ANGLES
from pipelines.phantom.truth import PhantomTruth, measure_truth
from pipelines.segmentation.labels import Label
from pipelines.training.emidec import ASSUMED_PITCH_MM, EmidecCase, find_cases, read_case
from pipelines.training.heart_clips import read_clips
from pipelines.training.semi_synthetic import (
    Part,
    pack_patients,
    part_of,
    place,
    semi_synthetic_recipe,
    semi_synthetic_study,
    upright,
)
from pipelines.training.synthetic_hearts import training_heart

STRETCH = 1.8
"""Columns of the drawn case show a millimetre on this many times as many pixels as rows do."""
LATERAL = (-35, 35)
"""Scar of the drawn case, degrees; 0 lateral, 90 anterior."""


def drawn_case(*, scar: bool = True, slices: int = 5, name: str = "drawn") -> EmidecCase:
    """A tapering ventricle; scar in the inner 60 % of the lateral wall of the middle slices, dark in its core."""
    rows, columns = np.meshgrid(np.arange(120) - 58.0, (np.arange(200) - 105.0) / STRETCH, indexing="ij")
    radius, angle = np.hypot(rows, columns), np.degrees(np.arctan2(-rows, columns))
    labels = np.zeros((slices, *rows.shape), np.uint8)
    for index, plane in enumerate(labels):
        inner = 12.0 + 10.0 * np.sqrt(index / max(slices - 1, 1))
        depth = (radius - inner) / 8.0
        plane[depth <= 1] = Tissue.MYO
        plane[depth <= 0] = Tissue.LV
        if scar and 0 < index < slices - 1:
            beside = (angle > LATERAL[0]) & (angle < LATERAL[1])
            plane[beside & (depth > 0) & (depth <= 0.6)] = Tissue.INFARCT
            plane[(np.abs(angle) < 12) & (depth > 0.2) & (depth <= 0.4)] = Tissue.OBSTRUCTION
    grey = np.array([30, 150, 40, 220, 60], np.float32)[labels]
    return EmidecCase(name, grey + np.random.default_rng(0).uniform(0, 5, grey.shape).astype(np.float32), labels)


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return semi_synthetic_study(drawn_case())


@pytest.fixture(scope="module")
def truth(study: PhantomStudy) -> PhantomTruth:
    return measure_truth(study)


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_the_scale_of_rows_and_columns_is_found_from_the_ventricle() -> None:
    placed = place(drawn_case(), 200.0)
    assert placed.spacing_mm[0] / placed.spacing_mm[1] == pytest.approx(STRETCH, rel=0.02)
    anatomy = placed.anatomy
    outer = float((0.5 * anatomy.epi_mm**2).mean(axis=1).sum() * 2 * np.pi * anatomy.pitch_mm / 1000)
    assert outer == pytest.approx(200.0, rel=0.04)
    assert np.ptp(anatomy.endo_mm, axis=1).max() < 0.1 * anatomy.endo_mm.max(), "a circle again"
    ratio = ((anatomy.epi_mm - anatomy.endo_mm) / anatomy.endo_mm)[-1].mean()
    assert ratio == pytest.approx(8 / 22, rel=0.08)


def test_depths_along_the_rays_are_those_of_the_labels() -> None:
    anatomy = place(drawn_case(), 200.0).anatomy
    depth = anatomy.scar[1] - anatomy.scar[0]
    ray = ANGLES * np.array([0, 25, 60, 180]) // 360
    assert depth[2, ray] == pytest.approx([0.6, 0.6, 0, 0], abs=0.09)
    assert not depth[0].any()
    assert anatomy.obstruction[1][2, 0] - anatomy.obstruction[0][2, 0] == pytest.approx(0.2, abs=0.1)
    assert not (anatomy.obstruction[1] - anatomy.obstruction[0])[2, ray[1:]].any()


def test_the_cine_at_end_diastole_shows_the_contours_and_the_scar_of_the_patient(study: PhantomStudy) -> None:
    cine, late = study.short_axis, study.enhancement
    assert late is not None
    assert cine.pixels.shape[1] == 5
    assert cine.geometry.pitch == pytest.approx(ASSUMED_PITCH_MM)
    assert dice(cine.labels[0] == Label.LV, late.labels == Label.LV) > 0.95
    assert dice(cine.labels[0] == Label.MYO, late.labels == Label.MYO) > 0.9
    assert dice(cine.lesions[0] > 0, late.lesions > 0) > 0.85
    assert dice(cine.lesions[0] == 2, late.lesions == 2) > 0.5


def test_the_target_is_the_real_image(study: PhantomStudy) -> None:
    late = study.enhancement
    assert late is not None
    grey = (late.phase_sensitive.astype(np.float64) - PSIR_ZERO) / ENHANCEMENT_GREY * 255
    assert np.median(grey[late.lesions == 1]) == pytest.approx(222.5, abs=4)
    assert np.median(grey[late.labels == Label.LV]) == pytest.approx(152.5, abs=4)
    assert np.median(grey[late.lesions == 2]) == pytest.approx(62.5, abs=15)


def test_the_infarct_moves_less_than_remote_muscle(truth: PhantomTruth) -> None:
    systole = truth.facts.keyframes.end_systole
    lateral, septal = [10, 11], [7, 8]  # middle segments 11, 12 and 8, 9
    radial = truth.aha_radial[systole]
    assert radial[lateral].mean() < 0.6 * radial[septal].mean()
    assert truth.aha_transmurality[lateral].mean() > 0.2
    assert truth.aha_transmurality[septal].max() < 0.01
    assert truth.facts.infarct_acute
    assert truth.facts.obstruction_percent > 0
    assert truth.facts.infarct_percent == pytest.approx(7.0, abs=3)


def test_same_case_and_law_give_the_same_study(study: PhantomStudy) -> None:
    again = semi_synthetic_study(drawn_case(), workers=2)
    assert np.array_equal(again.short_axis.pixels, study.short_axis.pixels)
    other = semi_synthetic_recipe(drawn_case(), PESSIMISTIC_LAW)
    assert replace(other, law=study.recipe.law) == study.recipe
    assert semi_synthetic_recipe(drawn_case(name="another")).seed != study.recipe.seed
    drawn_again = semi_synthetic_recipe(drawn_case(), draw=1)
    assert drawn_again.seed != study.recipe.seed
    assert drawn_again.disease is study.recipe.disease


def test_patients_without_an_infarct_are_healthy_or_have_stunned_muscle() -> None:
    diseases = [semi_synthetic_recipe(drawn_case(scar=False, name=f"N{number}")).disease for number in range(60)]
    assert set(diseases) == {Disease.NORMAL, Disease.HIBERNATION}
    assert 0.1 < np.mean([one is Disease.HIBERNATION for one in diseases]) < 0.5


def test_an_open_wall_is_bridged() -> None:
    case = drawn_case()
    labels = case.labels.copy()
    rows, columns = np.meshgrid(np.arange(120) - 58.0, (np.arange(200) - 105.0) / STRETCH, indexing="ij")
    septal = np.abs(np.degrees(np.arctan2(-rows, -columns))) < 20
    labels[-1][septal & (labels[-1] == Tissue.MYO)] = Tissue.BACKGROUND
    anatomy = place(replace(case, labels=labels), 200.0).anatomy
    wall = (anatomy.epi_mm - anatomy.endo_mm)[-1]
    assert wall.min() > 0.6 * np.median(wall)


def test_too_few_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="drawn shows the left ventricle on 2 slices"):
        place(drawn_case(slices=2), 200.0)


def test_an_anatomy_must_have_a_wall() -> None:
    radius, nothing = np.full((3, ANGLES), 20.0), np.zeros((3, ANGLES))
    with pytest.raises(ValueError, match="outside its endocardium"):
        Anatomy(10.0, radius, radius, (nothing, nothing), (nothing, nothing))
    with pytest.raises(ValueError, match="three slices"):
        Anatomy(10.0, radius[:2], radius[:2] + 8, (nothing[:2],) * 2, (nothing[:2],) * 2)


def test_every_patient_belongs_to_one_part_and_the_reported_ones_to_no_other() -> None:
    names = [f"Case_{number:03}" for number in range(79)]
    parts = {part: part_of(names[::-1], part) for part in Part}
    assert parts[Part.REPORTED] == tuple(names[::3])
    assert sorted(name for part in parts.values() for name in part) == names
    assert [len(parts[part]) for part in (Part.REPORTED, Part.HELD_OUT, Part.TRAINING)] == [27, 11, 41]


def test_images_as_stored_are_put_as_a_reader_sees_a_short_axis() -> None:
    """Stored: the right ventricle at the bottom, the anterior wall on the right."""
    stored = np.zeros((1, 4, 6), np.float32)
    stored[0, 3, 2], stored[0, 1, 5] = 1, 2
    found = upright(EmidecCase("one", stored, stored.astype(np.uint8)))
    assert found.pixels.shape == (1, 6, 4)
    right_ventricle, anterior = np.argwhere(found.pixels[0] == 1)[0], np.argwhere(found.pixels[0] == 2)[0]
    assert right_ventricle.tolist() == [3, 0], "on the left"
    assert anterior.tolist() == [0, 2], "at the top"
    assert np.array_equal(found.labels, found.pixels)
    assert np.array_equal(upright(found).pixels, stored)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn cases in EMIDEC's layout: one of each part."""
    folder = tmp_path_factory.mktemp("emidec")
    for number in range(3):
        case = upright(drawn_case())
        for kind, images in (("images", case.pixels), ("labels", case.labels)):
            (folder / kind).mkdir(exist_ok=True)
            for index, image in enumerate(images):
                Image.fromarray(image.astype(np.uint8)).save(folder / kind / f"Case_P{number}_slice{index:03}.png")
    return folder


def test_pairs_for_training_are_of_the_training_part_and_made_once(folder: Path, tmp_path: Path) -> None:
    (wanted,) = part_of(tuple(find_cases(folder)), Part.TRAINING)
    files = pack_patients(tmp_path, folder, Part.TRAINING, 2)
    assert [path.name for path in files] == [f"emidec-default-v1-{wanted}-{draw}.npz" for draw in range(2)]
    written = [path.stat().st_mtime_ns for path in files]
    assert pack_patients(tmp_path, folder, Part.TRAINING, 2) == files
    assert [path.stat().st_mtime_ns for path in files] == written, "what is there is not made again"
    first, second = read_clips(files)
    assert first.case == second.case == wanted
    assert not np.array_equal(first.images, second.images), "another patient and scanner about the same anatomy"
    heart = training_heart(first)
    assert heart.case == wanted
    assert heart.lesion.any()
    assert not (heart.lesion & ~heart.crop.muscle).any()
    scar, healthy = (
        heart.target[mask].astype(np.float64) for mask in (heart.lesion, heart.crop.muscle & ~heart.lesion)
    )
    assert np.median(healthy) == pytest.approx(0, abs=0.1)
    # Scar 220, remote muscle 40, obstruction darker.
    assert np.percentile(scar, 75) == pytest.approx(1, abs=0.15)
    # Upright as drawn, scar lies lateral: on the right.
    assert np.argwhere(heart.lesion)[:, 2].mean() > np.argwhere(heart.crop.muscle)[:, 2].mean() + 5


def test_the_stored_case_is_the_drawn_one_again(folder: Path) -> None:
    read = upright(read_case(next(iter(find_cases(folder).values()))))
    assert np.array_equal(read.labels, drawn_case().labels)
