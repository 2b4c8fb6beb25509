"""Training of the registration network on pairs of cine frames.

The images supervise themselves: a field is good when it makes one frame look like the other and is smooth. That leaves
open what images do not show, above all motion along a wall (the aperture problem): the middle of the wall of a
long-axis view looks the same wherever it slides. Phantoms settle it: there the warped labels of one frame must cover
those of the other, as in VoxelMorph (Balakrishnan et al., IEEE TMI 2019;38:1788), and points of the wall must go where
they are known to go, as in StrainNet. On patients the images are all there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipelines.models.architecture import UNetArchitecture
from pipelines.models.card import InputSpecification, ModelCard, TrainingData, write_card
from pipelines.motion.crop import SIDE_MM, SIZE, SPACING_MM
from pipelines.motion.fields import integrate, warp
from pipelines.motion.network import REGISTRATION_MODEL, STRIDE, network_input
from pipelines.training.cine_crops import LABELS, CineCrop, packed_crops
from pipelines.training.steps import Progress, TrainingResult, train_steps, usable_device

__all__ = ["RegistrationRecipe", "train_registration"]

_POINTS = 160
"""Points of the wall in a pair."""


@dataclass(frozen=True, slots=True)
class RegistrationRecipe:
    """Everything that decides what a training run does, besides data, steps and seed."""

    features: tuple[int, int, int, int, int, int] = (16, 24, 32, 48, 64, 16)
    steps: int = 2000
    peak_rate: float = 2e-3
    batch: int = 8
    real_share: float = 0.2
    """Of the pairs that are drawn from patients, where there are any."""
    neighbours: float = 0.35
    """Of the pairs that are consecutive frames; the others are any two frames of the cycle."""
    smoothness: float = 0.5
    """Weight of the mean squared gradient of the velocity (mm a mm)."""
    squarings: int = 4
    """Of the integration while training; fewer than when the network is used, for speed."""
    overlap: float = 0.5
    """Weight of 1 − Dice of the warped labels."""
    points: float = 0.25
    """Weight of the mean distance between where points of the wall go and where they are taken to, 1/mm."""
    window: int = 9
    """Side of the window of the local correlation, pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """One batch: clean images for the loss, varied images for the network, labels on half the grid."""

    fixed: torch.Tensor
    moving: torch.Tensor
    fixed_seen: torch.Tensor
    moving_seen: torch.Tensor
    fixed_labels: torch.Tensor
    moving_labels: torch.Tensor
    labelled: torch.Tensor
    places: torch.Tensor
    """(N, M, 2) of the fixed frame, normalised to −1 … 1, column first; 9 where there is no point."""
    goals: torch.Tensor
    """(N, M, 2) mm: where they go from there, row first."""

    def to(self, device: str) -> _Pairs:
        """The same pairs on a torch device."""
        return _Pairs(*(getattr(self, field.name).to(device) for field in fields(self)))


def local_correlation(first: torch.Tensor, second: torch.Tensor, window: int) -> torch.Tensor:
    """Mean squared local correlation coefficient (0 … 1) of images (N, 1, n, n) in square windows, centred
    on every second pixel.

    Avants et al., Med Image Anal 2008;12:26. Where neither image has structure beyond noise the windows count little:
    the variances are raised by 10⁻³ of the squared grey range.
    """
    half = window // 2

    def mean(values: torch.Tensor) -> torch.Tensor:
        rows = functional.avg_pool2d(values, (window, 1), stride=(2, 1), padding=(half, 0), count_include_pad=False)
        return functional.avg_pool2d(rows, (1, window), stride=(1, 2), padding=(0, half), count_include_pad=False)

    first_mean, second_mean = mean(first), mean(second)
    covariance = mean(first * second) - first_mean * second_mean
    variances = (
        (mean(first * first) - first_mean**2).clamp(min=0),
        (mean(second * second) - second_mean**2).clamp(min=0),
    )
    floor = 1e-3
    return (covariance.square() / ((variances[0] + floor) * (variances[1] + floor))).mean()


