"""Orthanc as a web PACS that asks for a password, and as a user agent of this node's STOW-RS."""

from __future__ import annotations

import base64
import urllib.request
from pathlib import Path

from interop.orthanc import Orthanc

USER, PASSWORD = "node", "pässword"


class WebOrthanc(Orthanc):
    """See :class:`~interop.orthanc.Orthanc`.

    Parameters
    ----------
    server, token
        DICOMweb root that Orthanc knows as ``node``, and its bearer token.
    password
        Whether it asks for ``USER`` and ``PASSWORD``.
    """

    def __init__(self, folder: Path, *, server: str = "", token: str = "", password: bool = False) -> None:
        super().__init__(folder)
        self._server, self._token, self._password = server, token, password

    @property
    def root(self) -> str:
        """Root of its DICOMweb service."""
        return f"{self.url}/dicom-web"

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data=body)
        if self._password:
            login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            request.add_header("Authorization", f"Basic {login}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def _configuration(self, dicom_web: Path) -> dict[str, object]:
        configuration = super()._configuration(dicom_web)
        configuration["AuthenticationEnabled"] = self._password
        configuration["RegisteredUsers"] = {USER: PASSWORD}
        if self._server:
            server = {"Url": self._server, "HttpHeaders": {"Authorization": f"Bearer {self._token}"}}
            configuration["DicomWeb"] = {"Enable": True, "Root": "/dicom-web/", "Servers": {"node": server}}
        return configuration
