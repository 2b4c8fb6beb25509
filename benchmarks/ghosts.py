"""Whether ghosts and wrong triggers are recognised, and how often a good study is said to have them.

python benchmarks/ghosts.py phantoms --first 62200 --count 10          # true contours: seconds a study
python benchmarks/ghosts.py phantoms --first 62200 --count 10 --node   # the node's segmentation; LVEF, too
python benchmarks/ghosts.py studies FOLDER …    # short axes of DICOM, as they are and with faults in their k-space
python benchmarks/ghosts.py cost               # processor seconds of both checks on 12 slices of 30 phases
python benchmarks/ghosts.py acdc DIR           # two phases a patient, as they are and with faults in their k-space

Each heart is imaged without a fault, with ghosts, with wrong triggers, and with another fault in turn; every second
one in a field of view with air around the body. Limits were chosen on seeds 61000 to 61016 and on ACDC (62000 to 62006
and 62100 to 62114 were looked at, too); never choose them on what is reported. ACDC has end diastole and end systole
alone, and does not say the phase encoding: the check itself says nothing of it, and what is printed is that of its
parts which needs no more (no noise taken off).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from scipy.stats import binomtest

from pipelines.cine.assemble import assemble, dicom_files
from pipelines.cine.stack import CineStack, PhaseEncoding, StudyContext, View
from pipelines.errors import AnalysisRefused
from pipelines.function.curves import find_keyframes
from pipelines.function.measure import measure_function
from pipelines.function.slices import measure_slices
from pipelines.phantom import Dialect, Fault, PhantomRecipe, measure_truth, simulate
from pipelines.phantom.assembled import cine_stack
from pipelines.quality.findings import Grade, QualityFinding
from pipelines.quality.ghosting import SHARE_OF_SLICES, Beat, ghost_levels, ghosting_finding
from pipelines.quality.limits import QualityLimits
from pipelines.quality.triggering import triggering_finding
from pipelines.segmentation.labels import CineSegmentation
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import segment
from pipelines.training.acdc import find_patients, read_patient, to_stack
from pipelines.training.heart_clips import Population, clip_recipe

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

OTHERS = tuple(fault for fault in sorted(Fault) if fault not in (Fault.GHOSTING, Fault.MISTRIGGER))
LIMITS = QualityLimits()


@dataclass(frozen=True, slots=True)
class Checked:
    """What both checks say of a study; ``None`` where one could not be made."""

    kind: str
    vendor: str
    name: str
    ghosts: QualityFinding | None
    trigger: QualityFinding | None
    ejection_fraction_off: float = float("nan")
    """Points; NaN with true contours."""


def recipe_of(seed: int) -> PhantomRecipe:
    """Recipe of a heart: vendors in turn, 14 or 20 phases, every second in a wide field of view."""
    recipe = replace(
        clip_recipe(seed, Population.ALL),
        phases=14 if seed % 3 else 20,
        dialect=tuple(Dialect)[seed % len(Dialect)],
        long_axis=False,
        late_enhancement=False,
    )
    if seed % 2 == 0:
        return recipe
    rng = np.random.default_rng([seed, 0x51])
    spacing = float(rng.uniform(1.25, 1.9))
    rows, columns = (round(float(rng.uniform(*mm)) / spacing) for mm in ((270, 320), (310, 370)))
    return replace(recipe, spacing_mm=spacing, rows=rows, columns=columns, slices=10)


def checked(
    stack: CineStack, found: CineSegmentation, kind: str, vendor: str, name: str, truth: float | None = None
) -> Checked:
    """Both checks of a segmented stack, and its ejection fraction less the true one."""
    slices = measure_slices(stack, found)
    off = float("nan")
    if truth is not None:
        function = measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), StudyContext("2.25.1"))
        off = function.lv.ejection_fraction_percent - truth
    ghosts, trigger = ghosting_finding(stack, slices, LIMITS), triggering_finding(stack, slices, LIMITS)
    return Checked(kind, vendor, name, ghosts, trigger, off)


def phantoms(first: int, count: int, *, node: bool) -> Iterator[Checked]:
    """Four studies of each heart."""
    for number in range(count):
        recipe = recipe_of(first + number)
        for fault in (None, Fault.GHOSTING, Fault.MISTRIGGER, OTHERS[number % len(OTHERS)]):
            study = simulate(replace(recipe, faults=frozenset({fault} if fault else ())), workers=1)
            stack, labels = cine_stack(study.short_axis), study.short_axis.labels
            drawn = CineSegmentation(
                labels, np.ones(labels.shape[:2], np.float32), (0, labels.shape[2], 0, labels.shape[3]), ()
            )
            facts = measure_truth(study).facts if node else None
            truth = None if facts is None else 100 * (1 - facts.lv_esv_ml / facts.lv_edv_ml)
            kind, name = str(fault or "no fault"), f"{recipe.seed} {recipe.disease}"
            try:
                yield checked(stack, segment(stack) if node else drawn, kind, str(recipe.dialect), name, truth)
            except (AnalysisRefused, SegmentationRefused):
                yield Checked(kind + ", declined", str(recipe.dialect), name, None, None)


def with_ghosts(pixels: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Images whose lines of k-space are scaled by 1 ± 0.25 with a period of ten lines."""
    lines = np.moveaxis(np.fft.fft(pixels, axis=axis), axis, -1)
    count = lines.shape[-1]
    lines = lines * (1 + 0.25 * np.cos(2 * np.pi * np.fft.fftfreq(count) * count / 10))
    return np.abs(np.fft.ifft(np.moveaxis(lines, -1, axis), axis=axis)).astype(np.float32)


