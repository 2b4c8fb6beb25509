"""Retrieval (C-MOVE and C-GET, PS3.4 annex C.4.2 and C.4.3) of what the node holds.

Files leave byte for byte where the receiving side takes their transfer syntax, else uncompressed, over the same code as
results. C-MOVE goes to configured peers only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.presentation import PresentationContext

from dicom_node.audit.messages import Participant
from dicom_node.audit.sent import Outgoing, sending
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import Configuration, Peer, PeerPermission
from dicom_node.errors import DataSetMismatchError, NodeError, PeerUnavailableError, classify
from dicom_node.network.query_scp import Keys, Level, describe_new_studies, query_keys
from dicom_node.network.sender import (
    DicomFile,
    ScuSettings,
    SendOutcome,
    associated,
    batches,
    read_dicom_file,
    store_contexts,
    store_file,
)
from dicom_node.network.services import Caller, decoded, encoded, is_ending
from dicom_node.network.sop_classes import (
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from dicom_node.network.typed import context_id
from storage.files import InstanceFiles
from storage.holdings import HeldInstance, held_instances, held_studies
from storage.ledger import Ledger

__all__ = ["RetrieveService"]

_log = structlog.get_logger(__name__)

_SUCCESS, _PENDING, _CANCELLED = 0x0000, 0xFF00, 0xFE00
_SOME_FAILED, _ALL_FAILED, _TOO_MANY = 0xB000, 0xA702, 0xA701
_DESTINATION_UNKNOWN, _NOT_AUTHORISED, _UNRECOGNISED_OPERATION = 0xA801, 0x0124, 0x0211
_UNABLE_TO_PROCESS = 0xC000

MOST_SUBOPERATIONS = 65535
"""Their numbers are 16 bit (PS3.7 9.3.4.2)."""
MOST_FAILED_LISTED = 1000
"""Values that fit a UI element of explicit VR (PS3.5 7.1.2)."""

_GET = frozenset({PatientRootQueryRetrieveInformationModelGet, StudyRootQueryRetrieveInformationModelGet})
_MOVE = frozenset({PatientRootQueryRetrieveInformationModelMove, StudyRootQueryRetrieveInformationModelMove})


@dataclass(slots=True)
class _Progress:
    """Sub-operations of one request."""

    remaining: int
    completed: int = 0
    warnings: int = 0
    failed: list[str] = field(default_factory=list)

    def count(self, outcome: SendOutcome) -> None:
        self.remaining -= 1
        if outcome.error is not None:
            self.failed.append(outcome.sop_instance_uid)
        elif outcome.warning:
            self.warnings += 1
        else:
            self.completed += 1

    def final_status(self) -> int:
        if not self.failed and not self.warnings:
            return _SUCCESS
        return _SOME_FAILED if self.completed or self.warnings else _ALL_FAILED


@dataclass(frozen=True, slots=True)
class RetrieveService:
    """Serves C-GET and C-MOVE requests on one association."""

    configuration: Configuration
    ledger: Ledger
    files: InstanceFiles
    caller: Caller
    trail: AuditTrail

    def get(self, association: Association, request: C_GET, context: PresentationContext) -> None:
        """Store what is asked for over the same association."""
        if context.abstract_syntax not in _GET:
            _respond(association, request, context, _UNRECOGNISED_OPERATION)
            return

        def send(wanted: Sequence[HeldInstance]) -> Generator[SendOutcome, None, None]:
            for instance in wanted:
                file = self._file(instance)
                yield store_file(association, file) if isinstance(file, DicomFile) else file

        self._serve(association, request, context, send, _caller(association))

    def move(self, association: Association, request: C_MOVE, context: PresentationContext) -> None:
        """Store what is asked for at another peer."""
        if context.abstract_syntax not in _MOVE:
            _respond(association, request, context, _UNRECOGNISED_OPERATION)
            return
        destination = self._destination(str(request.MoveDestination or "").strip())
        if destination is None:
            _log.warning("retrieval refused: destination is not among the peers", calling_ae_title=self.caller.ae_title)
            _respond(association, request, context, _DESTINATION_UNKNOWN)
            return
        # Without one it is no valid request, and is not served.
        assert request.MessageID is not None
        originator = self.caller.ae_title, request.MessageID

        def send(wanted: Sequence[HeldInstance]) -> Generator[SendOutcome, None, None]:
            found = [self._file(instance) for instance in wanted]
            yield from (one for one in found if isinstance(one, SendOutcome))
            for part in batches([one for one in found if isinstance(one, DicomFile)]):
                yield from _bring(part, destination, ScuSettings.of(self.configuration), originator)

        receiver = Participant(destination.ae_title, destination.ae_title, destination.host)
        self._serve(association, request, context, send, receiver)

    def _serve(
        self,
        association: Association,
        request: C_GET | C_MOVE,
        context: PresentationContext,
        send: Callable[[Sequence[HeldInstance]], Generator[SendOutcome, None, None]],
        receiver: Participant,
    ) -> None:
        if PeerPermission.QUERY not in self.caller.permissions:
            _respond(association, request, context, _NOT_AUTHORISED)
            return
        try:
            wanted = self._wanted(decoded(request.Identifier, context), str(context.abstract_syntax))
        except Exception as error:  # noqa: BLE001 - a peer must get a status whatever happens
            known = classify(error)
            _log.warning("retrieval failed", what=known.what if known is error else type(error).__name__)
            status = known.dimse_status if known.dimse_status >= 0xA000 else _UNABLE_TO_PROCESS
            _respond(association, request, context, status)
            return
        if len(wanted) > MOST_SUBOPERATIONS:
            _respond(association, request, context, _TOO_MANY)
            return
        progress = _Progress(len(wanted))
        with (
            sending(self.trail, receiver, [self._outgoing(one) for one in wanted], _caller(association)) as arrived,
            # At the end releases the association with the destination of a C-MOVE.
            contextlib.closing(send(wanted)) as outcomes,
        ):
            for outcome in outcomes:
                progress.count(outcome)
                if outcome.error is None:
                    arrived.add(outcome.sop_instance_uid)
                if is_ending(association):
                    _log.warning("retrieval broken off by the peer", calling_ae_title=self.caller.ae_title)
                    return
                if progress.remaining and request.MessageID in association.dimse.cancel_req:
                    _respond(association, request, context, _CANCELLED, progress)
                    return
                if progress.remaining:
                    _respond(association, request, context, _PENDING, progress)
        _respond(association, request, context, progress.final_status(), progress)
        _log.info(
            "retrieval served",
            calling_ae_title=self.caller.ae_title,
            completed=progress.completed,
            warnings=progress.warnings,
            failed=len(progress.failed),
        )

    def _outgoing(self, instance: HeldInstance) -> Outgoing:
        path = self.files.absolute(instance.path)
        if self.trail.patient_ids:
            with contextlib.suppress(OSError):
                path = self.files.readable(instance.path)
        return Outgoing(instance.study_instance_uid, instance.sop_class_uid, instance.sop_instance_uid, path)

    def _destination(self, ae_title: str) -> Peer | None:
        peers = (peer for peer in self.configuration.peers.values() if peer.ae_title == ae_title)
        return next((peer for peer in peers if peer.host and peer.port), None)

    def _wanted(self, identifier: Dataset, sop_class_uid: str) -> list[HeldInstance]:
        """What an Identifier asks for.

        Raises
        ------
        DataSetMismatchError
            It does not say what to retrieve (PS3.4 C.4.2.2.1).
        """
        keys: Keys = query_keys(identifier, sop_class_uid)
        studies, patient_id = keys.uids(Level.STUDY), keys.values.get("PatientID", "")
        if keys.level is Level.PATIENT:
            if not patient_id:
                raise DataSetMismatchError("level PATIENT needs a PatientID")
            describe_new_studies(self.ledger, self.files)
            studies = tuple(one.study_instance_uid for one in held_studies(self.ledger, patient_id=patient_id))
        elif keys.uids(keys.level) is None:
            raise DataSetMismatchError(f"level {keys.level} needs the UIDs of what to retrieve")
        with self.ledger.reading() as session:
            return held_instances(
                session,
                study_instance_uids=studies,
                series_instance_uids=keys.uids(Level.SERIES) if keys.level in (Level.SERIES, Level.IMAGE) else None,
                sop_instance_uids=keys.uids(Level.IMAGE) if keys.level is Level.IMAGE else None,
                limit=MOST_SUBOPERATIONS + 1,
            )

    def _file(self, instance: HeldInstance) -> DicomFile | SendOutcome:
        path = self.files.absolute(instance.path)
        try:
            return read_dicom_file(self.files.readable(instance.path))
        except (NodeError, OSError) as error:
            _log.error("held instance cannot be read", sop_instance_uid=instance.sop_instance_uid)
            return SendOutcome(path, instance.sop_class_uid, instance.sop_instance_uid, None, classify(error))


def _caller(association: Association) -> Participant:
    requestor = association.requestor
    return Participant(requestor.ae_title.strip(), requestor.ae_title.strip(), requestor.address)


def _bring(
    files: Sequence[DicomFile], destination: Peer, settings: ScuSettings, originator: tuple[str, int]
) -> Generator[SendOutcome, None, None]:
    """Store files at a peer; an association that fails or breaks off is the outcome of all that were not answered."""
    left = list(files)
    try:
        with associated(destination, store_contexts(files), settings) as association:
            while left and association.is_established:
                try:
                    yield store_file(association, left.pop(0), move_originator=originator)
                except GeneratorExit:
                    # Cancelled: the association is released, not aborted.
                    return
        error: NodeError | None = None
    except NodeError as failure:
        error = failure
    for file in left:
        lost = error or PeerUnavailableError("the association broke off", subject=destination.ae_title)
        yield SendOutcome(file.path, file.sop_class_uid, file.sop_instance_uid, None, lost)


def _respond(
    association: Association,
    request: C_GET | C_MOVE,
    context: PresentationContext,
    status: int,
    progress: _Progress | None = None,
) -> None:
    response: Any = type(request)()
    response.MessageIDBeingRespondedTo = request.MessageID
    response.AffectedSOPClassUID = request.AffectedSOPClassUID
    response.Status = status
    if progress is not None:
        if status in (_PENDING, _CANCELLED):
            response.NumberOfRemainingSuboperations = progress.remaining
        response.NumberOfCompletedSuboperations = progress.completed
        response.NumberOfFailedSuboperations = len(progress.failed)
        response.NumberOfWarningSuboperations = progress.warnings
        if status != _PENDING and progress.failed:
            identifier = Dataset()
            identifier.FailedSOPInstanceUIDList = progress.failed[:MOST_FAILED_LISTED]
            response.Identifier = encoded(identifier, context)
    association.dimse.send_msg(response, context_id(context))
