"""The auditor role: tells what was received, and brings the audit file to the collector."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.audit.collector import Collector
from dicom_node.audit.messages import application_activity
from dicom_node.audit.received import tell_what_was_received
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import Configuration
from dicom_node.errors import OutOfResourcesError, classify
from dicom_node.hosts import receivers_told_by
from dicom_node.instance_files import instance_files
from dicom_node.roles import RoleContext
from storage.files import InstanceFiles
from storage.ledger import Ledger, open_ledger, utc_now
from storage.transfers import pass_over_untold

__all__ = ["AUDITOR", "audited", "serve_auditor"]

_log = structlog.get_logger(__name__)

AUDITOR = "auditor"
"""Who tells what was received, in this process or at the end in the supervisor: the same message is the same line."""
LOOK_EVERY_S = 0.5
LAST_MESSAGES_S = 5.0
"""For the messages of the stop to reach the collector; else it gets them after the next start."""


def serve_auditor(context: RoleContext, configuration: Configuration) -> None:
    """Run the auditor until told to stop."""
    ledger = open_ledger(configuration.storage.database)
    files = instance_files(configuration)
    trail = AuditTrail.of(configuration, AUDITOR)
    collector = _collector(configuration)
    context.ready()
    try:
        while not context.stop.is_set():
            busy = _told(ledger, files, trail, receivers_told_by(configuration))
            if collector is not None:
                busy = collector.send() or busy
            if not busy:
                context.stop.wait(LOOK_EVERY_S)
    finally:
        if collector is not None:
            collector.close()
        ledger.close()


@contextlib.contextmanager
def audited(configuration: Configuration) -> Iterator[None]:
    """Tell in the audit trail that the node starts, and at the end of the block, when all roles have ended, that it
    stopped, after what they left to be told.

    Raises
    ------
    OutOfResourcesError
        The audit file cannot be written.
    """
    audit = configuration.audit
    if audit.file is None:
        try:
            yield
        finally:
            _pass_over(configuration)
        return
    trail = AuditTrail.of(configuration, "supervisor")
    try:
        trail.append([application_activity(trail.node, started=True, at=utc_now())])
    except OSError as error:
        raise OutOfResourcesError(
            f"cannot be written: {error.strerror}",
            subject=f"audit.file {audit.file}",
            remedy="give the node write access",
        ) from error
    try:
        yield
    finally:
        _tell_the_rest(configuration)
        trail.record(application_activity(trail.node, started=False, at=utc_now()))
        collector = _collector(configuration)
        if collector is not None:
            with contextlib.closing(collector):
                collector.drain(LAST_MESSAGES_S)


def _tell_the_rest(configuration: Configuration) -> None:
    trail = AuditTrail.of(configuration, AUDITOR)
    try:
        ledger = open_ledger(configuration.storage.database)
    except SQLAlchemyError as error:
        _log.error("audit trail of received instances delayed", what=classify(error).what)
        return
    with contextlib.closing(ledger):
        while _told(ledger, instance_files(configuration), trail, receivers_told_by(configuration)):
            continue


def _pass_over(configuration: Configuration) -> None:
    """A trail that begins later is not to tell of what ended before."""
    try:
        with contextlib.closing(open_ledger(configuration.storage.database)) as ledger:
            pass_over_untold(ledger)
    except SQLAlchemyError as error:
        _log.warning("ledger not readable", what=classify(error).what)


def _collector(configuration: Configuration) -> Collector | None:
    audit = configuration.audit
    return None if audit.syslog is None or audit.file is None else Collector(audit.syslog, audit.file)


def _told(ledger: Ledger, files: InstanceFiles, trail: AuditTrail, receivers: str) -> bool:
    try:
        return tell_what_was_received(ledger, files, trail, receivers) > 0
    except (SQLAlchemyError, OSError) as error:
        # Nothing was noted as told: the next look finds it again.
        _log.error("audit trail of received instances delayed", what=classify(error).what)
        return False
