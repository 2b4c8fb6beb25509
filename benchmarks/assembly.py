"""Processor time of assembling a study: ``python benchmarks/assembly.py STUDY [--rounds N]`` prints the least, seconds.

To compare revisions, run it in a checkout of each in turn: what the machine does besides then falls on both.
"""

from __future__ import annotations

import argparse
import gc
import logging
import time
from pathlib import Path

import structlog

from pipelines.cine.assemble import assemble


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    paths = sorted(path for path in arguments.study.rglob("*") if path.is_file())
    assemble(paths)
    seconds = []
    for _ in range(arguments.rounds):
        gc.collect()
        started = time.process_time()
        assemble(paths)
        seconds.append(time.process_time() - started)
    print(f"{min(seconds):.4f}")


if __name__ == "__main__":
    main()
