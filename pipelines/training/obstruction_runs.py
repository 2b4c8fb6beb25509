"""Whole trainings of obstruction: on phantoms that are made for it, or on a site's studies with a table of labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch

from pipelines.models.card import TrainingData, read_card
from pipelines.obstruction.architecture import ClipArchitecture, WallArchitecture
from pipelines.obstruction.network import FULL, MODEL
from pipelines.obstruction.wall_model import WallModel
from pipelines.training.heart_clips import Population, pack_clips
from pipelines.training.labelled_studies import read_labels
from pipelines.training.obstruction_hearts import LabelledHeart, hearts_of_clips, hearts_of_studies, split
from pipelines.training.obstruction_network import pretrain, train_obstruction
from pipelines.training.obstruction_recipe import PEAK_RATE, ObstructionRecipe, Target
from pipelines.training.obstruction_wall import fit_wall, walls_of_clips, walls_of_studies
from pipelines.training.steps import Progress, Run, TrainingResult

__all__ = ["Phantoms", "Prepared", "fine_tune", "fit_wall_to_phantoms", "prepare_phantoms", "train_on_phantoms"]


@dataclass(frozen=True, slots=True)
class Phantoms:
    """Phantoms with an acute infarct to learn from.

    Attributes
    ----------
    folder : Path
        Packed phantoms; receives the missing ones.
    count : int
    first_seed : int
        Seed of the first; seeds count up.
    workers : int
        Processes that make the missing ones.
    """

    folder: Path
    count: int
    first_seed: int
    workers: int = 1

    def packed(self, report: Callable[[int, int], None] | None = None) -> list[Path]:
        """Their files, the missing ones made; ``report`` is called with the phantoms done and wanted."""
        seeds = range(self.first_seed, self.first_seed + self.count)
        return pack_clips(self.folder, seeds, Population.ACUTE_INFARCT, workers=self.workers, report=report)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Hearts to train on, and weights to start from."""

    hearts: list[LabelledHeart]
    recipe: ObstructionRecipe
    start: dict[str, torch.Tensor] | None


def prepare_phantoms(
    phantoms: Phantoms,
    output: Path,
    recipe: ObstructionRecipe,
    run: Run,
    *,
    kept_out: int | None = None,
    prepared: Callable[[int, int], None] | None = None,
    report: Callable[[str, Progress], None] | None = None,
) -> Prepared:
    """Make the phantoms that are missing, and learn where scar lies on those that are trained on.

    Parameters
    ----------
    output : Path
        Receives ``pretraining``.
    run : Run
        All steps of the pretraining are made, wherever the run stops after it.
    kept_out : int, optional
        Hearts kept out, see :func:`pipelines.training.obstruction_hearts.split`.
    """
    hearts = list(hearts_of_clips(phantoms.packed(prepared)))
    start = None
    if recipe.pretraining_steps:
        start = pretrain(
            split(hearts, kept_out)[0],
            output / "pretraining",
            recipe,
            replace(run, stop_after=None),
            None if report is None else partial(report, "pretraining"),
        )
    return Prepared(hearts, recipe, start)


def train_on_phantoms(
    phantoms: Phantoms,
    output: Path,
    recipe: ObstructionRecipe,
    run: Run,
    *,
    kept_out: int | None = None,
    prepared: Callable[[int, int], None] | None = None,
    report: Callable[[str, Progress], None] | None = None,
) -> TrainingResult:
    """Make the phantoms that are missing, learn where scar lies, then learn obstruction.

    Parameters
    ----------
    output : Path
        Receives ``pretraining``, ``checkpoint.safetensors``, ``weights.safetensors`` and ``card.yaml``.
    recipe : ObstructionRecipe
        How slices are pooled is not asked of it: the target decides.
    run, kept_out
        See :func:`pipelines.training.obstruction_network.train_obstruction`.

    Raises
    ------
    ValueError
        See :func:`pipelines.training.obstruction_network.train_obstruction`.
    """
    ready = prepare_phantoms(phantoms, output, recipe, run, kept_out=kept_out, prepared=prepared, report=report)
    target = recipe.target
    size = " --full" if recipe.architecture.widths == FULL.widths else ""
    kept = "of either outcome the last 15 % of the seeds" if kept_out is None else f"the last {kept_out} hearts"
    if kept_out is not None:
        size += f" --kept-out {kept_out}"
    stopped = "" if run.stop_after is None else f" --stop-after {run.stop_after}"
    data = TrainingData(
        name=f"{len(ready.hearts)} phantoms with an acute infarct, default law",
        licence="Apache-2.0",
        source="pipelines/phantom, docs/phantom.md",
        cases=(),
        split=f"{kept} kept out; evaluation uses seeds from 900000 on",
        steps=recipe.steps,
        command=f"dicom-node train obstruction --clips DIR --model network --target {target} "
        f"--phantoms {phantoms.count} --phantom-seed {phantoms.first_seed}{size} "
        f"--pretraining-steps {recipe.pretraining_steps} --steps {recipe.steps}{stopped} --rate {recipe.peak_rate:g} "
        f"--seed {run.seed}",
    )
    # A heart with an obstruction has a large infarct: all of its slices tell.
    pooling = "mean" if target is Target.DEPTH else "largest"
    return train_obstruction(
        ready.hearts,
        output,
        replace(recipe, architecture=recipe.architecture.model_copy(update={"pooling": pooling})),
        run,
        data=data,
        start=ready.start,
        kept_out=kept_out,
        report=None if report is None else partial(report, "obstruction"),
    )


