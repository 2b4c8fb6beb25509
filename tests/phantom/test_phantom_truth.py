from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipelines.phantom import (
    Disease,
    PhantomRecipe,
    PhantomStudy,
    RecipeError,
    TruthError,
    measure_truth,
    read_truth,
    simulate,
    write_phantoms,
    write_truth,
)
from pipelines.phantom.truth import aha_segment, remodelling_outcome, remodelling_probability, remodelling_truth
from pipelines.training.heart_clips import Population, clip_recipe


def test_a_truth_file_is_read_back_to_the_last_bit(infarct_study: PhantomStudy, tmp_path: Path) -> None:
    truth = measure_truth(infarct_study)
    back = read_truth(write_truth(truth, tmp_path / "truth.npz"))
    assert back.facts == truth.facts
    for field in dataclasses.fields(truth):
        if field.name != "facts":
            left, right = getattr(truth, field.name), getattr(back, field.name)
            assert left.dtype == right.dtype
            assert np.array_equal(left, right)


def test_the_truth_is_consistent(infarct_study: PhantomStudy) -> None:
    truth = measure_truth(infarct_study)
    facts = truth.facts
    assert facts.lv_edv_ml == pytest.approx(truth.lv_volume_ml[0])
    assert facts.lv_esv_ml == pytest.approx(truth.lv_volume_ml.min(), rel=0.05)
    assert facts.gls_percent <= truth.longitudinal.min() + 0.5
    assert facts.la_reservoir_percent == pytest.approx(facts.la_conduit_percent + facts.la_booster_percent)
    assert 0 < facts.obstruction_percent < facts.infarct_percent < 42
    assert facts.keyframes.end_systole == round(facts.key_times.end_systole * len(truth.lv_volume_ml))
    assert np.abs(truth.point_strain[0]).max() < 1e-5
    views = infarct_study.cines[1:]
    assert truth.lax_labels.shape == (3, 12, *views[0].labels.shape[2:])
    for index, view in enumerate(views):
        assert np.array_equal(truth.lax_labels[index], view.labels[:, 0])
        assert np.array_equal(truth.lax_positions[index], view.geometry.positions[0])
    # LAD infarct: its segments strain less than the rest of the ventricle.
    peak = truth.aha_circumferential[np.argmin(truth.lv_volume_ml)]
    hurt = truth.aha_transmurality > 0.5
    assert hurt.any()
    assert peak[hurt].mean() > peak[truth.aha_transmurality < 0.05].mean() + 4
    assert 0 < facts.remodelling_probability < 1


def test_material_points_move_inside_the_wall(infarct_study: PhantomStudy) -> None:
    truth = measure_truth(infarct_study)
    heart = infarct_study.heart
    for phase in (3, 6):
        local = heart.to_heart(truth.point_position[phase].astype(float))
        spatial = np.stack(
            [np.hypot(local[:, 0], local[:, 1]), np.arctan2(-local[:, 1], local[:, 0]), local[:, 2]], axis=-1
        )
        back = heart.lv.undeform(spatial, infarct_study.states[phase].motion)
        assert np.abs(back[:, 2] - truth.point_material[:, 2]).max() < 0.01


def test_aha_segments_are_where_the_standard_puts_them() -> None:
    angles = np.radians([90, 150, 210, 270, 330, 30.0])
    assert aha_segment(angles, np.full(6, 90.0), 5, 95).tolist() == [1, 2, 3, 4, 5, 6]
    assert aha_segment(angles, np.full(6, 50.0), 5, 95).tolist() == [7, 8, 9, 10, 11, 12]
    quarters = np.radians([90, 180, 270, 0.0])
    assert aha_segment(quarters, np.full(4, 20.0), 5, 95).tolist() == [13, 14, 15, 16]
    assert aha_segment(np.zeros(1), np.full(1, 2.0), 5, 95).tolist() == [17]


