"""A node for a process of its own, with nothing imported that counts before the node has said where the numbers go."""

from __future__ import annotations

import os
from multiprocessing.synchronize import Event
from pathlib import Path

from execute.slow_roles import refuse

from dicom_node.config import Configuration


def serve(settings: Configuration, log: Path, ready: Event) -> None:
    """Run a node whose analysis refuses every study, logging to a file."""
    from dicom_node import node

    with log.open("a") as stream:
        os.dup2(stream.fileno(), 2)
    node.serve(settings, process=refuse, on_ready=ready.set)