def fine_tune(
    studies: Path,
    labels: Path,
    output: Path,
    *,
    start: Path | None = None,
    steps: int,
    peak_rate: float = PEAK_RATE / 10,
    run: Run | None = None,
    prepared: Callable[[int, int], None] | None = None,
    report: Callable[[str, Progress], None] | None = None,
) -> TrainingResult:
    """Fine-tune a model of obstruction on a site's own studies, with labels of whole hearts.

    A network is trained further and calibrated on studies kept out. Of a wall model the score is kept, and calibrated
    to all studies, none of which it has seen.

    Parameters
    ----------
    studies, labels : Path
        See :func:`hearts_of_studies`.
    start : Path, optional
        Folder of the model to start from; that of the package when left out.
    prepared : callable
        Is called with the studies read and the number of labels.

    Raises
    ------
    ValueError
        The table or the model cannot be used; see also :func:`train_obstruction`.
    """
    from safetensors.torch import load_file

    from pipelines.models.registry import PACKAGED, load_model

    run = run or Run()
    model = start or PACKAGED / MODEL
    architecture = read_card(model / "card.yaml").architecture
    if not isinstance(architecture, ClipArchitecture | WallArchitecture):
        raise ValueError(f"{model} is no model of obstruction")
    done = 0
    count = len(read_labels(labels, "obstruction"))

    left_out: list[str] = []

    def one_read(name: str, refused: str) -> None:
        nonlocal done
        done += 1
        if refused:
            left_out.append(f"{name}: {refused}")
        if prepared is not None:
            prepared(done, count)

    def told_from(count_used: int, split: str) -> TrainingData:
        if not count_used:
            raise ValueError(f"none of {count} studies can be used, such as {left_out[0]}")
        return TrainingData(
            name=f"{count_used} studies of a site, after the weights of {model.name}",
            licence="that of the site",
            source="studies and labels of a site",
            cases=(),
            split=split,
            steps=steps,
            command="dicom-node train obstruction --studies DIR --labels FILE.csv "
            f"--steps {steps} --rate {peak_rate:g}",
        )

    if isinstance(architecture, WallArchitecture):
        walls = walls_of_studies(studies, labels, device=run.device, report=one_read)
        data = told_from(len(walls), "the score has seen none of them; its calibration is fitted to all")
        network = load_model(model.name, root=model.parent).network
        return fit_wall(walls, output, data=data, start=cast("WallModel", network), seed=run.seed)
    hearts = hearts_of_studies(studies, labels, device=run.device, report=one_read)
    return train_obstruction(
        hearts,
        output,
        ObstructionRecipe(architecture, steps=steps, peak_rate=peak_rate),
        run,
        data=told_from(len(hearts), "by patient: of either outcome the last 15 %, by a hash of the study, kept out"),
        start=load_file(model / "weights.safetensors"),
        report=None if report is None else partial(report, "fine-tuning"),
    )


def fit_wall_to_phantoms(
    phantoms: Phantoms, output: Path, *, seed: int = 0, prepared: Callable[[int, int], None] | None = None
) -> TrainingResult:
    """Make the phantoms that are missing, draw their contours as the node does, and fit the wall model.

    Parameters
    ----------
    output : Path
        Receives ``contours``, ``weights.safetensors`` and ``card.yaml``.

    Raises
    ------
    ValueError
        See :func:`pipelines.training.obstruction_wall.fit_wall`.
    """
    hearts = walls_of_clips(phantoms.packed(prepared), output / "contours", prepared)
    data = TrainingData(
        name="simulated acute infarcts, default law",
        licence="Apache-2.0",
        source="pipelines/phantom, docs/phantom.md",
        cases=(),
        split="calibrated on five folds held out; evaluation uses seeds from 900000 on",
        steps=1,
        command=f"dicom-node train obstruction --clips DIR --phantoms {phantoms.count} "
        f"--phantom-seed {phantoms.first_seed} --seed {seed}",
    )
    return fit_wall(hearts, output, data=data, seed=seed)
