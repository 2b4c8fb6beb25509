"""What is said of a heart without an input, or by another network, and the figures over hearts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_hearts import ring_clips

from pipelines.evaluation.enhancement_ablations import ask_again, ask_others, load_others
from pipelines.models.registry import PACKAGED, ModelUnavailable, load_model
from pipelines.segmentation.grid import Square
from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.features import FIELD_PX, SIZE, SPACING_MM
from pipelines.synthetic_enhancement.load import load_networks
from pipelines.synthetic_enhancement.measure import HeartOnGrid
from pipelines.synthetic_enhancement.network import GUESS_MODEL
from pipelines.training.synthetic_hearts import training_heart

EDGE = slice((FIELD_PX - SIZE) // 2, (FIELD_PX + SIZE) // 2)


@pytest.fixture(scope="module")
def ring() -> tuple[HeartOnGrid, np.ndarray]:
    """A ring with a scar on the square of the networks, and its late enhancement."""
    clips = ring_clips(3, scarred=True)
    known = training_heart(clips)
    labels = clips.labels[0][:, EDGE, EDGE]
    heart = HeartOnGrid(
        crop=known.crop,
        slices=tuple(range(len(labels))),
        square=Square(0.0, 0.0, SIZE * SPACING_MM),
        muscle=labels == Label.MYO,
        cavity=labels == Label.LV,
        segments=np.zeros(labels.shape, np.uint8),
        weights=np.full(len(labels), 10.0),
    )
    return heart, known.target[:, EDGE, EDGE].astype(np.float32)


def test_another_network_is_asked_as_the_package_is(ring: tuple[HeartOnGrid, np.ndarray]) -> None:
    heart, truth = ring
    again = ask_again(heart, load_networks(), truth, heart.muscle)
    assert list(again) == ["everything", "no-motion", "no-image", "1 steps", "2 steps", "4 steps", "8 steps"]
    others = ask_others(heart, load_others([PACKAGED]), truth, heart.muscle)
    assert others == {f"trained {PACKAGED.name}": replace(again["everything"], probability=None)}
    assert len({again[name].squared_error for name in ("everything", "no-motion", "no-image")}) == 3
    assert len(again["everything"].slices) == len(heart.slices)
    assert all(again[f"{steps} steps"].deviation for steps in (1, 2, 4, 8))


def test_networks_to_compare_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another name"):
        load_others([PACKAGED, PACKAGED])
    with pytest.raises(ModelUnavailable, match=GUESS_MODEL):
        load_others([tmp_path])
    assert list(load_others([])) == []
    (same,) = load_others([PACKAGED]).values()
    assert same.identity == load_model(GUESS_MODEL).identity
