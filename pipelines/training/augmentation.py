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

__all__ = [
    "bend_wall",
    "displacement_grid",
    "redraw_tissues",
    "remap_background",
    "vary_acquisition",
    "vary_appearance",
]


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
    return _through_curve(images, curve) + (images - 1).clamp(min=0)


def _through_curve(images: Tensor, curve: Tensor) -> Tensor:
    """Grey values through a piecewise-linear curve for each image, (N, knots) at equal steps from 0 to 1."""
    pieces = curve.shape[1] - 1
    position = images.clamp(0, 1) * pieces
    index = position.floor().long().clamp(max=pieces - 1)
    flat = index.flatten(1)
    low = curve.gather(1, flat).view_as(images)
    high = curve.gather(1, flat + 1).view_as(images)
    return low + (high - low) * (position - index)


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
    changed = _through_curve(images, torch.rand(count, knots, generator=generator))
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


_KNOTS = 17
_GREY_LEVELS = torch.linspace(0, 1, _KNOTS)


def _level_inside(images: Tensor, shares: Tensor) -> Tensor:
    """Mean grey value where a share is more than nine tenths, (N,); NaN where it nowhere is."""
    inside = (shares > 0.9).float()
    return (images * inside).sum((1, 2)) / inside.sum((1, 2)).where(inside.sum((1, 2)) > 8, torch.nan)


