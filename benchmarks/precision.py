"""Segmentation in bfloat16 beside float32, in one run: processor time, and how many pixels of the heart agree.

    python benchmarks/precision.py STUDY [STUDY ...] [--rounds N] [--json]

A STUDY is a folder that holds the DICOM files of one study with a short-axis cine. Seconds are of the processor, one
thread, the least of the rounds; both precisions alternate.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from dicom_node.commands.terminal import console, print_json, table
from pipelines.cine.assemble import assemble
from pipelines.cine.files import dicom_files
from pipelines.cine.stack import CineStack
from pipelines.models.precision import Precision
from pipelines.models.registry import PACKAGED
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.segmentation.segment import segment


@dataclass(frozen=True)
class Compared:
    """One study in both precisions; agreement over the pixels that either calls heart."""

    study: str
    phases: int
    slices: int
    float32_s: float
    bfloat16_s: float
    heart_pixels_agree: float
    dice: dict[str, float]


def main(
    studies: Annotated[list[Path], typer.Argument(exists=True, file_okay=False, help="Folders of one study each.")],
    rounds: Annotated[int, typer.Option(min=1, help="How often each precision; the least time counts.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare the two on each study."""
    warnings.filterwarnings("ignore", "Invalid value for VR")
    torch.set_num_threads(1)
    rows = [_compared(folder, rounds) for folder in studies]
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    columns = ["study", "phases × slices>", "float32 s>", "bfloat16 s>", "ratio>", "agree %>", "least Dice>"]
    shown = [
        [
            row.study,
            f"{row.phases} × {row.slices}",
            f"{row.float32_s:.2f}",
            f"{row.bfloat16_s:.2f}",
            f"{row.bfloat16_s / row.float32_s:.2f}",
            f"{100 * row.heart_pixels_agree:.2f}",
            f"{min(row.dice.values()):.4f}",
        ]
        for row in rows
    ]
    table("Segmentation by precision", columns, shown)
    console.print("Processor seconds of one thread.")


def _compared(folder: Path, rounds: int) -> Compared:
    stack = next((one.short_axis for one in assemble(dicom_files(folder)) if one.short_axis is not None), None)
    if stack is None:
        raise SystemExit(f"{folder} holds no short-axis cine")
    taken: dict[Precision, list[float]] = {precision: [] for precision in Precision}
    found: dict[Precision, CineSegmentation] = {}
    for number in range(rounds + 1):
        for precision in Precision:
            seconds, found[precision] = _timed(stack, precision)
            # The first of each loads the network.
            taken[precision] += [seconds] if number else []
    exact, low = (found[precision].labels for precision in (Precision.FLOAT32, Precision.BFLOAT16))
    heart = (exact != Label.BACKGROUND) | (low != Label.BACKGROUND)
    dice = {
        label.name: float(
            2 * np.sum((exact == label) & (low == label)) / max(1, np.sum(exact == label) + np.sum(low == label))
        )
        for label in Label
        if label is not Label.BACKGROUND
    }
    return Compared(
        "/".join(folder.resolve().parts[-2:]),
        stack.phases,
        stack.slices,
        min(taken[Precision.FLOAT32]),
        min(taken[Precision.BFLOAT16]),
        float(np.mean(exact[heart] == low[heart])),
        dice,
    )


def _timed(stack: CineStack, precision: Precision) -> tuple[float, CineSegmentation]:
    begin = time.process_time()
    found = segment(stack, "cpu", PACKAGED, precision)
    return time.process_time() - begin, found


if __name__ == "__main__":
    typer.run(main)
