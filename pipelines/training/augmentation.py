"""Random variation of short-axis slices, batched: geometry at sampling, then the looks of other scanners.

Grey values are in 0 … 1 (see :mod:`pipelines.segmentation.grid`). Each function takes a generator, so a step of
training is a function of its number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

__all__ = ["displacement_grid", "remap_background", "vary_appearance"]


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def displacement_grid(
    count: int, size: int, field_mm: float, generator: Generator, *, scale: float, elastic_mm: float
) -> Tensor:
    """Where to sample ``count`` randomly rotated, mirrored, scaled, sheared and bent squares.

    Parameters
    ----------
    field_mm : float
        Side of the undeformed square, mm.
    scale : float
        Largest change of size, as the natural logarithm of the factor.
    elastic_mm : float
        Standard deviation of the control points of the bending, mm.

    Returns
    -------
    (count, size, size, 2) float32
        (row, column) of each point, mm from the centre of the square.
    """
    axis = (torch.arange(size) - (size - 1) / 2) * (field_mm / size)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    angle = _uniform(generator, 0, 2 * math.pi, count)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    overall = _uniform(generator, -scale, scale, count)
    stretch = 0.1 * _normal(generator, count).clamp(-2, 2)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    shear = 0.05 * _normal(generator, count).clamp(-2, 2)
    diagonal = torch.zeros(count, 2, 2)
    diagonal[:, 0, 0] = torch.exp(overall + stretch / 2)
    diagonal[:, 1, 1] = torch.exp(overall - stretch / 2) * mirror
    diagonal[:, 0, 1] = shear
    warped = torch.einsum("nij,rcj->nrci", rotation @ diagonal, points)
    bent = elastic_mm * _uniform(generator, 0, 1, count, 1, 1, 1) * _normal(generator, count, 2, 5, 5)
    return warped + functional.interpolate(bent, size=(size, size), mode="bicubic", align_corners=True).permute(
        0, 2, 3, 1
    )


def _tone_curve(images: Tensor, generator: Generator) -> Tensor:
    """Random monotone piecewise-linear look-up curve for each image: vendors differ in little else as much."""
    count, knots = images.shape[0], 6
    rises = torch.exp(0.6 * _normal(generator, count, knots))
    curve = torch.cat([torch.zeros(count, 1), rises.cumsum(1) / rises.sum(1, keepdim=True)], dim=1)
    position = images.clamp(0, 1) * knots
    index = position.floor().long().clamp(max=knots - 1)
    flat = index.flatten(1)
    low = curve.gather(1, flat).view_as(images)
    high = curve.gather(1, flat + 1).view_as(images)
    return low + (high - low) * (position - index) + (images - 1).clamp(min=0)


def _gain(images: Tensor, generator: Generator) -> Tensor:
    count, channels = images.shape[:2]
    gain = torch.exp(0.2 * _normal(generator, count, 1, 1, 1) + 0.06 * _normal(generator, count, channels, 1, 1))
    return images * gain + 0.06 * _normal(generator, count, 1, 1, 1)


def _bias_field(images: Tensor, generator: Generator) -> Tensor:
    count = images.shape[0]
    control = 0.35 * _normal(generator, count, 1, 3, 3)
    return images * torch.exp(
        functional.interpolate(control, size=images.shape[2:], mode="bicubic", align_corners=True)
    )


def _band(images: Tensor, generator: Generator) -> Tensor:
    """A dark band across the image, as off-resonance draws in balanced steady-state free precession."""
    count, size = images.shape[0], images.shape[-1]
    angle = _uniform(generator, 0, math.pi, count, 1, 1)
    axis = torch.linspace(-1, 1, size)
    across = (
        axis[:, None] * torch.cos(angle) + axis[None] * torch.sin(angle) - _uniform(generator, -0.9, 0.9, count, 1, 1)
    )
    depth = _uniform(generator, 0.3, 0.9, count, 1, 1)
    width = _uniform(generator, 0.03, 0.12, count, 1, 1)
    return images * (1 - depth * torch.exp(-((across / width) ** 2)))[:, None]


def _gaussian(images: Tensor, sigma: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    taps = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-(taps**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    stacked = functional.pad(images.reshape(1, count * channels, height, width), (4, 4, 4, 4), mode="replicate")
    stacked = functional.conv2d(stacked, kernel[:, None, :, None], groups=count * channels)
    return functional.conv2d(stacked, kernel[:, None, None, :], groups=count * channels).view_as(images)


def _blur(images: Tensor, generator: Generator) -> Tensor:
    return _gaussian(images, _uniform(generator, 0.4, 1.4, images.shape[0]))


def _sharpen(images: Tensor, generator: Generator) -> Tensor:
    count = images.shape[0]
    soft = _gaussian(images, _uniform(generator, 0.6, 1.5, count))
    return images + _uniform(generator, 0.3, 1.5, count, 1, 1, 1) * (images - soft)


def _lose_resolution(images: Tensor, generator: Generator) -> Tensor:
    """Acquire coarser along each axis, then interpolate, as scanners do."""
    height, width = images.shape[2:]
    result = []
    for image in images:
        rows, columns = (_uniform(generator, 0.35, 0.9, 2) * torch.tensor([height, width])).round().int().tolist()
        coarse = functional.interpolate(
            image[None], size=(rows, columns), mode="bilinear", antialias=True, align_corners=False
        )
        mode = "bicubic" if torch.rand((), generator=generator) < 0.5 else "bilinear"
        result.append(functional.interpolate(coarse, size=(height, width), mode=mode, align_corners=False)[0])
    return torch.stack(result)


def _rician_noise(images: Tensor, generator: Generator) -> Tensor:
    level = _uniform(generator, 0.01, 0.09, images.shape[0], 1, 1, 1)
    real = images + level * _normal(generator, *images.shape)
    return torch.sqrt(real**2 + (level * _normal(generator, *images.shape)) ** 2)


def _mix_spectra(images: Tensor, generator: Generator) -> Tensor:
    """Take part of the low-frequency amplitudes of another image of the batch (Xu et al., CVPR 2021)."""
    count, _, height, width = images.shape
    spectrum = torch.fft.rfft2(images)
    amplitude, phase = spectrum.abs(), spectrum.angle()
    rows = torch.fft.fftfreq(height).abs()[:, None]
    columns = torch.fft.rfftfreq(width)[None]
    reach = _uniform(generator, 0.02, 0.12, count, 1, 1)
    weight = ((rows**2 + columns**2).sqrt() < reach) * _uniform(generator, 0.2, 0.8, count, 1, 1)
    other = amplitude[torch.randperm(count, generator=generator)]
    mixed = amplitude + weight[:, None] * (other - amplitude)
    return torch.fft.irfft2(torch.polar(mixed, phase), s=(height, width))


def _ghost(images: Tensor, generator: Generator) -> Tensor:
    """Ghosts of periodic motion: every n-th line of k-space scaled."""
    axis = 2 + int(torch.randint(2, (), generator=generator))
    period = int(torch.randint(2, 6, (), generator=generator))
    spectrum = torch.fft.fft(images, dim=axis)
    lines = torch.ones(images.shape[axis])
    lines[::period] = float(_uniform(generator, 0.5, 0.85, 1))
    lines[0] = 1.0
    return torch.fft.ifft(spectrum * lines.view((-1, 1) if axis == 2 else (1, -1)), dim=axis).real


def _cut_field(images: Tensor, generator: Generator) -> Tensor:
    """Blank one side, as where the field of view ends near the heart."""
    images = images.clone()
    size = images.shape[-1]
    for image in images:
        depth = int(size * float(_uniform(generator, 0.03, 0.2, 1)))
        quarter = int(torch.randint(4, (), generator=generator))
        torch.rot90(image, quarter, (1, 2))[:, :depth] = 0.0
    return images


def _shade_tissue(images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Change the contrast between blood, muscle and the rest, as inflow, field strength and flip angle do."""
    factors = torch.exp(0.15 * _normal(generator, images.shape[0], labels.shape[1], 1, 1))
    return images * (factors * labels).sum(1, keepdim=True)


