"""What all commands share: exit codes, the configuration option, tables for people and JSON for machines."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from dicom_node.plain_json import jsonable

__all__ = ["ConfigurationFile", "ExitCode", "JsonFlag", "console", "print_json", "table"]

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


def print_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    json.dump(jsonable(value), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str | None = None) -> None:
    """Print a table; columns whose name ends in ``>`` are aligned to the right, those in ``!`` are never broken."""
    view = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in columns:
        # A UID that is cut is of no use to the next command: what does not fit goes on in the next line.
        justify: Literal["left", "right"] = "right" if column.endswith(">") else "left"
        view.add_column(column.rstrip(">!"), justify=justify, overflow="fold", no_wrap=column.endswith("!"))
    for row in rows:
        view.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(view)
