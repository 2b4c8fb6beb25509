"""Packages of a cheap analysis, in a folder that lies on PYTHONPATH as a hospital's own would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pipelines
from pipelines.package import packages

PACKAGES = ("crash_quick", "crash_declining", "crash_slow")
"""In the order of a route; the last one gives way."""

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
def crash_packages(folder: Path) -> Iterator[tuple[str, ...]]:
    """Write the packages below a folder, for this process and all that it starts; gives their names."""
    root = folder / "pipelines"
    for number, name in enumerate(PACKAGES):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").touch()
        priority = -10 if name == "crash_slow" else 10
        declaration = _DECLARATION.format(name=name, block=40 + number, priority=priority)
        (root / name / "package.py").write_text(declaration, encoding="utf-8")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    pipelines.__path__.append(str(root))
    packages.cache_clear()
    try:
        yield PACKAGES
    finally:
        pipelines.__path__.remove(str(root))
        packages.cache_clear()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
