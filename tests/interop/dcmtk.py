"""dcmtk as the scanner."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from interop.tools import TOOL_ENVIRONMENT, tool

AE_TITLE = "MR1"


def storescu(
    paths: Iterable[Path], *, port: int, called: str, calling: str = AE_TITLE, arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Send files as a scanner does, over one association.

    Parameters
    ----------
    paths
        Files, or folders to be searched for files.
    port
        Port of the receiver on the loopback interface.
    called, calling
        AE titles.
    arguments
        Further arguments of ``storescu``.
    """
    options = ["-v", "-R", "+sd", "+r", *_titles(calling, called), *arguments]
    return _run([str(tool("storescu")), *options, "127.0.0.1", str(port), *map(str, paths)])


def echoscu(
    *, port: int, called: str, calling: str = AE_TITLE, arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Verify a connection (C-ECHO)."""
    return _run([str(tool("echoscu")), "-v", *_titles(calling, called), *arguments, "127.0.0.1", str(port)])


def dsrdump(path: Path) -> subprocess.CompletedProcess[str]:
    """Render a structured report as text."""
    return _run([str(tool("dsrdump")), "+Pl", str(path)])


def _titles(calling: str, called: str) -> list[str]:
    return ["-aet", calling, "-aec", called]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    # errors="replace": dcmtk prints names in the character set of the object.
    return subprocess.run(
        command, env=TOOL_ENVIRONMENT, capture_output=True, text=True, errors="replace", timeout=300, check=False
    )
