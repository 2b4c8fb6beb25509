"""Clips of phantom hearts for training: geometry, truth and resumption."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.phantom.law import PESSIMISTIC_LAW
from pipelines.phantom.recipe import Disease
from pipelines.segmentation.labels import Label
from pipelines.training.heart_clips import SIZE, Population, clip_recipe, heart_clips, pack_clips, read_clips


def test_clips_hold_the_heart_and_the_enhancement_of_the_same_moment() -> None:
    recipe = dataclasses.replace(
        clip_recipe(5, Population.ACUTE_INFARCT), phases=6, transmurality=1.0, faults=frozenset(), field_strength_t=1.5
    )
    clips = heart_clips(recipe)
    assert clips is not None
    slices = clips.lesions.shape[0]
    assert clips.images.shape == clips.labels.shape == (6, slices, SIZE, SIZE)
    muscle = clips.labels[0] == Label.MYO
    assert muscle.any(axis=(1, 2)).all()
    margin = (SIZE - 64) // 2
    assert muscle[:, margin:-margin, margin:-margin].sum() == muscle.sum(), "64 pixels hold the whole myocardium"
    # The scar shines where the lesion of the cine's first phase lies, so both are of one moment and breath-hold.
    scar, remote = clips.lesions == 1, muscle & (clips.lesions == 0)
    late = clips.enhancement.astype(np.float32)
    assert late[scar].mean() > late[remote].mean() + 0.1
    assert clips.facts["infarct_percent"] > 0
    assert clips.facts["infarct_acute"]


def test_packing_goes_on_where_it_stopped_and_keeps_laws_apart(tmp_path: Path) -> None:
    first = pack_clips(tmp_path, [11], Population.ALL)
    made = first[0].stat().st_mtime_ns
    both = pack_clips(tmp_path, [11, 12], Population.ALL)
    assert both[0] == first[0]
    assert first[0].stat().st_mtime_ns == made
    other = pack_clips(tmp_path, [11], Population.ALL, PESSIMISTIC_LAW)
    assert other[0] != first[0]
    assert [clips.seed for clips in read_clips(both)] == [11, 12]


def test_clips_of_a_law_that_has_changed_are_made_again(tmp_path: Path) -> None:
    (path,) = pack_clips(tmp_path, [11], Population.ACUTE_INFARCT)
    (clips,) = read_clips([path])
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    facts = json.loads(str(arrays["facts"]))
    np.savez(path, **{**arrays, "facts": np.array(json.dumps({**facts, "recipe": "of a law before", "rr": 1}))})
    assert pack_clips(tmp_path, [11], Population.ACUTE_INFARCT) == [path]
    (again,) = read_clips([path])
    assert again.facts == clips.facts


def test_what_is_no_file_of_clips_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(ValueError, match=r"broken\.npz is not a file of heart clips"):
        list(read_clips([path]))


def test_all_diseases_and_only_acute_infarcts() -> None:
    everyone = {clip_recipe(seed, Population.ALL).disease for seed in range(300)}
    assert everyone == set(Disease)
    acute = [clip_recipe(seed, Population.ACUTE_INFARCT) for seed in range(5)]
    assert all(recipe.disease is Disease.INFARCT and recipe.acute for recipe in acute)
