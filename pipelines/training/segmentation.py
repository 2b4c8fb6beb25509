"""Training of the localiser and of the fine segmentation network on annotated stacks: patients or phantoms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipelines.models.architecture import UNetArchitecture
from pipelines.models.card import InputSpecification, ModelCard, TrainingData, read_card, write_card
from pipelines.models.registry import ModelUnavailable, load_model
from pipelines.segmentation.grid import heart_square, intensity_window, pool_factor, scale_intensity
from pipelines.segmentation.labels import Label
from pipelines.training.augmentation import (
    bend_wall,
    displacement_grid,
    redraw_tissues,
    vary_acquisition,
    vary_appearance,
)
from pipelines.training.data_set import AnnotatedCase, DataSet, folds
from pipelines.training.phantoms import FAULT_RATE, read_phantom, severe_recipe
from pipelines.training.steps import Progress, TrainedWeights, TrainingResult, train_steps, usable_device
from pipelines.training.widening import widened

__all__ = ["RECIPES", "Continuation", "Recipe", "labelling_loss", "soft_label_loss", "train"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a training run does, besides data, fold, steps and seed."""

    name: str
    task: str
    summary: str
    whole_image: bool
    """Look at the whole image on a fixed grid, instead of at the heart on a grid that grows with it."""
    field_mm: float | None
    """Side of the input of a whole-image network, mm."""
    size: int
    features: tuple[int, int, int, int, int, int]
    steps: int
    peak_rate: float
    batch: int = 16
    coarse_size: int | None = None
    """Input size of the first ``coarse_steps`` steps: they are cheaper, and the shapes learnt are the same."""
    coarse_steps: int = 0
    scale: float = 0.25
    elastic_mm: float = 3.0
    jitter_mm: float = 6.0
    label_weights: tuple[float, float, float, float] = (0.6, 1.0, 1.5, 1.5)
    redrawn: float = 0.0
    """Probability that the grey values of all tissues of a sample are drawn anew."""
    bent: float = 0.0
    """Probability that the wall of a sample is thickened, thinned or moved."""
    other_vendors: bool = False
    """Vary acquisition and reconstruction beyond what :func:`vary_appearance` does."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """How to continue from trained weights, towards scanners and hearts that their training data lack.

    Attributes
    ----------
    model : Path
        Folder of a model: ``card.yaml`` and ``weights.safetensors``.
    phantoms : int
        How many phantoms of :func:`pipelines.training.phantoms.severe_recipe` are added.
    first_seed : int
        Seed of the first of them.
    share : float
        Of each batch that is phantoms.
    peak_rate : float
        Learning rate.
    redrawn, bent : float
        As in :class:`Recipe`.
    fault_rate : float
        Share of the phantoms with a fault of the acquisition.
    """

    model: Path
    phantoms: int = 150
    first_seed: int = 700000
    share: float = 0.3
    peak_rate: float = 8e-4
    redrawn: float = 0.4
    bent: float = 0.25
    fault_rate: float = FAULT_RATE


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="heart-localiser",
            task="localisation of the heart on short-axis cine MR",
            summary="Finds both ventricles on the whole image at 4 mm, to place the crop of the fine network.",
            whole_image=True,
            field_mm=384.0,
            size=96,
            features=(8, 16, 16, 32, 32, 8),
            steps=1500,
            peak_rate=3e-3,
            scale=0.35,
            elastic_mm=4.0,
            jitter_mm=35.0,
        ),
        Recipe(
            name="ventricle-segmentation",
            task="segmentation of LV cavity, myocardium and RV cavity on short-axis cine MR",
            summary="Labels both ventricles on a crop around the heart, with the neighbouring slices as context.",
            whole_image=False,
            field_mm=None,
            size=112,
            features=(16, 24, 48, 96, 128, 16),
            steps=7200,
            peak_rate=2e-3,
            coarse_size=80,
            coarse_steps=2500,
        ),
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class _Volume:
    """One phase, ready for sampling.

    images (S, R, C) float32 in 0 … 1.25; shares (S, 4, R, C) uint8, 255 for a pixel wholly of that label; spacing in mm
    and origin (mm of the centre of the first, pooled, pixel) in the plane; centre (row, column) of the crop, mm.
    """

    images: torch.Tensor
    shares: torch.Tensor
    spacing: torch.Tensor
    origin: torch.Tensor
    centre: torch.Tensor
    walls: torch.Tensor
    """(S, 3) centre (row, column) of the left ventricle and radius of its epicardium, mm; radius 0 where it is not."""
    field_mm: float
    pitch_mm: float


def _volumes(case: AnnotatedCase, recipe: Recipe) -> list[_Volume]:
    spacing = np.array(case.geometry.pixel_spacing)
    inside = np.stack([frame.labels for frame in case.frames]).max(axis=(0, 1))
    if not inside.any():
        raise ValueError(f"{case.identifier} has no labelled voxel: leave it out of the training data")
    rows, columns = np.flatnonzero(inside.max(axis=1)), np.flatnonzero(inside.max(axis=0))
    square = heart_square(
        (rows[0] * spacing[0], rows[-1] * spacing[0]), (columns[0] * spacing[1], columns[-1] * spacing[1])
    )
    shape = np.array(inside.shape)
    if recipe.field_mm is not None:
        centre, field = (shape - 1) / 2 * spacing, recipe.field_mm
        first, end = np.zeros(2, dtype=int), shape
    else:
        centre, field = np.array([square.row_mm, square.column_mm]), square.field_mm
        first = np.clip(np.floor((centre - field / 2) / spacing), 0, shape - 1).astype(int)
        end = np.clip(np.ceil((centre + field / 2) / spacing) + 1, 1, shape).astype(int)
    step = field / recipe.size
    factors = [pool_factor(float(value), step) for value in spacing]
    result = []
    for frame in case.frames:
        window = intensity_window(frame.pixels[:, first[0] : end[0], first[1] : end[1]])
        images = functional.avg_pool2d(torch.from_numpy(frame.pixels), factors, ceil_mode=True)
        one_hot = (
            functional.one_hot(torch.from_numpy(frame.labels.astype(np.int64)), len(Label)).permute(0, 3, 1, 2).float()
        )
        result.append(
            _Volume(
                images=scale_intensity(images, window),
                shares=(255 * functional.avg_pool2d(one_hot, factors, ceil_mode=True)).round().to(torch.uint8),
                spacing=torch.tensor(spacing * factors, dtype=torch.float32),
                origin=torch.tensor((np.array(factors) - 1) / 2 * spacing, dtype=torch.float32),
                centre=torch.tensor(centre, dtype=torch.float32),
                walls=_walls(frame.labels, spacing),
                field_mm=field,
                pitch_mm=case.geometry.pitch,
            )
        )
    return result


def _walls(labels: NDArray[np.uint8], spacing: NDArray[np.float64]) -> torch.Tensor:
    walls = torch.zeros(labels.shape[0], 3)
    for plane, wall in zip(labels, walls, strict=True):
        rows, columns = np.nonzero((plane == Label.LV) | (plane == Label.MYO))
        if len(rows):
            radius = float(np.sqrt(len(rows) * spacing[0] * spacing[1] / np.pi))
            wall[:] = torch.tensor([rows.mean() * spacing[0], columns.mean() * spacing[1], radius])
    return walls


def _neighbours(index: int, volume: _Volume, generator: np.random.Generator) -> list[int]:
    """Slices for the three channels; a missing neighbour is replaced by the slice itself."""
    count = volume.images.shape[0]
    # Pitches of other hospitals, 5 to 18 mm, from those of ACDC, 5 to 10 mm.
    stride = 2 if generator.random() < (0.5 if volume.pitch_mm < 7 else 0.15) else 1
    below, above = index - stride, index + stride
    lost = generator.random(3) < (0.15, 0.12, 0.12)
    if below < 0 or lost[0] or lost[1]:
        below = index
    if above >= count or lost[0] or lost[2]:
        above = index
    return [below, index, above] if generator.random() < 0.5 else [above, index, below]


def _slice_index(count: int, generator: np.random.Generator) -> int:
    """A slice; the basal and the apical quarter, where networks fail, more often than their share."""
    if generator.random() < 0.35:
        quarter = max(1, round(count / 4))
        index = int(generator.integers(quarter))
        return index if generator.random() < 0.5 else count - 1 - index
    return int(generator.integers(count))


def _batch(
    groups: dict[str, list[list[_Volume]]],
    recipe: Recipe,
    size: int,
    seed: int,
    step: int,
    phantoms: Sequence[list[_Volume]] = (),
    share: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, size, size) and label shares (N, 4, size, size) of one step, a function of seed and step."""
    generator = np.random.default_rng((seed, step))
    torch_generator = torch.Generator().manual_seed(int(generator.integers(2**62)))
    names = sorted(groups)
    points = displacement_grid(recipe.batch, size, 1.0, torch_generator, scale=recipe.scale, elastic_mm=0.0)
    bending = displacement_grid(recipe.batch, size, 0.0, torch_generator, scale=0.0, elastic_mm=recipe.elastic_mm)
    samples = []
    for item in range(recipe.batch):
        simulated = bool(phantoms) and item < round(share * recipe.batch)
        cases = phantoms if simulated else groups[names[int(generator.integers(len(names)))]]
        phases = cases[int(generator.integers(len(cases)))]
        volume = phases[int(generator.integers(len(phases)))]
        index = _slice_index(volume.images.shape[0], generator)
        seen = _neighbours(index, volume, generator)
        # Of the neighbours only the background matters: it tells redraw_tissues where the heart is.
        around = volume.shares[[seen[0], seen[2]], Label.BACKGROUND]
        channels = torch.cat([volume.images[seen], torch.cat([volume.shares[index], 255 - around]).float() / 255])
        jitter = torch.tensor(
            np.clip(generator.normal(0, recipe.jitter_mm, 2), -3 * recipe.jitter_mm, 3 * recipe.jitter_mm)
        )
        mm = points[item] * volume.field_mm + bending[item] + volume.centre + jitter.float()
        if volume.walls[index, 2] > 0 and recipe.bent > 0 and generator.random() < recipe.bent:
            mm = bend_wall(mm, volume.walls[index, :2], float(volume.walls[index, 2]), torch_generator)
        length = torch.tensor(volume.images.shape[1:], dtype=torch.float32)
        grid = (2 * (mm - volume.origin) / volume.spacing + 1) / length - 1
        samples.append(
            functional.grid_sample(channels[None], grid.flip(-1)[None], padding_mode="zeros", align_corners=False)[0]
        )
        if generator.random() < 0.3:
            for channel in (0, 2):
                offset = np.round(generator.normal(0, 2.5, 2) * size / volume.field_mm).astype(int).tolist()
                samples[-1][channel] = torch.roll(samples[-1][channel], offset, dims=(0, 1))
    sampled = torch.stack(samples)
    images, shares, around = sampled[:, :3].clone(), sampled[:, 3:7], sampled[:, 7:]
    # Outside the image there is no tissue: what the zero padding left over is background.
    shares[:, Label.BACKGROUND] += 1 - shares.sum(1)
    redrawn = torch.rand(recipe.batch, generator=torch_generator) < recipe.redrawn
    if redrawn.any():
        heart = torch.stack([around[:, 0], 1 - shares[:, Label.BACKGROUND], around[:, 1]], dim=1)
        images[redrawn] = redraw_tissues(images[redrawn], shares[redrawn], heart[redrawn], torch_generator)
    if recipe.other_vendors:
        images = vary_acquisition(images, shares, torch_generator)
    return vary_appearance(images, shares, torch_generator), shares


