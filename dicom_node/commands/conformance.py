"""``dicom-node conformance``: the conformance statement of this node."""

from __future__ import annotations

import sys
from pathlib import Path

from dicom_node.commands.terminal import ConfigurationFile
from dicom_node.config_file import load_configuration

__all__ = ["conformance"]


def conformance(config: ConfigurationFile = Path("config.yaml")) -> None:
    """Print the conformance statement of this node, from its configuration and code, as Markdown."""
    from dicom_node.conformance import conformance_statement

    sys.stdout.write(conformance_statement(load_configuration(config)) + "\n")
