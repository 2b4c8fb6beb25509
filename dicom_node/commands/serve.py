"""``dicom-node serve``: run the node."""

from __future__ import annotations

import sys
from pathlib import Path

from dicom_node.commands.terminal import ConfigurationFile, ExitCode
from dicom_node.config_file import ConfigurationText
from dicom_node.machine import serving_mistakes

__all__ = ["serve"]


def serve(config: ConfigurationFile = Path("config.yaml")) -> None:
    """Run receiver, scheduler, workers and deliverer until SIGTERM or Ctrl-C; stops cleanly."""
    from dicom_node import node

    text = ConfigurationText.read(config)
    configuration = text.configuration()
    mistakes = list(serving_mistakes(configuration))
    if mistakes:
        raise text.error(mistakes)
    sys.exit(ExitCode.OK if node.serve(configuration) else ExitCode.FAILED)
