"""The console in headless Chromium."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interop.fixtures import require
from interop.tools import AbsentTool, tool
from viewer.ohif import INSTALLED

DRIVER = Path(__file__).with_name("browse.mjs")
LIMIT_S = 900
DESKTOP, PHONE = 1280, 390
"""Widths of a window, CSS pixels."""


@dataclass(frozen=True)
class Visit:
    """What came of a visit: how far it got, and what was found on the way."""

    done: int
    problems: tuple[str, ...]
    """Errors of the pages, requests to elsewhere, steps that could not be taken."""
    violations: tuple[dict[str, Any], ...]
    """Of the rules of axe."""
    values: dict[str, Any]
    buttons: frozenset[str]
    """Names of the buttons on the pages on which one was pressed."""
    pressed: frozenset[str]

    @property
    def serious(self) -> list[dict[str, Any]]:
        """Violations that keep people from using a page."""
        return [one for one in self.violations if one["impact"] in ("serious", "critical")]


def browse(
    root: str,
    steps: Sequence[Sequence[str]],
    folder: Path,
    *,
    cookie: str = "",
    scheme: str = "light",
    width: int = DESKTOP,
    scripts: bool = True,
    bypass_csp: bool = True,
    elsewhere: str = "",
    scripts_late_ms: int = 0,
) -> Visit:
    """Take these steps in a new window; see ``browse.mjs`` for what a step may be.

    Pages may ask nothing but the console, and what begins with ``elsewhere``. Their scripts arrive ``scripts_late_ms``
    later than they would.
    """
    require("chromium", "node")
    if not (INSTALLED / "axe-core").is_dir():
        raise AbsentTool(f"axe-core is absent from {INSTALLED}: run `make viewer`")
    task = {
        "root": root,
        "chromium": str(tool("chromium")),
        "modules": str(INSTALLED),
        "folder": str(folder),
        "cookie": cookie,
        "scheme": scheme,
        "width": width,
        "scripts": scripts,
        "bypassCSP": bypass_csp,
        "elsewhere": elsewhere,
        "scriptsLateMs": scripts_late_ms,
        "steps": list(map(list, steps)),
    }
    driver = subprocess.run(
        [tool("node"), DRIVER, json.dumps(task)], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if driver.returncode != 0:
        raise ChildProcessError(f"the browser's driver ended with {driver.returncode}: {driver.stderr[-2000:]}")
    answer = json.loads(driver.stdout)
    return Visit(
        answer["done"],
        tuple(answer["problems"]),
        tuple(answer["violations"]),
        answer["values"],
        frozenset(answer["buttons"]),
        frozenset(answer["pressed"]),
    )