def soft_label_loss(logits: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted cross-entropy and Dice over the batch, both for shares of a pixel and not whole labels."""
    log_probability = functional.log_softmax(logits.float(), dim=1)
    weighted = shares * weights.view(1, -1, 1, 1)
    cross_entropy = -(weighted * log_probability).sum() / weighted.sum()
    probability = log_probability.exp()[:, 1:]
    target = shares[:, 1:]
    # |p - t| instead of a product: a soft target equals itself (Wang et al., Dice semimetric losses, MICCAI 2023).
    total = (probability + target).sum((0, 2, 3))
    intersection = (total - (probability - target).abs().sum((0, 2, 3))) / 2
    dice = (2 * intersection + 1) / (total + 1)
    return cross_entropy + 1 - dice.mean()


def labelling_loss(
    network: torch.nn.Module, images: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Loss of what a network makes of a batch, on the device of the weights; bfloat16 on CUDA.

    Parameters
    ----------
    network : torch.nn.Module
    images : (N, C, n, n) tensor
        Grey values 0 … 1.25.
    shares : (N, L, n, n) tensor
        Share of each label in each pixel.
    weights : (L,) tensor
        Of the labels in the cross-entropy.
    """
    device = weights.device
    images = (2 * images - 1).to(device, memory_format=torch.channels_last)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
        logits = network(images)
    return soft_label_loss(logits, shares.to(device), weights)


def _card(
    recipe: Recipe, data: DataSet, sha256: str, cases: tuple[str, ...], split: str, steps: int, command: str
) -> ModelCard:
    return ModelCard(
        name=recipe.name,
        version="0.1.0",
        task=recipe.task,
        licence=data.weights_licence,
        weights_sha256=sha256,
        summary=recipe.summary,
        input=InputSpecification(
            size=recipe.size,
            field="whole image" if recipe.whole_image else "heart crop",
            spacing_mm=recipe.field_mm / recipe.size if recipe.field_mm is not None else None,
            channels=("neighbouring slice", "slice", "other neighbouring slice"),
            normalisation="2nd and 98th percentile of the field over slices and phases to 0 and 1, clipped to 0 … 1.25",
        ),
        output=tuple(label.name for label in Label),
        label_weights=recipe.label_weights,
        architecture=_architecture(recipe),
        training=TrainingData(
            name=data.name,
            licence=data.licence,
            source=data.source,
            cases=cases,
            split=split,
            steps=steps,
            command=command,
        ),
        limits=data.limits,
        not_for=data.not_for,
    )


def _architecture(recipe: Recipe) -> UNetArchitecture:
    return UNetArchitecture(in_channels=3, out_channels=len(Label), features=recipe.features)


def train(
    data: DataSet,
    output: Path,
    *,
    model: str = "ventricle-segmentation",
    fold: int | None = 0,
    steps: int | None = None,
    coarse_steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = True,
    report: Callable[[Progress], None] | None = None,
    go_on: Continuation | None = None,
    features: tuple[int, int, int, int, int, int] | None = None,
    stop_after: int | None = None,
) -> TrainingResult:
    """Train one network; a function of its arguments on one kind of machine.

    Parameters
    ----------
    data : DataSet
    output : Path
        Receives ``checkpoint.safetensors``, ``weights.safetensors`` and ``card.yaml`` (no measurements yet).
    model : str
        A key of :data:`RECIPES`.
    fold : int or None
        Fold (0 … 4) kept out of training; ``None`` trains on all cases.
    steps : int or None
        Steps in all; the recipe's own number by default. A finished run can be resumed with more.
    coarse_steps : int or None
        How many of them, the first, are made on the recipe's smaller grid; the recipe's own number by default.
    device : str
        ``cpu`` or a CUDA device; half precision (bfloat16) is used on CUDA only.
    resume : bool
        Go on from ``checkpoint.safetensors`` where there is one.
    report : callable
        Is called every 50 steps.
    go_on : Continuation or None
        Start from trained weights instead of from chance.
    features : (int, int, int, int, int, int) or None
        Features of the five levels and of the last layer; the recipe's own by default. With ``go_on`` none may be
        fewer than those of the weights to go on from: see :func:`pipelines.training.widening.widened`.
    stop_after : int or None
        Stop after this step, before the learning rate has come down as ``steps`` says.

    Raises
    ------
    ValueError
        Unknown model, fold or device, a case that cannot be read, a checkpoint of another run, or weights to go on from
        that are of another network or were trained on the fold that is kept out.
    """
    if model not in RECIPES:
        raise ValueError(f"there is no recipe for {model!r}; there are {', '.join(sorted(RECIPES))}")
    recipe = RECIPES[model] if coarse_steps is None else replace(RECIPES[model], coarse_steps=coarse_steps)
    if go_on is not None:
        recipe = replace(
            recipe,
            peak_rate=go_on.peak_rate,
            redrawn=go_on.redrawn,
            bent=go_on.bent,
            other_vendors=True,
            coarse_steps=0,
        )
    if features is not None:
        recipe = replace(recipe, features=features)
    steps = recipe.steps if steps is None else steps
    if steps < 1:
        raise ValueError(f"{steps} steps: at least one is needed")
    device = usable_device(device)
    split = folds(data.groups)
    if fold is not None and not 0 <= fold < len(split):
        raise ValueError(f"there is no fold {fold}; folds are 0 to {len(split) - 1}")
    held_out = split[fold] if fold is not None else ()
    cases = tuple(identifier for identifier in data.groups if identifier not in held_out)
    if not cases:
        raise ValueError(f"fold {fold} leaves no case to train on: {data.name} holds {len(data.groups)}")
    groups: dict[str, list[list[_Volume]]] = {}
    for identifier in cases:
        groups.setdefault(data.groups[identifier], []).append(_volumes(data.read(identifier), recipe))

    torch.manual_seed(seed)
    network = _architecture(recipe).build()
    settings: dict[str, object] = {"seed": seed, "cases": cases}
    phantoms: list[list[_Volume]] = []
    earlier: ModelCard | None = None
    if go_on is not None:
        earlier = _load_earlier(go_on.model, network, recipe, held_out)
        for number in range(go_on.first_seed, go_on.first_seed + go_on.phantoms):
            case = read_phantom(f"phantom-{number}", severe_recipe(number, go_on.fault_rate))
            if any(frame.labels.any() for frame in case.frames):
                phantoms.append(_volumes(case, recipe))
        settings["go on"] = {**asdict(go_on), "model": earlier.weights_sha256}
    weights = torch.tensor(recipe.label_weights, device=device)

    share = go_on.share if go_on is not None else 0.0

    def loss(step: int) -> torch.Tensor:
        coarse = recipe.coarse_size is not None and step < recipe.coarse_steps
        size = recipe.coarse_size if coarse and recipe.coarse_size is not None else recipe.size
        return labelling_loss(network, *_batch(groups, recipe, size, seed, step, phantoms, share), weights)

    decisive = {name: value for name, value in asdict(recipe).items() if name != "steps"}
    trained = train_steps(
        network,
        loss,
        clip=2.0,
        peak_rate=recipe.peak_rate,
        steps=steps,
        settings={"recipe": decisive, **settings},
        output=output,
        device=device,
        resume=resume,
        stop_after=stop_after,
        report=report,
    )
    result = _finish(recipe, data, trained, cases, held_out, fold, steps, seed)
    if go_on is not None and earlier is not None:
        _say_what_came_before(result.card, go_on, earlier)
    return result


def _say_what_came_before(path: Path, go_on: Continuation, earlier: ModelCard) -> None:
    """Write into the card of a continued run what it went on from."""
    card = read_card(path)
    last = go_on.first_seed + go_on.phantoms - 1
    training = card.training.model_copy(
        update={
            "name": f"{card.training.name}; {go_on.phantoms} phantoms, seeds {go_on.first_seed} to {last}",
            "cases": tuple(dict.fromkeys((*card.training.cases, *earlier.training.cases))),
            "split": f"{card.training.split}; went on from version {earlier.version}, SHA-256 "
            f"{earlier.weights_sha256}, {earlier.training.steps} steps: {earlier.training.command}",
            "command": f"{card.training.command} --from-model MODEL --add-phantoms {go_on.phantoms} "
            f"--add-phantom-seed {go_on.first_seed} --phantom-share {go_on.share} --phantom-faults {go_on.fault_rate} "
            f"--rate {go_on.peak_rate}",
        }
    )
    write_card(card.model_copy(update={"training": training}), path)


def _load_earlier(folder: Path, network: torch.nn.Module, recipe: Recipe, held_out: Sequence[str]) -> ModelCard:
    """Put trained weights into a network, and return their card."""
    try:
        loaded = load_model(folder.name, root=folder.parent)
    except ModelUnavailable as error:
        raise ValueError(f"training cannot go on from {folder}: {error}") from error
    if loaded.card.name != recipe.name:
        raise ValueError(f"training of {recipe.name} cannot go on from {folder}: it holds {loaded.card.name}")
    seen = sorted(set(loaded.card.training.cases) & set(held_out))
    if seen:
        raise ValueError(
            f"training cannot go on from {folder}: it has seen {len(seen)} of the cases kept out, such as {seen[0]}"
        )
    if not isinstance(loaded.card.architecture, UNetArchitecture):
        raise ValueError(f"training cannot go on from {folder}: its network has other layers")
    try:
        network.load_state_dict(widened(loaded.network.state_dict(), loaded.card.architecture, _architecture(recipe)))
    except ValueError as error:
        raise ValueError(f"training cannot go on from {folder}: {error}") from error
    return loaded.card


def _finish(
    recipe: Recipe,
    data: DataSet,
    trained: TrainedWeights,
    cases: tuple[str, ...],
    held_out: tuple[str, ...],
    fold: int | None,
    steps: int,
    seed: int,
) -> TrainingResult:
    card = trained.path.with_name("card.yaml")
    split = "all cases" if fold is None else f"5 folds by case, stratified by group, seed 0; fold {fold} held out"
    option = "--fold -1" if fold is None else f"--fold {fold}"
    command = (
        f"dicom-node train segmentation {data.options} --model {recipe.name} {option} --steps {steps} --seed {seed}"
    )
    if recipe.coarse_steps:
        command += f" --coarse-steps {recipe.coarse_steps}"
    if recipe.features != RECIPES[recipe.name].features:
        command += f" --features {' '.join(map(str, recipe.features))}"
    write_card(_card(recipe, data, trained.sha256, cases, split, steps, command), card)
    return TrainingResult(recipe.name, steps, cases, held_out, trained.loss, trained.path, card, trained.sha256)
