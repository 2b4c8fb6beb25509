"""What every page and every action of the console works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicom_node.audit.trail import AuditTrail
from dicom_node.config import Configuration
from storage.files import InstanceFiles
from storage.ledger import Ledger

__all__ = ["Desk"]


@dataclass(slots=True, eq=False)
class Desk:
    """The node that a console is of."""

    configuration: Configuration
    """What the node works by; replaced when it has read its configuration again."""
    ledger: Ledger
    files: InstanceFiles
    trail: AuditTrail
    file: Path | None = None
    """Where the configuration is written; none where nobody has said."""
