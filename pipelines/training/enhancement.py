"""Training of the localiser and of the segmentation network of acquired late enhancement on EMIDEC."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from pipelines.late_enhancement.grid import pixels_of, scale_slices, ventricle_square
from pipelines.late_enhancement.labels import Tissue
from pipelines.models.architecture import UNetArchitecture
from pipelines.models.card import InputSpecification, ModelCard, TrainingData, write_card
from pipelines.models.registry import load_model
from pipelines.segmentation.grid import Square, pool_factor
from pipelines.training.augmentation import displacement_grid, vary_appearance
from pipelines.training.data_set import folds
from pipelines.training.emidec import ASSUMED_SPACING_MM, EmidecCase, find_cases, read_case
from pipelines.training.enhancement_phantoms import read_phantom
from pipelines.training.segmentation import labelling_loss
from pipelines.training.steps import Progress, TrainingResult, train_steps

__all__ = ["RECIPES", "AddedPhantoms", "EnhancementRecipe", "emidec_folds", "train_enhancement"]

LICENCE = "CC-BY-NC-SA-4.0"
CALIBRATION_FOLD = 1
_PLAIN = 0.6
"""Part of the images that keep their looks once variation is mild."""


@dataclass(frozen=True, slots=True)
class EnhancementRecipe:
    """Everything that decides what a training run does, besides data, folds, steps and seed."""

    name: str
    task: str
    summary: str
    field_mm: float | None
    """Side of the input of a network that sees the whole image, mm; ``None``: the square around the ventricle."""
    size: int
    features: tuple[int, int, int, int, int, int]
    outputs: tuple[str, ...]
    label_weights: tuple[float, ...]
    steps: int
    peak_rate: float
    scale: float
    elastic_mm: float
    jitter_mm: float
    batch: int = 16
    mild_from: int | None = None
    """Step from which images are varied less: first every scanner, then the details of an infarct."""
    straight: bool = False
    """Whether the stretch of EMIDEC's images is taken back. Left in, it is one more variation that a network has to
    bear: one trained without was worse on phantoms (``docs/late_enhancement.md``)."""
    calibration_steps: int = 0
    """Steps before which the calibration fold is not trained on: the network of that step has not seen its cases."""


@dataclass(frozen=True, slots=True)
class AddedPhantoms:
    """Phantoms that are trained on beside the patients.

    Attributes
    ----------
    count : int
    first_seed : int
        Seed of the first of them; seeds count up.
    share : float
        Of each batch that is phantoms, in the mean.
    """

    count: int
    first_seed: int = 810000
    share: float = 0.2


RECIPES = {
    recipe.name: recipe
    for recipe in (
        EnhancementRecipe(
            name="enhancement-localiser",
            task="localisation of the left ventricle on short-axis late enhancement",
            summary="Finds the left ventricle on the whole image at 6 mm, to place the crop of the other network.",
            field_mm=384.0,
            size=64,
            features=(16, 24, 32, 64, 64, 16),
            outputs=("BACKGROUND", "LEFT_VENTRICLE"),
            label_weights=(0.6, 1.0),
            steps=1200,
            peak_rate=3e-3,
            scale=0.35,
            elastic_mm=4.0,
            jitter_mm=30.0,
        ),
        EnhancementRecipe(
            name="enhancement-segmentation",
            task="segmentation of LV cavity, muscle, infarct and microvascular obstruction on late enhancement",
            summary="Labels the left ventricle on a crop around it, with the neighbouring slices as context.",
            field_mm=None,
            size=80,
            features=(16, 24, 48, 96, 128, 16),
            outputs=tuple(tissue.name for tissue in Tissue),
            label_weights=(0.6, 1.0, 1.0, 1.5, 2.0),
            steps=8000,
            peak_rate=2e-3,
            scale=0.3,
            elastic_mm=2.5,
            jitter_mm=5.0,
            mild_from=1500,
            calibration_steps=2500,
        ),
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class _Volume:
    """One case, ready for sampling.

    images (S, R, C) float32 in 0 … 1.25; shares (S, L, R, C) uint8, 255 for a pixel wholly of that label; spacing and
    origin of the pooled pixels and centre of the crop, (row, column) each, in mm of the assumed spacing.
    """

    images: torch.Tensor
    shares: torch.Tensor
    spacing: torch.Tensor
    origin: torch.Tensor
    centre: torch.Tensor
    field_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class _Simulated:
    """Phantoms, ready for sampling, by what is in them, and the share of each batch that they are in the mean."""

    groups: dict[str, list[_Volume]]
    share: float


def _simulated(added: AddedPhantoms, recipe: EnhancementRecipe) -> _Simulated:
    groups: dict[str, list[_Volume]] = {}
    for seed in range(added.first_seed, added.first_seed + added.count):
        case = read_phantom(seed)
        groups.setdefault(case.group, []).append(_volume(case, recipe))
    return _Simulated(groups, added.share)


def _volume(case: EmidecCase, recipe: EnhancementRecipe) -> _Volume:
    pixel_spacing = case.pixel_spacing if recipe.straight else (ASSUMED_SPACING_MM, ASSUMED_SPACING_MM)
    spacing = np.array(pixel_spacing)
    inside = case.labels.max(axis=0) > 0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        raise ValueError(f"{case.identifier} has no labelled pixel: leave it out of the training data")
    square = ventricle_square(
        (rows[0] * spacing[0], (rows[-1] + 1) * spacing[0]), (columns[0] * spacing[1], (columns[-1] + 1) * spacing[1])
    )
    shape = np.array(inside.shape)
    if recipe.field_mm is not None:
        centre, field = (shape - 1) / 2 * spacing, recipe.field_mm
    else:
        centre, field = np.array([square.row_mm, square.column_mm]), square.field_mm
    whole = (int(shape[0]), int(shape[1]))
    seen = pixels_of(Square(float(centre[0]), float(centre[1]), field), pixel_spacing, whole)
    scaled = scale_slices(case.pixels, seen)
    factors = [pool_factor(float(one), field / recipe.size) for one in spacing]
    labels = case.labels if len(recipe.outputs) == len(Tissue) else (case.labels > 0).astype(np.uint8)
    one_hot = functional.one_hot(torch.from_numpy(labels.astype(np.int64)), len(recipe.outputs))
    shares = functional.avg_pool2d(one_hot.permute(0, 3, 1, 2).float(), factors, ceil_mode=True)
    return _Volume(
        images=functional.avg_pool2d(scaled[:, None], factors, ceil_mode=True)[:, 0],
        shares=(255 * shares).round().to(torch.uint8),
        spacing=torch.tensor(spacing * factors, dtype=torch.float32),
        origin=torch.tensor((np.array(factors) - 1) / 2 * spacing, dtype=torch.float32),
        centre=torch.tensor(centre, dtype=torch.float32),
        field_mm=field,
    )


def _neighbours(index: int, count: int, generator: np.random.Generator) -> list[int]:
    """Slices for the three channels; a missing neighbour is replaced by the slice itself."""
    lost = generator.random(3) < (0.15, 0.12, 0.12)
    below = index if index == 0 or lost[0] or lost[1] else index - 1
    above = index if index == count - 1 or lost[0] or lost[2] else index + 1
    return [below, index, above] if generator.random() < 0.5 else [above, index, below]


def _rectified(
    images: torch.Tensor, muscle: torch.Tensor, generator: torch.Generator, probability: float
) -> torch.Tensor:
    """Some images as a magnitude reconstruction would show them, at an inversion time that nulls muscle or misses it.

    Parameters
    ----------
    images : (N, K, H, W) float32
    muscle : (N, H, W) float32
        Share of muscle without enhancement.
    """
    sure = (muscle > 0.9).float()
    count = sure.sum((1, 2))
    level = (images[:, 1] * sure).sum((1, 2)) / count.clamp(min=1)
    level = level + 0.08 * torch.randn(images.shape[0], generator=generator)
    rectified = (images - level[:, None, None, None]).abs()
    top = torch.quantile(rectified.flatten(1), 0.98, dim=1).clamp(min=0.05)
    chosen = (torch.rand(images.shape[0], generator=generator) < probability) & (count > 10)
    return torch.where(chosen[:, None, None, None], rectified / top[:, None, None, None], images)


def _sampled(volume: _Volume, channels: torch.Tensor, mm: torch.Tensor) -> torch.Tensor:
    """Values (K, H, W) of channels (K, R, C) on the pooled pixels of a volume, at places (H, W, 2) in mm; 0 outside."""
    length = torch.tensor(channels.shape[1:], dtype=torch.float32)
    grid = (2 * (mm - volume.origin) / volume.spacing + 1) / length - 1
    return functional.grid_sample(channels[None], grid.flip(-1)[None], padding_mode="zeros", align_corners=False)[0]


def _batch(
    groups: dict[str, list[_Volume]],
    recipe: EnhancementRecipe,
    seed: int,
    step: int,
    simulated: _Simulated | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, n, n) and label shares (N, L, n, n) of one step, a function of seed and step."""
    generator = np.random.default_rng((seed, step))
    torch_generator = torch.Generator().manual_seed(int(generator.integers(2**62)))
    size = recipe.size
    mild = recipe.mild_from is not None and step >= recipe.mild_from
    bent = (0.6 if mild else 1.0) * recipe.elastic_mm
    scale = (0.6 if mild else 1.0) * recipe.scale
    points = displacement_grid(recipe.batch, size, 1.0, torch_generator, scale=scale, elastic_mm=0.0)
    bending = displacement_grid(recipe.batch, size, 0.0, torch_generator, scale=0.0, elastic_mm=bent)
    samples = []
    for item in range(recipe.batch):
        drawn_from = groups if simulated is None or generator.random() >= simulated.share else simulated.groups
        names = sorted(drawn_from)
        cases = drawn_from[names[int(generator.integers(len(names)))]]
        volume = cases[int(generator.integers(len(cases)))]
        count = volume.images.shape[0]
        index = int(generator.integers(count))
        channels = torch.cat([volume.images[_neighbours(index, count, generator)], volume.shares[index].float() / 255])
        jitter = recipe.jitter_mm * np.clip(generator.normal(size=2), -3, 3)
        mm = points[item] * volume.field_mm + bending[item] + volume.centre + torch.from_numpy(jitter).float()
        samples.append(_sampled(volume, channels, mm))
        if generator.random() < 0.3:
            # Each slice is a breath-hold of its own.
            for channel in (0, 2):
                offset = np.round(generator.normal(0, 2.5, 2) * size / volume.field_mm).astype(int).tolist()
                samples[-1][channel] = torch.roll(samples[-1][channel], offset, dims=(0, 1))
    sampled = torch.stack(samples)
    images, shares = sampled[:, :3], sampled[:, 3:]
    # Outside the image there is no tissue: what the zero padding left over is background.
    shares[:, 0] += 1 - shares.sum(1)
    if len(recipe.outputs) == len(Tissue):
        images = _rectified(images, shares[:, Tissue.MYO], torch_generator, 0.1 if mild else 0.25)
    varied = vary_appearance(images.clone(), shares, torch_generator)
    if mild:
        plain = torch.rand(len(images), generator=torch_generator) < _PLAIN
        varied = torch.where(plain[:, None, None, None], images, varied)
    return varied, shares


