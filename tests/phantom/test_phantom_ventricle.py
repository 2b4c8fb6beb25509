from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.phantom import Disease, PhantomRecipe
from pipelines.phantom.heart import Heart, build_heart
from pipelines.phantom.population import draw_subject
from pipelines.phantom.truth import (
    _atrial_arc,
    _cartesian,
    _circumference,
    _long_axis_length,
    _thickness,
    lesion_share,
)


def heart_of(seed: int, disease: Disease = Disease.NORMAL) -> Heart:
    recipe = PhantomRecipe(seed=seed, disease=disease)
    person, build, *_ = np.random.SeedSequence(seed).spawn(4)
    return build_heart(draw_subject(recipe, np.random.default_rng(person)), recipe.law, np.random.default_rng(build))


@pytest.fixture(scope="module")
def normals() -> list[Heart]:
    return [heart_of(seed) for seed in range(24)]


@pytest.fixture(scope="module", params=[Disease.NORMAL, Disease.HCM, Disease.INFARCT])
def heart(request: pytest.FixtureRequest) -> Heart:
    return heart_of(3, request.param)


def wall_points(heart: Heart, count: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    lv = heart.lv
    level = rng.uniform(lv.apex + 12, lv.length - 3, count)
    angle = rng.uniform(0, 2 * math.pi, count)
    depth = rng.uniform(0.1, 0.9, count)
    inner, outer = (np.sqrt(lv.at(table, level, angle)) for table in (lv.endo2, lv.epi2))
    return np.stack([inner + depth * (outer - inner), angle, level], axis=-1)


def test_the_map_is_incompressible_everywhere(heart: Heart) -> None:
    for contraction in (0.3, 1.0):
        gradient = heart.lv.gradient(wall_points(heart), heart.lv.state(contraction, contraction))
        assert np.abs(np.linalg.det(gradient) - 1).max() < 1e-9


def test_undeform_inverts_deform(heart: Heart) -> None:
    points = wall_points(heart)
    state = heart.lv.state(1.0, 1.0)
    back = heart.lv.undeform(heart.lv.deform(points, state), state)
    # Levels are interpolated both ways between tables 1 mm apart.
    assert np.abs(back - points).max() < 1e-3


def test_analytic_strain_agrees_with_strain_of_a_voxel_grid(heart: Heart) -> None:
    lv = heart.lv
    state = lv.state(1.0, 1.0)
    spacing, pitch = 1.0, 1.0
    middle = 0.6 * lv.length
    x, y, s = np.meshgrid(
        np.arange(-45, 45.1, spacing), np.arange(-45, 45.1, spacing), middle + pitch * np.arange(-2, 3), indexing="ij"
    )
    material = np.stack([np.hypot(x, y), np.mod(np.arctan2(-y, x), 2 * math.pi), s], axis=-1)
    deformed = _cartesian(lv.deform(material, state))
    jacobian = np.stack(np.gradient(deformed, spacing, spacing, pitch, axis=(0, 1, 2)), axis=-1)[2:-2, 2:-2, 2]
    voxel = 0.5 * (np.swapaxes(jacobian, -1, -2) @ jacobian - np.eye(3))
    centre = material[2:-2, 2:-2, 2]
    inner = np.sqrt(lv.at(lv.endo2, centre[..., 2], centre[..., 1]))
    outer = np.sqrt(lv.at(lv.epi2, centre[..., 2], centre[..., 1]))
    inside = (centre[..., 0] > inner + 1.5) & (centre[..., 0] < outer - 1.5)
    assert inside.sum() > 300
    points, voxel = centre[inside], voxel[inside]
    gradient = lv.gradient(points, state)
    analytic = 0.5 * (np.swapaxes(gradient, -1, -2) @ gradient - np.eye(3))
    cosine, sine = np.cos(points[:, 1]), np.sin(points[:, 1])
    zero = np.zeros_like(cosine)
    radial = np.stack([cosine, -sine, zero], axis=-1)
    around = np.stack([-sine, -cosine, zero], axis=-1)
    along = np.stack([zero, zero, zero + 1], axis=-1)
    for index, direction in enumerate((radial, around, along)):
        projected = np.einsum("ni,nij,nj->n", direction, voxel, direction)
        difference = 100 * (projected - analytic[:, index, index])
        assert np.abs(difference.mean()) < 0.3
        assert np.abs(difference).mean() < 1.0


def test_the_wall_keeps_its_volume_and_the_cavity_has_the_drawn_volumes(normals: list[Heart]) -> None:
    for heart in normals[:6]:
        lv, subject = heart.lv, heart.subject
        muscle = []
        for contraction in (0.0, 0.5, 1.0):
            state = lv.state(contraction, contraction)
            muscle.append(lv.volume_ml(lv.epicardium(state), state) - lv.volume_ml(lv.cavity(state), state))
        assert np.ptp(muscle) / muscle[0] < 1e-3
        assert muscle[0] * 1.05 == pytest.approx(subject.lv_mass_g, rel=0.02)
        rest, systole = heart.state(0, 0), heart.state(1, 1)
        assert rest.lv_volume_ml == pytest.approx(subject.lv_edv_ml, rel=0.01)
        assert 1 - systole.lv_volume_ml / rest.lv_volume_ml == pytest.approx(subject.ejection_fraction, abs=0.01)
        strokes = [rest.lv_volume_ml - systole.lv_volume_ml, rest.rv_volume_ml - systole.rv_volume_ml]
        assert strokes[0] == pytest.approx(strokes[1])


def test_normal_hearts_lie_within_one_sd_of_the_published_normals(normals: list[Heart]) -> None:
    """LVEF and mass: UK Biobank; GLS, GCS and LA reservoir strain: feature tracking of 150 and 112 healthy people.

    Wall thickness: Kawel et al., Circ Cardiovasc Imaging 2012 (MESA), middle of the ventricle at end diastole.
    """
    ejection: dict[str, list[float]] = {"M": [], "F": []}
    mass: dict[str, list[float]] = {"M": [], "F": []}
    wall: dict[str, list[float]] = {"M": [], "F": []}
    longitudinal, circumferential, reservoir = [], [], []
    for heart in normals:
        rest, systole = heart.state(0, 0), heart.state(1, 1)
        body = heart.subject.body
        ejection[body.sex].append(100 * (1 - systole.lv_volume_ml / rest.lv_volume_ml))
        mass[body.sex].append(heart.subject.lv_mass_g / body.surface_m2)
        longitudinal.append(100 * (_long_axis_length(heart, systole) / _long_axis_length(heart, rest) - 1))
        circumferential.append(100 * (_circumference(heart, systole, 0.5) / _circumference(heart, rest, 0.5) - 1))
        lv = heart.lv
        inside = (lv.levels > 0.4 * lv.length) & (lv.levels < 0.9 * lv.length)
        wall[body.sex].append(_thickness(heart, rest)[inside].mean())
        reservoir.append(100 * (_atrial_arc(systole) / _atrial_arc(rest) - 1))
    for sex, mean, sd in (("M", 58, 5), ("F", 61, 5)):
        assert abs(np.mean(ejection[sex]) - mean) < sd
    for sex, mean, sd in (("M", 53, 9), ("F", 42, 7)):
        assert abs(np.mean(mass[sex]) - mean) < sd
    assert abs(np.mean(longitudinal) - -21.6) < 3.2
    assert abs(np.mean(circumferential) - -21.3) < 3.3
    assert abs(np.mean(reservoir) - 38.5) < 9.3
    for sex, mean, sd in (("M", 6.3, 1.1), ("F", 5.3, 0.9)):
        assert abs(np.mean(wall[sex]) - mean) < sd


@pytest.mark.parametrize(
    ("disease", "low", "high"), [(Disease.DCM, 10, 42), (Disease.HCM, 58, 76), (Disease.INFARCT, 30, 62)]
)
def test_diseases_have_their_ejection_fraction(disease: Disease, low: float, high: float) -> None:
    for seed in range(4):
        heart = heart_of(seed, disease)
        rest, systole = heart.state(0, 0), heart.state(1, 1)
        assert low < 100 * (1 - systole.lv_volume_ml / rest.lv_volume_ml) < high


def test_an_infarct_moves_less_than_remote_muscle() -> None:
    recipe = PhantomRecipe(seed=1, disease=Disease.INFARCT, transmurality=1.0, acute=True)
    person, build, *_ = np.random.SeedSequence(1).spawn(4)
    heart = build_heart(draw_subject(recipe, np.random.default_rng(person)), recipe.law, np.random.default_rng(build))
    assert heart.lesions.scar is not None
    gain = _thickness(heart, heart.state(1, 1)) - _thickness(heart, heart.state(0, 0))
    inside = (heart.lv.levels > heart.lv.apex + 15) & (heart.lv.levels < heart.lv.length)
    core = (heart.lesions.scar[1] > 0.9) & inside[:, None]
    remote = (heart.lv.activation > 0.97) & inside[:, None]
    assert gain[core].mean() < 0.3 * gain[remote].mean()


def test_lesion_sizes_lie_in_the_stated_ranges() -> None:
    shares = []
    for seed in range(10):
        recipe = PhantomRecipe(seed=seed, disease=Disease.INFARCT, obstruction=True)
        person, build, *_ = np.random.SeedSequence(seed).spawn(4)
        subject = draw_subject(recipe, np.random.default_rng(person))
        heart = build_heart(subject, recipe.law, np.random.default_rng(build))
        shares.append(lesion_share(heart))
    infarct, obstruction = np.array(shares).T
    assert (infarct > 3).all()
    assert (infarct < 42).all()
    assert (obstruction > 0).all()
    assert (obstruction < infarct).all()
    assert obstruction.mean() < 8
