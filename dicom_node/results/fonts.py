"""Fonts of the pages: DejaVu Sans, and Noto Sans for the scripts that it lacks.

They come with Python packages, so that a page reads alike on every machine, whatever fonts its system has. Matplotlib
shapes and orders complex scripts itself (from 3.11 on, with libraqm).
"""

from __future__ import annotations

import dataclasses
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from matplotlib import font_manager

__all__ = ["families"]

_LATIN_GREEK_CYRILLIC = "DejaVu Sans"
"""Comes with Matplotlib; it has Hebrew, Armenian and Georgian too."""
_PACKAGES = (
    "fontpkg_noto_sans_arabic",
    "fontpkg_noto_sans_devanagari",
    "fontpkg_noto_sans_thai",
    "cvttf_NotoSansCJK_Regular",
)
"""Packages that hold font files (SIL Open Font License 1.1); the last has Chinese, Japanese and Korean."""


@cache
def families() -> tuple[str, ...]:
    """Font families in the order in which a character is looked for in them.

    Raises
    ------
    ModuleNotFoundError
        A package with fonts is not installed.
    """
    found = [_LATIN_GREEK_CYRILLIC]
    for package in _PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{package} is not installed: the pages need its fonts", name=package)
        for path in sorted(Path(spec.origin).parent.rglob("*.[ot]tf")):
            font_manager.fontManager.addfont(path)
            regular = font_manager.fontManager.ttflist[-1]
            # There is no bold face: the regular one stands for it, without a warning for every line of text.
            font_manager.fontManager.ttflist.append(dataclasses.replace(regular, weight=700))
            found.append(regular.name)
    return tuple(found)
