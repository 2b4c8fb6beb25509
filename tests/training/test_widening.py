"""Networks that begin as a trained, narrower one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.models.architecture import UNetArchitecture
from pipelines.models.card import read_card
from pipelines.models.registry import PACKAGED
from pipelines.training.phantoms import phantom_set
from pipelines.training.segmentation import RECIPES, Continuation, train
from pipelines.training.widening import widened

NARROW = UNetArchitecture(in_channels=3, out_channels=4, features=(4, 6, 8, 12, 16, 4))
WIDE = NARROW.model_copy(update={"features": (4, 8, 12, 20, 34, 6)})


def trained() -> torch.nn.Module:
    """A narrow network whose normalisations have seen images."""
    torch.manual_seed(1)
    network = NARROW.build().train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, 32, 32))
    return network.eval()


def test_the_wide_network_gives_the_output_of_the_narrow_one() -> None:
    narrow, images = trained(), torch.randn(2, 3, 32, 32)
    wide = WIDE.build().eval()
    wide.load_state_dict(widened(narrow.state_dict(), NARROW, WIDE))
    with torch.inference_mode():
        np.testing.assert_allclose(wide(images).numpy(), narrow(images).numpy(), atol=1e-5)


def test_what_is_new_learns() -> None:
    wide = WIDE.build().train()
    wide.load_state_dict(widened(trained().state_dict(), NARROW, WIDE))
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.1)
    images, before = torch.randn(4, 3, 32, 32), None
    for _ in range(3):
        optimizer.zero_grad()
        wide(images).square().mean().backward()
        optimizer.step()
        weights = wide.down_4.convs.conv_0.conv.weight[NARROW.features[4] :].detach().clone()
        before = weights if before is None else before
    assert (weights != before).flatten(1).any(1).all(), "a new channel learnt nothing"


def test_the_same_size_keeps_every_weight() -> None:
    state = trained().state_dict()
    for name, tensor in widened(state, NARROW, NARROW).items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(
    "wide", [WIDE.model_copy(update={"features": (4, 8, 12, 20, 34, 3)}), WIDE.model_copy(update={"in_channels": 4})]
)
def test_a_narrower_or_another_network_is_an_error(wide: UNetArchitecture) -> None:
    with pytest.raises(ValueError, match=r"features \(4, 8, 12"):
        widened(trained().state_dict(), NARROW, wide)


def test_a_run_that_goes_on_with_more_features_says_so(tmp_path: Path) -> None:
    data, name = phantom_set(2, 0), "heart-localiser"
    features = RECIPES[name].features
    wide = (*features[:3], features[3] + 8, features[4] + 16, features[5])
    go_on = Continuation(PACKAGED / name, phantoms=0)
    more = train(data, tmp_path / name, model=name, fold=None, steps=1, go_on=go_on, features=wide)
    card = read_card(more.card)
    assert isinstance(card.architecture, UNetArchitecture)
    assert card.architecture.features == wide
    assert f"--features {' '.join(map(str, wide))}" in card.training.command
    back = Continuation(tmp_path / name, phantoms=0)
    with pytest.raises(ValueError, match="each level needs as many or more"):
        train(data, tmp_path / "back", model=name, fold=None, steps=1, go_on=back)
