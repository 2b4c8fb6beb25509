"""The joint law of motion and scar: two correlated fields, with diseases in which one goes without the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.phantom import Disease, PhantomRecipe, measure_truth, simulate
from pipelines.phantom.evidence import obstruction_evidence
from pipelines.phantom.heart import Heart, build_heart
from pipelines.phantom.identity import recipe_key
from pipelines.phantom.law import DEFAULT_LAW, PESSIMISTIC_LAW, JointLaw
from pipelines.phantom.population import Infarct, draw_subject
from pipelines.phantom.truth import aha_segment
from pipelines.statistics import auc

SMALL = {"slices": 6, "phases": 10, "rows": 96, "columns": 96, "spacing_mm": 2.0, "long_axis": False}


def heart_of(seed: int, disease: Disease, law: JointLaw = DEFAULT_LAW, **fixed: object) -> Heart:
    recipe = PhantomRecipe(seed=seed, disease=disease, law=law, **fixed)  # type: ignore[arg-type]
    person, build, *_ = np.random.SeedSequence(seed).spawn(4)
    return build_heart(draw_subject(recipe, np.random.default_rng(person)), law, np.random.default_rng(build))


def by_segment(heart: Heart) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean depth of scar and mean loss of contractility in each of 16 segments."""
    lv = heart.lv
    inside = (lv.levels > lv.apex) & (lv.levels < lv.length)
    angles = np.arange(lv.endo2.shape[1]) * 2 * np.pi / lv.endo2.shape[1]
    level, angle = np.meshgrid(lv.levels[inside], angles, indexing="ij")
    segment = aha_segment(angle, level, lv.apex, lv.length)
    scar = heart.lesions.scar
    depth = np.zeros_like(lv.endo2) if scar is None else scar[1] - scar[0]
    tables = (depth[inside], heart.lesions.loss[inside])
    scarred, lost = (np.array([table[segment == number].mean() for number in range(1, 17)]) for table in tables)
    return scarred, lost


def correlation(law: JointLaw) -> float:
    pairs = [by_segment(heart_of(seed, Disease.INFARCT, law)) for seed in range(40)]
    return float(np.corrcoef(np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]))[0, 1])


def test_scar_explains_motion_in_part_and_less_of_it_in_the_pessimistic_law() -> None:
    default, pessimistic = correlation(DEFAULT_LAW), correlation(PESSIMISTIC_LAW)
    assert 0.5 < default < 0.92
    assert pessimistic < default - 0.05


def test_muscle_stands_still_without_scar() -> None:
    for seed in range(5):
        heart = heart_of(seed, Disease.HIBERNATION)
        _, lost = by_segment(heart)
        assert heart.lesions.scar is None
        assert lost.max() > 0.3


def test_a_shallow_old_scar_hardly_shows_and_a_deep_one_does() -> None:
    law = replace(DEFAULT_LAW, coupling=1.0, heterogeneity=0.0, hibernation=0.0, second_infarct=0.0)
    shallow = heart_of(4, Disease.INFARCT, law, acute=False, transmurality=0.25)
    deep = heart_of(4, Disease.INFARCT, law, acute=False, transmurality=1.0)
    assert shallow.lesions.loss.max() < 0.1 < 0.6 < deep.lesions.loss.max()


def test_the_area_at_risk_of_an_acute_infarct_is_larger_than_the_infarct_and_stunned() -> None:
    law = replace(DEFAULT_LAW, coupling=1.0, heterogeneity=0.0, stunning=(0.8, 0.8), second_infarct=0.0)
    lesions = heart_of(4, Disease.INFARCT, law, acute=True, transmurality=0.8).lesions
    assert lesions.at_risk is not None
    assert lesions.scar is not None
    beyond = (lesions.at_risk > 0.9) & (lesions.scar[1] == 0)
    assert 1.1 < (lesions.at_risk > 0.5).sum() / (lesions.scar[1] > 0).sum() < 2.6
    assert lesions.loss[beyond].mean() > 0.3


@pytest.mark.parametrize(
    ("disease", "low", "high"),
    [(Disease.DCM, 0.15, 0.5), (Disease.HCM, 0.4, 0.75), (Disease.MYOCARDITIS, 0.65, 0.95), (Disease.NORMAL, 0, 0)],
)
def test_enhancement_is_as_frequent_as_the_law_says(disease: Disease, low: float, high: float) -> None:
    scarred = [
        bool(draw_subject(PhantomRecipe(seed=s, disease=disease), np.random.default_rng(s)).fibrosis)
        for s in range(120)
    ]
    assert low <= np.mean(scarred) <= high


def test_patterns_lie_where_their_disease_has_them() -> None:
    def depths(disease: Disease, seeds: range) -> NDArray[np.float64]:
        found = []
        for seed in seeds:
            scar = heart_of(seed, disease).lesions.scar
            if scar is not None:
                there = scar[1] > scar[0]
                found.append([scar[0][there].mean(), scar[1][there].mean()])
        return np.mean(found, axis=0)

    midwall = depths(Disease.DCM, range(12))
    subepicardial = depths(Disease.MYOCARDITIS, range(8))
    diffuse = depths(Disease.AMYLOID, range(4))
    assert midwall[0] > 0.25
    assert midwall[1] < 0.75
    assert subepicardial[0] > 0.45
    assert subepicardial[1] > 0.7
    assert diffuse[0] == 0


