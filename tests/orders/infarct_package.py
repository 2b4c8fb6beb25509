"""An analysis for acute infarcts only that costs nothing, in a folder of its own, as a hospital's would be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from own_packages import on_pythonpath

import dicom_node.results

__all__ = ["NAME", "infarct_package"]

NAME = "infarct_only"

_DECLARATION = '''"""Counts slices of acute infarcts."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.analysis import analysis
from pipelines.cine.stack import CineStudy
from pipelines.indication import Indication, require_indication
from pipelines.package import AnalysisPackage, Source


@dataclass(frozen=True, slots=True)
class Slices:
    """How many there are."""

    count: int


@analysis
def slices(study: CineStudy) -> Slices:
    """Count them."""
    require_indication(study.context.indication, Indication.ACUTE_INFARCT, "The number of slices")
    return Slices(sum(stack.slices for stack in study.stacks))


PACKAGE = AnalysisPackage(
    name="infarct_only",
    title="slices of infarcts",
    version="1.0.0",
    gives=Slices,
    steps=(slices,),
    sources=frozenset({Source.SHORT_AXIS_CINE}),
    series_block=44,
)
'''
_ENCODER = '''"""Tells the number of slices."""

from __future__ import annotations

from highdicom.sr import Measurement
from pipelines.infarct_only.package import Slices
from pydicom.sr.coding import Code

from dicom_node.results.codes import ucum
from dicom_node.results.content import group
from dicom_node.results.parts import EncodingRequest, Parts, ReportPart, SummaryPart, frames_of

_SLICES = Code("SLICES", "99TEST", "Number of slices")


def encode(request: EncodingRequest) -> Parts:
    """One number."""
    count = request.found.findings[Slices].count
    measured = Measurement(name=_SLICES, value=float(count), unit=ucum("1"))
    stacks = request.study.stacks
    found = group(request.context, "Slices", finding_type=_SLICES, measurements=[measured])
    return Parts(
        objects=lambda: [],
        report=lambda _variant: ReportPart(groups=(found,), looked_at=frames_of(stacks)),
        summary=SummaryPart(stacks=tuple(stacks)),
        key_numbers=(f"{count} slices.",),
        numbers={"slices": float(count)},
    )
'''


@contextmanager
def infarct_package(folder: Path) -> Iterator[None]:
    """Let this process find the package and its encoder below a folder."""
    package, results = folder / "pipelines" / NAME, folder / "dicom_node" / "results"
    package.mkdir(parents=True)
    results.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "package.py").write_text(_DECLARATION, encoding="utf-8")
    (results / f"{NAME}.py").write_text(_ENCODER, encoding="utf-8")
    dicom_node.results.__path__.append(str(results))
    try:
        with on_pythonpath(folder):
            yield
    finally:
        dicom_node.results.__path__.remove(str(results))
        for name in [one for one in sys.modules if f".{NAME}" in one]:
            del sys.modules[name]
