"""dcmtk as the scanner."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from interop.ports import listening, wait_until
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


def findscu(
    folder: Path, keys: Iterable[str], *, port: int, called: str, calling: str, model: str = "-S"
) -> tuple[subprocess.CompletedProcess[str], list[Dataset]]:
    """Query (C-FIND); the responses are kept in an empty folder.

    Parameters
    ----------
    keys
        ``Keyword=value`` each.
    model
        ``-S`` Study Root, ``-P`` Patient Root.
    """
    folder.mkdir(parents=True)
    options = [model, "-X", "-od", str(folder), *_titles(calling, called), *_keys(keys)]
    done = _run([str(tool("findscu")), "-v", *options, "127.0.0.1", str(port)])
    return done, [dcmread(path, force=True) for path in sorted(folder.glob("rsp*.dcm"))]


def movescu(
    keys: Iterable[str], *, port: int, called: str, calling: str, destination: str
) -> subprocess.CompletedProcess[str]:
    """Have a peer send to a destination (C-MOVE, Study Root)."""
    options = ["-S", "-aem", destination, *_titles(calling, called), *_keys(keys)]
    return _run([str(tool("movescu")), "-v", *options, "127.0.0.1", str(port)])


def getscu(
    folder: Path, keys: Iterable[str], *, port: int, called: str, calling: str, arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Retrieve into a folder over the same association (C-GET, Study Root), bytes as received."""
    folder.mkdir(parents=True)
    options = ["-S", "+B", "-od", str(folder), *_titles(calling, called), *_keys(keys), *arguments]
    return _run([str(tool("getscu")), "-v", *options, "127.0.0.1", str(port)])


@contextmanager
def storescp(folder: Path, *, port: int, arguments: tuple[str, ...] = ()) -> Iterator[None]:
    """A storage SCP that keeps what it gets in a folder, bytes as received."""
    folder.mkdir(parents=True)
    command = [str(tool("storescp")), "+B", "+xa", "-od", str(folder), *arguments, str(port)]
    process = subprocess.Popen(command, env=TOOL_ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: listening(port), seconds=15, what="storescp listens")
        yield
    finally:
        process.terminate()
        process.wait(15)


def _keys(keys: Iterable[str]) -> list[str]:
    return [part for key in keys for part in ("-k", key)]


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
