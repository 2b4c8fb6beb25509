"""From the bytes of a C-STORE request to its status: on disk, in the ledger, and only then Success.

The order of events is the promise. Success (0000) is returned after the file is flushed and renamed and the ledger has
committed; or after the image is flushed into the journal of the process (:mod:`storage.journal`), out of which
:mod:`storage.filing` brings it into file and ledger. Every other outcome leaves nothing that looks like an accepted
instance. Objects that cannot be taken into the record are kept byte for byte in quarantine.

====  ==================================================================================================
0000  New; the same bytes again (nothing new); other bytes under a known UID when ``conflicts`` is ``accept``
      (the first is kept, the other quarantined) or ``replace`` (the other way round)
A700  No room above the low watermark, storage or ledger not writable; the sender should try again
0122  The SOP class is not that of the presentation context
A900  An identifier is missing, malformed, or not that of the request; quarantined
C000  The data set is not whole or not in the negotiated transfer syntax, quarantined; and other bytes under
      a known UID when ``conflicts`` is ``refuse``
0110  Unforeseen failure
====  ==================================================================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from dicom_node import metrics
from dicom_node.config import ConflictAnswer
from dicom_node.errors import (
    CannotUnderstandError,
    DataSetMismatchError,
    NodeError,
    OutOfResourcesError,
    ProcessingFailureError,
    SopClassNotSupportedError,
    classify,
    raised_at,
)
from dicom_node.network.data_set import read_header
from dicom_node.network.file_meta import encode_file_meta
from dicom_node.network.identity import IDENTIFYING, InstanceIdentity, identify
from dicom_node.network.watermarks import Watermarks
from storage.files import QUARANTINE, IncomingFile, InstanceFiles, StoredFile
from storage.filing import Filing
from storage.group_commit import GroupCommit
from storage.instances import CONFLICT, QuarantinedObject, ReceivedInstance, Reception, record_quarantine
from storage.journal import Journal, JournalledInstance
from storage.ledger import Ledger, utc_now
from storage.replacement import replace_instance

__all__ = ["SETTLED_S", "IncomingInstance", "InstanceReceiver", "StoreRequest", "StoreResponse"]

_log = structlog.get_logger(__name__)

SETTLED_S = 10.0
"""How long whoever needs what is acknowledged in the ledger waits for it."""
_LOOK_FOR_ROOM = 8_000_000
"""Bytes of an object between two looks at the free space."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """One C-STORE request without its data set (PS3.7 9.1.1)."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    """Of the data set that follows."""
    association_id: str
    calling_ae_title: str
    study_instance_uid: str | None = None
    """Of the study that the request names: STOW-RS can, C-STORE cannot."""


class StoreResponse(NamedTuple):
    """Status of a C-STORE response (PS3.4 B.2.3) and its ErrorComment."""

    status: int
    comment: str = ""


SUCCESS = StoreResponse(0x0000)
_REASONS: Mapping[type[NodeError], str] = {
    CannotUnderstandError: "not understood",
    DataSetMismatchError: "mismatch",
    SopClassNotSupportedError: "SOP class",
}


class InstanceReceiver:
    """Takes in instances; safe to use from all associations at once.

    Parameters
    ----------
    conflicts
        What is done with other bytes under a known SOP Instance UID, by who sends them.
    """

    def __init__(
        self, ledger: Ledger, files: InstanceFiles, watermarks: Watermarks, conflicts: Callable[[str], ConflictAnswer]
    ) -> None:
        self.ledger, self.files, self.watermarks, self.conflicts = ledger, files, watermarks, conflicts
        self.commit = GroupCommit(ledger, files.held_by)
        self.journal: Journal | None = None
        """Where there is one, images of known series are in it, and not filed yet, when their sender is answered."""

    def keep_journal(
        self, name: str, receiver: str, size: int, count: Callable[[int, int, int], None] = lambda *_counts: None
    ) -> Journal:
        """Acknowledge images once they are in a journal from now on, and file what a process before left in it.

        Parameters
        ----------
        name, receiver
            Of this process, the same after a restart; the second in the ledger.
        size, count
            See :class:`~storage.journal.Journal`.
        """
        filing = Filing(self.ledger, self.files, self.commit, receiver)
        failed = False

        def file(batch: Sequence[JournalledInstance]) -> None:
            nonlocal failed
            try:
                outcomes = filing.file(batch)
            except Exception as error:
                if not failed:
                    failed = True
                    _log.error("journal cannot be filed now", instances=len(batch), what=classify(error).what)
                raise
            if failed:
                failed = False
                _log.info("journal is filed again", instances=len(batch))
            for one, reception in outcomes:
                metrics.INSTANCES_RECEIVED.labels(reception.value).inc()
                if reception is Reception.CONFLICT:
                    metrics.OBJECTS_QUARANTINED.inc()
                    _tell_of_conflict(one.sop_instance_uid, one.association_id, one.calling_ae_title)

        def broke(error: OSError) -> None:
            _log.error(
                "journal is not used until this process starts again: its disk failed", what=classify(error).what
            )

        self.journal = Journal(self.files, name, size, file, count, broke)
        return self.journal

    def begin(self, request: StoreRequest) -> IncomingInstance:
        """Begin to take in an instance whose data set comes in parts; never raises."""
        return IncomingInstance(self, request)

    def refuse(self, request: StoreRequest, error: NodeError) -> IncomingInstance:
        """Discard the data set of an instance that was refused before it came; never raises."""
        return IncomingInstance(self, request, error)

    def receive(self, request: StoreRequest, parts: Iterable[bytes]) -> StoreResponse:
        """Take in one instance; every failure becomes a status, a log line and, where it can be, a quarantined file."""
        incoming = self.begin(request)
        for part in parts:
            incoming.write(part)
        return incoming.finish()


class IncomingInstance:
    """One instance on its way in; no method raises, for a peer must get a status whatever happens.

    The first failure decides: what comes after it is let go.
    """

    def __init__(self, receiver: InstanceReceiver, request: StoreRequest, failure: NodeError | None = None) -> None:
        self._receiver, self._request, self._failure = receiver, request, failure
        self._file: IncomingFile | None = None
        self._look_at = 0
        if failure is not None:
            return
        try:
            self._make_room(0)
            self._file = receiver.files.incoming(
                file_meta=_file_meta(request), transfer_syntax_uid=request.transfer_syntax_uid
            )
        except Exception as error:  # noqa: BLE001 - becomes the status
            self._fail(error)

    def write(self, part: bytes | memoryview) -> None:
        """Take the next bytes of the data set."""
        if self._file is None:
            return
        try:
            if self._file.size + len(part) > self._look_at:
                self._make_room(len(part))
                self._look_at = self._file.size + len(part) + _LOOK_FOR_ROOM
            self._file.write(part)
        except Exception as error:  # noqa: BLE001 - becomes the status
            self._fail(error)

    def finish(self) -> StoreResponse:
        """Record the instance, now that its data set is complete."""
        started = time.monotonic()
        try:
            if self._failure is not None:
                raise self._failure
            assert self._file is not None
            with self._file as file:
                response = self._take(file)
        except Exception as error:  # noqa: BLE001 - becomes the status
            response = _refusal(self._request, classify(error))
        metrics.STORE_RESPONSES.labels(f"{response.status:04X}").inc()
        metrics.STORE_SECONDS.observe(time.monotonic() - started)
        return response

    def abandon(self) -> None:
        """Remove what was written: the data set breaks off."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _fail(self, error: Exception) -> None:
        self._failure = classify(error)
        self.abandon()

    def _make_room(self, size: int) -> None:
        if not self._receiver.watermarks.admits(size):
            raise OutOfResourcesError(
                "the disk is nearly full",
                subject=self._request.sop_instance_uid,
                remedy="free space; accepting starts again above storage.high_watermark_mb",
            )

    def _take(self, file: IncomingFile) -> StoreResponse:
        request = self._request
        try:
            with file.data_set() as data:
                identity = identify(
                    read_header(data, request.transfer_syntax_uid, IDENTIFYING),
                    affected_sop_class_uid=request.sop_class_uid,
                    affected_sop_instance_uid=request.sop_instance_uid,
                    study_instance_uid=request.study_instance_uid,
                )
        except (CannotUnderstandError, DataSetMismatchError) as error:
            self._quarantine(file.keep(QUARANTINE), error.what)
            raise
        started = time.monotonic()
        if self._receiver.journal is not None and self._journalled(file, identity, self._receiver.journal):
            metrics.FLUSH_SECONDS.observe(time.monotonic() - started)
            metrics.RECEIVED_BYTES.inc(file.size)
            return SUCCESS
        stored = file.keep()
        flushed = time.monotonic()
        received = _received(request, identity, stored)
        reception = self._receiver.commit.record(received)
        metrics.FLUSH_SECONDS.observe(flushed - started)
        metrics.LEDGER_COMMIT_SECONDS.observe(time.monotonic() - flushed)
        metrics.INSTANCES_RECEIVED.labels(reception.value).inc()
        metrics.RECEIVED_BYTES.inc(stored.size)
        if reception is Reception.CONFLICT and not self._replaces(received):
            self._quarantine(self._receiver.files.copy_to_quarantine(stored), CONFLICT)
            if self._receiver.conflicts(request.calling_ae_title) == ConflictAnswer.REFUSE:
                raise CannotUnderstandError(
                    CONFLICT, subject=request.sop_instance_uid, remedy="give changed objects a UID of their own"
                )
            _tell_of_conflict(request.sop_instance_uid, request.association_id, request.calling_ae_title)
        return SUCCESS

    def _journalled(self, file: IncomingFile, identity: InstanceIdentity, journal: Journal) -> bool:
        """Whether the instance is in the journal; else, that nothing of its SOP Instance UID waits there any more.

        What goes into the journal is of a series that its association has sent to before: until the association is
        closed, which waits for the journal, neither scheduler nor retention touches that study.
        """
        request, receiver, content = self._request, self._receiver, file.in_memory
        if content is not None and receiver.conflicts(request.calling_ae_title) is ConflictAnswer.ACCEPT:
            received = _received(request, identity, file.as_stored())
            if receiver.commit.knows(received) and journal.append(received, *content):
                return True
        # Recorded before what was acknowledged earlier, it would be taken for the first.
        if not journal.settle_instance(request.sop_instance_uid, SETTLED_S):
            raise OutOfResourcesError(
                "an instance of this SOP Instance UID waits to be filed",
                subject=request.sop_instance_uid,
                remedy="send it again",
            )
        return False

    def _replaces(self, received: ReceivedInstance) -> bool:
        request, receiver = self._request, self._receiver
        if receiver.conflicts(request.calling_ae_title) != ConflictAnswer.REPLACE:
            return False
        by = request.calling_ae_title
        if not replace_instance(receiver.ledger, receiver.files, received, by=by, now=utc_now()):
            return False
        _log.warning(
            "instance replaced, the first quarantined",
            sop_instance_uid=request.sop_instance_uid,
            association=request.association_id,
            calling_ae_title=by,
        )
        return True

    def _quarantine(self, stored: StoredFile, reason: str) -> None:
        record_quarantine(
            self._receiver.ledger,
            QuarantinedObject(
                digest=stored.digest,
                path=stored.path,
                reason=reason,
                sop_instance_uid=self._request.sop_instance_uid,
                association_id=self._request.association_id,
            ),
            at=utc_now(),
        )
        metrics.OBJECTS_QUARANTINED.inc()


