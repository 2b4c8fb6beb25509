"""``dicom-node send``: be a scanner."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.commands.terminal import ExitCode, JsonFlag, console, print_json, table
from dicom_node.errors import ConfigurationError

__all__ = ["parse_address", "send"]

_ADDRESS = re.compile(r"(?P<ae>[^@]{1,16})@(?P<host>\[[^\]]+\]|[^:@]+):(?P<port>\d{1,5})")


def parse_address(text: str) -> tuple[str, str, int]:
    """Split ``AE@HOST:PORT`` into its three parts.

    Raises
    ------
    ConfigurationError
        If the text is not of that form or the port is out of range.
    """
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ConfigurationError(
            "is not an address", subject=text, remedy="write AE@HOST:PORT, such as PACS@127.0.0.1:4242"
        )
    return match["ae"].strip(), match["host"].strip("[]"), int(match["port"])
