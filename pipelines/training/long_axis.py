"""Training of the long-axis segmentation network on phantoms of all vendors, with varied appearance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipelines.long_axis.findings import LongAxisLabel
from pipelines.long_axis.grid import CHANNELS, FIELD_MM, SIZE
from pipelines.models.architecture import UNetArchitecture
from pipelines.models.card import InputSpecification, ModelCard, TrainingData, write_card
from pipelines.phantom.generator import training_recipe
from pipelines.phantom.recipe import PhantomRecipe
from pipelines.phantom.study import CineAcquisition, simulate
from pipelines.segmentation.grid import intensity_window, scale_intensity
from pipelines.training.augmentation import displacement_grid, remap_background, vary_appearance
from pipelines.training.segmentation import labelling_loss
from pipelines.training.steps import Progress, TrainingResult, train_steps, usable_device

__all__ = ["MODEL", "LongAxisRecipe", "pack_views", "train_long_axis", "true_labels", "view_recipe"]

MODEL = "long-axis-segmentation"
_PHASES = 10
_FAULT_RATE = 0.25


@dataclass(frozen=True, slots=True)
class LongAxisRecipe:
    """Everything that decides a run, besides phantoms, steps and seed."""

    features: tuple[int, int, int, int, int, int] = (16, 24, 48, 96, 128, 16)
    batch: int = 12
    peak_rate: float = 2e-3
    scale: float = 0.3
    elastic_mm: float = 4.0
    jitter_mm: float = 12.0
    label_weights: tuple[float, ...] = (0.6, 1.0, 1.5, 1.2, 1.2, 1.2)


def view_recipe(seed: int) -> PhantomRecipe:
    """Recipe of a training phantom: all diseases, vendors and faults, long-axis views of 1.3 to 2.1 mm."""
    rng = np.random.default_rng([seed, 0x4C4158])
    spacing = float(rng.uniform(1.3, 2.1))
    size = round(float(rng.uniform(280, 340)) / spacing)
    return replace(
        training_recipe(seed, phases=_PHASES, fault_rate=_FAULT_RATE),
        slices=1,
        spacing_mm=spacing,
        rows=size,
        columns=size,
        long_axis=True,
    )


def true_labels(cine: CineAcquisition) -> NDArray[np.uint8]:
    """Labels (T, R, C) of :class:`LongAxisLabel` of a simulated long-axis view."""
    atria, ventricles = cine.atria[:, 0], cine.labels[:, 0]
    return np.where((atria > 0) & (ventricles == 0), atria + LongAxisLabel.LA - 1, ventricles).astype(np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class _Views:
    """Packed views: images (N, T, H, H) uint8 of 0 … 1.25, labels (N, T, H, H) uint8 at one spacing.

    ``centre`` (N, 2) is the place of the left ventricle (row, column), points from the first; ``group`` the disease.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    centre: NDArray[np.float64]
    group: NDArray[np.int64]


_PACKED_MM = 1.6
_PACKED_SIZE = 192


def pack_views(count: int, first_seed: int, path: Path, report: Callable[[int, int], None] | None = None) -> None:
    """Simulate phantoms once and keep their long-axis views on a grid of 1.6 mm, for any number of training runs."""
    images, labels, centres, groups = [], [], [], []
    for index in range(count):
        study = simulate(view_recipe(first_seed + index), workers=1)
        for cine in study.cines[1:]:
            grid = _on_grid(cine.pixels[:, 0].astype(np.float32), cine.geometry.pixel_spacing[0], "bilinear")
            window = intensity_window(grid.numpy())
            images.append((scale_intensity(grid, window) * 200).round().to(torch.uint8).numpy())
            label = _on_grid(true_labels(cine).astype(np.float32), cine.geometry.pixel_spacing[0], "nearest")
            labels.append(label.round().to(torch.uint8).numpy())
            rows, columns = np.nonzero(np.isin(labels[-1], (LongAxisLabel.LV, LongAxisLabel.MYO)).any(axis=0))
            centres.append((rows.mean(), columns.mean()) if rows.size else (_PACKED_SIZE / 2, _PACKED_SIZE / 2))
            groups.append(list(type(study.recipe.disease)).index(study.recipe.disease))
        if report is not None:
            report(index + 1, count)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        images=np.stack(images),
        labels=np.stack(labels),
        centre=np.array(centres),
        group=np.array(groups, dtype=np.int64),
        seeds=np.array([first_seed, count]),
    )


def _on_grid(frames: NDArray[np.float32], spacing: float, mode: str) -> torch.Tensor:
    """Frames (T, R, C) sampled at 1.6 mm on a square about the middle of the image; 0 outside."""
    rows, columns = frames.shape[1:]
    offsets = (torch.arange(_PACKED_SIZE, dtype=torch.float32) - (_PACKED_SIZE - 1) / 2) * _PACKED_MM / spacing
    grid_rows, grid_columns = torch.meshgrid(2 * offsets / rows, 2 * offsets / columns, indexing="ij")
    grid = torch.stack([grid_columns, grid_rows], dim=-1)[None].expand(len(frames), -1, -1, -1)
    return functional.grid_sample(torch.from_numpy(frames)[:, None], grid, mode=mode, align_corners=False)[:, 0]