def emidec_folds(folder: Path) -> tuple[tuple[str, ...], ...]:
    """The five folds of the cases of a folder, stratified by infarct and obstruction; the same for the same cases.

    Raises
    ------
    EmidecLayoutError
        The folder does not hold EMIDEC.
    """
    return folds({name: read_case(images).group for name, images in find_cases(folder).items()})


def train_enhancement(
    folder: Path,
    output: Path,
    *,
    model: str,
    fold: int | None = 0,
    steps: int | None = None,
    first_layers: Path | None = None,
    added: AddedPhantoms | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = True,
    stop_after: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train one network; a function of its arguments on one kind of machine.

    Parameters
    ----------
    folder : Path
        EMIDEC: ``images`` and ``labels``.
    output : Path
        Receives ``checkpoint.safetensors``, ``weights.safetensors`` and ``card.yaml`` (no measurements yet).
    model : str
        A key of :data:`RECIPES`.
    fold : int or None
        Fold (0 … 4) kept out of training; ``None`` trains on all cases. The next fold is the calibration fold: it joins
        after ``calibration_steps`` of the recipe, and the weights of that step are kept in the folder ``calibration``,
        to decide on what must not be decided on cases that a network has seen.
    steps : int or None
        Steps in all; the recipe's own number by default.
    first_layers : Path or None
        Folder of a trained model of the same kind: its layers begin where it ended, but those of another shape, as the
        last one is where the labels are others. ``None``: all begin by chance.
    added : AddedPhantoms or None
        Phantoms beside the patients.
    device : str
        ``cpu`` or a CUDA device.
    resume : bool
        Go on from ``checkpoint.safetensors`` where there is one.
    stop_after : int or None
        Stop after this step, to go on later.
    report : callable
        Is called every 50 steps.

    Raises
    ------
    ValueError
        Unknown model or fold, a case that cannot be read, first layers of another architecture, or a checkpoint of
        another run.
    ModelUnavailable
        The model to begin with is not there, or damaged.
    """
    if model not in RECIPES:
        raise ValueError(f"there is no recipe for {model!r}; there are {', '.join(sorted(RECIPES))}")
    recipe = RECIPES[model]
    steps = recipe.steps if steps is None else steps
    read = {name: read_case(images) for name, images in find_cases(folder).items()}
    split = folds({name: case.group for name, case in read.items()})
    if fold is not None and not 0 <= fold < len(split):
        raise ValueError(f"there is no fold {fold}; folds are 0 to {len(split) - 1}")
    kept_out = () if fold is None else split[fold]
    later = split[CALIBRATION_FOLD if fold is None else (fold + 1) % len(split)] if recipe.calibration_steps else ()
    cases = tuple(name for name in read if name not in kept_out)
    if not set(cases) - set(later):
        raise ValueError(f"nothing is left to train on: {folder} holds {len(read)} cases")
    first: dict[str, list[_Volume]] = {}
    groups: dict[str, list[_Volume]] = {}
    for name in cases:
        volume = _volume(read[name], recipe)
        groups.setdefault(read[name].group, []).append(volume)
        if name not in later:
            first.setdefault(read[name].group, []).append(volume)

    simulated = None if added is None else _simulated(added, recipe)

    torch.manual_seed(seed)
    network = _architecture(recipe).build()
    began = None if first_layers is None else _begin_with(network, first_layers)
    weights = torch.tensor(recipe.label_weights, device=device)

    def loss(step: int) -> torch.Tensor:
        seen = first if step < recipe.calibration_steps else groups
        return labelling_loss(network, *_batch(seen, recipe, seed, step, simulated), weights)

    def kept(done: int, sha256: str) -> None:
        if done == recipe.calibration_steps and done > 0:
            copy = output / "calibration" / recipe.name
            copy.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(output / "weights.safetensors", copy / "weights.safetensors")
            before = tuple(name for name in cases if name not in later)
            write_card(_card(recipe, sha256, before, fold, done, seed, began, added), copy / "card.yaml")

    decisive = {name: value for name, value in asdict(recipe).items() if name != "steps"}
    trained = train_steps(
        network,
        loss,
        clip=2.0,
        peak_rate=recipe.peak_rate,
        steps=steps,
        settings={
            "recipe": decisive,
            "cases": cases,
            "later": later,
            "seed": seed,
            "first_layers": began,
            "added": None if added is None else asdict(added),
        },
        output=output,
        device=device,
        resume=resume,
        stop_after=stop_after,
        report=report,
        kept=kept,
    )
    card = trained.path.with_name("card.yaml")
    write_card(_card(recipe, trained.sha256, cases, fold, steps, seed, began, added), card)
    return TrainingResult(recipe.name, steps, cases, kept_out, trained.loss, trained.path, card, trained.sha256)


def _begin_with(network: torch.nn.Module, folder: Path) -> str:
    """Gives a network the tensors of a trained one that are of the same name and shape; which model it was."""
    trained = load_model(folder.name, root=folder.parent)
    own = network.state_dict()
    found = trained.network.state_dict()
    shared = {name: found[name] for name, tensor in own.items() if name in found and found[name].shape == tensor.shape}
    if not shared:
        raise ValueError(f"{folder} has no layer of the shape of this network's: give a model of the same architecture")
    network.load_state_dict(own | shared)
    return f"{trained.card.name} {trained.card.version}, SHA-256 {trained.card.weights_sha256}"


def _architecture(recipe: EnhancementRecipe) -> UNetArchitecture:
    return UNetArchitecture(in_channels=3, out_channels=len(recipe.outputs), features=recipe.features)


def _card(
    recipe: EnhancementRecipe,
    sha256: str,
    cases: tuple[str, ...],
    fold: int | None,
    steps: int,
    seed: int,
    began: str | None,
    added: AddedPhantoms | None,
) -> ModelCard:
    out = "none held out" if fold is None else f"fold {fold} held out"
    command = f"dicom-node train enhancement --data DIR --model {recipe.name} --fold {-1 if fold is None else fold}"
    name = "EMIDEC, late enhancement of patients with and without an infarct"
    if began is not None:
        command += " --first-layers MODEL"
        out += f"; began with layers of {began}"
    if added is not None:
        command += (
            f" --add-phantoms {added.count} --add-phantom-seed {added.first_seed} --phantom-share {added.share:g}"
        )
        name += f"; {added.count} phantoms, seeds {added.first_seed} to {added.first_seed + added.count - 1}"
    return ModelCard(
        name=recipe.name,
        version="0.1.0",
        task=recipe.task,
        licence=LICENCE,
        weights_sha256=sha256,
        summary=recipe.summary,
        input=InputSpecification(
            size=recipe.size,
            field="heart crop" if recipe.field_mm is None else "whole image",
            spacing_mm=recipe.field_mm / recipe.size if recipe.field_mm is not None else None,
            channels=("neighbouring slice", "slice", "other neighbouring slice"),
            normalisation="2nd and 98th percentile of the field on each slice to 0 and 1, clipped to 0 … 1.25",
        ),
        output=recipe.outputs,
        label_weights=recipe.label_weights,
        architecture=_architecture(recipe),
        training=TrainingData(
            name=name,
            licence=LICENCE,
            source="Lalande et al., Data 2020, doi:10.3390/data5040089",
            cases=cases,
            split=f"5 folds by patient, stratified by infarct and obstruction, seed 0; {out}",
            steps=steps,
            command=f"{command} --steps {steps} --seed {seed}",
        ),
        limits=(
            "Trained on one hospital (Dijon) and two Siemens scanners (1.5 T and 3 T), mostly phase-sensitive images.",
            "Spacing was lost in the images it was trained on: it sees a crop that grows with the ventricle.",
            "Infarcts, and hearts without any enhancement; other patterns of enhancement are unseen.",
        ),
        not_for=(
            "Diagnosis, or any decision about a patient: research use only.",
            "Late enhancement of myocarditis, cardiomyopathies, amyloid or congenital heart disease.",
            "Commercial use: the weights inherit the licence of their training data.",
        ),
    )
