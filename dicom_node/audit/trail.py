"""The audit file: every process of the node appends to it, one syslog message (RFC 5424) a line.

The file is also what waits for the collector, see :mod:`dicom_node.audit.collector`. Whoever rotates it renames it; the
next message then begins a new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom.dsutils import decode, encode

from dicom_node import metrics
from dicom_node.audit.messages import (
    AuditMessage,
    Outcome,
    Participant,
    node_authentication_failed,
    query,
    timestamp,
)
from dicom_node.config import Configuration
from storage.files import InstanceFiles
from storage.ledger import utc_now

__all__ = ["AuditTrail", "held_patient_id", "line", "patient_id_of"]

_log = structlog.get_logger(__name__)

_AUTHORISATION = 10
"""Syslog facility of audit messages (PS3.15 A.6)."""
_WARNING, _NOTICE = 4, 5
_ALERTS_AT_ONCE = 20
_ALERT_EVERY_S = 3.0
_MOST_VALUES = 100
_TAIL_BYTES = 1 << 20
"""More than one batch of messages from the ledger."""


def line(message: AuditMessage, *, host: str, process: str) -> bytes:
    """A message as syslog carries it (RFC 5424 6, PS3.15 A.6), and the end of its line.

    The XML is ASCII, so no byte order mark is due.
    """
    priority = 8 * _AUTHORISATION + (_NOTICE if message.outcome is Outcome.SUCCESS else _WARNING)
    header = f"<{priority}>1 {timestamp(message.at)} {host} dicom-node {process} DICOM+RFC3881 -"
    return f"{header} {message.xml}\n".encode("ascii")


def patient_id_of(path: Path) -> str:
    """Patient ID in the header of a stored object; empty where there is none, or the file is gone."""
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
        return str(dataset.get("PatientID") or "")
    except (OSError, InvalidDicomError, ValueError):
        return ""


def held_patient_id(files: InstanceFiles, path: str) -> str:
    """Patient ID in the header of a file of the ledger; empty where there is none, or the file is gone.

    Raises
    ------
    BucketError
        It cannot be had now.
    """
    try:
        return patient_id_of(files.readable(path))
    except FileNotFoundError:
        return ""


class AuditTrail:
    """Where one process writes its audit messages; safe to use from all its threads.

    Parameters
    ----------
    file
        None writes nothing.
    node
        This process as a participant.
    patient_ids
        Whether messages may tell Patient IDs.
    clock
        Seconds, monotonic; for the limit of alerts.
    """

    def __init__(
        self,
        file: Path | None,
        node: Participant,
        *,
        patient_ids: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file, self.node, self.patient_ids = file, node, patient_ids
        self._clock = clock
        self._lock = threading.Lock()
        self._alerts_left, self._counted_at, self._unwritten = float(_ALERTS_AT_ONCE), clock(), 0
        self._alerts = ThreadPoolExecutor(1, "audit alerts")

    @classmethod
    def of(cls, configuration: Configuration, process: str) -> AuditTrail:
        """The trail as configured.

        Parameters
        ----------
        process
            Name of this process's role, as in its log.
        """
        node = Participant(process, configuration.node.ae_title, platform.node())
        return cls(configuration.audit.file, node, patient_ids=configuration.audit.patient_id)

    def node_authentication_failed(self, *, address: str, description: str) -> None:
        """A peer was turned away for what it is: AE title, host or certificate.

        Returns at once: whoever answers connections waits for no disk. Alerts beyond a limit are counted instead of
        written, and told of in the next: many unknown callers must not fill it.

        Parameters
        ----------
        address
            IP address of the peer.
        description
            What was wrong; no patient data.
        """
        if self.file is None:
            return
        unwritten = self._alert_allowed()
        if unwritten is None:
            metrics.AUDIT_MESSAGES_NOT_WRITTEN.labels("rate").inc()
            return
        if unwritten:
            description += f"; {unwritten} more alerts before this one were not written"
        message = node_authentication_failed(self.node, address=address, description=description, at=utc_now())
        self._alerts.submit(self.record, message)

    def close(self) -> None:
        """Write what is still to be written."""
        self._alerts.shutdown()

    def queried(
        self, *, calling_ae_title: str, address: str, sop_class_uid: str, transfer_syntax_uid: str, identifier: bytes
    ) -> None:
        """A peer asked for what the node holds (C-FIND); call it when the request has come, whatever the answer.

        Parameters
        ----------
        identifier
            Data set of the request, encoded in ``transfer_syntax_uid``. Of its group 0010 the message keeps the
            Patient ID at most, of other names of persons the tags alone, and nothing of one that cannot be read.
        """
        if self.file is None:
            return
        self.record(
            query(
                Participant(calling_ae_title, calling_ae_title, address),
                self.node,
                sop_class_uid=sop_class_uid,
                transfer_syntax_uid=transfer_syntax_uid,
                identifier=self._without_names(identifier, UID(transfer_syntax_uid)),
                at=utc_now(),
            )
        )

    def record(self, message: AuditMessage) -> None:
        """Write a message; a file that cannot be written is logged and counted, never raised."""
        try:
            self.append([message])
        except OSError as error:
            metrics.AUDIT_MESSAGES_NOT_WRITTEN.labels("file").inc()
            _log.error("audit message not written", message=message.event, what=error.strerror, file=str(self.file))

    def append(self, messages: Sequence[AuditMessage], *, once: bool = False) -> None:
        """Write messages and flush them to the disk: all of them or, with an exception, none.

        Parameters
        ----------
        once
            Leave out those that the end of the file holds already: whoever derives messages from the ledger may die
            between writing them and taking note of it, and then derives the same again.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        if self.file is None or not messages:
            return
        lines = [line(one, host=self.node.host, process=self.node.user_id) for one in messages]
        with self._opened() as descriptor:
            size = os.fstat(descriptor).st_size
            looked_at = _TAIL_BYTES if once else 1
            tail = os.pread(descriptor, looked_at, max(0, size - looked_at))
            new = b"".join(one for one in lines if one not in tail)
            # A power cut may have left half a line.
            data = b"\n" + new if tail and not tail.endswith(b"\n") and new else new
            try:
                _write(descriptor, data)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        for one in messages:
            metrics.AUDIT_MESSAGES.labels(one.event).inc()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The file, locked against all other processes; the one that has the name now, whoever renames it."""
        assert self.file is not None
        while True:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_at(descriptor, self.file):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _alert_allowed(self) -> int | None:
        """How many alerts were left out before this one, or None when this one is to be left out too."""
        with self._lock:
            now = self._clock()
            self._alerts_left = min(_ALERTS_AT_ONCE, self._alerts_left + (now - self._counted_at) / _ALERT_EVERY_S)
            self._counted_at = now
            if self._alerts_left < 1:
                self._unwritten += 1
                return None
            self._alerts_left -= 1
            unwritten, self._unwritten = self._unwritten, 0
            return unwritten

    def _without_names(self, identifier: bytes, syntax: UID) -> bytes:
        try:
            asked = decode(io.BytesIO(identifier), syntax.is_implicit_VR, syntax.is_little_endian)
            told = encode(self._kept(asked), syntax.is_implicit_VR, syntax.is_little_endian)
        except Exception:  # noqa: BLE001 - whatever pydicom makes of a damaged query, that there was one is told
            return b""
        return told or b""

    def _kept(self, identifier: Dataset) -> Dataset:
        kept = Dataset()
        for element in identifier:
            secret = element.VR == "PN" or (
                element.tag.group == 0x0010 and not (element.keyword == "PatientID" and self.patient_ids)
            )
            if secret:
                kept.add_new(element.tag, element.VR, None)
            elif element.VM > _MOST_VALUES:
                kept.add_new(element.tag, element.VR, element.value[:_MOST_VALUES])
            elif element.VR != "SQ":
                kept.add(element)
        return kept


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