def test_a_bundle_branch_block_moves_the_walls_one_after_the_other() -> None:
    study = simulate(
        PhantomRecipe(
            seed=2,
            disease=Disease.BUNDLE_BRANCH_BLOCK,
            phases=24,
            slices=6,
            rows=96,
            columns=96,
            spacing_mm=2.0,
            long_axis=False,
        )
    )
    truth = measure_truth(study)
    # Mid septum (8, 9) against mid lateral wall (11, 12): the time of half their shortening.
    curves = truth.aha_circumferential
    septal, lateral = curves[:, [7, 8]].mean(axis=1), curves[:, [10, 11]].mean(axis=1)

    def half(curve: NDArray[np.float64]) -> int:
        return int(np.argmax(curve < 0.5 * curve.min()))

    assert half(septal) < half(lateral)
    assert truth.facts.infarct_percent == 0


def test_what_the_law_adds_does_not_change_the_anatomy() -> None:
    one = heart_of(7, Disease.INFARCT, DEFAULT_LAW)
    other = heart_of(7, Disease.INFARCT, replace(DEFAULT_LAW, coupling=0.2, heterogeneity=0.2))
    assert np.array_equal(one.lv.endo2, other.lv.endo2)
    assert np.array_equal(one.origin, other.origin)
    assert not np.array_equal(one.lesions.loss, other.lesions.loss)


def test_every_disease_makes_a_study_with_enhancement() -> None:
    for disease in Disease:
        study = simulate(PhantomRecipe(seed=11, disease=disease, late_enhancement=True, **SMALL))  # type: ignore[arg-type]
        assert study.enhancement is not None
        assert study.short_axis.labels.max() == 3
        assert (study.enhancement.lesions.max() > 0) == (study.heart.lesions.scar is not None)


def acute_infarcts(law: JointLaw, count: int) -> list[Infarct]:
    subjects = [
        draw_subject(PhantomRecipe(seed=s, disease=Disease.INFARCT, acute=True, law=law), np.random.default_rng(s))
        for s in range(count)
    ]
    return [subject.infarcts[0] for subject in subjects]


def ratio(infarcts: list[Infarct], measure: str) -> float:
    """Median with obstruction over median without."""
    values = np.array([getattr(one, measure) for one in infarcts])
    obstructed = np.array([one.obstruction for one in infarcts])
    return float(np.median(values[obstructed]) / np.median(values[~obstructed]))


def test_infarcts_with_obstruction_are_larger_deeper_and_move_less() -> None:
    infarcts = acute_infarcts(DEFAULT_LAW, 800)
    across, along = ratio(infarcts, "half_width_deg"), ratio(infarcts, "half_length")
    assert across * along == pytest.approx(DEFAULT_LAW.obstruction_size, rel=0.15)
    assert ratio(infarcts, "transmurality") > 1.2
    assert ratio(infarcts, "contractility") < 0.3
    alike = replace(DEFAULT_LAW, obstruction_size=1.0, obstruction_depth=0.0, obstruction_motion=0.0)
    same = acute_infarcts(alike, 800)
    for measure in ("half_width_deg", "half_length", "transmurality"):
        assert ratio(same, measure) == pytest.approx(1, abs=0.1)
    # The law of obstruction changes nothing where there is none.
    assert [one for one in infarcts if not one.obstruction] == [one for one in same if not one.obstruction]


@pytest.mark.parametrize("law", [DEFAULT_LAW, PESSIMISTIC_LAW])
def test_the_evidence_is_the_likelihood_ratio_of_the_law(law: JointLaw) -> None:
    infarcts = acute_infarcts(law, 2000)
    evidence = np.array([obstruction_evidence(one, law) for one in infarcts])
    obstructed = np.array([one.obstruction for one in infarcts])
    # A likelihood ratio has the mean 1 where there is none, and its inverse the share that both can be where there is.
    assert np.exp(evidence[~obstructed]).mean() == pytest.approx(1, abs=0.15)
    both = 1 - law.obstruction_depth
    assert np.exp(-evidence[obstructed]).mean() == pytest.approx(both, abs=0.06)
    assert np.isneginf(evidence[~obstructed]).mean() == pytest.approx(1 - both, abs=0.04)
    # Nothing that is drawn tells more than all of it together.
    best = auc(obstructed, evidence)
    for measure, sign in (("transmurality", 1), ("half_width_deg", 1), ("contractility", -1)):
        assert auc(obstructed, [sign * getattr(one, measure) for one in infarcts]) < best - 0.02


def test_without_a_difference_there_is_no_evidence() -> None:
    alike = replace(DEFAULT_LAW, obstruction_size=1.0, obstruction_depth=0.0, obstruction_motion=0.0)
    for infarct in acute_infarcts(alike, 50):
        assert obstruction_evidence(infarct, alike) == pytest.approx(0, abs=1e-9)


def test_hearts_without_an_acute_infarct_do_not_know_its_law() -> None:
    other = replace(DEFAULT_LAW, infarct_spread=0.1, obstruction_size=2.0, obstruction_motion=0.3)
    for fixed in ({"disease": Disease.HCM}, {"disease": Disease.INFARCT, "acute": False}):
        one, two = (PhantomRecipe(seed=3, law=law, **fixed) for law in (DEFAULT_LAW, other))  # type: ignore[arg-type]
        assert recipe_key(one) == recipe_key(two)
        first, second = (draw_subject(recipe, np.random.default_rng(3)) for recipe in (one, two))
        assert first == second
    acute = [PhantomRecipe(seed=3, disease=Disease.INFARCT, acute=True, law=law) for law in (DEFAULT_LAW, other)]
    assert recipe_key(acute[0]) != recipe_key(acute[1])


@pytest.mark.parametrize("wrong", [{"obstruction_size": 0.0}, {"obstruction_size": 4.0}])
def test_a_size_outside_its_limits_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="obstruction_size"):
        JointLaw(**wrong)


@pytest.mark.parametrize("wrong", [{"coupling": 1.2}, {"fat": -0.1}, {"obstruction_depth": 1.1}])
def test_a_law_outside_its_limits_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        JointLaw(**wrong)
