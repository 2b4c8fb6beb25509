"""Where the volume of the right ventricle is lost: by the slices, at the base, between or at the apex.

python benchmarks/right_ventricle.py --first 58100 --count 22            # three phantoms in five have a fault
python benchmarks/right_ventricle.py --first 58100 --count 22 --cases

The true labels on the slices tell what slicing alone loses; what the network draws is held against them slice by slice,
at end diastole and end systole of the left ventricle. The right ventricle is not cut at a valve plane, so there is
nothing else between contours and volume.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.slices import measure_slices
from pipelines.motion.phantoms import measured_recipe
from pipelines.phantom import PhantomStudy, measure_truth, simulate
from pipelines.phantom.assembled import cine_stack
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import segment

APICAL = 2
"""So many slices with right ventricle, from the apex, are the apex; the most basal one is the base."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Measured − true, percent of the true volume at that phase."""

    slicing: float
    """True labels on the slices, against the volume of the heart."""
    base: float
    """Drawn against true labels on the most basal slice with right ventricle, and above it."""
    middle: float
    apex: float
    total: float


def losses(study: PhantomStudy, stack: CineStack, found: CineSegmentation) -> dict[str, Loss]:
    """What is lost at end diastole (``ED``) and end systole (``ES``)."""
    facts, slices = measure_truth(study).facts, measure_slices(stack, found)
    ml = slices.intervals_mm * np.prod(stack.geometry.pixel_spacing) / 1000.0
    phases = {
        "ED": (facts.keyframes.end_diastole, facts.rv_edv_ml),
        "ES": (facts.keyframes.end_systole, facts.rv_esv_ml),
    }
    by_phase = {}
    for name, (phase, volume) in phases.items():
        true, drawn = (
            ((labels[phase] == Label.RV).sum(axis=(1, 2)) * ml)[slices.from_base()]
            for labels in (study.short_axis.labels, slices.labels)
        )
        shown = np.flatnonzero(true > 0)
        rank = np.arange(len(true))
        parts = {
            "base": rank <= shown[0],
            "apex": rank >= shown[-APICAL],
            "middle": (rank > shown[0]) & (rank < shown[-APICAL]),
        }
        by_phase[name] = Loss(
            slicing=100 * float(true.sum() / volume - 1),
            total=100 * float(drawn.sum() / volume - 1),
            **{part: _percent(drawn - true, where, volume) for part, where in parts.items()},
        )
    return by_phase


def _percent(difference_ml: NDArray[np.float64], where: NDArray[np.bool_], volume_ml: float) -> float:
    return 100 * float(difference_ml[where].sum()) / volume_ml


def main(
    first: Annotated[int, typer.Option(help="Seed of the first phantom.")] = 58100,
    count: Annotated[int, typer.Option(min=1, help="Phantoms.")] = 22,
    cases: Annotated[bool, typer.Option("--cases", help="One line a case, too.")] = False,
) -> None:
    """Simulate, segment and print."""
    torch.set_num_threads(1)
    groups: dict[tuple[str, str], list[Loss]] = {}
    for seed in range(first, first + count):
        recipe = measured_recipe(seed, faults=True)
        study = simulate(recipe)
        stack = cine_stack(study.short_axis)
        try:
            found = losses(study, stack, segment(stack))
        except SegmentationRefused as refusal:
            print(f"{seed} refused: {refusal}")
            continue
        for phase, loss in found.items():
            groups.setdefault(("with a fault" if recipe.faults else "without", phase), []).append(loss)
            if cases:
                said = " ".join(f"{name} {value:+.1f}" for name, value in asdict(loss).items())
                print(f"{seed} {recipe.disease} {' '.join(sorted(recipe.faults)) or '–'} {phase}: {said}", flush=True)
    print("\nright ventricle, measured − true, % of the true volume, mean")
    for (group, phase), members in sorted(groups.items()):
        means = {name: float(np.mean([asdict(one)[name] for one in members])) for name in asdict(members[0])}
        print(f"{group:13s} {phase} {len(members):3d}  " + "  ".join(f"{n} {v:+.1f}" for n, v in means.items()))


if __name__ == "__main__":
    typer.run(main)
