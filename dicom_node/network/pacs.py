"""A small PACS: storage, storage commitment and image-level query, to a folder of Part 10 files.

For the demo and for tests; it does what real ones do and no more: it runs out of room, commits on the same or on a new
association, late or never, offers commitment or not. It is no archive.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ParametricMapStorage
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext, StoragePresentationContexts, build_context

from dicom_node.config import Peer
from dicom_node.errors import NodeError
from dicom_node.network.capabilities import UNCOMPRESSED, image_transfer_syntaxes
from dicom_node.network.commitment import (
    ALL_COMMITTED,
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_OBJECT_INSTANCE,
    REQUEST_COMMITMENT,
    SOME_FAILED,
    SopReference,
    event_information,
    read_action_information,
    scp_role,
    send_report,
)
from dicom_node.network.data_set import read_header
from dicom_node.network.file_meta import encode_file_meta
from dicom_node.network.identity import IDENTIFYING, identify
from dicom_node.network.listening_ports import listening_socket
from dicom_node.network.pending import Endpoint
from dicom_node.network.sender import ScuSettings, associated
from dicom_node.network.sop_classes import (
    LabelMapSegmentationStorage,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)
from dicom_node.network.transport import AcceptAll, application_entity, listening, prompt_socket
from dicom_node.network.typed import abstract_syntax, content, request_of

__all__ = ["CommitmentAnswer", "Pacs", "PacsSettings"]

_log = structlog.get_logger(__name__)

_SUCCESS, _OUT_OF_RESOURCES, _CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
_INVALID_ARGUMENT, _NO_SUCH_ACTION = 0x0115, 0x0123
_PENDING = 0xFF00


class CommitmentAnswer(enum.StrEnum):
    """How storage commitment is answered."""

    SAME_ASSOCIATION = "same association"
    """On the association of the request while it is open, else on a new one."""
    NEW_ASSOCIATION = "new association"
    NEVER = "never"
    """The request is taken and forgotten, as by a PACS that cannot reach back."""
    NOT_OFFERED = "not offered"


@dataclass(frozen=True, slots=True)
class PacsSettings:
    """What the small PACS is and does."""

    directory: Path
    port: int
    ae_title: str = "PACS"
    address: str = "127.0.0.1"
    commitment: CommitmentAnswer = CommitmentAnswer.NEW_ASSOCIATION
    commitment_delay_s: float = 0.0
    callers: Mapping[str, Peer] = field(default_factory=dict)
    """By AE title: where to report commitment on a new association."""
    transfer_syntaxes: tuple[UID, ...] = field(default_factory=image_transfer_syntaxes)
    labelmaps: bool = True
    """Whether Label Map Segmentation is taken; many archives do not know it yet."""
    queries: bool = True


@dataclass(frozen=True, slots=True)
class _Held:
    path: Path
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str


class Pacs:
    """The PACS while it runs; use it as a context.

    Attributes
    ----------
    maximum_objects
        How many it has room for; further ones are answered A700. Can be changed while it runs.
    """

    def __init__(self, settings: PacsSettings) -> None:
        self.settings = settings
        self.maximum_objects: int | None = None
        self._held: dict[str, _Held] = {}
        self._running = contextlib.ExitStack()
        self._reports: list[threading.Thread] = []

    def __enter__(self) -> Pacs:
        settings = self.settings
        settings.directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(settings.directory.glob("*.dcm")):
            dataset = dcmread(path, stop_before_pixels=True)
            self._held[str(dataset.SOPInstanceUID)] = _Held(
                path, str(dataset.SOPClassUID), str(dataset.SeriesInstanceUID), str(dataset.StudyInstanceUID)
            )
        entity = application_entity(
            settings.ae_title, maximum_pdu=131072, network_timeout_s=60, acse_timeout_s=15, dimse_timeout_s=30
        )
        entity.require_called_aet = True
        entity.maximum_associations = 100
        self._running.enter_context(
            listening(
                entity,
                (Endpoint(listening_socket(settings.address, settings.port)),),
                (
                    *prompt_socket(60),
                    (evt.EVT_C_ECHO, lambda _event: _SUCCESS),
                    (evt.EVT_C_STORE, self._store),
                    (evt.EVT_C_FIND, self._find),
                    (evt.EVT_N_ACTION, self._commit),
                ),
                AcceptAll(tuple(self._contexts())),
            )
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._running.close()
        for thread in self._reports:
            thread.join()

    def held(self) -> dict[str, Path]:
        """File of every object, by SOP Instance UID."""
        return {uid: held.path for uid, held in self._held.items()}

    def _contexts(self) -> list[PresentationContext]:
        contexts = [build_context(Verification, list(UNCOMPRESSED))]
        for known in StoragePresentationContexts:
            contexts.append(build_context(abstract_syntax(known), list(self.settings.transfer_syntaxes)))
        # One of those that pynetdicom's list has no room for.
        contexts.append(build_context(ParametricMapStorage, list(self.settings.transfer_syntaxes)))
        contexts = [c for c in contexts if c.abstract_syntax != LabelMapSegmentationStorage]
        if self.settings.labelmaps:
            contexts.append(build_context(LabelMapSegmentationStorage, list(self.settings.transfer_syntaxes)))
        if self.settings.queries:
            contexts.append(build_context(StudyRootQueryRetrieveInformationModelFind, list(UNCOMPRESSED)))
        if self.settings.commitment is not CommitmentAnswer.NOT_OFFERED:
            contexts.append(build_context(StorageCommitmentPushModel, list(UNCOMPRESSED)))
        return contexts

    def _store(self, event: evt.Event) -> int:
        request = request_of(event, C_STORE)
        data = content(request.DataSet)
        syntax = str(event.context.transfer_syntax)
        uid = str(request.AffectedSOPInstanceUID)
        if self.maximum_objects is not None and len(self._held) >= self.maximum_objects and uid not in self._held:
            return _OUT_OF_RESOURCES
        # The UID becomes a file name.
        if not re.fullmatch(r"[0-9.]{1,64}", uid):
            return _CANNOT_UNDERSTAND
        try:
            identity = identify(
                read_header(data, syntax, IDENTIFYING),
                affected_sop_class_uid=str(request.AffectedSOPClassUID),
                affected_sop_instance_uid=uid,
            )
        except NodeError:
            return _CANNOT_UNDERSTAND
        path = self.settings.directory / f"{uid}.dcm"
        temporary = path.with_name(f".{uuid.uuid4().hex}")
        temporary.write_bytes(
            encode_file_meta(str(request.AffectedSOPClassUID), uid, syntax, event.assoc.requestor.ae_title) + data
        )
        temporary.replace(path)
        self._held[uid] = _Held(path, identity.sop_class_uid, identity.series_instance_uid, identity.study_instance_uid)
        return _SUCCESS

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        keys = event.identifier
        for uid, held in list(self._held.items()):
            if event.is_cancelled:
                return
            wanted = (
                (str(keys.get("StudyInstanceUID", "")), held.study_instance_uid),
                (str(keys.get("SeriesInstanceUID", "")), held.series_instance_uid),
                (str(keys.get("SOPInstanceUID", "")), uid),
            )
            if all(not key or key == value for key, value in wanted):
                match = Dataset()
                match.QueryRetrieveLevel = "IMAGE"
                match.StudyInstanceUID, match.SeriesInstanceUID = held.study_instance_uid, held.series_instance_uid
                match.SOPClassUID, match.SOPInstanceUID = held.sop_class_uid, uid
                yield _PENDING, match

    def _commit(self, event: evt.Event) -> tuple[int, Dataset | None]:
        if event.action_type != REQUEST_COMMITMENT:
            return _NO_SUCH_ACTION, None
        try:
            transaction_uid, references = read_action_information(event.action_information)
        except NodeError:
            return _INVALID_ARGUMENT, None
        if self.settings.commitment is not CommitmentAnswer.NEVER:
            report = threading.Thread(target=self._report, args=(event.assoc, transaction_uid, references))
            self._reports.append(report)
            report.start()
        return _SUCCESS, None

    def _verdict(self, reference: SopReference) -> int | None:
        """Failure Reason, or ``None`` when the object is on the disk as what it is said to be."""
        held = self._held.get(reference.sop_instance_uid)
        if held is None or not os.access(held.path, os.R_OK):
            return NO_SUCH_OBJECT_INSTANCE
        meta = read_file_meta_info(held.path)
        return None if meta.MediaStorageSOPClassUID == reference.sop_class_uid else CLASS_INSTANCE_CONFLICT

    def _report(self, association: Association, transaction_uid: str, references: tuple[SopReference, ...]) -> None:
        # The response to the N-ACTION request must leave before the report (PS3.4 J.3.2.2).
        threading.Event().wait(max(0.05, self.settings.commitment_delay_s))
        verdicts = {reference: self._verdict(reference) for reference in references}
        failed = {reference: reason for reference, reason in verdicts.items() if reason is not None}
        information = event_information(
            transaction_uid, (reference for reference in references if reference not in failed), failed
        )
        event_type = SOME_FAILED if failed else ALL_COMMITTED
        same = self.settings.commitment is CommitmentAnswer.SAME_ASSOCIATION
        if same and association.is_established and send_report(association, information, event_type) == _SUCCESS:
            return
        caller = self.settings.callers.get(association.requestor.ae_title.strip())
        if caller is None:
            _log.warning("commitment cannot be reported: address of the caller unknown", pacs=self.settings.ae_title)
            return
        try:
            with associated(
                caller,
                [build_context(StorageCommitmentPushModel, list(UNCOMPRESSED))],
                ScuSettings(self.settings.ae_title),
                negotiation=(scp_role(),),
            ) as reverse:
                send_report(reverse, information, event_type)
        except NodeError as error:
            _log.warning("commitment could not be reported", pacs=self.settings.ae_title, what=error.what)
