"""How this software identifies itself in associations (PS3.7 D.3.3.2) and in File Meta Information (PS3.10 7.1)."""

from __future__ import annotations

import uuid
from importlib.metadata import version

from pydicom.uid import UID

__all__ = ["IMPLEMENTATION_CLASS_UID", "IMPLEMENTATION_VERSION_NAME", "SOFTWARE_VERSION"]

SOFTWARE_VERSION = version("dicom-node")
IMPLEMENTATION_CLASS_UID = UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_DNS, 'network.dicom-node.invalid').int}")
IMPLEMENTATION_VERSION_NAME = f"DICOMNODE_{SOFTWARE_VERSION}"[:16]
