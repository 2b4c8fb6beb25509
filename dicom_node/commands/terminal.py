"""What all commands share: exit codes, the configuration option, tables for people and JSON for machines."""

from __future__ import annotations

import enum
import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
    """Print a table; what is too wide for one is printed as a paragraph a row. No word is ever broken.

    Parameters
    ----------
    title
        Above the table.
    columns
        Their names; columns whose name ends in ``>`` are aligned to the right, those in ``!`` are never wrapped.
    rows
        A cell for each column; ``None`` is empty.
    caption
        Below the table.
    """
    cells = [tuple("" if cell is None else str(cell) for cell in row) for row in rows]
    names = [column.rstrip(">!") for column in columns]
    widths = _widths(columns, [names, *cells], console.width)
    if widths is None:
        _print_paragraphs(title, names, cells, caption)
        return
    view = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column, name, width in zip(columns, names, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column.endswith(">") else "left"
        view.add_column(name, justify=justify, width=width, no_wrap=column.endswith("!"))
    for row in cells:
        # Not markup: [pacs] in a sentence is no colour.
        view.add_row(*(Text(cell) for cell in row))
    console.print(view)


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Width of each column, characters, so that all fit and every word stays whole; ``None`` when there is none."""
    available = width - 3 * len(columns) - 1
    wanted, least = [], []
    for index, column in enumerate(columns):
        lines = [cell_len(line) for row in rows for line in row[index].splitlines()]
        words = [cell_len(word) for row in rows for word in row[index].split()]
        wanted.append(max(lines, default=0))
        least.append(wanted[-1] if column.endswith("!") else max(words, default=0))
    if sum(least) > available:
        return None
    widths = list(least)
    for _ in range(min(available, sum(wanted)) - sum(least)):
        # What would be wrapped most gets the next character.
        narrowest = max(range(len(columns)), key=lambda index: wanted[index] / max(widths[index], 1))
        widths[narrowest] += 1
    return widths


def _print_paragraphs(title: str, names: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None) -> None:
    """Print each row as a paragraph of its names and cells: a UID that is broken is of no use to the next command."""
    lines = [title]
    for row in rows:
        told = " · ".join(f"{name} {cell}".strip() for name, cell in zip(names, row, strict=True) if cell.strip())
        lines += textwrap.wrap(
            told, console.width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    if not rows:
        lines.append("none")
    if caption:
        lines.append(caption)
    console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
