"""The training of the long-axis network on a handful of drawn views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.long_axis.findings import LongAxisLabel
from pipelines.models.card import read_card
from pipelines.training.long_axis import LongAxisRecipe, train_long_axis

RECIPE = LongAxisRecipe(features=(8, 8, 8, 8, 8, 8), batch=2)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    labels = np.zeros((3, 4, 192, 192), np.uint8)
    labels[:, :, 70:120, 80:110] = LongAxisLabel.MYO
    labels[:, :, 75:115, 85:105] = LongAxisLabel.LV
    images = (labels * 40 + rng.integers(0, 40, labels.shape)).astype(np.uint8)
    path = tmp_path / "views.npz"
    np.savez(
        path,
        images=images,
        labels=labels,
        centre=np.full((3, 2), 95.0),
        group=np.array([0, 1, 1], np.int64),
        seeds=np.array([500, 2]),
    )
    return path


def test_a_stopped_training_goes_on_to_the_same_weights(packed: Path, tmp_path: Path) -> None:
    whole = train_long_axis(packed, tmp_path / "whole", steps=3, recipe=RECIPE)
    train_long_axis(packed, tmp_path / "parts", steps=3, recipe=RECIPE, stop_after=1)
    parts = train_long_axis(packed, tmp_path / "parts", steps=3, recipe=RECIPE)
    assert parts.weights_sha256 == whole.weights_sha256
    card = read_card(parts.card)
    assert card.weights_sha256 == parts.weights_sha256
    assert card.training.cases == ("phantom-500", "phantom-501")
    with pytest.raises(ValueError, match="another recipe; start without resuming"):
        train_long_axis(packed, tmp_path / "parts", steps=3)


def test_views_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "views.npz").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match="cannot be read"):
        train_long_axis(tmp_path / "views.npz", tmp_path / "out", steps=1)
