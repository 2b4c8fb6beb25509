"""A real Orthanc as the PACS: storage, storage commitment and DICOMweb, on an empty folder."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from interop.ports import free_port, listening, wait_until
from interop.tools import TOOL_ENVIRONMENT, tool

AE_TITLE = "ORTHANC"
DICOM_WEB_PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"


@dataclass(frozen=True)
class Modality:
    """An application entity that Orthanc knows, for the commitment reports that it sends on a new association."""

    ae_title: str
    port: int


class Orthanc:
    """One Orthanc process; use it as a context.

    Parameters
    ----------
    folder
        Empty folder for its configuration, its storage and its log.
    modalities
        Who gets commitment reports.

    Attributes
    ----------
    dicom_port, http_port
        Where it listens; chosen at the start.
    environment
        Of its process.
    """

    environment: Mapping[str, str] = TOOL_ENVIRONMENT

    def __init__(self, folder: Path, modalities: tuple[Modality, ...] = ()) -> None:
        self.folder = folder
        self.modalities = modalities
        self.dicom_port = free_port()
        self.http_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Root of its REST interface."""
        return f"http://127.0.0.1:{self.http_port}"

    def __enter__(self) -> Orthanc:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start it (again, on the same ports and storage) and wait until it answers on both."""
        executable, plugin = tool("Orthanc"), tool(DICOM_WEB_PLUGIN)
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "orthanc.json"
        configuration.write_text(json.dumps(self._configuration(plugin), indent=2), encoding="utf-8")
        with (self.folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [executable, configuration], stdout=log, stderr=log, env=self.environment, cwd=self.folder
            )
        try:
            wait_until(self._answers, seconds=60, what=f"Orthanc answers, see {self.folder / 'orthanc.log'}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it; what it stored stays."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def get(self, path: str) -> Any:
        """Answer of its REST interface to a GET, decoded from JSON."""
        return json.loads(self._request(path))

    def post(self, path: str, body: object) -> Any:
        """Answer of its REST interface to a POST of JSON, decoded from JSON."""
        return json.loads(self._request(path, json.dumps(body).encode()))

    def sop_instance_uids(self) -> dict[str, str]:
        """Orthanc's identifier of every instance it holds, by SOP Instance UID."""
        return {
            instance["MainDicomTags"]["SOPInstanceUID"]: instance["ID"] for instance in self.get("/instances?expand")
        }

    def file(self, sop_instance_uid: str) -> bytes:
        """The DICOM file of an instance, as Orthanc stored it."""
        return self._request(f"/instances/{self.sop_instance_uids()[sop_instance_uid]}/file")

    def fetch(self, folder: Path, *, without: frozenset[str] = frozenset()) -> dict[str, Path]:
        """Write every instance into a folder.

        Parameters
        ----------
        folder
            Where to write; made when absent.
        without
            SOP Instance UIDs to leave out.

        Returns
        -------
        dict
            Path of each file by SOP Instance UID.
        """
        folder.mkdir(parents=True, exist_ok=True)
        paths = {}
        for uid, identifier in self.sop_instance_uids().items():
            if uid not in without:
                paths[uid] = folder / f"{uid}.dcm"
                paths[uid].write_bytes(self._request(f"/instances/{identifier}/file"))
        return paths

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data=body), timeout=60) as answer:
            return bytes(answer.read())

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            said = (self.folder / "orthanc.log").read_text(errors="replace")[-2000:]
            raise ChildProcessError(f"Orthanc ended at its start: {said}")
        try:
            return bool(self.get("/system")["DicomAet"] == AE_TITLE) and listening(self.dicom_port)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _configuration(self, dicom_web: Path) -> dict[str, object]:
        return {
            "Name": AE_TITLE,
            "DicomAet": AE_TITLE,
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StorageDirectory": "storage",
            "IndexDirectory": "storage",
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            # A second object with a known UID must not vanish in silence: the tests compare what arrived first.
            "OverwriteInstances": False,
            "DefaultEncoding": "Utf8",
            "StorageCommitmentReportsSize": 1000,
            "DicomModalities": {
                modality.ae_title: {"AET": modality.ae_title, "Host": "127.0.0.1", "Port": modality.port}
                for modality in self.modalities
            },
            "Plugins": [str(dicom_web)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