def remap_background(images: Tensor, labels: Tensor, generator: Generator, probability: float = 0.5) -> Tensor:
    """Give what is not heart other grey values, by a random curve that need not rise: liver may be darker than lung.

    Simulated surroundings look alike from phantom to phantom; a network that leans on them fails in patients.

    Parameters
    ----------
    images : (N, K, H, W) float32
    labels : (N, L, H, W) float32
        Share of each label; label 0 is the background.
    probability : float
        Of each image to be changed.
    """
    count, knots = images.shape[0], 7
    curve = torch.rand(count, knots, generator=generator)
    position = images.clamp(0, 1) * (knots - 1)
    index = position.floor().long().clamp(max=knots - 2)
    flat = index.flatten(1)
    low = curve.gather(1, flat).view_as(images)
    high = curve.gather(1, flat + 1).view_as(images)
    changed = low + (high - low) * (position - index)
    chosen = (torch.rand(count, 1, 1, 1, generator=generator) < probability).float()
    strength = chosen * _uniform(generator, 0.3, 1.0, count, 1, 1, 1) * labels[:, :1]
    return images + strength * (changed - images)


_APPEARANCE: tuple[tuple[float, Callable[[Tensor, Generator], Tensor]], ...] = (
    (0.15, _mix_spectra),
    (0.30, _bias_field),
    (0.08, _band),
    (0.25, _blur),
    (0.20, _sharpen),
    (0.25, _lose_resolution),
    (0.08, _ghost),
    (0.40, _rician_noise),
    (0.50, _tone_curve),
    (0.40, _gain),
    (0.10, _cut_field),
)


def vary_appearance(images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Give each image of a batch a random selection of the looks above.

    Parameters
    ----------
    images : (N, K, H, W) float32
        Neighbouring slices as channels.
    labels : (N, L, H, W) float32
        Share of each label in each pixel of the middle channel.
    """
    chosen = torch.rand(images.shape[0], generator=generator) < 0.2
    if chosen.any():
        images[chosen] = _shade_tissue(images[chosen], labels[chosen], generator)
    for probability, change in _APPEARANCE:
        chosen = torch.rand(images.shape[0], generator=generator) < probability
        if chosen.any():
            images[chosen] = change(images[chosen], generator)
    return images.clamp(0.0, 1.25)
