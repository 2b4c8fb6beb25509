"""The two networks of synthetic enhancement: a first guess, and a refiner that draws samples around it.

Both work on blocks of 2 × 2 pixels as channels: nothing is lost, and no convolution runs at full resolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.models.precision import Precision
from pipelines.segmentation.parallel import each
from pipelines.synthetic_enhancement.features import CHANNELS, MOMENTS

if TYPE_CHECKING:
    import torch

    from pipelines.models.registry import LoadedModel

__all__ = [
    "CONDITION",
    "GUESS_INPUTS",
    "GUESS_MODEL",
    "GUESS_OUTPUTS",
    "NOISE",
    "REFINER_INPUTS",
    "REFINER_MODEL",
    "REFINER_OUTPUTS",
    "SCALARS",
    "FirstGuess",
    "condition_of",
    "draw_samples",
    "guess",
    "guess_input",
    "guess_output",
    "input_places",
    "refiner_input",
]

GUESS_MODEL = "synthetic-enhancement"
REFINER_MODEL = "synthetic-enhancement-refiner"
STRIDE = 2
SCALARS = 7
"""The last channels of the input: the same everywhere."""
_MUSCLE, _CAVITY = MOMENTS, MOMENTS + 1
_MAPS = len(CHANNELS) - SCALARS
GUESS_INPUTS = _MAPS * STRIDE**2 + SCALARS
GUESS_OUTPUTS = 3 * STRIDE**2
"""Image, logit of enhancement, and a map whose mean over the muscle is the logit of the slice."""
CONDITION = (0, 1, _MUSCLE, _CAVITY, MOMENTS + 2, MOMENTS + 3, 2 * MOMENTS + 2, 2 * MOMENTS + 3)
"""Channels of the input that the refiner sees: both key frames, masks, loss of area, thickness and thickening."""
REFINER_INPUTS = (3 + len(CONDITION)) * STRIDE**2
REFINER_OUTPUTS = STRIDE**2
NOISE = 0.4
"""Standard deviation of what is added to the first guess, on the scale where nulled muscle is 0 and dense scar 1."""
_BATCH = 16
_TIMESTEPS = 1000
_SCALE_MAX = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class FirstGuess:
    """Output of the first network for N slices.

    Attributes
    ----------
    image : (N, 64, 64) tensor
        Expected late enhancement: 0 nulled muscle, 1 dense scar.
    logit : (N, 64, 64) tensor
        Of enhancement; meant for muscle.
    slice_logit : (N,) tensor
        That the slice holds enhancement.
    """

    image: torch.Tensor
    logit: torch.Tensor
    slice_logit: torch.Tensor


def guess_input(inputs: torch.Tensor) -> torch.Tensor:
    """Input of the first network, (N, GUESS_INPUTS, 32, 32), from :func:`slice_inputs`."""
    import torch
    from torch.nn import functional

    maps = functional.pixel_unshuffle(inputs[:, :_MAPS], STRIDE)
    scalars = inputs[:, _MAPS:, ::STRIDE, ::STRIDE]
    return torch.cat([maps, scalars], 1).contiguous(memory_format=torch.channels_last)


def input_places(channels: Iterable[int]) -> list[int]:
    """Channels of the input of the first network that channels of :func:`slice_inputs` become."""
    return [
        place
        for channel in channels
        for place in (
            range(channel * STRIDE**2, (channel + 1) * STRIDE**2)
            if channel < _MAPS
            else (_MAPS * STRIDE**2 + channel - _MAPS,)
        )
    ]


def guess_output(raw: torch.Tensor, inputs: torch.Tensor) -> FirstGuess:
    """Image and logits from the raw output (N, 12, 32, 32) of the first network for an input."""
    from torch.nn import functional

    image, logit, pooled = functional.pixel_shuffle(raw, STRIDE).unbind(1)
    muscle = inputs[:, _MUSCLE]
    mean = (pooled * muscle).sum((1, 2)) / muscle.sum((1, 2)).clamp(min=1)
    return FirstGuess(image, logit, mean)


def guess(inputs: torch.Tensor, model: LoadedModel) -> tuple[FirstGuess, torch.Tensor]:
    """First guess of slices, and their pooled features at the bottom of the network (N, F).

    Parameters
    ----------
    inputs : (N, len(CHANNELS), 64, 64) tensor
    model : LoadedModel
    """
    import torch

    found: dict[int, torch.Tensor] = {}

    def run(start: int) -> torch.Tensor:
        batch = guess_input(inputs[start : start + _BATCH]).to(model.device)
        answer, deep = _with_bottom(model.network, batch)
        found[start] = deep.mean((2, 3)).cpu()
        return answer.cpu()

    starts = range(0, len(inputs), _BATCH)
    raw = torch.cat(each(run, starts))
    return guess_output(raw, inputs), torch.cat([found[start] for start in starts])


def _with_bottom(network: Any, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The forward pass of MONAI's BasicUNet, step by step, to keep what its bottom holds."""
    x0 = network.conv_0(batch)
    x1 = network.down_1(x0)
    x2 = network.down_2(x1)
    x3 = network.down_3(x2)
    x4 = network.down_4(x3)
    up = network.upcat_1(network.upcat_2(network.upcat_3(network.upcat_4(x4, x3), x2), x1), x0)
    return network.final_conv(up), x4


def condition_of(inputs: torch.Tensor, first: FirstGuess) -> torch.Tensor:
    """Condition of the refiner, (N, 2 + len(CONDITION), 64, 64): first guess and inputs."""
    import torch

    return torch.cat([first.image[:, None], first.logit.sigmoid()[:, None], inputs[:, list(CONDITION)]], 1)


def refiner_input(image: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """Input (N, REFINER_INPUTS, 32, 32) of the refiner for images (N, 64, 64) on their way."""
    import torch
    from torch.nn import functional

    return functional.pixel_unshuffle(torch.cat([image[:, None], condition], 1), STRIDE)


def draw_samples(
    inputs: torch.Tensor, first: FirstGuess, model: LoadedModel, *, samples: int, steps: int, seed: int
) -> torch.Tensor:
    """Samples of the late enhancement (K, N, 64, 64): from the first guess with noise along the learned velocity.

    Flow matching (Lipman et al., ICLR 2023) whose source is the first guess with noise, Euler's steps.

    Parameters
    ----------
    inputs : (N, len(CHANNELS), 64, 64) tensor
    first : FirstGuess
    model : LoadedModel
    samples, steps : int
    seed : int
        Of the noise: the same study gives the same samples.
    """
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(seed)
    count = len(inputs)
    noise = torch.randn((samples, *first.image.shape), generator=generator)
    start = (first.image + NOISE * noise).flatten(0, 1)
    condition = condition_of(inputs, first)
    low = model.identity.precision is Precision.BFLOAT16

    def run(begin: int) -> torch.Tensor:
        image = start[begin : begin + _BATCH].to(model.device)
        places = torch.arange(begin, begin + len(image)) % count
        told = condition[places].to(model.device)
        for step in range(steps):
            time = torch.full((len(image),), _TIMESTEPS * step / steps, device=model.device)
            with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=low):
                raw = model.network(refiner_input(image, told), time)
            image = image + functional.pixel_shuffle(raw.float(), STRIDE)[:, 0] / steps
        return image.cpu()

    drawn = torch.cat(each(run, range(0, len(start), _BATCH)))
    return drawn.view(samples, *first.image.shape).clamp(-0.5, _SCALE_MAX)
