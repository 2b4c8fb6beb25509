"""``dicom-node serve``: run the node."""

from __future__ import annotations

import sys
from pathlib import Path

from dicom_node.commands.terminal import ConfigurationFile, ExitCode
from dicom_node.config import load_configuration

__all__ = ["serve"]


def serve(config: ConfigurationFile = Path("config.yaml")) -> None:
    """Run receiver, scheduler, workers and deliverer until SIGTERM or Ctrl-C; stops cleanly."""
    from dicom_node import node

    sys.exit(ExitCode.OK if node.serve(load_configuration(config)) else ExitCode.FAILED)
