"""Analysis packages in a folder of their own that lies on PYTHONPATH, as a hospital's would."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pipelines
from pipelines.package import packages

__all__ = ["CRASH_PACKAGES", "crash_packages", "on_pythonpath"]

CRASH_PACKAGES = ("crash_quick", "crash_declining", "crash_slow")
"""Packages of the cheap analysis, in the order of a route; the last one gives way."""

_DECLARATION = '''"""A cheap analysis."""

from __future__ import annotations

from pipelines.analysis import analysis
from pipelines.cine.stack import CineStudy
from pipelines.package import AnalysisPackage, Source


class Found{name}:
    """Something."""


@analysis
def {name}(study: CineStudy) -> Found{name}:
    """Find something."""
    return Found{name}()


PACKAGE = AnalysisPackage(
    name="{name}",
    title="{name}",
    version="1.0.0",
    gives=Found{name},
    steps=({name},),
    sources=frozenset({{Source.SHORT_AXIS_CINE}}),
    series_block={block},
    priority={priority},
)
'''


@contextmanager
def on_pythonpath(folder: Path) -> Iterator[None]:
    """Let this process, and all that it starts, find the packages below ``folder/pipelines``."""
    root = str(folder / "pipelines")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    # Processes that multiprocessing spawns get the path of this one, and not the environment's.
    sys.path.append(str(folder))
    pipelines.__path__.append(root)
    packages.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        pipelines.__path__.remove(root)
        packages.cache_clear()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextmanager
def crash_packages(folder: Path) -> Iterator[tuple[str, ...]]:
    """Declare the packages of the cheap analysis below a folder; gives their names."""
    for number, name in enumerate(CRASH_PACKAGES):
        package = folder / "pipelines" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        priority = -10 if name == "crash_slow" else 10
        declaration = _DECLARATION.format(name=name, block=40 + number, priority=priority)
        (package / "package.py").write_text(declaration, encoding="utf-8")
    with on_pythonpath(folder):
        yield CRASH_PACKAGES
