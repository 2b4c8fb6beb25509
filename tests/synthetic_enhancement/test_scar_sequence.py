"""The network that reads pieces of wall moment by moment, on rings whose motion and scar are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_hearts import ring_clips

from pipelines.models.registry import load_model
from pipelines.synthetic_enhancement.features import MOMENTS
from pipelines.synthetic_enhancement.sequence import (
    INPUTS,
    MODEL,
    PIECES,
    SEQUENCE_PREDICTORS,
    heart_values,
    piece_logits,
    pieces_there,
    wall_sequences,
)
from pipelines.training.scar_sequence import SequenceRecipe, scar_of_pieces, train_scar_sequence
from pipelines.training.steps import Run
from pipelines.training.synthetic_hearts import Hearts, TrainingHeart, training_heart

SMALL = SequenceRecipe(hidden=12, batch=64, views=2, peak_rate=1e-2)


@pytest.fixture(scope="module")
def hearts() -> Hearts:
    drawn = tuple(training_heart(ring_clips(seed, scarred=seed % 2 == 1)) for seed in range(4))
    return Hearts(drawn, (), tuple(f"ring-{seed}" for seed in range(4)), ("ring-9",))


@pytest.fixture
def scarred(hearts: Hearts) -> TrainingHeart:
    return hearts.all[1]


def test_pieces_of_wall_hold_the_scar_that_is_painted_there(scarred: TrainingHeart, hearts: Hearts) -> None:
    share = scar_of_pieces(scarred)
    assert share.shape == (scarred.crop.slices, PIECES)
    assert pieces_there(scarred.crop).all()
    whole, none = (share > 0.9).sum(axis=1), (share < 0.1).sum(axis=1)
    assert (whole > 1).all()
    assert (whole + none >= PIECES - 4).all(), "the sector has two edges"
    assert np.nanmean(share) == pytest.approx(
        (scarred.lesion & scarred.crop.muscle).sum() / scarred.crop.muscle.sum(), abs=0.05
    )
    assert not scar_of_pieces(hearts.all[0]).any()


def test_the_sequence_of_a_piece_is_its_own_motion_and_grey_value(scarred: TrainingHeart) -> None:
    seen = wall_sequences(scarred.crop)
    assert seen.shape == (scarred.crop.slices, PIECES, MOMENTS, len(INPUTS))
    named = dict(zip(INPUTS, np.moveaxis(seen, -1, 0), strict=True))
    share = scar_of_pieces(scarred)
    loss = named["loss of area"][:, :, 1]
    assert loss[share > 0.9].max() < loss[share < 0.1].min(), "the sector that stands still shows"
    assert np.allclose(named["loss of area"][:, :, 0], 0)
    # In the middle of the wall there is muscle at every moment: the patch follows the wall.
    middle = 0.5 * (named["grey value at 0.5 of the wall, direction +0"] + 1)
    assert np.ptp(middle) < 0.12
    blood = 0.5 * (named["grey value at -0.3 of the wall, direction +0"] + 1)
    assert blood.mean() > middle.mean() + 0.2


def test_what_is_not_there_is_not_read(scarred: TrainingHeart, hearts: Hearts, tmp_path: Path) -> None:
    train_scar_sequence(hearts, tmp_path / MODEL, steps=2, recipe=SMALL)
    model = load_model(MODEL, root=tmp_path)
    crop = replace(scarred.crop, whole_cycle=False)
    images = crop.images.copy()
    images[2:] = 255
    inner = crop.inner.copy()
    inner[2:] = 1
    assert np.array_equal(piece_logits(crop, model), piece_logits(replace(crop, images=images, inner=inner), model))
    thin = crop.outer.copy()
    thin[0, 0, :8] = crop.inner[0, 0, :8]
    known = np.isfinite(piece_logits(replace(crop, outer=thin), model))
    assert not known[0, :4].any()
    assert known[1:].all()
    assert heart_values(np.full((2, PIECES), np.nan)).tolist() == [0.0] * len(SEQUENCE_PREDICTORS)


def test_it_learns_where_the_scar_of_rings_is(hearts: Hearts, scarred: TrainingHeart, tmp_path: Path) -> None:
    train_scar_sequence(hearts, tmp_path / MODEL, steps=150, recipe=SMALL)
    model = load_model(MODEL, root=tmp_path)
    share = scar_of_pieces(scarred)
    logits = piece_logits(scarred.crop, model)
    assert logits[share > 0.9].min() > logits[share < 0.1].max()
    healthy = piece_logits(hearts.all[0].crop, model)
    assert (heart_values(logits) > heart_values(healthy)).all()


def test_a_stopped_training_goes_on_to_the_same_weights(hearts: Hearts, tmp_path: Path) -> None:
    whole = train_scar_sequence(hearts, tmp_path / "whole", steps=4, recipe=SMALL)
    train_scar_sequence(hearts, tmp_path / "parts", steps=4, recipe=SMALL, run=Run(stop_after=2))
    parts = train_scar_sequence(hearts, tmp_path / "parts", steps=4, recipe=SMALL)
    assert parts.weights_sha256 == whole.weights_sha256
    assert whole.held_out_cases == ("ring-9",)
    with pytest.raises(ValueError, match="at least one of each"):
        train_scar_sequence(Hearts((), (), (), ()), tmp_path / "none", recipe=SMALL)
