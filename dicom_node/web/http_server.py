"""An HTTP server in a role process, until the process is told to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import structlog
import uvicorn
from fastapi import FastAPI

from dicom_node.config import HttpServerSettings
from dicom_node.network.listening_ports import listening_socket
from dicom_node.web.connections import RequestTimeoutProtocol

__all__ = ["serve_http"]

_log = structlog.get_logger(__name__)

GRACE_S = 15
"""For the requests at hand when the node stops; less than the supervisor gives the process."""
_TEND_S = 0.2

# It warns of every port scan, and shows the text of unforeseen exceptions, which may quote a data set.
logging.getLogger("uvicorn").setLevel(logging.CRITICAL)


def serve_http(
    settings: HttpServerSettings,
    application: FastAPI,
    stop_event: threading.Event,
    *,
    name: str,
    ready: Callable[[], None],
    tend: Callable[[], None] = lambda: None,
) -> None:
    """Serve an application until told to stop.

    Parameters
    ----------
    settings
        With a port.
    stop_event
        Set to end; the requests at hand are finished first.
    name
        Of the service, for the log.
    ready
        Called once, when the port is open.
    tend
        Called several times a second.

    Raises
    ------
    OSError
        The port is taken, or a certificate cannot be read.
    """
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            http=RequestTimeoutProtocol,
            ws="none",
            lifespan="off",
            # Requests are logged by the services, with what became of them; paths may hold identifiers.
            access_log=False,
            log_config=None,
            server_header=False,
            # Whoever connects is who is told of; a proxy's word on others is not taken.
            proxy_headers=False,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.key,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    assert settings.port is not None
    with listening_socket(settings.address, settings.port) as listener:
        # In a thread of its own it leaves the signals of the process alone: they set the stop event.
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name=name)
        serving.start()
        try:
            told_ready = False
            while serving.is_alive() and not stop_event.wait(_TEND_S):
                if server.started and not told_ready:
                    told_ready = True
                    _log.info(
                        f"serving {name}",
                        address=settings.address,
                        port=settings.port,
                        tls=settings.certificate is not None,
                    )
                    ready()
                tend()
            if not stop_event.is_set():
                raise RuntimeError("the HTTP server ended")
        finally:
            server.should_exit = True
            serving.join()
    _log.info(f"{name} stopped")
