"""What an analysis package is, and how packages are found: every ``pipelines/<name>/package.py`` is one.

A folder on ``PYTHONPATH`` that is laid out like this one (``pipelines/<name>/package.py``, its encoder
``dicom_node/results/<name>.py``, its model cards ``pipelines/models/<model>/card.yaml``, and no ``__init__.py`` in
``pipelines``, ``pipelines/models``, ``dicom_node`` and ``dicom_node/results``) adds its packages to the node.
"""

from __future__ import annotations

import enum
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NewType, cast

from pipelines.analysis import Analysis, plan
from pipelines.cine.stack import CineStudy, StudyContext
from pipelines.errors import AnalysisSetupError
from pipelines.folders import folders_holding

__all__ = [
    "GIVEN",
    "SERIES_PER_BLOCK",
    "AnalysisPackage",
    "Device",
    "Slot",
    "Source",
    "all_steps",
    "needs",
    "package_names",
    "packages",
    "steps_of",
    "validated",
]

SERIES_PER_BLOCK = 20
"""Series numbers of each package."""

_FILE = "package.py"
"""What makes a folder a package."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_TITLE_MAX = 31
"""So that SeriesDescription (LO, 64 characters) has room for it."""
_BLOCKS_MAX = 49


Device = NewType("Device", str)
"""Torch device that networks run on, such as ``cpu`` or ``cuda:0``."""

GIVEN: tuple[type, ...] = (CineStudy, StudyContext, cast("type", Device))
"""Types that every step may ask for without a step that gives them."""


class Source(enum.StrEnum):
    """What an analysis needs of a study."""

    SHORT_AXIS_CINE = "short-axis cine"
    LONG_AXIS_CINE = "long-axis cine"
    LATE_ENHANCEMENT = "late enhancement"


class Slot(enum.StrEnum):
    """Kind of place in the executor that a package runs on."""

    CPU = "cpu"
    GPU = "gpu"
    """A GPU slot where one is configured, a CPU slot otherwise."""


@dataclass(frozen=True, slots=True)
class AnalysisPackage:
    """One analysis as a route knows it: declared once, in ``PACKAGE`` of ``pipelines/<name>/package.py``.

    Attributes
    ----------
    name : str
        The word that routes use, and the name of its folder and of its encoder module.
    title : str
        For people, as within a sentence: "ventricular function".
    version : str
        ``major.minor.patch``; part of the identity of its results. A change of what the results say needs a new one.
    gives : type
        What it finds: the type that one of its steps gives.
    steps : tuple of Analysis
        Its own steps. Steps of other packages that give what these need are found by type.
    sources : frozenset of Source
        What it needs of a study.
    models : tuple of str
        Names of the model cards of its own steps.
    series_block : int
        Its results have the series numbers ``results.series_number_base + 20 * series_block`` and the next 19.
    timeout_s : float
        An attempt that runs longer is killed, seconds.
    maximum_attempts : int
        Attempts at one study.
    priority : int
        Added to that of the route; higher runs first.
    slot : Slot
        Where it runs.

    Raises
    ------
    AnalysisSetupError
        A value is out of range, or no step gives ``gives``.
    """

    name: str
    title: str
    version: str
    gives: type
    steps: tuple[Analysis[..., Any], ...]
    sources: frozenset[Source]
    models: tuple[str, ...] = ()
    series_block: int = 0
    timeout_s: float = 300.0
    maximum_attempts: int = 3
    priority: int = 0
    slot: Slot = Slot.CPU

    def __post_init__(self) -> None:
        wrong = ""
        if not _NAME.fullmatch(self.name):
            wrong = "its name must match [a-z][a-z0-9_]*"
        elif not 0 < len(self.title.strip()) <= _TITLE_MAX:
            wrong = f"its title must have 1 to {_TITLE_MAX} characters"
        elif not _VERSION.fullmatch(self.version):
            wrong = f"its version {self.version!r} is not major.minor.patch"
        elif all(step.gives is not self.gives for step in self.steps):
            wrong = f"none of its steps gives {self.gives.__name__}"
        elif not 0 <= self.series_block <= _BLOCKS_MAX:
            wrong = f"its series_block {self.series_block} is not in 0 to {_BLOCKS_MAX}"
        elif self.timeout_s <= 0 or self.maximum_attempts < 1:
            wrong = "timeout_s must be positive and maximum_attempts at least 1"
        if wrong:
            raise AnalysisSetupError(f"package {self.name}: {wrong}")


def package_names() -> tuple[str, ...]:
    """Names of all packages, in alphabetical order; nothing of them is imported."""
    return tuple(sorted(folders_holding(_FILE)))


@cache
def packages() -> Mapping[str, AnalysisPackage]:
    """All packages by name, in the order of their series blocks.

    Raises
    ------
    AnalysisSetupError
        A package cannot be imported, declares something impossible, or is at odds with another one.
    """
    return validated([_declared(name, folder) for name, folder in sorted(folders_holding(_FILE).items())])


def validated(found: Iterable[AnalysisPackage]) -> Mapping[str, AnalysisPackage]:
    """The packages by name, in the order of their series blocks.

    Raises
    ------
    AnalysisSetupError
        Two have one name or one series block, two steps give one type, or no step gives what a step needs.
    """
    by_block = sorted(found, key=lambda one: (one.series_block, one.name))
    claimed: dict[str, str] = {}
    for package in by_block:
        claims = [f"the name {package.name!r}", f"the series block {package.series_block}"]
        claims += [f"the type {step.gives.__name__}" for step in package.steps]
        for claim in claims:
            if claim in claimed:
                raise AnalysisSetupError(f"packages {claimed[claim]} and {package.name} both claim {claim}")
            claimed[claim] = package.name
    for package in by_block:
        try:
            plan(all_steps(by_block), GIVEN, [package.gives])
        except AnalysisSetupError as error:
            raise AnalysisSetupError(f"package {package.name}: {error}") from error
    return MappingProxyType({package.name: package for package in by_block})


def all_steps(found: Iterable[AnalysisPackage]) -> tuple[Analysis[..., Any], ...]:
    """The steps of packages, each once."""
    return tuple(dict.fromkeys(step for package in found for step in package.steps))


def steps_of(package: AnalysisPackage, found: Mapping[str, AnalysisPackage] | None = None) -> tuple[str, ...]:
    """Names of the steps that lead to what a package gives, in order, those of other packages among them."""
    available = all_steps((packages() if found is None else found).values())
    return tuple(step.name for step in plan(available, GIVEN, [package.gives]))


def needs(package: AnalysisPackage, kind: type) -> bool:
    """Whether a step that gives ``kind`` is among those that lead to what a package gives."""
    return any(step.gives is kind for step in plan(all_steps(packages().values()), GIVEN, [package.gives]))


def _declared(name: str, folder: Path) -> AnalysisPackage:
    where = folder / _FILE
    try:
        module = importlib.import_module(f"pipelines.{name}.package")
    except AnalysisSetupError:
        raise
    except Exception as error:
        raise AnalysisSetupError(f"package {name} cannot be imported from {where}: {error!r}") from error
    package = getattr(module, "PACKAGE", None)
    if not isinstance(package, AnalysisPackage):
        raise AnalysisSetupError(f"package {name}: {where} declares no PACKAGE = AnalysisPackage(...)")
    if package.name != name:
        raise AnalysisSetupError(f"package {package.name}: its folder is named {name}; both must be the same")
    return package
