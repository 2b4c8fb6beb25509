"""One web origin on the loopback interface: OHIF's built files, and behind ``/dicom-web`` a DICOMweb server.

OHIF decodes images in threads that share memory, which a browser grants only to a page that is isolated from other
origins; so the images come from the page's own origin.
"""

from __future__ import annotations

import http.client
import json
import mimetypes
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

DICOM_WEB = "/dicom-web"
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
CONTENT_TYPES = {".wasm": "application/wasm", ".js": "text/javascript", ".mjs": "text/javascript"}

OHIF_CONFIGURATION = {
    "name": "dicom-node",
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "maxNumRequests": {"interaction": 20, "thumbnail": 4, "prefetch": 4},
    "defaultDataSourceName": "pacs",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "pacs",
            "configuration": {
                "friendlyName": "PACS",
                "name": "pacs",
                "qidoRoot": DICOM_WEB,
                "wadoRoot": DICOM_WEB,
                "qidoSupportsIncludeField": True,
                "supportsWildcard": True,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ViewerOrigin

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith(DICOM_WEB):
            self._forward(None)
        elif path == "/app-config.js":
            self._reply(HTTPStatus.OK, "text/javascript", f"window.config={json.dumps(OHIF_CONFIGURATION)};".encode())
        else:
            self._file(path)

    def do_POST(self) -> None:
        self._forward(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, format: str, *args: object) -> None:
        """Be silent: the browser's driver reports every answer that is an error."""

    def _file(self, path: str) -> None:
        root = self.server.files
        file = (root / path.lstrip("/")).resolve()
        if not file.is_relative_to(root) or not file.is_file():
            # The viewer's own routes (/viewer?StudyInstanceUIDs=…) are views of one page.
            if Path(path).suffix:
                self._reply(HTTPStatus.NOT_FOUND, "text/plain", b"no such file")
                return
            file = root / "index.html"
        kind = CONTENT_TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._reply(HTTPStatus.OK, kind, file.read_bytes())

    def _forward(self, body: bytes | None) -> None:
        headers = {name: value for name in ("Accept", "Content-Type") if (value := self.headers.get(name))}
        # Orthanc builds the addresses of bulk data from these two.
        host = self.headers.get("Host", "")
        headers |= {"Host": host, "Forwarded": f"host={host};proto=http"}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.dicom_web_port, timeout=60)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            self._reply(answer.status, answer.headers.get("Content-Type", "application/octet-stream"), answer.read())
        except OSError as error:
            self._reply(HTTPStatus.BAD_GATEWAY, "text/plain", str(error).encode())
        finally:
            connection.close()

    def _reply(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **ISOLATION}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class ViewerOrigin(ThreadingHTTPServer):
    """The server; use it as a context.

    Parameters
    ----------
    files
        Folder of OHIF's built files (``dist`` of the package ``@ohif/app``).
    dicom_web_port
        Port on the loopback interface where a DICOMweb server answers under ``/dicom-web``.
    port
        Port to listen on; 0 takes a free one.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, files: Path, dicom_web_port: int, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.files = files.resolve(strict=True)
        self.dicom_web_port = dicom_web_port

    @property
    def url(self) -> str:
        """Address of the origin."""
        return f"http://127.0.0.1:{self.server_port}"

    def study_url(self, study_instance_uid: str) -> str:
        """Address of a study in the viewer."""
        return f"{self.url}/viewer?StudyInstanceUIDs={study_instance_uid}"

    def __enter__(self) -> ViewerOrigin:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shutdown()
        self.server_close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: origin.py OHIF_DIST ORTHANC_HTTP_PORT PORT")
    viewer = ViewerOrigin(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(f"{viewer.url}\n")
    sys.stdout.flush()
    viewer.serve_forever()
