"""Images of one scanner remapped to the grey values and the sharpness of another: a stand-in for foreign patients.

Nothing here is used in training: augmentation draws its looks at random, these are measured on real images of two other
scanners (their quantiles and spectra, no image), or made by a filter that augmentation lacks.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.acdc import AcdcFrame, AcdcPatient

__all__ = ["ForeignStyle", "restyle"]

Array = NDArray[np.float64]


class ForeignStyle(enum.StrEnum):
    """The population whose grey values and sharpness images are given."""

    GE = "ge"
    """GE 1.5 T: two patients of the Sunnybrook Cardiac Data (CC0)."""
    VIDA = "vida"
    """Siemens Vida 3 T: one volunteer (Apache-2.0)."""
    EQUALISED = "equalised"
    """Every place has the same mean and contrast within 25 mm, as uniformity filters that go too far leave it."""


@dataclass(frozen=True, slots=True)
class _Look:
    """Of the central 180 mm of a scanner's end-diastolic images.

    Attributes
    ----------
    quantiles : tuple of 21 floats
        Grey values at 0, 5 … 100 %, on the scale where the 2nd percentile is 0 and the 98th is 1.
    spectrum : tuple of 20 floats
        Amplitude over rings of 0.02 cycles/mm, relative to the second ring.
    """

    quantiles: tuple[float, ...]
    spectrum: tuple[float, ...]


_SIDE_MM = 180.0
_RING = 0.02
_NEIGHBOURHOOD_MM = 25.0
_LOOKS = {
    ForeignStyle.GE: _Look(
        (
            *(-0.026, 0.007, 0.015, 0.024, 0.038, 0.053, 0.071, 0.088, 0.108, 0.130, 0.159),
            *(0.191, 0.225, 0.265, 0.313, 0.369, 0.434, 0.511, 0.617, 0.787, 2.229),
        ),
        (
            *(3.492, 1.0, 0.450, 0.267, 0.177, 0.131, 0.098, 0.077, 0.061, 0.051),
            *(0.042, 0.035, 0.029, 0.024, 0.020, 0.017, 0.013, 0.011, 0.009, 0.007),
        ),
    ),
    ForeignStyle.VIDA: _Look(
        (
            *(-0.015, 0.006, 0.023, 0.040, 0.053, 0.068, 0.085, 0.101, 0.118, 0.133, 0.150),
            *(0.171, 0.201, 0.245, 0.323, 0.448, 0.590, 0.710, 0.797, 0.911, 1.55),
        ),
        (
            *(3.605, 1.0, 0.463, 0.271, 0.185, 0.140, 0.109, 0.087, 0.066, 0.056),
            *(0.047, 0.038, 0.032, 0.027, 0.022, 0.019, 0.014, 0.009, 0.0045, 0.003),
        ),
    ),
}


def _central(pixels: Array, spacing: tuple[float, float]) -> Array:
    """The middle 180 mm of the planes."""
    rows, columns = (
        slice(max(0, round(length / 2 - _SIDE_MM / 2 / step)), round(length / 2 + _SIDE_MM / 2 / step))
        for length, step in zip(pixels.shape[-2:], spacing, strict=True)
    )
    return pixels[..., rows, columns]


def _rings(rows: int, columns: int, spacing: tuple[float, float]) -> Array:
    """Number of the ring (not whole) of each sample of a Fourier transform."""
    first = np.fft.fftfreq(rows, spacing[0])[:, None]
    second = np.fft.fftfreq(columns, spacing[1])[None]
    return np.hypot(first, second) / _RING


def _spectrum(images: Array, spacing: tuple[float, float]) -> Array:
    """Amplitude over rings relative to the second; rings beyond the reach of the images repeat the last."""
    rows, columns = images.shape[1:]
    window = np.hanning(rows)[:, None] * np.hanning(columns)[None]
    power = np.abs(np.fft.fft2((images - images.mean((1, 2), keepdims=True)) * window)) ** 2
    ring = _rings(rows, columns, spacing).astype(int)
    means = [power[:, ring == number].mean() for number in range(20) if (ring == number).any()]
    amplitude = np.sqrt(np.array(means + means[-1:] * (20 - len(means))))
    return np.asarray(amplitude / amplitude[1])


def _filtered(images: Array, gain: Array, spacing: tuple[float, float]) -> Array:
    """Images (S, R, C) with each frequency scaled by the gain of its ring; the mean stays."""
    margin = 16
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    ring = _rings(padded.shape[1], padded.shape[2], spacing)
    factor = np.interp(ring - 0.5, np.arange(20), gain)
    factor[0, 0] = 1.0
    result = np.fft.ifft2(np.fft.fft2(padded) * factor).real
    return result[:, margin:-margin, margin:-margin]


def _equalised(images: Array, spacing: tuple[float, float]) -> Array:
    sigma = (0, _NEIGHBOURHOOD_MM / spacing[0], _NEIGHBOURHOOD_MM / spacing[1])
    mean = ndimage.gaussian_filter(images, sigma, mode="nearest")
    variance = ndimage.gaussian_filter((images - mean) ** 2, sigma, mode="nearest")
    return (images - mean) / (np.sqrt(variance) + 0.1 * images.std())


def restyle(patient: AcdcPatient, style: ForeignStyle) -> AcdcPatient:
    """Give a patient's images the style of another scanner; geometry and labels stay.

    The spectrum of the image is brought to that of the other scanner (by at most a factor of 4 either way), then its
    grey values to the other's distribution; both as measured on end diastole and applied to both phases.
    """
    spacing = patient.geometry.pixel_spacing
    ed, es = (frame.pixels.astype(np.float64) for frame in patient.frames)
    if style is ForeignStyle.EQUALISED:
        ed, es = _equalised(ed, spacing), _equalised(es, spacing)
        low = min(ed.min(), es.min())
        ed, es = ed - low, es - low
    else:
        look = _LOOKS[style]
        gain = np.clip(np.array(look.spectrum) / _spectrum(_central(ed, spacing), spacing), 0.25, 4.0)
        gain[:2] = 1.0
        ed, es = _filtered(ed, gain, spacing), _filtered(es, gain, spacing)
        own = np.quantile(_central(ed, spacing), np.linspace(0, 1, 21))
        own += np.arange(21) * 1e-9 * (own[-1] - own[0] + 1)  # strictly rising where many pixels are equal
        other = np.array(look.quantiles) - look.quantiles[0]
        # Beyond what was measured the curve goes on as it ended.
        slope = (other[-1] - other[-2]) / (own[-1] - own[-2])
        ed, es = (np.interp(image, own, other) + slope * np.maximum(image - own[-1], 0) for image in (ed, es))
    return replace(
        patient,
        ed=AcdcFrame(patient.ed.number, (200 * ed).astype(np.float32), patient.ed.labels),
        es=AcdcFrame(patient.es.number, (200 * es).astype(np.float32), patient.es.labels),
    )
