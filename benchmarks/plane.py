"""Whether a short axis that is planned off is recognised, and how often one that is not is called so.

python benchmarks/plane.py phantoms --first 985000 --count 30   # each heart without a fault, 30° off, with another one
python benchmarks/plane.py acdc DIR                             # what the check says of experts' contours of patients

The phantoms go the way of a study: the node's segmentation of end diastole and end systole. Limits were chosen on seeds
980000 to 980039; never choose them on what is reported.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.stats import binomtest

from pipelines.cine.stack import CineStack, StudyContext
from pipelines.errors import AnalysisRefused
from pipelines.function.curves import find_keyframes
from pipelines.function.measure import measure_function
from pipelines.function.slices import measure_slices
from pipelines.phantom import Fault, simulate
from pipelines.phantom.assembled import cine_stack
from pipelines.quality.assess import assess_quality
from pipelines.quality.findings import Grade, QualityCheck
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import segment
from pipelines.training.acdc import find_patients, read_patient, to_stack
from pipelines.training.heart_clips import Population, clip_recipe

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

OTHERS = tuple(fault for fault in sorted(Fault) if fault is not Fault.WRONG_VIEW)


def two_phases(study_stack: CineStack, systole: int) -> CineStack:
    """The stack at end diastole and at a systole alone: the check looks at end diastole."""
    chosen = [0, systole]
    return replace(
        study_stack,
        pixels=study_stack.pixels[chosen],
        sources=tuple(study_stack.sources[phase] for phase in chosen),
        trigger_times=study_stack.trigger_times[chosen],
    )


def judged(stack: CineStack, segmentation: CineSegmentation) -> tuple[Grade | None, float]:
    """Grade and angle of the check; ``None`` where it could not be made."""
    slices = measure_slices(stack, segmentation)
    function = measure_function(stack, slices, find_keyframes(stack, slices.lv_ml), StudyContext("2.25.1"))
    for finding in assess_quality(stack, segmentation, slices, function).findings:
        if finding.check is QualityCheck.PLANE:
            return finding.grade, float(finding.value or 0.0)
    return None, float("nan")


def phantoms(first: int, count: int) -> Iterator[tuple[str, str, Grade | None, float]]:
    """Kind of acquisition, name, grade and angle of three studies of each heart."""
    for number in range(count):
        recipe = replace(
            clip_recipe(first + number, Population.ALL), phases=10, long_axis=False, late_enhancement=False
        )
        for fault in (None, Fault.WRONG_VIEW, OTHERS[number % len(OTHERS)]):
            study = simulate(replace(recipe, faults=frozenset({fault} if fault else ())), workers=1).short_axis
            systole = int((study.labels == Label.LV).sum((1, 2, 3)).argmin())
            stack = two_phases(cine_stack(study), systole)
            kind = "no fault" if fault is None else "30° off" if fault is Fault.WRONG_VIEW else "another fault"
            name = f"{first + number} {recipe.disease} {fault or ''}"
            try:
                yield kind, name, *judged(stack, segment(stack))
            except (AnalysisRefused, SegmentationRefused):
                yield kind + ", declined", name, None, float("nan")


def patients(folder: Path) -> Iterator[tuple[str, str, Grade | None, float]]:
    """Group, name, grade and angle of each patient, from experts' contours."""
    for path in sorted(find_patients(folder)):
        patient = read_patient(path)
        labels = np.stack([frame.labels for frame in patient.frames])
        certain = np.ones(labels.shape[:2], np.float32)
        segmentation = CineSegmentation(labels, certain, (0, labels.shape[2], 0, labels.shape[3]), ())
        yield patient.group, patient.identifier, *judged(to_stack(patient), segmentation)


@app.command("phantoms")
def show_phantoms(
    first: Annotated[int, typer.Option(help="Seed of the first heart.")] = 985000,
    count: Annotated[int, typer.Option(min=1, help="Hearts.")] = 30,
) -> None:
    """Each heart without a fault, 30° off, and with another fault."""
    show(phantoms(first, count))


@app.command("acdc")
def show_patients(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of ACDC.")],
) -> None:
    """Experts' contours of patients."""
    show(patients(folder))


def show(rows: Iterable[tuple[str, str, Grade | None, float]]) -> None:
    """Print what the check says of every study, and how often."""
    by_kind: dict[str, list[tuple[Grade | None, float]]] = defaultdict(list)
    for kind, name, grade, angle in rows:
        print(f"{kind:>22}  {angle:5.1f}°  {grade.name if grade is not None else 'not made':<9}  {name}", flush=True)
        by_kind[kind].append((grade, angle))
    for kind, found in by_kind.items():
        hits = sum(grade is not None and grade >= Grade.POOR for grade, _ in found)
        interval = binomtest(hits, len(found)).proportion_ci(method="exact")
        angles = [angle for _, angle in found if np.isfinite(angle)]
        middle = np.percentile(angles, [0, 50, 95, 100]).round(1).tolist() if angles else []
        print(
            f"{kind}: {hits} of {len(found)} called off plane ({interval.low:.2f} to {interval.high:.2f}); "
            f"least, median, 95th percentile, largest angle {middle}"
        )


if __name__ == "__main__":
    app()
