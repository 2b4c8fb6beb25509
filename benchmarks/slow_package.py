"""An analysis package that computes on all cores for as long as a benchmark lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from own_packages import on_pythonpath

__all__ = ["SLOW", "slow_package"]

SLOW = "slow_benchmark"

_PACKAGE = '''"""An analysis that takes long."""

from __future__ import annotations

import time

from pipelines.analysis import analysis
from pipelines.cine.stack import CineStudy
from pipelines.package import AnalysisPackage, Source

SECONDS = 900.0


class LongWork:
    """That the work was done."""


@analysis
def long_work(study: CineStudy) -> LongWork:
    """Convolve, as a network does."""
    import torch

    images = torch.randn(8, 64, 192, 192)
    layer = torch.nn.Conv2d(64, 64, 3, padding=1)
    end = time.monotonic() + SECONDS
    with torch.inference_mode():
        while time.monotonic() < end:
            layer(images)
    return LongWork()


PACKAGE = AnalysisPackage(
    name="slow_benchmark",
    title="slow benchmark",
    version="1.0.0",
    gives=LongWork,
    steps=(long_work,),
    sources=frozenset({Source.SHORT_AXIS_CINE}),
    series_block=48,
    timeout_s=2 * SECONDS,
    priority=-20,
)
'''

_ENCODER = '''"""Encoder of the analysis that takes long: a benchmark ends before it is called."""

from __future__ import annotations

from dicom_node.results.parts import EncodingRequest, Parts, ReportPart

__all__ = ["encode"]


def encode(request: EncodingRequest) -> Parts:
    """Say that the work was done."""
    return Parts(report=lambda _variant: ReportPart(groups=()), key_numbers=("The work was done.",))
'''


@contextmanager
def slow_package(folder: Path) -> Iterator[None]:
    """Declare the package below a folder, for this process and all that it starts; it never comes to its encoder."""
    package = folder / "pipelines" / SLOW
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "package.py").write_text(_PACKAGE, encoding="utf-8")
    results = folder / "dicom_node" / "results"
    results.mkdir(parents=True)
    (results / f"{SLOW}.py").write_text(_ENCODER, encoding="utf-8")
    with on_pythonpath(folder):
        yield
