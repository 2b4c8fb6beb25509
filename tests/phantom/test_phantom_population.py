from __future__ import annotations

import numpy as np
import pytest

from pipelines.phantom import Disease, PhantomRecipe
from pipelines.phantom.population import Subject, draw_subject


def people(disease: Disease, count: int) -> list[Subject]:
    return [
        draw_subject(PhantomRecipe(seed=seed, disease=disease), np.random.default_rng(seed)) for seed in range(count)
    ]


def test_microvascular_obstruction_in_35_to_40_percent_of_acute_infarcts() -> None:
    infarcts = [subject.infarct for subject in people(Disease.INFARCT, 3000)]
    acute = [infarct for infarct in infarcts if infarct is not None and infarct.acute]
    assert len(acute) > 1500
    assert 0.35 <= np.mean([infarct.obstruction for infarct in acute]) <= 0.40
    assert not any(infarct.obstruction for infarct in infarcts if infarct is not None and not infarct.acute)
    depth = [infarct.transmurality for infarct in infarcts if infarct is not None]
    assert min(depth) < 0.3
    assert 0.97 < max(depth) <= 1
    assert {infarct.territory for infarct in acute} == {"LAD", "LCX", "RCA"}
    # Reduced to dyskinetic motion.
    residual = [infarct.contractility for infarct in acute]
    assert min(residual) == pytest.approx(-0.1)
    assert max(residual) == pytest.approx(0.5)


def test_bodies_vary_in_sex_age_size_and_fat() -> None:
    bodies = [subject.body for subject in people(Disease.NORMAL, 2000)]
    fat = np.array([body.fat_mm for body in bodies])
    assert fat.min() == 5
    assert 30 < fat.max() <= 40
    assert fat.std() > 4
    assert 0.45 < np.mean([body.sex == "M" for body in bodies]) < 0.55
    ages = np.array([body.age_years for body in bodies])
    assert 18 <= ages.min() < 25
    assert 85 < ages.max() <= 90
    assert np.ptp([body.height_m for body in bodies]) > 0.35
    assert np.ptp([body.weight_kg for body in bodies]) > 50
