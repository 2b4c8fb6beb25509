"""The node that the pages and actions of the console show and change."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dicom_node.audit.trail import AuditTrail
from dicom_node.config import Configuration
from dicom_node.console.readings import StudyReadings
from storage.files import InstanceFiles
from storage.ledger import Ledger

__all__ = ["Node"]


@dataclass(slots=True, eq=False)
class Node:
    """Configuration, ledger, instance files and audit trail of the node that a console serves."""

    configuration: Configuration
    """What the node works by; replaced when it has read its configuration again."""
    ledger: Ledger
    files: InstanceFiles
    trail: AuditTrail
    file: Path | None = None
    """Where the configuration is written; none where nobody has said."""
    readings: StudyReadings = field(default_factory=StudyReadings)
    """Who was told to read which study."""
