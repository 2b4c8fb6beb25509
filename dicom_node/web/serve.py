"""The web role: one process that serves HTTP until it is told to stop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog
from pydicom.config import disable_value_validation

from dicom_node.audit.trail import AuditTrail
from dicom_node.config import Configuration
from dicom_node.hosts import owner_name
from dicom_node.instance_files import instance_files
from dicom_node.network.reception import InstanceReceiver
from dicom_node.network.watermarks import Watermarks
from dicom_node.web.app import web_application
from dicom_node.web.http_server import serve_http
from dicom_node.web.stow import StoreService, stow_router
from dicom_node.web.uploads import Uploads
from storage.instances import close_abandoned_associations
from storage.ledger import open_ledger, utc_now

__all__ = ["serve_web"]

_log = structlog.get_logger(__name__)

THREADS = 16
"""That write, flush and commit."""


def serve_web(
    configuration: Configuration,
    stop_event: threading.Event,
    *,
    name: str = "web",
    ready: Callable[[], None] = lambda: None,
    renewed: Callable[[], Configuration | None] = lambda: None,
) -> None:
    """Serve until told to stop.

    Parameters
    ----------
    configuration
        Of the node; ``web.port`` is set.
    stop_event
        Set to end; the requests at hand are finished first.
    name
        Of this process, the same after a restart: it closes what its earlier life left open.
    ready
        Called once, when the port is open.
    renewed
        Gives the configuration when it changed: watermarks and answers to conflicts follow it.

    Raises
    ------
    OSError
        The port is taken, or a certificate cannot be read.
    sqlalchemy.exc.SQLAlchemyError
        The ledger cannot be reached.
    """
    node, storage, web = configuration.node, configuration.storage, configuration.web
    # Identifiers are taken as they come, leading zeros and all.
    with contextlib.ExitStack() as stack:
        stack.enter_context(disable_value_validation())
        ledger = open_ledger(storage.database, durable=storage.durable)
        stack.callback(ledger.close)
        server = owner_name(configuration, name)
        abandoned = close_abandoned_associations(ledger, server, at=utc_now())
        trail = AuditTrail.of(configuration, name)
        stack.callback(trail.close)
        files = instance_files(configuration, durable=storage.durable)
        files.make_folders()
        watermarks = Watermarks(
            files.free_bytes, low_watermark_mb=storage.low_watermark_mb, high_watermark_mb=storage.high_watermark_mb
        )
        current = configuration
        instances = InstanceReceiver(ledger, files, watermarks, lambda sender: current.conflict_answer(sender))
        stack.callback(instances.commit.close)
        uploads = Uploads(ledger, server, node.ae_title, instances.commit.forget)
        pool = stack.enter_context(ThreadPoolExecutor(THREADS, "store"))
        service = StoreService(instances, uploads, pool)
        _log.info("web starts", peers=sorted(web.peers), abandoned_uploads=abandoned)

        def tend() -> None:
            nonlocal current
            changed = renewed()
            if changed is not None:
                current = changed
                watermarks.move(changed.storage.low_watermark_mb, changed.storage.high_watermark_mb)
            uploads.sweep()

        application = web_application([stow_router(configuration, service, trail)])
        serve_http(web, application, stop_event, name="web", ready=ready, tend=tend)
        uploads.sweep()
