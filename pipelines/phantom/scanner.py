"""The scanner: planes, off-resonance, receiver coils, k-space, noise and faults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fft2, fftshift, ifft2
from scipy.ndimage import zoom

from pipelines.phantom.population import Body
from pipelines.phantom.recipe import Dialect, Fault, PhantomRecipe
from pipelines.phantom.render import Plane
from pipelines.phantom.tissue import SteadyState, Tissue, bssfp, relaxation

__all__ = [
    "Coils",
    "Reconstruction",
    "Shim",
    "acquire",
    "build_coils",
    "cine_signals",
    "draw_shim",
    "reconstruction_of",
]

Array = NDArray[np.float64]

FAT_SHIFT_PPM = -3.4
_GAMMA_HZ_T = 42.577e6
_FREQUENCIES_HZ = np.linspace(-1600, 1600, 4801)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """How a vendor samples and reconstructs.

    Attributes
    ----------
    phase_resolution : float
        Acquired part of the phase-encoding matrix (rows), 0 … 1; the rest is zero-filled.
    read_resolution : float
        Acquired part of the frequency-encoding matrix (columns).
    partial_fourier : float
        Part of the acquired lines that is measured, 0.6 … 1; the rest is zero.
    apodisation : float
        Strength of the raised-cosine filter, 0 none … 1 Hann.
    uniformity : float
        How far the receive profile is corrected: 0 not at all, 1 fully.
    snr : float
        Blood signal over noise at the heart.
    """

    phase_resolution: float
    read_resolution: float
    partial_fourier: float
    apodisation: float
    uniformity: float
    snr: float


def reconstruction_of(recipe: PhantomRecipe, rng: np.random.Generator) -> Reconstruction:
    """Draw the reconstruction of the recipe's vendor."""
    snr = float(rng.uniform(16, 34)) * (0.25 if Fault.LOW_SNR in recipe.faults else 1.0)
    jitter = float(rng.uniform(-0.04, 0.04))
    match recipe.dialect:
        case Dialect.GE:
            return Reconstruction(0.78 + jitter, 0.9, 1.0, 0.55, 0.35, snr)
        case Dialect.PHILIPS | Dialect.PHILIPS_ENHANCED:
            return Reconstruction(0.70 + jitter, 0.78, 1.0, 0.35, 0.8, snr)
        case _:
            return Reconstruction(0.80 + jitter, 0.98, 1.0, 0.3, 0.72, snr)


@dataclass(frozen=True, slots=True, eq=False)
class Shim:
    """Residual field: smooth waves inside the shimmed heart and a quadratic growth away from it, Hz."""

    centre: Array
    waves: Array
    offsets: Array
    amplitude_hz: float
    quadratic: Array

    def field_hz(self, points: Array) -> Array:
        """Off-resonance of water at patient points (N, 3), Hz."""
        relative = points - self.centre
        waves = np.cos(relative @ self.waves.T + self.offsets).sum(axis=1) * math.sqrt(2 / len(self.waves))
        scaled = relative / 150.0
        return self.amplitude_hz * waves + np.einsum("ni,ij,nj->n", scaled, self.quadratic, scaled)