def with_wrong_triggers(pixels: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Images of which a fifth of the lines of k-space, in blocks of ten, are of a third of the cycle later."""
    lines = np.moveaxis(np.fft.fft(pixels, axis=axis), axis, -1).copy()
    count, late = lines.shape[-1], np.roll(lines, -round(len(pixels) / 3), axis=0)
    order = np.fft.fftshift(np.arange(count))
    rng = np.random.default_rng(1)
    for index in range(lines.shape[1]):
        wrong = rng.permutation(-(-count // 10))[: round(count / 50)]
        chosen = order[np.isin(np.arange(count) // 10, wrong)]
        lines[:, index][..., chosen] = late[:, index][..., chosen]
    return np.abs(np.fft.ifft(np.moveaxis(lines, -1, axis), axis=axis)).astype(np.float32)


def studies(folders: list[Path]) -> Iterator[Checked]:
    """Every short axis of folders of DICOM, as it is and with faults, with the contours of the images as they are."""
    for folder in folders:
        for number, study in enumerate(assemble(dicom_files(folder))):
            for stack in study.stacks:
                if stack.view is not View.SAX:
                    continue
                name = f"{folder.name} {number}, phase encoding {stack.phase_encoding or 'not stated'}"
                vendor, found = study.context.manufacturer or "unknown", segment(stack)
                yield checked(stack, found, "study", vendor, name)
                axis = 3 if stack.phase_encoding is PhaseEncoding.ROW else 2
                for kind, pixels in {
                    "ghosts added": with_ghosts(stack.pixels, axis),
                    "triggers added": with_wrong_triggers(stack.pixels, axis),
                    "ghosts across": with_ghosts(stack.pixels, 5 - axis),
                }.items():
                    yield checked(replace(stack, pixels=pixels), found, kind, vendor, name)


@app.command("acdc")
def patients(folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of ACDC.")]) -> None:
    """Print the level between both phases of patients of ACDC, from experts' contours, as they are and with faults."""
    of_kind: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for path in sorted(find_patients(folder)):
        patient = read_patient(path)
        stack, labels = to_stack(patient), np.stack([frame.labels for frame in patient.frames])
        heart = np.asarray((labels > 0).any(axis=0))
        kinds = {"as they are": stack.pixels, "ghosts added": with_ghosts(stack.pixels, 2)}
        # The other of two phases stands for a later one.
        kinds["triggers added"] = with_wrong_triggers(stack.pixels, 2)
        for kind, pixels in kinds.items():
            change = (pixels[1] - pixels[0])[None]
            levels = 100 * ghost_levels(Beat(change, change[0] ** 2), heart, stack.geometry.pixel_spacing)
            seen = levels[np.isfinite(levels[:, 0])]
            if len(seen) >= 3:
                of_kind[kind].append(np.percentile(seen, 100 * (1 - SHARE_OF_SLICES), axis=0))
    for kind, rows in of_kind.items():
        along, either = np.stack(rows)[:, 0], np.stack(rows).max(axis=1)
        said = []
        for name, values in (("along columns", along), ("along either axis", either)):
            beyond = int((values > LIMITS.ghosts_percent.poor).sum())
            said.append(f"{beyond} of {len(values)} {name} ({interval(beyond, len(values))})")
        spread = np.percentile(along, [0, 50, 90, 100]).round(1).tolist()
        print(
            f"{kind}: beyond {LIMITS.ghosts_percent.poor} %: {', '.join(said)}; least, median, 90th, largest {spread}"
        )


@app.command()
def cost() -> None:
    """Print the processor time of both checks on a phantom of 12 slices and 30 phases, five times."""
    cine = simulate(PhantomRecipe(seed=1, long_axis=False, coils=2)).short_axis
    stack, labels = cine_stack(cine), cine.labels
    certain = np.ones(labels.shape[:2], np.float32)
    slices = measure_slices(stack, CineSegmentation(labels, certain, (0, labels.shape[2], 0, labels.shape[3]), ()))
    for _ in range(5):
        started = time.process_time()
        ghosting_finding(stack, slices, LIMITS)
        between = time.process_time()
        triggering_finding(stack, slices, LIMITS)
        print(
            f"ghosts {between - started:.2f} s, triggers {time.process_time() - between:.2f} s of {stack.pixels.shape}"
        )


def interval(hits: int, count: int) -> str:
    """Wilson interval, 95 %."""
    found = binomtest(hits, count).proportion_ci(method="wilson")
    return f"{100 * found.low:.0f} to {100 * found.high:.0f} %"


def poor(finding: QualityFinding | None) -> bool:
    """Whether a check says that the study has the fault."""
    return finding is not None and finding.grade >= Grade.POOR


def summarise(rows: list[Checked], title: str) -> None:
    """Print how often each check says so."""
    counts = {
        "ghosts": sum(poor(row.ghosts) for row in rows),
        "out of step": sum(poor(row.trigger) for row in rows),
        "either": sum(poor(row.ghosts) or poor(row.trigger) for row in rows),
    }
    said = ", ".join(f"{name} {hits} ({interval(hits, len(rows))})" for name, hits in counts.items())
    values = [float(row.ghosts.value or 0.0) for row in rows if row.ghosts is not None]
    levels = np.percentile(values, [0, 50, 100]).round(1).tolist() if values else []
    off = [row.ejection_fraction_off for row in rows if np.isfinite(row.ejection_fraction_off)]
    fraction = f"; LVEF off by {np.abs(off).mean():.1f} points (bias {np.mean(off):+.1f})" if off else ""
    print(
        f"{title}: {len(rows)} studies, {said}; no check of ghosts in {len(rows) - len(values)}, of triggers in "
        f"{sum(row.trigger is None for row in rows)}; least, median, largest level {levels} %{fraction}"
    )


@app.command("phantoms")
def show_phantoms(
    first: Annotated[int, typer.Option(help="Seed of the first heart.")] = 62200,
    count: Annotated[int, typer.Option(min=1, help="Hearts.")] = 10,
    node: Annotated[bool, typer.Option("--node", help="The node's segmentation in place of true contours.")] = False,
) -> None:
    """Each heart without a fault, with ghosts, with wrong triggers, and with another fault in turn."""
    show(phantoms(first, count, node=node))


@app.command("studies")
def show_studies(
    folders: Annotated[list[Path], typer.Argument(exists=True, file_okay=False, help="Of DICOM.")],
) -> None:
    """Short axes as they are and with faults in their k-space."""
    show(studies(folders))


def show(made: Iterable[Checked]) -> None:
    """Print what the checks say of every study, and how often."""
    by_kind: dict[str, list[Checked]] = defaultdict(list)
    for row in made:
        said = [
            "not made" if one is None else f"{one.value or 0.0:4.1f} % {one.grade.name}"
            for one in (row.ghosts, row.trigger)
        ]
        print(f"{row.kind:>16}  ghosts {said[0]:<17} out of step {said[1]:<17} {row.vendor}  {row.name}", flush=True)
        by_kind[row.kind].append(row)
    for kind, rows in by_kind.items():
        summarise(rows, kind)
        for vendor in sorted({row.vendor for row in rows}) if kind in ("no fault", *map(str, Fault)) else ():
            of_vendor = [row for row in rows if row.vendor == vendor]
            said_so = sum(poor(row.ghosts) or poor(row.trigger) for row in of_vendor)
            print(f"    {vendor}: either in {said_so} of {len(of_vendor)}")


if __name__ == "__main__":
    app()
