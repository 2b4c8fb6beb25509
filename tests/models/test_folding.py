"""Networks with their batch normalisations folded."""

from __future__ import annotations

import pytest
import torch

from pipelines.folding import folded
from pipelines.long_axis.segment import MODEL
from pipelines.models.precision import Precision
from pipelines.models.registry import load_model
from pipelines.motion.network import REGISTRATION_MODEL


@pytest.mark.parametrize("name", [REGISTRATION_MODEL, MODEL])
def test_a_folded_network_computes_the_same(name: str):
    model = load_model(name)
    size = model.card.input.size
    channels = len(model.card.input.channels)
    images = 2 * torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(3)) - 1
    quick = folded(model)
    with torch.inference_mode():
        before, after = model.network(images), quick.network(images)
    assert torch.allclose(before, after, atol=1e-4)
    assert before.std() > 0.1
    kinds = [sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in one.network.modules()) for one in (model, quick)]
    assert kinds[0] > 0
    assert kinds[1] == 0
    assert quick.identity == model.identity
    assert folded(model) is quick


def test_a_network_in_bfloat16_is_folded_already():
    model = load_model(MODEL, precision=Precision.BFLOAT16)
    assert folded(model) is model