def test_the_outcome_law_rises_with_damage() -> None:
    mild = remodelling_probability(8, False, -18, 32)
    assert remodelling_probability(25, False, -18, 32) > mild
    assert remodelling_probability(8, True, -18, 32) > mild
    assert remodelling_probability(8, False, -10, 32) > mild
    assert remodelling_probability(8, False, -18, 18) > mild


def test_an_outcome_is_drawn_with_its_probability() -> None:
    drawn = [remodelling_outcome(seed, 18, False, -11, 25) for seed in range(2000)]
    assert np.mean([event for _, event in drawn]) == pytest.approx(drawn[0][0], abs=0.035)
    assert drawn == [remodelling_outcome(seed, 18, False, -11, 25) for seed in range(2000)]


def test_the_outcome_needs_no_image(infarct_study: PhantomStudy) -> None:
    facts, alone = measure_truth(infarct_study).facts, remodelling_truth(infarct_study.recipe)
    for name in ("infarct_percent", "gls_percent", "gcs_percent", "la_reservoir_percent"):
        assert getattr(alone, name) == pytest.approx(getattr(facts, name)), name
    assert (alone.probability, alone.remodelling) == (pytest.approx(facts.remodelling_probability), facts.remodelling)
    hurt = alone.segment_circumferential_percent > np.median(alone.segment_circumferential_percent)
    assert alone.segment_thickening_percent[hurt].mean() < alone.segment_thickening_percent[~hurt].mean()
    with pytest.raises(TruthError, match="without an infarct"):
        remodelling_truth(PhantomRecipe(seed=1))


def test_acute_infarcts_remodel_as_often_as_is_stated() -> None:
    recipes = (clip_recipe(seed, Population.ACUTE_INFARCT) for seed in range(740000, 740020))
    expected = np.mean([remodelling_truth(dataclasses.replace(recipe, phases=4)).probability for recipe in recipes])
    assert 0.12 < expected < 0.35


def test_other_files_are_refused_with_their_name(tmp_path: Path) -> None:
    text = tmp_path / "notes.npz"
    text.write_text("nothing")
    with pytest.raises(TruthError, match=r"notes\.npz"):
        read_truth(text)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, facts=np.array([{"a": 1}], dtype=object))
    with pytest.raises(TruthError, match=r"pickled\.npz"):
        read_truth(pickled)
    other = tmp_path / "other.npz"
    np.savez(other, facts=np.array('{"version": 99}'))
    with pytest.raises(TruthError, match="version 99"):
        read_truth(other)


def test_a_healthy_heart_has_no_lesion_and_no_outcome() -> None:
    recipe = PhantomRecipe(seed=1, slices=1, phases=4, rows=64, columns=64, spacing_mm=4, long_axis=False)
    facts = measure_truth(simulate(recipe)).facts
    assert facts.infarct_percent == 0
    assert np.isnan(facts.remodelling_probability)
    assert not facts.remodelling


def test_phantoms_are_written_with_their_truth(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    written = write_phantoms(
        tmp_path,
        count=2,
        seed=3,
        disease="hcm",
        vendor="ge",
        faults=["low-snr"],
        slices=2,
        phases=4,
        late_enhancement=False,
        progress=lambda done, count: seen.append((done, count)),
    )
    assert seen == [(1, 2), (2, 2)]
    assert [item.directory.name for item in written] == ["phantom-0003-hcm", "phantom-0004-hcm"]
    truth = read_truth(written[0].truth)
    assert truth.facts.disease == Disease.HCM
    assert len(written[0].dicom) == 2 * 4 + 3 * 4 + 1
    assert all(path.exists() for path in written[0].dicom)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"vendor": "acme"}, "vendor 'acme'"),
        ({"disease": "flu"}, "disease 'flu'"),
        ({"faults": ["gremlin"]}, "fault 'gremlin'"),
        ({"count": 0}, "count"),
        ({"script": "runes"}, "script"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    arguments: dict[str, object], word: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=word):
        write_phantoms(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
