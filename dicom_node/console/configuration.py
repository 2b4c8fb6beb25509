"""The configuration file beside what the node works by, and letting the node of this machine read it again."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from dicom_node.config import Configuration
from dicom_node.config_file import ConfigurationText
from dicom_node.console.node import Node
from dicom_node.errors import ConfigurationError
from dicom_node.hosts import host_name
from dicom_node.machine import usable
from dicom_node.process_states import serving_process
from dicom_node.reloading import Reloaded, reloaded

__all__ = ["Reread", "as_reloaded", "reread", "signal_node", "taken_up", "unread_changes"]

TAKEN_UP_S = 10.0
"""Seconds that somebody who changes it waits for the node to take it up."""


@dataclass(frozen=True, slots=True)
class Reread:
    """What came of letting the node read its configuration again."""

    changed: tuple[str, ...]
    """Keys that take effect while it runs."""
    at_next_start: tuple[str, ...]
    """Keys that wait for the next start."""
    taken_up: bool
    """Whether the node has said that it works by them."""


def as_reloaded(node: Node, whole: str) -> Reloaded:
    """What the node would make of a configuration file: refused here, it would be refused there.

    Raises
    ------
    ConfigurationError
        It cannot be used.
    """
    assert isinstance(node.file, Path)
    return reloaded(node.configuration, usable(ConfigurationText.of(node.file, whole)))


def unread_changes(node: Node) -> Reloaded:
    """How the configuration file, as it stands now, differs from what the node works by.

    Raises
    ------
    ConfigurationError
        The file cannot be read or used, or the console was not told of one.
    """
    return reloaded(node.configuration, usable(ConfigurationText.read(_file(node))))


def reread(node: Node) -> Reread:
    """Let the node of this machine read its configuration file again.

    What is under way ends by the configuration that it began with (:mod:`dicom_node.reloading`).

    Raises
    ------
    ConfigurationError
        The file cannot be read or used: nothing was changed. Or no node runs on this machine.
    """
    found = unread_changes(node)
    if not signal_node(node):
        raise ConfigurationError(
            "no node runs on this machine", subject=str(_file(node)), remedy="start it: it reads the file then"
        )
    return Reread(found.changed, found.at_next_start, taken_up(node, found.configuration))


def signal_node(node: Node) -> bool:
    """Tell the supervisor of this machine to read its configuration again; false where none runs."""
    serving = serving_process(node.configuration.storage.directory, host_name(node.configuration))
    if serving is None:
        return False
    os.kill(serving, signal.SIGHUP)
    return True


def taken_up(node: Node, wanted: Configuration) -> bool:
    """Wait until the node works by a configuration; false where it does not in time."""
    until = time.monotonic() + TAKEN_UP_S
    while node.configuration != wanted:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _file(node: Node) -> Path:
    if node.file is None:
        raise ConfigurationError(
            "this console was not told of a configuration file", subject="config.yaml", remedy="dicom-node reload"
        )
    return node.file