def draw_shim(centre: Array, field_t: float, rng: np.random.Generator) -> Shim:
    """Draw the residual field around the heart: about 20 Hz at 1.5 T, twice that at 3 T."""
    direction = rng.standard_normal((6, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    waves = direction * (2 * math.pi / rng.uniform(150, 300, (6, 1)))
    quadratic = rng.standard_normal((3, 3)) * 55 * field_t / 1.5
    return Shim(
        centre=centre,
        waves=waves,
        offsets=rng.uniform(0, 2 * math.pi, 6),
        amplitude_hz=13.0 * field_t / 1.5,
        quadratic=(quadratic + quadratic.T) / 2,
    )


@lru_cache(maxsize=8)
def _responses(protocol: SteadyState, acute: bool) -> dict[Tissue, Array]:
    """Signal of each tissue at the frequencies above: smooth, so one table serves every plane."""
    table = relaxation(protocol.field_t, acute=acute)
    return {tissue: bssfp(values, protocol, _FREQUENCIES_HZ) for tissue, values in table.items()}


def cine_signals(
    plane: Plane, protocol: SteadyState, shim: Shim, *, acute: bool, inflow: float = 1.0
) -> dict[Tissue, Array]:
    """Balanced SSFP signal of each tissue at every pixel of a plane, (rows·columns,)."""
    water = shim.field_hz(plane.points())
    fat = water + FAT_SHIFT_PPM * 1e-6 * _GAMMA_HZ_T * protocol.field_t
    signals: dict[Tissue, Array] = {}
    for tissue, response in _responses(protocol, acute).items():
        field = fat if tissue is Tissue.FAT else water
        signals[tissue] = np.interp(field, _FREQUENCIES_HZ, response)
    for blood in (Tissue.BLOOD, Tissue.VENOUS_BLOOD):
        signals[blood] = signals[blood] * inflow
    return signals


@dataclass(frozen=True, slots=True, eq=False)
class Coils:
    """Receiver loops around the chest: centres (K, 3), unit normals (K, 3) and radius, mm."""

    centres: Array
    normals: Array
    radius: float

    def receive_profile(self, plane: Plane) -> NDArray[np.float32]:
        """Root of the summed squared sensitivities (Biot–Savart) at every pixel, (rows, columns)."""
        coarse = 20
        row_steps = np.linspace(0, (plane.rows - 1) * plane.spacing, coarse)
        column_steps = np.linspace(0, (plane.columns - 1) * plane.spacing, coarse)
        points = (
            plane.position + row_steps[:, None, None] * plane.column + column_steps[None, :, None] * plane.row
        ).reshape(-1, 3)
        power = np.zeros(points.shape[0])
        for centre, normal in zip(self.centres, self.normals, strict=True):
            field = _loop_field(points, centre, normal, self.radius)
            # Only the part across the main field (z) induces a signal.
            power += field[:, 0] ** 2 + field[:, 1] ** 2
        profile = np.sqrt(power).reshape(coarse, coarse)
        factors = (plane.rows / coarse, plane.columns / coarse)
        smooth = zoom(profile, factors, order=3, mode="nearest", grid_mode=True)
        return np.maximum(smooth, 1e-3).astype(np.float32)


def build_coils(body: Body, centre: Array, count: int) -> Coils:
    """Place loops on the chest and the back around the heart, normalised to unit sensitivity at the heart."""
    angles = 2 * math.pi * (np.arange(count) + 0.5) / count
    half = np.array([body.half_width_mm + 35, body.half_depth_mm + 35])
    around = np.stack([np.cos(angles) * half[0], np.sin(angles) * half[1]], axis=1)
    height = centre[2] + 45 * np.where(np.arange(count) % 2 == 0, 1.0, -1.0) * (count > 4)
    centres = np.column_stack([around, height])
    normals = np.column_stack([-np.cos(angles), -np.sin(angles), np.zeros(count)])
    return Coils(centres=centres, normals=normals, radius=90.0)


def _loop_field(points: Array, centre: Array, normal: Array, radius: float) -> Array:
    """Magnetic field of a current loop (24 segments), relative to that at its own centre, (N, 3)."""
    helper = np.array([0.0, 0.0, 1.0])
    first = np.cross(normal, helper)
    first /= np.linalg.norm(first)
    second = np.cross(normal, first)
    turns = 2 * math.pi * np.arange(25) / 24
    corners = centre + radius * (np.cos(turns)[:, None] * first + np.sin(turns)[:, None] * second)
    middles, steps = (corners[1:] + corners[:-1]) / 2, np.diff(corners, axis=0)
    field = np.zeros_like(points)
    for middle, step in zip(middles, steps, strict=True):
        arm = points - middle
        # Closer than 15 mm the thin-wire field diverges; real conductors are inside the housing.
        distance = np.maximum(np.linalg.norm(arm, axis=1, keepdims=True), 15.0)
        # np.cross, written out: it spends ten times the arithmetic on checking shapes.
        turned = (
            step[1] * arm[:, 2] - step[2] * arm[:, 1],
            step[2] * arm[:, 0] - step[0] * arm[:, 2],
            step[0] * arm[:, 1] - step[1] * arm[:, 0],
        )
        field += np.stack(turned, axis=1) / distance**3
    return field * radius / (2 * math.pi)


def acquire(
    signal: NDArray[np.float32],
    profile: NDArray[np.float32],
    reconstruction: Reconstruction,
    blood_level: float,
    rng: np.random.Generator,
    *,
    faults: frozenset[Fault] = frozenset(),
    keep_sign: bool = False,
) -> NDArray[np.float32]:
    """Measure k-space and reconstruct images.

    The matched combination of many coil elements with independent noise is the image times their receive profile plus
    noise of the same variance everywhere (Roemer 1990), so one k-space of the combined signal stands for all elements.

    Parameters
    ----------
    signal : (T, R, C) float32
        Signed transverse magnetisation.
    profile : (R, C) float32
        Combined receive profile.
    reconstruction : Reconstruction
    blood_level : float
        Signal of blood at the heart, the reference of the signal-to-noise ratio.
    rng : numpy.random.Generator
    faults : frozenset of Fault
        Faults that live in k-space act here.
    keep_sign : bool
        Phase-sensitive reconstruction: the real part instead of the magnitude.

    Returns
    -------
    (T, R, C) float32
        Magnitude with Rician noise, or the real part with Gaussian noise.
    """
    phases, rows, columns = signal.shape
    window = _window(rows, columns, reconstruction)
    power = float(np.mean(window.astype(np.float64) ** 2))
    level = float(np.median(profile[rows // 4 : -rows // 4, columns // 4 : -columns // 4]))
    relative = profile / np.float32(level)
    noise_sd = blood_level / reconstruction.snr / math.sqrt(2 * power)
    noise_scale = np.float32(noise_sd * math.sqrt(rows * columns))
    donors = _donor_phases(phases, rows, faults, rng)
    spectrum = fft2(signal * relative, axes=(1, 2))
    if donors is not None:
        spectrum = spectrum[donors, np.arange(rows)[None, :], :]
    if Fault.GHOSTING in faults:
        spectrum *= _ghost_modulation(phases, rows, rng)[:, :, None]
    measured = np.flatnonzero(window.any(axis=1))
    noise = rng.standard_normal((phases, measured.size, columns, 2), dtype=np.float32)
    noise *= noise_scale
    spectrum[:, measured] += noise.view(np.complex64)[..., 0]
    spectrum *= window
    image = ifft2(spectrum, axes=(1, 2), overwrite_x=True)
    result = image.real if keep_sign else np.abs(image)
    # The profile stays in the image; a uniformity correction removes a part of it.
    return result / relative ** np.float32(reconstruction.uniformity)


def _window(rows: int, columns: int, reconstruction: Reconstruction) -> NDArray[np.float32]:
    """Weight of each k-space sample in the order of the FFT."""
    row = np.abs(np.fft.fftfreq(rows)) * 2 / reconstruction.phase_resolution
    column = np.abs(np.fft.fftfreq(columns)) * 2 / reconstruction.read_resolution
    radius = np.sqrt(row[:, None] ** 2 + column[None, :] ** 2)
    taper = 1 - reconstruction.apodisation * (0.5 - 0.5 * np.cos(math.pi * np.clip(radius, 0, 1)))
    inside = (row[:, None] <= 1) & (column[None, :] <= 1)
    if reconstruction.partial_fourier < 1:
        signed = np.fft.fftfreq(rows) * 2 / reconstruction.phase_resolution
        inside &= (signed >= 1 - 2 * reconstruction.partial_fourier)[:, None]
    return (inside * taper).astype(np.float32)


def _donor_phases(
    phases: int, rows: int, faults: frozenset[Fault], rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """Phase that each line of each phase is really from, (T, R), or None when all are right."""
    own = np.repeat(np.arange(phases)[:, None], rows, axis=1)
    if Fault.MISTRIGGER not in faults and Fault.ARRHYTHMIA not in faults:
        return None
    segment = 10
    blocks = -(-rows // segment)
    if Fault.MISTRIGGER in faults:
        wrong = rng.random(blocks) < rng.uniform(0.1, 0.3)
        shift = rng.integers(phases // 6 + 1, phases // 2 + 2, blocks) * wrong
    else:
        # Late diastole stretches and shrinks with RR: later phases are displaced more.
        shift = np.rint(rng.normal(0, 0.1 * phases, blocks)).astype(np.int64)
    order = fftshift(np.arange(rows))
    lines = np.zeros(rows, np.int64)
    lines[order] = np.repeat(shift, segment)[:rows]
    if Fault.MISTRIGGER in faults:
        return (own + lines[None, :]) % phases
    weight = np.linspace(0, 1.5, phases)[:, None]
    return np.clip(own + np.rint(weight * lines[None, :]).astype(np.int64), 0, phases - 1)


def _ghost_modulation(phases: int, rows: int, rng: np.random.Generator) -> NDArray[np.complex64]:
    """Respiratory phase and amplitude modulation along the phase-encoding direction, (T, R)."""
    period = rng.uniform(6, 14)
    line = np.fft.fftfreq(rows) * rows
    swing = rng.uniform(0.35, 0.7)
    argument = 2 * math.pi * line / period + rng.uniform(0, 2 * math.pi, (phases, 1)) * 0.1
    return ((1 + 0.25 * np.cos(argument)) * np.exp(1j * swing * np.sin(argument))).astype(np.complex64)
