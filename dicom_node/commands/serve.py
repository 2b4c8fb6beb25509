"""``dicom-node serve`` and ``dicom-node reload``: run the node, and let it read its configuration again."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from dicom_node.commands.terminal import ConfigurationFile, ExitCode, console
from dicom_node.config import Configuration
from dicom_node.config_file import ConfigurationText
from dicom_node.errors import NodeError
from dicom_node.hosts import host_name
from dicom_node.machine import usable
from dicom_node.process_states import serving_process

__all__ = ["reload", "serve"]


def serve(config: ConfigurationFile = Path("config.yaml")) -> None:
    """Run receiver, scheduler, workers and deliverer until SIGTERM or Ctrl-C; SIGHUP reads the configuration again."""
    from dicom_node import node

    def read() -> Configuration:
        return usable(ConfigurationText.read(config))

    sys.exit(ExitCode.OK if node.serve(read(), reread=read, file=config.resolve()) else ExitCode.FAILED)


def reload(config: ConfigurationFile = Path("config.yaml")) -> None:
    """Let the running node read its configuration again, if it is valid; the log of the node says what took effect."""
    configuration = usable(ConfigurationText.read(config))
    directory = configuration.storage.directory
    pid = serving_process(directory, host_name(configuration)) if directory.is_dir() else None
    if pid is None:
        raise NodeError("is served by no node on this machine", subject=f"storage.directory {directory}")
    os.kill(pid, signal.SIGHUP)
    console.print(f"Process {pid} reads the configuration again; its log says what took effect")
