"""Kept studies and the errors of contours that are taken from them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.volume_calibration import calibrate, contour_error, displacement_mm
from pipelines.evaluation.volume_studies import (
    VolumeStudy,
    _keep,
    _kept,
    evaluate_volumes,
    kept_studies,
    summarise_volumes,
    weights_in_use,
)
from pipelines.evaluation.volumes import MeasuredVolumes, StudyVolumes
from pipelines.function.uncertainty import VolumeErrors
from pipelines.motion.phantoms import measured_recipe
from pipelines.phantom.identity import recipe_key

TRUE = {"LVEDV": 100.0, "LVESV": 40.0, "LVEF": 60.0, "LVM": 90.0, "RVEDV": 120.0, "RVESV": 60.0, "RVEF": 50.0}
VOLUMES = ("LVEDV", "LVESV", "RVEDV", "RVESV")


def measured(off_ml: float, *, mass: float = 90.0) -> MeasuredVolumes:
    """Every volume off by the same; nothing but the contours explains it, and a mm of them is 10 ml."""
    errors = {name: VolumeErrors(TRUE[name] + off_ml, 0.0, 0.0, 10.0) for name in VOLUMES}
    numbers = {name: one.ml for name, one in errors.items()} | {"LVM": mass}
    numbers |= {f"{side}EF": 100 * (1 - numbers[f"{side}ESV"] / numbers[f"{side}EDV"]) for side in ("LV", "RV")}
    return MeasuredVolumes(numbers, errors)


def study(
    seed: int, off_ml: float = 0.0, *, faults: tuple[str, ...] = (), recipe: str = "", mass: float = 90.0
) -> VolumeStudy:
    way = measured(off_ml, mass=mass)
    findings = {"shape of the volume curve": ("EXCELLENT", 1.0), "cardiac gating": ("GOOD", None)}
    volumes = StudyVolumes(TRUE, way, way, "GOOD", findings)
    return VolumeStudy(seed, "normal", "philips", faults, recipe, weights_in_use(), None, volumes)


def test_a_kept_study_is_read_as_it_was_and_not_made_again(tmp_path: Path) -> None:
    seed = 3
    kept = study(seed, 2.0, recipe=recipe_key(measured_recipe(seed, faults=True)))
    _keep(tmp_path, kept)
    assert asdict(kept_studies(tmp_path)[0]) == asdict(kept)
    # Had it been made again, its disease and its volumes would be those of the recipe.
    assert evaluate_volumes(1, seed=seed, faults=True, keep=tmp_path) == (kept,)


def test_a_study_of_other_networks_or_another_recipe_is_not_taken(tmp_path: Path) -> None:
    seed = next(number for number in range(50) if measured_recipe(number, faults=True).faults)
    recipe = recipe_key(measured_recipe(seed, faults=True))
    _keep(tmp_path, study(seed, recipe=recipe))
    assert _kept(tmp_path, seed, True) is not None
    assert _kept(tmp_path, seed, False) is None
    _keep(tmp_path, replace(study(seed, recipe=recipe), weights="of another network"))
    assert _kept(tmp_path, seed, True) is None
    # As of a phantom whose recipe was another, with the same fault.
    _keep(tmp_path, study(seed, recipe=recipe.replace("slices=", "slices=1")))
    assert _kept(tmp_path, seed, True) is None


def test_the_badge_of_a_kept_study_is_that_of_the_rule_of_today(tmp_path: Path) -> None:
    kept = study(1)
    assert kept.volumes is not None
    _keep(tmp_path, replace(kept, volumes=replace(kept.volumes, badge="POOR")))
    again = kept_studies(tmp_path)[0].volumes
    assert again is not None
    assert again.badge == "GOOD"


def test_refused_studies_are_kept_and_counted(tmp_path: Path) -> None:
    _keep(tmp_path, VolumeStudy(7, "hcm", "ge", ("ghosting",), "", weights_in_use(), "No heart.", None))
    _keep(tmp_path, study(8, 4.0))
    evaluation = summarise_volumes(kept_studies(tmp_path))
    assert (evaluation.phantoms, evaluation.refused, evaluation.seeds) == (2, 1, (7, 8))
    assert evaluation.errors["reported"]["LVEDV"].bias == pytest.approx(4.0)
    assert set(evaluation.lvef_by_group) == {"no fault", "philips"}


def test_contours_explain_what_base_and_scatter_do_not() -> None:
    assert displacement_mm(VolumeErrors(100.0, 3.0, 4.0, 10.0), 105.0) == pytest.approx(0.3)
    assert displacement_mm(VolumeErrors(100.0, 3.0, 4.0, 10.0), 95.0) == pytest.approx(-0.4)
    assert displacement_mm(VolumeErrors(100.0, 3.0, 4.0, 10.0), 103.0) == 0.0


def test_bounds_of_contours_hold_nineteen_of_twenty_on_each_side_by_itself() -> None:
    found = contour_error(np.linspace(-0.5, 1.5, 101))
    assert found.inside == pytest.approx(0.4)
    assert found.outside == pytest.approx(1.4)
    assert found.held == pytest.approx(91 / 101)
    one_sided = contour_error(np.linspace(1.0, 2.0, 101))
    assert one_sided.inside == 0.0
    assert one_sided.outside == pytest.approx(1.95)
    # Of few the bound is one of them, not something between two.
    assert contour_error(np.array([0.0, 0.1, 0.7])).outside == 0.7


def test_errors_are_taken_from_studies_that_got_numbers() -> None:
    studies = [study(seed, off, mass=95.0) for seed, off in enumerate(np.linspace(-10, 10, 39))]
    refused = study(99, 60.0)
    assert refused.volumes is not None
    found = calibrate([*studies, replace(refused, volumes=replace(refused.volumes, badge="REFUSED"))])
    assert found.contours["LVESV"].cases == 39
    assert 0.9 < found.contours["LVESV"].outside <= 1.0
    assert found.mass == pytest.approx(5 / 95)
    assert found.seeds[-1] == 99
