"""Whether keeping a segmentation for the next package of a study is faster than making it again.

    python benchmarks/kept_segmentation.py STUDY [--json]

A STUDY is a folder that holds the DICOM files of one study. Told are seconds of wall clock and of CPU, and the size on
disk; CPU seconds mean something on a busy machine, too.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from dicom_node.commands.terminal import print_json, table
from dicom_node.execute.kept import KeptFindings
from pipelines.cine.assemble import assemble
from pipelines.segmentation.labels import CineSegmentation
from pipelines.segmentation.segment import warm
from pipelines.study import analyse_study

PACKAGE = "ventricular_function"
T = TypeVar("T")


@dataclass(frozen=True)
class Taken:
    """What one step took, seconds."""

    step: str
    wall_s: float
    cpu_s: float


def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of one study.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """Measure making, keeping and loading the segmentation of a study."""
    warnings.filterwarnings("ignore", "Invalid value for VR")
    (study,) = assemble(sorted(path for path in folder.rglob("*") if path.is_file()))
    warm("cpu")
    taken: list[Taken] = []

    def timed(step: str, work: Callable[[], T]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        taken.append(Taken(step, time.perf_counter() - wall, time.process_time() - cpu))
        return result

    findings = timed("make", lambda: analyse_study(study, [CineSegmentation]))
    with tempfile.TemporaryDirectory() as directory:
        kept = KeptFindings(Path(directory))
        timed("keep", lambda: kept.save("input", "cpu", findings.values))
        known = timed("load", lambda: kept.load("input", PACKAGE, "cpu"))
        size = sum(path.stat().st_size for path in Path(directory).rglob("*.npz"))
    if CineSegmentation not in known:
        raise SystemExit(f"{folder}: nothing was segmented: {findings.refusals}")
    if as_json:
        print_json({"taken": taken, "bytes": size})
        return
    rows = [(one.step, f"{one.wall_s:.2f}", f"{one.cpu_s:.2f}") for one in taken]
    table(f"Segmentation of {folder.name}, {size / 1e6:.2f} MB kept", ["", "wall (s)>", "CPU (s)>"], rows)


if __name__ == "__main__":
    typer.run(main)