def _tell_of_conflict(sop_instance_uid: str, association_id: str, calling_ae_title: str) -> None:
    _log.warning(
        "conflicting duplicate quarantined, first kept",
        sop_instance_uid=sop_instance_uid,
        association=association_id,
        calling_ae_title=calling_ae_title,
    )


def _file_meta(request: StoreRequest) -> bytes:
    return encode_file_meta(
        request.sop_class_uid, request.sop_instance_uid, request.transfer_syntax_uid, request.calling_ae_title
    )


def _received(request: StoreRequest, identity: InstanceIdentity, file: StoredFile) -> ReceivedInstance:
    return ReceivedInstance(
        sop_class_uid=identity.sop_class_uid,
        sop_instance_uid=identity.sop_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        study_instance_uid=identity.study_instance_uid,
        transfer_syntax_uid=request.transfer_syntax_uid,
        digest=file.digest,
        path=file.path,
        size=file.size,
        association_id=request.association_id,
        calling_ae_title=request.calling_ae_title,
        modality=identity.modality,
        series_description=identity.series_description,
        study_description=identity.study_description,
        manufacturer=identity.manufacturer,
        body_part_examined=identity.body_part_examined,
    )


def _refusal(request: StoreRequest, error: NodeError) -> StoreResponse:
    what = error.what
    place = None
    if isinstance(error, ProcessingFailureError):
        # The text of an unforeseen exception may quote the data set.
        what = "unforeseen failure"
        place = raised_at(error.__cause__ or error)
    _log.warning(
        "instance refused",
        status=f"{error.dimse_status:04X}",
        what=what,
        remedy=error.remedy,
        sop_instance_uid=request.sop_instance_uid,
        association=request.association_id,
        calling_ae_title=request.calling_ae_title,
        place=place,
    )
    metrics.STORE_REFUSALS.labels(_reason(error)).inc()
    return StoreResponse(error.dimse_status, what[:64])


def _reason(error: NodeError) -> str:
    """For the metrics: few words, always the same."""
    if isinstance(error, OutOfResourcesError):
        if error.__cause__ is None:
            return "no room"
        return "storage" if isinstance(error.__cause__, OSError) else "ledger"
    return _REASONS.get(type(error), "unforeseen")
