"""Seconds and peak memory of segmenting one short-axis stack on this machine.

A drawn beating heart is enough: the cost does not depend on what the images show.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, FrameSource, StackGeometry, View
from pipelines.segmentation.segment import segment, warm


def beating_heart(phases: int, slices: int, size: int) -> NDArray[np.float32]:
    """Grey values (T, S, size, size) of a contracting ring with a second cavity beside it, 1.4 mm pixels."""
    row, column = np.mgrid[:size, :size] - size / 2
    noise = np.random.default_rng(0).normal(0, 6, (slices, size, size))
    pixels = np.empty((phases, slices, size, size), dtype=np.float32)
    for phase in range(phases):
        inner = 16 - 4 * (1 - np.cos(2 * np.pi * phase / phases)) / 2
        for index in range(slices):
            share = 1 - 0.5 * index / slices
            image = np.full((size, size), 60.0)
            image[np.hypot(row, column + 28 * share) < 15 * share] = 200
            image[np.hypot(row, column) < (inner + 8) * share] = 90
            image[np.hypot(row, column) < inner * share] = 220
            pixels[phase, index] = image + noise[index]
    return pixels


def stack_of(pixels: NDArray[np.float32]) -> CineStack:
    """The pixels as a short-axis stack, 10 mm apart."""
    phases, slices = pixels.shape[:2]
    source = FrameSource("", "", "", None, None, None)
    return CineStack(
        view=View.SAX,
        pixels=pixels,
        geometry=StackGeometry(
            positions=np.arange(slices)[:, None] * np.array([0.0, 0.0, 10.0]),
            row_direction=np.array([1.0, 0.0, 0.0]),
            column_direction=np.array([0.0, 1.0, 0.0]),
            pixel_spacing=(1.4, 1.4),
            slice_thickness=8.0,
        ),
        sources=((source,) * slices,) * phases,
        trigger_times=np.zeros((phases, slices)),
        rr_intervals=np.full(slices, 900.0),
        frame_of_reference_uid="",
    )


def main(
    phases: Annotated[int, typer.Option(min=1, help="Of the stack.")] = 30,
    slices: Annotated[int, typer.Option(min=1, help="Of the stack.")] = 12,
    size: Annotated[int, typer.Option(min=1, help="Rows and columns.")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to take the median of.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """Measure and print."""
    torch.set_num_threads(threads)
    stack = stack_of(beating_heart(phases, slices, size))
    begin = time.perf_counter()
    warm()
    loading = time.perf_counter() - begin
    seconds, processor = [], []
    for _ in range(rounds):
        begin, spent = time.perf_counter(), time.process_time()
        segment(stack)
        seconds.append(time.perf_counter() - begin)
        processor.append(time.process_time() - spent)
    figures = {
        "phases": phases,
        "slices": slices,
        "threads": threads,
        "load_seconds": round(loading, 2),
        "seconds": round(statistics.median(seconds), 2),
        "processor_seconds": round(statistics.median(processor), 2),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    if as_json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:>18}  {value}")


if __name__ == "__main__":
    typer.run(main)
