"""The console role: one process that serves the console until it is told to stop."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from dicom_node.audit.trail import AuditTrail
from dicom_node.config import Configuration
from dicom_node.console.app import console_application
from dicom_node.console.links import new_invitation
from dicom_node.console.node import Node
from dicom_node.instance_files import instance_files
from dicom_node.web.http_server import serve_http
from storage.accounts import has_administrator
from storage.ledger import open_ledger
from storage.schema import AccountRole

__all__ = ["serve_console"]

_log = structlog.get_logger(__name__)


def serve_console(
    configuration: Configuration,
    stop_event: threading.Event,
    *,
    name: str = "console",
    file: Path | None = None,
    ready: Callable[[], None] = lambda: None,
    renewed: Callable[[], Configuration | None] = lambda: None,
) -> None:
    """Serve until told to stop.

    While nobody could let others in, each start prints a link with which the first administrator chooses a password;
    the link of an earlier start holds no longer.

    Parameters
    ----------
    configuration
        Of the node; ``console.port`` is set.
    stop_event
        Set to end; the requests at hand are finished first.
    name
        Of this process, for the audit trail.
    file
        Where the configuration is written.
    ready
        Called once, when the port is open.
    renewed
        Gives the configuration when it changed. What of it the console is served by needs a restart of the node, and
        so no page is interrupted.

    Raises
    ------
    OSError
        The port is taken, or a certificate cannot be read.
    sqlalchemy.exc.SQLAlchemyError
        The ledger cannot be reached.
    """
    storage = configuration.storage
    with contextlib.ExitStack() as stack:
        ledger = open_ledger(storage.database, durable=storage.durable)
        stack.callback(ledger.close)
        trail = AuditTrail.of(configuration, name)
        stack.callback(trail.close)
        node = Node(configuration, ledger, instance_files(configuration, durable=storage.durable), trail, file)
        if not has_administrator(ledger):
            # To the person at the terminal, and not into the log, which others read.
            link = new_invitation(configuration, ledger, name=None, role=AccountRole.ADMINISTRATOR, by="this node")
            sys.stdout.write(f"console: choose the first administrator's password at {link}\n")
            sys.stdout.flush()
            _log.warning("the console has no administrator yet: its link is on standard output")
        application = console_application(node)
        stack.callback(application.state.board.close)

        def tend() -> None:
            changed = renewed()
            if changed is not None:
                node.configuration = changed
                application.state.board.forget()

        serve_http(configuration.console, application, stop_event, name="console", ready=ready, tend=tend)
