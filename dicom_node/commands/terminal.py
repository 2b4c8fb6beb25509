"""What all commands share: exit codes, the configuration option, tables for people and JSON for machines."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = [
    "ConfigurationFile",
    "ExitCode",
    "JsonFlag",
    "console",
    "jsonable",
    "print_json",
    "progress_bar",
    "table",
]

console = Console()


class ExitCode(enum.IntEnum):
    """What the exit status of a command means."""

    OK = 0
    FAILED = 1
    """Something that should have worked did not."""
    USAGE = 2
    """The command line or the configuration cannot be used."""
    REFUSED = 3
    """Everything worked, but no study could be analysed: the refusals say why."""
    PEER = 4
    """A peer could not be reached or refused."""


ConfigurationFile = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="DICOM_NODE_CONFIG", help="Configuration file.", show_default=True),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def jsonable(value: Any) -> Any:
    """Plain JSON types of any value a command prints; NaN and infinities become ``null``.

    Raises
    ------
    TypeError
        For a type that has no obvious form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value, str) else value.name.lower()
    if isinstance(value, Mapping):
        return {str(jsonable(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [jsonable(item) for item in items]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON form for {type(value).__name__}")


def print_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    json.dump(jsonable(value), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str | None = None) -> None:
    """Print a table; columns whose name ends in ``>`` are aligned to the right."""
    view = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in columns:
        # A UID that is cut is of no use to the next command: what does not fit goes on in the next line.
        view.add_column(column.removesuffix(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    for row in rows:
        view.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(view)


def progress_bar(quiet: bool) -> Progress:
    """A bar for work of many steps; each task needs the field ``detail``."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        disable=quiet,
        transient=True,
    )