def redraw_tissues(images: Tensor, labels: Tensor, heart: Tensor, generator: Generator) -> Tensor:
    """Draw the grey values of blood, muscle and the tissues around the heart anew, each by itself.

    Blood and muscle go through one rising curve that takes their mean levels to drawn ones, so that papillary muscles
    follow muscle. What is not heart is taken apart by grey value into 17 classes, and in the plane by a smooth field:
    liver may become brighter than muscle, fat darker than blood. A drawn part of the heart's own curve stays in the
    curves of the surroundings, because atria and vessels hold the same blood.

    Parameters
    ----------
    images : (N, K, H, W) float32
    labels : (N, 4, H, W) float32
        Share of each label in the middle channel.
    heart : (N, K, H, W) float32
        Share of all labels but background in each channel.
    generator : Generator
    """
    count, _, height, width = images.shape
    middle = images[:, images.shape[1] // 2]
    blood = _level_inside(middle, (labels[:, 1] + labels[:, 3])).nan_to_num(0.8).clamp(0.35, 1.1)
    muscle = torch.minimum(_level_inside(middle, labels[:, 2]).nan_to_num(0.35), 0.85 * blood).clamp(min=0.05)
    new_blood = _uniform(generator, 0.55, 1.05, count)
    new_muscle = new_blood * _uniform(generator, 0.15, 0.72, count)
    levels = _GREY_LEVELS.expand(count, -1)
    low = new_muscle[:, None] * (levels / muscle[:, None])
    slope = (new_blood - new_muscle) / (blood - muscle).clamp(min=0.05)
    high = new_muscle[:, None] + slope.clamp(max=4)[:, None] * (levels - muscle[:, None])
    own = torch.where(levels < muscle[:, None], low, high)
    inside = _through_curve(images, own)
    coarse = torch.rand(count, 2, 5, generator=generator)
    curves = functional.interpolate(coarse, size=_KNOTS, mode="linear", align_corners=True)
    # Air and lung stay the darkest: no scanner shows them brighter than what they surround.
    curves = curves * (levels / 0.2).clamp(max=1)[:, None]
    kept = _uniform(generator, 0.1, 0.9, count, 1, 1)
    curves = (curves + kept * (own.clamp(0, 1.25)[:, None] - curves)).clamp(0, 1.25)
    field = functional.interpolate(
        2.5 * _normal(generator, count, 1, 3, 3), size=(height, width), mode="bicubic", align_corners=True
    ).sigmoid()
    outside = field * _through_curve(images, curves[:, 0]) + (1 - field) * _through_curve(images, curves[:, 1])
    drawn = heart * inside + (1 - heart) * outside
    # The node stretches the 2nd to the 98th percentile of what it sees, whatever the scanner.
    top = torch.quantile(drawn.flatten(1)[:, ::7], 0.98, dim=1).clamp(min=0.2)
    return drawn / (top * _uniform(generator, 0.9, 1.15, count)).view(-1, 1, 1, 1)


def _coil_roll_off(images: Tensor, generator: Generator) -> Tensor:
    """Receive profile of a surface coil: falls with the distance from a place beyond an edge."""
    count, size = images.shape[0], images.shape[-1]
    angle = _uniform(generator, 0, 2 * math.pi, count, 1, 1)
    away = _uniform(generator, 1.2, 2.2, count, 1, 1)
    axis = torch.linspace(-1, 1, size)
    distance2 = (axis[:, None] - away * torch.sin(angle)) ** 2 + (axis[None] - away * torch.cos(angle)) ** 2
    profile = (away**2 / (distance2 + 0.15)) ** _uniform(generator, 0.3, 1.0, count, 1, 1)
    return images * profile.clamp(0.25, 3.0)[:, None]


def _fill_with_zeros(images: Tensor, generator: Generator) -> Tensor:
    """Keep the middle of k-space and fill up with zeros: the sinc interpolation of scanners, with its ringing."""
    height, width = images.shape[2:]
    rows = torch.fft.fftfreq(height).abs()[:, None] * 2
    columns = torch.fft.rfftfreq(width)[None] * 2
    first = _uniform(generator, 0.3, 0.9, images.shape[0], 1, 1)
    second = _uniform(generator, 0.4, 1.0, images.shape[0], 1, 1)
    taper = _uniform(generator, 0.0, 0.6, images.shape[0], 1, 1)
    kept = ((rows <= first) & (columns <= second)) * (1 - taper * torch.maximum(rows / first, columns / second))
    return torch.fft.irfft2(torch.fft.rfft2(images) * kept[:, None], s=(height, width))


def _sharpen_edges(images: Tensor, generator: Generator) -> Tensor:
    """The edge filter of a vendor: halos of one to three pixels, stronger than :func:`_sharpen`."""
    soft = _gaussian(images, _uniform(generator, 0.8, 2.5, images.shape[0]))
    return images + _uniform(generator, 0.8, 2.5, images.shape[0], 1, 1, 1) * (images - soft)


def _flow_void(images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Dark jets in blood, as turbulence draws at the outflow and at valves that leak."""
    count, size = images.shape[0], images.shape[-1]
    blood = labels[:, 1] + labels[:, 3]
    place = torch.multinomial(blood.flatten(1) + 1e-6, 1, generator=generator)
    axis = torch.arange(size)
    row, column = (axis[:, None] - (place // size).view(-1, 1, 1)), (axis[None] - (place % size).view(-1, 1, 1))
    angle = _uniform(generator, 0, math.pi, count, 1, 1)
    along, across = (
        row * torch.cos(angle) + column * torch.sin(angle),
        column * torch.cos(angle) - row * torch.sin(angle),
    )
    long, short = _uniform(generator, 3, 11, count, 1, 1), _uniform(generator, 1.2, 4, count, 1, 1)
    jet = torch.exp(-((along / long) ** 2) - (across / short) ** 2) * blood.clamp(0, 1)
    return images * (1 - _uniform(generator, 0.3, 0.9, count, 1, 1, 1) * jet[:, None])


_ACQUISITION: tuple[tuple[float, Callable[[Tensor, Generator], Tensor]], ...] = (
    (0.20, _fill_with_zeros),
    (0.12, _sharpen_edges),
    (0.25, _coil_roll_off),
)


def vary_acquisition(images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Give each image of a batch a random selection of what acquisition and reconstruction of other vendors do.

    Parameters
    ----------
    images : (N, K, H, W) float32
    labels : (N, 4, H, W) float32
        Share of each label in the middle channel.
    generator : Generator
    """
    chosen = torch.rand(images.shape[0], generator=generator) < 0.12
    if chosen.any():
        images[chosen] = _flow_void(images[chosen], labels[chosen], generator)
    for probability, change in _ACQUISITION:
        chosen = torch.rand(images.shape[0], generator=generator) < probability
        if chosen.any():
            images[chosen] = change(images[chosen], generator)
    return images.clamp(0.0, 1.25)


def bend_wall(points: Tensor, centre: Tensor, radius: float, generator: Generator) -> Tensor:
    """Where to sample a heart whose cavity is narrower or wider within the same epicardium, or whose septum moved.

    Parameters
    ----------
    points : (H, W, 2) float32
        Row and column, mm, of an undisturbed sampling.
    centre : (2,) float32
        Centre of the left ventricle, mm.
    radius : float
        Of its epicardium, mm.
    generator : Generator

    Returns
    -------
    (H, W, 2) float32
    """
    from_centre = (points - centre) / radius
    narrow, slit, shift = _uniform(generator, -0.25, 1.0, 1), _uniform(generator, 0.0, 1.0, 1), _normal(generator, 2)
    angle = _uniform(generator, 0, math.pi, 1)
    axis = torch.cat([torch.cos(angle), torch.sin(angle)])
    weight = torch.exp(-(from_centre.square().sum(-1, keepdim=True)) / 0.3)
    along = (from_centre @ axis)[..., None] * axis
    moved = from_centre + weight * narrow * (from_centre - slit * along) + 0.12 * weight * shift.clamp(-1.5, 1.5)
    # The wall as a whole, thicker or thinner from outside.
    reach = from_centre.square().sum(-1, keepdim=True).sqrt()
    moved = moved * (1 - _uniform(generator, -0.1, 0.15, 1) * torch.exp(-(((reach - 1) / 0.45) ** 2)))
    return centre + radius * moved
