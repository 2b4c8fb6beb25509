"""What long-axis views, motion and strain cost on a study, by stage, beside another checkout of this software.

    python benchmarks/motion_cost.py STUDY [--against CHECKOUT] [--rounds N] [--json]

STUDY is a folder that holds the DICOM files of one study with a short-axis cine. Seconds are of the processor, one
thread, the least of the rounds. With ``--against`` both take turns, each in a process of its own, on what this one
assembled and segmented, and the ratio of each stage is told: on a machine that does other work as well, only that means
something.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer

from dicom_node.commands.terminal import console, print_json, table
from pipelines.cine.assemble import assemble
from pipelines.cine.files import dicom_files
from pipelines.function.slices import measure_slices
from pipelines.function.valve_cut import cut_by_views
from pipelines.long_axis.measure import long_axis_stacks, read_views
from pipelines.models.registry import load_model_once
from pipelines.motion.measure import follow_study, keyframes_of, measure_motion
from pipelines.motion.network import REGISTRATION_MODEL
from pipelines.segmentation.segment import segment

Result = TypeVar("Result")
ROOT = Path(__file__).resolve().parent.parent


def once(state: tuple[Any, Any, Any]) -> dict[str, float]:
    """Processor seconds of each stage."""
    study, stack, segmentation = state
    spent: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Result]) -> Result:
        started = time.process_time()
        result = work()
        spent[stage] = time.process_time() - started
        return result

    model = load_model_once(REGISTRATION_MODEL)
    uncut = measure_slices(stack, segmentation)
    views = timed("long-axis views", lambda: read_views(long_axis_stacks(study), stack, segmentation))
    slices = timed("cut at the valve plane", lambda: cut_by_views(uncut, stack, views))
    motion = timed("motion", lambda: follow_study(study, stack, slices, views, model))
    keyframes = timed("keyframes", lambda: keyframes_of(motion))
    timed("strain", lambda: measure_motion(motion, keyframes, slices, views, model))
    return spent


def answer(path: Path) -> None:
    """Measure one round for each line of standard input."""
    torch.set_num_threads(1)
    state = pickle.loads(path.read_bytes())
    for _ in sys.stdin:
        print(json.dumps(once(state)), flush=True)


def least(state: object, checkouts: dict[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Least seconds of each stage of each checkout, which take turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        path.write_bytes(pickle.dumps(state))
        running = {
            name: subprocess.Popen(
                [sys.executable, __file__, str(path), "--turns"],
                env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, checkout in checkouts.items()
        }
        found: dict[str, dict[str, float]] = {name: {} for name in running}
        for _ in range(rounds):
            for name, process in running.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                for stage, seconds in json.loads(process.stdout.readline()).items():
                    found[name][stage] = min(seconds, found[name].get(stage, seconds))
        for process in running.values():
            process.communicate()
    return found


def main(
    study: Annotated[Path, typer.Argument(exists=True)],
    against: Annotated[Path | None, typer.Option(help="Another checkout.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    turns: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Print the processor time of each stage."""
    if turns:
        answer(study)
        return
    cine = assemble(list(dicom_files(study)))[0]
    stack = cine.short_axis
    if stack is None:
        raise typer.BadParameter("no short-axis cine", param_hint="STUDY")
    checkouts = {"this": ROOT} if against is None else {"this": ROOT, "other": against.resolve()}
    found = least((cine, stack, segment(stack)), checkouts, rounds)
    if as_json:
        print_json(found)
        return
    total = {name: {**stages, "all": sum(stages.values())} for name, stages in found.items()}
    rows = [
        [stage, *(f"{total[name][stage]:.2f}" for name in total)]
        + ([f"{seconds / total['other'][stage]:.2f}"] if "other" in total else [])
        for stage, seconds in total["this"].items()
    ]
    ratio = ["ratio>"] if "other" in total else []
    table("Processor time, s", ["stage", *(f"{name}>" for name in total), *ratio], rows)
    console.print(f"{stack.phases} phases, {stack.slices} slices, least of {rounds} rounds")


if __name__ == "__main__":
    typer.run(main)
