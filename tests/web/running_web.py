"""The web services of a node in a thread of this process, and who calls them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import requests
from dicomweb_client.api import DICOMwebClient
from interop.ports import free_port
from network.running_node import RunningReceiver, configuration
from served import served

from dicom_node.config import Configuration, WebPeer, WebSettings
from dicom_node.web.serve import serve_web
from storage.ledger import open_ledger

TOKEN = "correct-horse-battery-staple"
CALLER = "gateway"


def web_settings(port: int | None = None, **changes: object) -> WebSettings:
    """Web services on a free port, with one caller that may send."""
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    values = {"port": port or free_port(), "peers": {CALLER: WebPeer(token_sha256=digest)}}
    return WebSettings(**{**values, **changes})  # type: ignore[arg-type]


class RunningWeb(RunningReceiver):
    """Web services that accept requests."""

    @property
    def root(self) -> str:
        """Root of the DICOMweb service."""
        scheme = "http" if self.configuration.web.certificate is None else "https"
        return f"{scheme}://127.0.0.1:{self.configuration.web.port}/dicom-web"

    @property
    def studies(self) -> str:
        """Where instances are posted."""
        return f"{self.root}/studies"

    def session(self) -> requests.Session:
        """A session of the caller."""
        session = requests.Session()
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {TOKEN}"
        return session

    def client(self) -> DICOMwebClient:
        """dicomweb-client as the caller."""
        return DICOMwebClient(self.root, session=self.session())

    def post(self, body: object, content_type: str, *, path: str = "", **headers: str) -> requests.Response:
        """POST any body as the caller."""
        with self.session() as session:
            return session.post(
                self.studies + path,
                data=body,  # type: ignore[arg-type]
                headers={"Content-Type": content_type, **{k.replace("_", "-"): v for k, v in headers.items()}},
                timeout=60,
            )


@contextlib.contextmanager
def web_thread(configuration: Configuration) -> Iterator[RunningWeb]:
    """The web role in a thread of this process."""
    with (
        served(lambda stop, ready: serve_web(configuration, stop, ready=ready)),
        contextlib.closing(open_ledger(configuration.storage.database)) as ledger,
    ):
        yield RunningWeb(configuration, ledger)


def web_node(folder: Path, **changes: object) -> Configuration:
    """A node with web services; ``changes`` replace keys of section ``web``."""
    return configuration(folder, web=web_settings(**changes))
