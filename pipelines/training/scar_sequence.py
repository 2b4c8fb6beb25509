"""Training of the network that reads pieces of wall over the cycle, on phantoms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipelines.models.card import InputSpecification, ModelCard, TrainingData
from pipelines.synthetic_enhancement.architecture import SequenceArchitecture
from pipelines.synthetic_enhancement.contours import ANGLES
from pipelines.synthetic_enhancement.features import FIELD_PX
from pipelines.synthetic_enhancement.sequence import INPUTS, MODEL, PIECES, pieces_there, wall_sequences
from pipelines.training.contour_errors import disturbed_heart
from pipelines.training.steps import Progress, Run, TrainingResult
from pipelines.training.synthetic_hearts import Hearts, TrainingHeart
from pipelines.training.synthetic_recipe import EnhancementRecipe
from pipelines.training.synthetic_steps import train_on_hearts

__all__ = ["SequenceRecipe", "scar_of_pieces", "train_scar_sequence"]

_GREY = len(INPUTS) - 7
"""How many of the inputs are grey values: they come first."""


@dataclass(frozen=True, slots=True)
class SequenceRecipe:
    """Everything that decides what a training run does, besides data, steps and seed."""

    hidden: int = 48
    steps: int = 4000
    batch: int = 512
    """Pieces of wall."""
    peak_rate: float = 3e-3
    views: int = 6
    """How many times each heart is seen, with other errors of the segmentation."""
    two_moments: float = 0.25
    """Share of the steps that see end diastole and end systole alone."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """Pieces of wall of all hearts: sequences (N, moments, inputs) float16, share of scar (N,)."""

    sequences: NDArray[np.float16]
    scar: NDArray[np.float32]


def scar_of_pieces(heart: TrainingHeart) -> NDArray[np.float32]:
    """Share of the true muscle of each piece that is scar, (S, PIECES); NaN where there is no muscle."""
    place = np.arange(FIELD_PX) - (FIELD_PX - 1) / 2
    found = np.full((heart.crop.slices, PIECES), np.nan, np.float32)
    step = ANGLES // PIECES
    for index, (muscle, lesion, centre) in enumerate(
        zip(heart.crop.muscle, heart.lesion, heart.crop.centre, strict=True)
    ):
        rows, columns = np.nonzero(muscle)
        angle = np.arctan2(place[columns] - centre[1], place[rows] - centre[0]) * (ANGLES / (2 * np.pi))
        piece = np.round(angle / step).astype(np.intp) % PIECES
        total = np.bincount(piece, minlength=PIECES)
        scar = np.bincount(piece, weights=lesion[rows, columns], minlength=PIECES)
        found[index, total > 0] = (scar / np.maximum(total, 1))[total > 0]
    return found


def _pieces(hearts: Sequence[TrainingHeart], recipe: SequenceRecipe, seed: int) -> _Pieces:
    rng = np.random.default_rng((seed, 0x534551))
    sequences, scars = [], []
    for heart in hearts:
        truth = scar_of_pieces(heart)
        for _ in range(recipe.views):
            seen = disturbed_heart(heart, rng, EnhancementRecipe())
            there = pieces_there(seen) & np.isfinite(truth)
            sequences.append(wall_sequences(seen)[there].astype(np.float16))
            scars.append(truth[there])
    return _Pieces(np.concatenate(sequences), np.concatenate(scars))


def _batch(pieces: _Pieces, recipe: SequenceRecipe, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences and shares of scar of one step, a function of seed and step."""
    rng = np.random.default_rng((seed, step))
    chosen = rng.integers(len(pieces.scar), size=recipe.batch)
    sequences = torch.from_numpy(pieces.sequences[chosen].astype(np.float32))
    # Another look of the image: brightness, contrast and noise, the same at all moments of a piece but for the noise.
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    contrast = torch.exp(0.2 * torch.randn(recipe.batch, 1, 1, generator=generator))
    brightness = 0.1 * torch.randn(recipe.batch, 1, 1, generator=generator)
    noise = 0.05 * torch.randn(sequences[..., :_GREY].shape, generator=generator)
    sequences[..., :_GREY] = contrast * sequences[..., :_GREY] + brightness + noise
    if rng.random() < recipe.two_moments:
        sequences = sequences[:, :2]
    return sequences, torch.from_numpy(pieces.scar[chosen])


def train_scar_sequence(
    hearts: Hearts,
    output: Path,
    *,
    run: Run | None = None,
    recipe: SequenceRecipe | None = None,
    steps: int | None = None,
    report: Callable[[Progress], None] | None = None,
    command: str = "dicom-node train synthetic-enhancement",
) -> TrainingResult:
    """Train on pieces of wall of phantoms, with the errors of a segmentation; arguments as ``train_first_guess``.

    Raises
    ------
    ValueError
        Nothing to train on, or a checkpoint of another run.
    """
    run, recipe = run or Run(), recipe or SequenceRecipe()
    steps = recipe.steps if steps is None else steps
    learnt = (*hearts.all, *hearts.infarcts)
    if steps < 1 or not learnt:
        raise ValueError(f"{steps} steps on {len(learnt)} phantoms: at least one of each")
    pieces = _pieces(learnt, recipe, run.seed)
    torch.manual_seed(run.seed)
    architecture = SequenceArchitecture(inputs=len(INPUTS), hidden=recipe.hidden)
    network = architecture.build()

    def loss(step: int) -> torch.Tensor:
        sequences, scar = _batch(pieces, recipe, run.seed, step)
        logits = network(sequences.to(run.device))
        return functional.binary_cross_entropy_with_logits(logits, scar.to(run.device))

    return train_on_hearts(
        network,
        loss,
        hearts,
        output,
        run,
        model=MODEL,
        steps=steps,
        peak_rate=recipe.peak_rate,
        recipe=asdict(recipe),
        card=lambda done, sha256: _card(architecture, sha256, hearts, done, command),
        report=report,
    )


def _card(architecture: SequenceArchitecture, sha256: str, hearts: Hearts, steps: int, command: str) -> ModelCard:
    return ModelCard(
        name=MODEL,
        version="0.1.0",
        task="probability of scar from the motion and the grey values of pieces of wall over the cycle",
        licence="Apache-2.0",
        weights_sha256=sha256,
        summary="Reads each of 32 pieces of wall of a slice moment by moment and gives the logit of scar in it.",
        input=InputSpecification(
            size=PIECES,
            field="piece of wall",
            spacing_mm=None,
            channels=INPUTS,
            normalisation="grey values as those of synthetic-enhancement, 0 … 1.25 to −1 … 1.5; motion as shares",
        ),
        output=("logit of scar",),
        label_weights=(),
        architecture=architecture,
        training=TrainingData(
            name=f"{len(hearts.cases)} simulated hearts",
            licence="Apache-2.0",
            source="pipelines/phantom, docs/phantom.md; the default law of motion and scar",
            cases=hearts.cases,
            split=f"by seed: {len(hearts.held_out)} of the last seeds held out for validation and calibration; figures "
            "are reported on other seeds",
            steps=steps,
            command=command,
        ),
        limits=(
            "Trained on simulated hearts only: nothing here has been shown on patients.",
            "Stunned and hibernating muscle moves like scar.",
        ),
        not_for=(
            "Anything but research: not for deciding on treatment, nor instead of contrast-enhanced imaging where that "
            "can be had.",
            "Images other than short-axis balanced steady-state free precession cine.",
        ),
    )
