"""Networks with their batch normalisations folded."""

from __future__ import annotations

import pytest
import torch

from pipelines.long_axis.segment import MODEL
from pipelines.models.precision import Precision
from pipelines.models.registry import load_model, load_model_once
from pipelines.motion.network import REGISTRATION_MODEL
from pipelines.segmentation.segment import FINE_MODEL


def normalisations(network: torch.nn.Module) -> int:
    """How many a network has."""
    return sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())


@pytest.mark.parametrize("name", [REGISTRATION_MODEL, MODEL, FINE_MODEL])
def test_a_network_that_is_run_computes_what_the_trained_one_does(name: str) -> None:
    model, run = load_model(name), load_model_once(name)
    size = model.card.input.size
    channels = len(model.card.input.channels)
    images = 2 * torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(3)) - 1
    with torch.inference_mode():
        trained, quick = model.network(images), run.network(images)
    assert torch.allclose(trained, quick, atol=1e-4)
    assert trained.std() > 0.1
    assert normalisations(model.network) > 0
    assert normalisations(run.network) == 0
    assert run.identity == model.identity


def test_a_network_in_bfloat16_is_folded() -> None:
    assert normalisations(load_model(MODEL, precision=Precision.BFLOAT16).network) == 0
