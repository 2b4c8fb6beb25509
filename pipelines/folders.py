"""Find the folders of ``pipelines``, in every place of the path, that hold a given file."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import pipelines

__all__ = ["folders_holding"]


def folders_holding(file: str) -> dict[str, Path]:
    """Folders below ``pipelines`` that hold a file of this name, by their names; the first on the path counts.

    Nothing is imported: a receiver validates routes and needs no analysis.
    """
    found: dict[str, Path] = {}
    for module in pkgutil.iter_modules(pipelines.__path__):
        if not module.ispkg:
            continue
        folder = Path(getattr(module.module_finder, "path", "")) / module.name
        if (folder / file).is_file():
            found.setdefault(module.name, folder)
    return found