def _batch(views: _Views, recipe: LongAxisRecipe, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, SIZE, SIZE) and label shares (N, 6, SIZE, SIZE) of one step, a function of seed and step."""
    rng = np.random.default_rng((seed, step))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    labels = len(LongAxisLabel)
    points = displacement_grid(
        recipe.batch, SIZE, FIELD_MM, generator, scale=recipe.scale, elastic_mm=recipe.elastic_mm
    )
    diseases = np.unique(views.group)
    samples = []
    for item in range(recipe.batch):
        index = int(rng.choice(np.flatnonzero(views.group == rng.choice(diseases))))
        phase = int(rng.integers(views.images.shape[1]))
        around = (phase + np.array([-1, 0, 1])) % views.images.shape[1]
        frames = torch.from_numpy(views.images[index, around].astype(np.float32) / 200)
        if rng.random() < 0.15:
            # Two phases, or a cine of which neighbours are lost: the frame stands for them.
            frames = frames[[1, 1, 1]]
        one_hot = functional.one_hot(torch.from_numpy(views.labels[index, phase].astype(np.int64)), labels)
        channels = torch.cat([frames, one_hot.permute(2, 0, 1).float()])
        centre = torch.from_numpy(views.centre[index]) + torch.from_numpy(
            np.clip(rng.normal(0, recipe.jitter_mm, 2), -2.5 * recipe.jitter_mm, 2.5 * recipe.jitter_mm) / _PACKED_MM
        )
        place = points[item] / _PACKED_MM + centre.float()
        grid = (2 * place + 1) / _PACKED_SIZE - 1
        samples.append(
            functional.grid_sample(channels[None], grid.flip(-1)[None], padding_mode="zeros", align_corners=False)[0]
        )
    sampled = torch.stack(samples)
    images, shares = sampled[:, :CHANNELS], sampled[:, CHANNELS:]
    shares[:, LongAxisLabel.BACKGROUND] += 1 - shares.sum(1)
    images = remap_background(images.clone(), shares, generator)
    return vary_appearance(images, shares, generator), shares


def train_long_axis(
    packed: Path,
    output: Path,
    *,
    steps: int = 4000,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = True,
    recipe: LongAxisRecipe | None = None,
    stop_after: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train the long-axis network on packed phantoms; a function of its arguments on one kind of machine.

    Parameters
    ----------
    packed : Path
        What :func:`pack_views` wrote.
    output : Path
        Receives ``checkpoint.safetensors``, ``weights.safetensors`` and ``card.yaml``.
    device : str
        ``cpu`` or a CUDA device; half precision (bfloat16) is used on CUDA only.
    resume : bool
        Go on from ``checkpoint.safetensors`` where there is one.
    stop_after : int or None
        Stop after this step, to go on later.
    report : callable
        Is called every 50 steps.

    Raises
    ------
    ValueError
        The packed file cannot be read, there is no such device, or the checkpoint is of another run.
    """
    recipe = recipe or LongAxisRecipe()
    device = usable_device(device)
    try:
        with np.load(packed, allow_pickle=False) as archive:
            views = _Views(archive["images"], archive["labels"], archive["centre"], archive["group"])
            first_seed, count = (int(value) for value in archive["seeds"])
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"packed views {packed} cannot be read: {error}") from error
    torch.manual_seed(seed)
    architecture = UNetArchitecture(in_channels=CHANNELS, out_channels=len(LongAxisLabel), features=recipe.features)
    network = architecture.build()
    weights = torch.tensor(recipe.label_weights, device=device)

    def loss(step: int) -> torch.Tensor:
        return labelling_loss(network, *_batch(views, recipe, seed, step), weights)

    trained = train_steps(
        network,
        loss,
        clip=2.0,
        peak_rate=recipe.peak_rate,
        steps=steps,
        settings={"recipe": asdict(recipe), "phantoms": [first_seed, count], "seed": seed},
        output=output,
        device=device,
        resume=resume,
        stop_after=stop_after,
        report=report,
    )
    cases = tuple(f"phantom-{first_seed + index}" for index in range(count))
    command = f"dicom-node train long-axis --phantoms {count} --phantom-seed {first_seed} --steps {steps} --seed {seed}"
    card = output / "card.yaml"
    write_card(_card(recipe, architecture, trained.sha256, cases, steps, command), card)
    return TrainingResult(MODEL, steps, cases, (), trained.loss, trained.path, card, trained.sha256)


def _card(
    recipe: LongAxisRecipe,
    architecture: UNetArchitecture,
    sha256: str,
    cases: tuple[str, ...],
    steps: int,
    command: str,
) -> ModelCard:
    return ModelCard(
        name=MODEL,
        version="0.1.0",
        task="segmentation of ventricles, myocardium and atria on long-axis cine MR",
        licence="Apache-2.0",
        weights_sha256=sha256,
        summary="Labels LV, myocardium, RV, LA and RA on 2CH, 3CH and 4CH cine, with the frames before and after.",
        input=InputSpecification(
            size=SIZE,
            field="heart crop",
            spacing_mm=FIELD_MM / SIZE,
            channels=("frame before", "frame", "frame after"),
            normalisation="2nd and 98th percentile of the view over its phases to 0 and 1, clipped to 0 … 1.25",
        ),
        output=tuple(label.name for label in LongAxisLabel),
        label_weights=recipe.label_weights,
        architecture=architecture,
        training=TrainingData(
            name=f"{len(cases)} phantoms, three long-axis views of each",
            licence="Apache-2.0",
            source="pipelines/phantom, docs/phantom.md",
            cases=cases,
            split="all cases; evaluation uses other seeds",
            steps=steps,
            command=command,
        ),
        limits=(
            "Trained on simulated images only: no outflow tract, appendage or pulmonary veins were ever seen.",
            "Real patients it was checked on: one subject (Siemens Vida 3 T).",
        ),
        not_for=(
            "Diagnosis, or any decision about a patient: research use only.",
            "Children, congenital heart disease, and sequences other than cine balanced steady-state free precession.",
        ),
    )
