"""Size and depth of acute infarcts with and without microvascular obstruction: EMIDEC beside the law of the phantom.

python benchmarks/obstruction_law.py DIR [--hearts N] [--seed S]

DIR is EMIDEC as PNG slices. Of patients and of simulated acute infarcts (drawn, not imaged), infarct and obstruction as
a share of the muscle, the share of the wall's surface that is scarred, and how deep the scar goes where it is; of the
simulated ones also what is known of their motion. Each with the area under the curve for obstruction (95 %, DeLong).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from pipelines.late_enhancement.labels import Tissue
from pipelines.phantom.evidence import obstruction_evidence
from pipelines.phantom.law import DEFAULT_LAW, PESSIMISTIC_LAW, JointLaw
from pipelines.phantom.study import draw_heart
from pipelines.phantom.truth import lesion_share
from pipelines.statistics import auc_interval
from pipelines.training.emidec import find_cases, read_case
from pipelines.training.heart_clips import Population, clip_recipe
from pipelines.training.obstruction_wall import motion_lost
from pipelines.training.semi_synthetic import place

_ANY_ML = 200.0
"""Volume of the ventricle to place a patient's contours in; shares do not depend on it."""


@dataclass(frozen=True, slots=True)
class Infarcted:
    """One heart with an infarct; sizes in %, depth as a fraction of the wall."""

    size: float
    surface: float
    depth: float
    mean_depth: float


@dataclass(frozen=True, slots=True)
class Known:
    """What the law knows of a simulated heart besides."""

    motion_lost: float
    evidence: float


def described(size: float, depth: NDArray[np.float64]) -> Infarcted:
    """Describe an infarct of a size, % of the muscle, by its depth on rays (levels, angles)."""
    scarred = depth > 0
    return Infarcted(
        size=size,
        surface=100 * float(scarred.mean()),
        depth=float(np.quantile(depth[scarred], 0.9)),
        mean_depth=float(depth[scarred].mean()),
    )


def patients(folder: Path) -> tuple[list[Infarcted], list[bool], list[float]]:
    """Patients of EMIDEC with an infarct, whether each has an obstruction, and its size, % of the muscle."""
    found, obstructed, sizes = [], [], []
    for images in find_cases(folder).values():
        case = read_case(images)
        if case.group == "normal":
            continue
        muscle = int((case.labels >= Tissue.MYO).sum())
        infarct = int((case.labels >= Tissue.INFARCT).sum())
        scar = place(case, _ANY_ML).anatomy.scar
        found.append(described(100 * infarct / muscle, scar[1] - scar[0]))
        obstructed.append(case.group == "obstruction")
        sizes.append(100 * int((case.labels == Tissue.OBSTRUCTION).sum()) / muscle)
    return found, obstructed, sizes


def simulated(law: JointLaw, first: int, count: int) -> tuple[list[Infarcted], list[bool], list[float], list[Known]]:
    """Acute infarcts of the phantom, likewise, and what the law knows of them."""
    found, obstructed, sizes, known = [], [], [], []
    for seed in range(first, first + count):
        subject, heart = draw_heart(clip_recipe(seed, Population.ACUTE_INFARCT, law))
        scar, infarct, lv = heart.lesions.scar, subject.infarct, heart.lv
        if scar is None or infarct is None:
            raise ValueError(f"phantom {seed} has no infarct")
        infarct_percent, obstruction_percent = lesion_share(heart)
        inside = (lv.levels > lv.apex) & (lv.levels < lv.length)
        found.append(described(infarct_percent, (scar[1] - scar[0])[inside]))
        obstructed.append(infarct.obstruction)
        sizes.append(obstruction_percent)
        known.append(Known(motion_lost(heart), obstruction_evidence(infarct, law)))
    return found, obstructed, sizes, known


def show(title: str, rows: Sequence[Infarcted] | Sequence[Known], obstructed: Sequence[bool]) -> None:
    """Print each measure with and without obstruction, and how well it tells them apart."""
    truth, table = np.array(obstructed), np.array([astuple(row) for row in rows])
    print(f"{title}: {len(truth)} hearts, {truth.sum()} with obstruction")
    for column, field in zip(table.T, fields(rows[0]), strict=True):
        area = auc_interval(truth, column)
        parts = []
        for name, chosen in (("with", truth), ("without", ~truth)):
            # Evidence can be infinite, and nothing lies between infinite values.
            low, middle, high = np.quantile(column[chosen], [0.25, 0.5, 0.75], method="nearest")
            spread = (
                "" if np.isinf(column).any() else f"mean {column[chosen].mean():.2f}, SD {column[chosen].std():.2f}, "
            )
            parts.append(f"{name} {spread}median {middle:.2f} ({low:.2f} to {high:.2f})")
        print(f"  {field.name}: {'; '.join(parts)}; AUC {area.value:.2f} ({area.low:.2f} to {area.high:.2f})")


def show_obstructions(sizes: Sequence[float]) -> None:
    """Print how large the obstructions are."""
    shown = np.array(sizes)[np.array(sizes) > 0]
    low, middle, high = np.quantile(shown, [0.25, 0.5, 0.75])
    print(f"  obstruction: mean {shown.mean():.2f}, median {middle:.2f} ({low:.2f} to {high:.2f}) % of the muscle")


def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="EMIDEC as PNG slices.")],
    hearts: Annotated[int, typer.Option(min=1, help="Simulated by each law.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the first of them.")] = 710000,
) -> None:
    """Print the three populations."""
    found, obstructed, sizes = patients(folder)
    show("EMIDEC", found, obstructed)
    show_obstructions(sizes)
    for name, law in (("default law", DEFAULT_LAW), ("pessimistic law", PESSIMISTIC_LAW)):
        found, obstructed, sizes, known = simulated(law, seed, hearts)
        show(name, found, obstructed)
        show_obstructions(sizes)
        show(f"{name}, known to the simulator", known, obstructed)


if __name__ == "__main__":
    typer.run(main)