def overlap_loss(warped: torch.Tensor, target: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    """1 − Dice of soft labels (N, L, n, n), over the pairs with labels and the labels whose areas are comparable.

    A chamber that enters or leaves the plane (less than half its area in one of the frames) says nothing about motion
    in the plane.
    """
    areas, true_areas = warped.sum((2, 3)), target.sum((2, 3))
    ratio = torch.minimum(areas, true_areas) / torch.maximum(areas, true_areas).clamp(min=1)
    counts = (ratio > 0.25) & (true_areas > 6) & labelled[:, None]
    if not counts.any():
        return warped.sum() * 0
    shared = torch.minimum(warped, target).sum((2, 3))
    dice = 2 * shared / (areas + true_areas).clamp(min=1)
    return ((1 - dice) * counts).sum() / counts.sum()


def point_loss(displacement: torch.Tensor, places: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    """Mean distance, mm, between the displacement at places (N, M, 2) and the true one (N, M, 2)."""
    known = (places.abs() < 1).all(-1)
    if not known.any():
        return displacement.sum() * 0
    found = functional.grid_sample(displacement, places[:, :, None], padding_mode="border", align_corners=False)
    difference = found[..., 0].transpose(1, 2) - goals
    return (difference.square().sum(-1) + 0.01).sqrt()[known].mean()


def smoothness_loss(velocity: torch.Tensor, side_mm: float) -> torch.Tensor:
    """Mean squared gradient of a velocity field (N, 2, h, w), mm a mm."""
    step = side_mm / velocity.shape[-1]
    down = (velocity[:, :, 1:] - velocity[:, :, :-1]) / step
    across = (velocity[..., 1:] - velocity[..., :-1]) / step
    return 0.5 * (down.square().mean() + across.square().mean())


def _place(rng: np.random.Generator, margin: float) -> NDArray[np.float64]:
    """Random turn, scale, mirror and shift: (2, 3) matrix from the network's square to the packed square.

    Views are shown as radiographers show them, give or take 25°; any angle would cost the network its sense of where
    the apex is, and images turned upside down do not occur.
    """
    angle, scale = rng.normal(0, math.radians(25)), rng.uniform(0.8, 1.15)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if rng.random() < 0.1:
        turn[:, 0] *= -1
    matrix = scale * turn * (SIZE / margin)
    return np.concatenate([matrix, rng.uniform(-0.1, 0.1, (2, 1))], axis=1)


def _vary(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change the look of pairs (N, 2, n, n): contrast, slow shading, blur and noise, each pair in its own way."""
    count, _, size, _ = images.shape

    def draw(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    result = images.clamp(min=0) ** torch.exp(draw(-0.4, 0.4))
    coarse = torch.randn(count, 1, 3, 3, generator=generator) * draw(0, 0.25)
    result = result * torch.exp(functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False))
    blurred = functional.avg_pool2d(result, 3, stride=1, padding=1, count_include_pad=False)
    amount = draw(0, 0.7)
    result = result + amount * (blurred - result)
    result = result + torch.randn(result.shape, generator=generator) * draw(0, 0.06)
    return (result * draw(0.85, 1.1) + draw(-0.05, 0.05)).clamp(0, 1.25)


def _batch(
    drawn: Sequence[CineCrop], patients: Sequence[CineCrop], recipe: RegistrationRecipe, seed: int, step: int
) -> _Pairs:
    """Pairs of one step, a function of seed and step."""
    rng = np.random.default_rng((seed, step))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    images, labels, labelled, places, points = [], [], [], [], []
    for _ in range(recipe.batch):
        group = patients if patients and (not drawn or rng.random() < recipe.real_share) else drawn
        crop = group[int(rng.integers(len(group)))]
        phases = len(crop.images)
        first = int(rng.integers(phases))
        step_on = 1 if rng.random() < recipe.neighbours else int(rng.integers(1, phases))
        pair = [first, (first + step_on) % phases]
        images.append(torch.from_numpy(crop.images[pair]).float() / 200)
        truth = np.zeros_like(crop.images[pair]) if crop.labels is None else crop.labels[pair]
        labels.append(torch.from_numpy(truth))
        labelled.append(crop.labels is not None)
        places.append(_place(rng, images[-1].shape[-1]))
        points.append(_points(crop, pair, places[-1]))
    theta = torch.tensor(np.stack(places), dtype=torch.float32)
    grid = functional.affine_grid(theta, [recipe.batch, 1, SIZE, SIZE], align_corners=False)
    clean = functional.grid_sample(torch.stack(images), grid, padding_mode="border", align_corners=False)
    coarse = functional.affine_grid(theta, [recipe.batch, 1, SIZE // STRIDE, SIZE // STRIDE], align_corners=False)
    drawn_labels = functional.grid_sample(
        torch.stack(labels).float(), coarse, mode="nearest", padding_mode="zeros", align_corners=False
    )
    numbers = torch.arange(1, LABELS + 1).view(1, 1, LABELS, 1, 1)
    shares = (drawn_labels[:, :, None] == numbers).float().flatten(1, 2)
    seen = _vary(clean, generator)
    return _Pairs(
        clean[:, :1],
        clean[:, 1:],
        seen[:, 0],
        seen[:, 1],
        shares[:, :LABELS],
        shares[:, LABELS:],
        torch.tensor(labelled),
        torch.from_numpy(np.stack([place for place, _ in points])),
        torch.from_numpy(np.stack([goal for _, goal in points])),
    )


def _points(
    crop: CineCrop, pair: Sequence[int], matrix: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points of a crop on the varied square: places (M, 2), normalised, column first; goals (M, 2), mm, row first."""
    places, goals = np.full((_POINTS, 2), 9, np.float32), np.zeros((_POINTS, 2), np.float32)
    if crop.points is None:
        return places, goals
    # The packed square is wider than that of the network; the matrix leads from the latter to the former.
    half = crop.images.shape[-1] * SPACING_MM / 2
    both = crop.points[pair, :, ::-1].astype(np.float64) / half
    inverse = np.linalg.inv(matrix[:, :2])
    first, second = (inverse @ (frame - matrix[:, 2]).T for frame in both)
    known = np.flatnonzero(np.isfinite(first).all(axis=0) & np.isfinite(second).all(axis=0))[:_POINTS]
    places[: len(known)] = first[:, known].T
    goals[: len(known)] = ((second - first)[::-1, known] * SIDE_MM / 2).T
    return places, goals


def _loss(network: torch.nn.Module, pairs: _Pairs, recipe: RegistrationRecipe) -> torch.Tensor:
    velocity = network(network_input(pairs.fixed_seen, pairs.moving_seen)).contiguous()
    displacement = integrate(velocity, SIDE_MM, recipe.squarings)
    similar = local_correlation(pairs.fixed, warp(pairs.moving, displacement, SIDE_MM), recipe.window)
    covered = overlap_loss(warp(pairs.moving_labels, displacement, SIDE_MM), pairs.fixed_labels, pairs.labelled)
    smooth = recipe.smoothness * smoothness_loss(velocity, SIDE_MM)
    astray = recipe.points * point_loss(displacement, pairs.places, pairs.goals)
    return 1 - similar + recipe.overlap * covered + astray + smooth


def train_registration(
    output: Path,
    *,
    phantoms: int,
    phantom_seed: int = 0,
    folders: Sequence[Path] = (),
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = True,
    recipe: RegistrationRecipe | None = None,
    stop_after: int | None = None,
    report: Callable[[Progress], None] | None = None,
    report_packing: Callable[[int, int], None] | None = None,
) -> TrainingResult:
    """Train the registration network; a function of its arguments on one kind of machine.

    Parameters
    ----------
    output : Path
        Receives ``crops.npz`` (the images, packed once), ``checkpoint.safetensors``, ``weights.safetensors`` and
        ``card.yaml``.
    phantoms : int
        Number of phantoms; their seeds are ``phantom_seed``, ``phantom_seed + 1``, …
    folders : sequence of Path
        Folders of DICOM of one patient each, used without annotation.
    steps : int or None
        Steps in all; the recipe's own number by default. A finished run can be resumed with more.
    device : str
        ``cpu`` or a CUDA device; single precision on both.
    resume : bool
        Go on from ``checkpoint.safetensors`` where there is one.
    stop_after : int or None
        Stop after this step, to go on later.
    report, report_packing : callable
        Called every 50 steps, and after each phantom.

    Raises
    ------
    ValueError
        Nothing to train on, no such device, or a checkpoint of another run.
    """
    recipe = recipe or RegistrationRecipe()
    steps = recipe.steps if steps is None else steps
    if steps < 1 or (phantoms < 1 and not folders):
        raise ValueError(f"{steps} steps on {phantoms} phantoms and {len(folders)} patients: at least one of each")
    device = usable_device(device)
    output.mkdir(parents=True, exist_ok=True)
    crops = packed_crops(output / "crops.npz", phantoms, phantom_seed, folders, report_packing)
    drawn = [crop for crop in crops if crop.labels is not None]
    patients = [crop for crop in crops if crop.labels is None]
    torch.manual_seed(seed)
    network = _architecture(recipe).build()
    _start_at_rest(network)
    cases = tuple(sorted({crop.identifier.split("/")[0] for crop in crops}))
    card = output / "card.yaml"
    decisive = {name: value for name, value in asdict(recipe).items() if name != "steps"}
    trained = train_steps(
        network,
        lambda step: _loss(network, _batch(drawn, patients, recipe, seed, step).to(device), recipe),
        clip=1.0,
        peak_rate=recipe.peak_rate,
        steps=steps,
        settings={"recipe": decisive, "crops": len(crops), "seed": seed},
        output=output,
        device=device,
        resume=resume,
        stop_after=stop_after,
        report=report,
        kept=lambda done, sha256: write_card(
            _card(recipe, sha256, cases, phantoms, phantom_seed, folders, done, seed), card
        ),
    )
    return TrainingResult(REGISTRATION_MODEL, steps, cases, (), trained.loss, trained.path, card, trained.sha256)


def _start_at_rest(network: torch.nn.Module) -> None:
    """Make the untrained network answer that almost nothing moves."""
    last = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.mul_(0.05)
        if last.bias is not None:
            last.bias.zero_()


def _architecture(recipe: RegistrationRecipe) -> UNetArchitecture:
    return UNetArchitecture(in_channels=8, out_channels=2, features=recipe.features)


def _card(
    recipe: RegistrationRecipe,
    sha256: str,
    cases: tuple[str, ...],
    phantoms: int,
    phantom_seed: int,
    folders: Sequence[Path],
    steps: int,
    seed: int,
) -> ModelCard:
    patients = tuple(folder.name for folder in folders)
    named = f"{phantoms} phantoms, seeds {phantom_seed} to {phantom_seed + phantoms - 1}"
    options = "".join(f" --data DIR/{name}" for name in patients)
    return ModelCard(
        name=REGISTRATION_MODEL,
        version="0.1.0",
        task="registration of cine MR frames of the heart, short and long axis",
        licence="Apache-2.0",
        weights_sha256=sha256,
        summary="Gives the motion of the tissue in the plane between any two frames of one slice as a diffeomorphism.",
        input=InputSpecification(
            size=SIZE // 2,
            field="heart crop",
            spacing_mm=SPACING_MM * 2,
            channels=tuple(
                f"{frame} frame, pixel {corner} of 2 × 2" for frame in ("fixed", "moving") for corner in range(1, 5)
            ),
            normalisation="2nd and 98th percentile of the field over slices and phases to 0 and 1, clipped to 0 … 1.25",
        ),
        output=("velocity along rows, mm", "velocity along columns, mm"),
        label_weights=(),
        architecture=_architecture(recipe),
        training=TrainingData(
            name=named + (f", cine of {', '.join(patients)} without annotation" if patients else ""),
            licence="CC0-1.0" if patients else "Apache-2.0",
            source="pipelines/phantom, docs/phantom.md; Sunnybrook Cardiac Data (Radau et al., MIDAS Journal 2009)"
            if patients
            else "pipelines/phantom, docs/phantom.md",
            cases=cases,
            split="all cases; what the figures are reported on has other seeds or is another patient",
            steps=steps,
            command=f"dicom-node train registration --phantoms {phantoms} --phantom-seed {phantom_seed}{options}"
            f" --steps {steps} --seed {seed}",
        ),
        limits=(
            "Motion through the plane is not seen: what enters a slice from the next one looks like motion in it.",
            "Trained on simulated hearts and on two patients of one scanner.",
        ),
        not_for=(
            "Diagnosis, or any decision about a patient: research use only.",
            "Children, congenital heart disease, and sequences other than cine balanced steady-state free precession.",
        ),
    )
