"""The network: its sizes, its two branches, its probabilities and its attribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from pipelines.obstruction.architecture import ClipArchitecture
from pipelines.obstruction.attribution import grad_cam
from pipelines.obstruction.network import FULL, NARROW, MaskBranch, ObstructionNetwork
from pipelines.obstruction.predict import (
    heart_probability,
    heart_score,
    slice_logits,
    slice_probabilities,
    slice_weights,
)

TINY = NARROW.model_copy(update={"stem_width": 4, "widths": (4, 4, 8, 8), "heads": 2, "feed_forward": 16})


@pytest.fixture
def network() -> ObstructionNetwork:
    torch.manual_seed(1)
    return ObstructionNetwork(TINY).eval()


def parameters(architecture: ClipArchitecture) -> int:
    with torch.device("meta"):
        return sum(each.numel() for each in ObstructionNetwork(architecture).parameters())


def test_the_narrow_network_is_small_and_the_full_one_is_that_of_the_paper() -> None:
    assert parameters(NARROW) < 3_000_000
    # R(2+1)D-18 has 31.3 million without its classifier, the transformer 3.2 and the class token and positions.
    assert 33_000_000 < parameters(FULL) < 37_000_000


def test_features_are_tokens_of_four_moments(network: ObstructionNetwork) -> None:
    with torch.inference_mode():
        last = network.features(torch.zeros(2, 1, 30, 64, 64))[-1]
    assert last.shape == (2, 8, 4, 4, 4)
    assert network.tokens == 4


@pytest.mark.parametrize("grid", [4, 16, 32, 64])
def test_the_mask_branch_draws_its_grid(grid: int) -> None:
    assert MaskBranch(8, grid, 2).eval()(torch.zeros(3, 8, 4, 4, 4)).shape == (3, 2, grid, grid)


def test_the_order_of_moments_counts_only_with_the_transformer() -> None:
    torch.manual_seed(2)
    last = torch.randn(1, 8, 4, 4, 4)
    with_it, without = (
        ObstructionNetwork(TINY.model_copy(update={"transformer": transformer})).eval() for transformer in (True, False)
    )
    with torch.inference_mode():
        assert with_it.classify(last) != pytest.approx(with_it.classify(last.flip(2)).item(), abs=1e-6)
        assert without.classify(last).item() == pytest.approx(without.classify(last.flip(2)).item(), abs=1e-6)


def test_probabilities_follow_the_calibration_and_lie_in_their_interval(network: ObstructionNetwork) -> None:
    rng = np.random.default_rng(3)
    clips = rng.random((3, 30, 64, 64), np.float32)
    logits = slice_logits(network, clips)
    assert logits.shape == (4, 3)
    network.heart_calibration.copy_(torch.tensor([2.0, -0.5]))
    network.heart_covariance.copy_(torch.diag(torch.tensor([0.0, 0.04])))
    network.slice_calibration.copy_(torch.tensor([3.0, 0.2]))
    heart = heart_probability(network, logits)
    assert heart.value == pytest.approx(expit(2 * heart_score(network, logits) - 0.5))
    assert heart.low < heart.value < heart.high
    half = (np.log(heart.high / (1 - heart.high)) - np.log(heart.low / (1 - heart.low))) / 2
    assert half >= 1.9599 * 0.2 - 1e-6
    assert slice_probabilities(network, logits) == pytest.approx(expit(3 * logits.mean(axis=0) + 0.2))


def test_a_heart_is_told_by_its_largest_slice_or_by_the_mean_of_all() -> None:
    logits = np.array([[0.0, 2.0, -1.0], [1.0, 0.0, -1.0]])
    largest, mean = (
        ObstructionNetwork(TINY.model_copy(update={"pooling": pooling})).eval() for pooling in ("largest", "mean")
    )
    assert heart_score(largest, logits) == 1.0
    assert expit(heart_score(mean, logits)) == pytest.approx(expit([0.5, 1.0, -1.0]).mean())
    step = 1e-4 * np.eye(3)
    moved = np.array([heart_score(mean, logits + one) - heart_score(mean, logits) for one in step])
    weights = slice_weights(mean, logits)
    assert moved / moved.sum() == pytest.approx(weights / weights.sum(), abs=1e-3)
    assert slice_weights(largest, logits).tolist() == [1, 1, 1]
    # Slices that are all certain still have a finite score.
    assert np.isfinite(heart_score(mean, np.full((4, 3), 900.0)))


def test_a_clip_and_its_mirror_image_have_the_same_logit(network: ObstructionNetwork) -> None:
    clips = np.random.default_rng(4).random((2, 30, 64, 64), np.float32)
    mirrored = np.ascontiguousarray(clips[..., ::-1])
    assert slice_logits(network, clips).mean(axis=0) == pytest.approx(slice_logits(network, mirrored).mean(axis=0))


def test_attribution_lies_where_the_logit_comes_from() -> None:
    """A head on one channel of features that see only their surroundings: the map shows the bright spot."""
    torch.manual_seed(5)
    network = ObstructionNetwork(TINY.model_copy(update={"transformer": False})).eval()
    clips = np.zeros((1, 30, 64, 64), np.float32)
    clips[:, :, 40:52, 8:20] = 1.0
    # Make every path positive: what is bright raises the logit.
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.abs_()
            if name.endswith("bias"):
                weight.zero_()
    found = grad_cam(network, clips)
    assert found.shape == clips.shape
    assert found.min() >= 0
    weights = found[0].mean(axis=0)
    middle = (np.mgrid[:64, :64] * weights).sum(axis=(1, 2)) / weights.sum()
    assert middle == pytest.approx([45.5, 13.5], abs=6)
