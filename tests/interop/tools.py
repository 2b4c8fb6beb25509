"""Programs that are not Python packages: where they lie, or which Debian package brings them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

DEBIAN_PACKAGE = {
    "Orthanc": "orthanc",
    "storescu": "dcmtk",
    "echoscu": "dcmtk",
    "findscu": "dcmtk",
    "movescu": "dcmtk",
    "getscu": "dcmtk",
    "storescp": "dcmtk",
    "dsrdump": "dcmtk",
    "dcmdump": "dcmtk",
    "rsyslogd": "rsyslog rsyslog-openssl",
    "chromium": "chromium",
    "node": "nodejs",
    "pdftoppm": "poppler-utils",
    "curl": "curl",
    "/usr/share/orthanc/plugins/libOrthancDicomWeb.so": "orthanc-dicomweb",
}

SCRIPTS = Path(sys.executable).parent

TOOL_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
"""For dcmtk and Orthanc: without it, Debian's dcmtk sends twenty images a second on loopback."""


class AbsentTool(LookupError):
    """A program that the tests talk to is not installed."""


def tool(name: str) -> Path:
    """Where a program of the system lies.

    The folder of this Python is left out: pynetdicom brings a storescu and an echoscu, and those are not dcmtk.

    Parameters
    ----------
    name
        A command or an absolute path.

    Raises
    ------
    AbsentTool
        With what to install.
    """
    folders = [folder for folder in os.get_exec_path() if Path(folder) != SCRIPTS]
    found = shutil.which(name, path=os.pathsep.join([*folders, "/usr/sbin"]))
    if found is None and not Path(name).is_file():
        package = DEBIAN_PACKAGE.get(name)
        raise AbsentTool(f"{name} is absent" + (f": apt-get install {package}" if package else ""))
    return Path(found or name)


def script(name: str) -> Path:
    """Where a program of this Python environment lies (dicom-node, dciodvfy, dcmqi's programs)."""
    if not (SCRIPTS / name).is_file():
        raise AbsentTool(f"{name} is absent from {SCRIPTS}: install the project with its requirements.lock")
    return SCRIPTS / name
