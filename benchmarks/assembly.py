"""Processor time of assembling a study: ``python benchmarks/assembly.py STUDY [--rounds N]`` prints the least, seconds.

To compare revisions, run it in a checkout of each in turn: what the machine does besides then falls on both.
"""

from __future__ import annotations

import gc
import logging
import time
from pathlib import Path
from typing import Annotated

import structlog
import typer

from pipelines.cine.assemble import assemble


def main(
    study: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of one study.")],
    rounds: Annotated[int, typer.Option(min=1, help="Of which the least is printed.")] = 3,
) -> None:
    """Print the processor time of assembling a study, seconds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    paths = sorted(path for path in study.rglob("*") if path.is_file())
    assemble(paths)
    seconds = []
    for _ in range(rounds):
        gc.collect()
        started = time.process_time()
        assemble(paths)
        seconds.append(time.process_time() - started)
    print(f"{min(seconds):.4f}")


if __name__ == "__main__":
    typer.run(main)
