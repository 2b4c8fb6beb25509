"""From the bytes of a C-STORE request to its status: on disk, in the ledger, and only then Success.

The order of events is the promise. Success (0000) is returned after the file is flushed and renamed and the ledger has
committed; every other outcome leaves nothing that looks like an accepted instance. Objects that cannot be taken into
the record are kept byte for byte in quarantine.

====  ==================================================================================================
0000  New; the same bytes again (nothing new); other bytes under a known UID when ``storage.conflicts`` is
      ``accept`` (the first is kept, the other quarantined)
A700  No room above the low watermark, storage or ledger not writable; the sender should try again
A900  An identifier is missing, malformed, or not that of the request; quarantined
C000  The data set is not whole or not in the negotiated transfer syntax, quarantined; and other bytes under
      a known UID when ``storage.conflicts`` is ``refuse``
0110  Unforeseen failure
====  ==================================================================================================
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from pydicom.dataset import Dataset

from dicom_node.errors import (
    CannotUnderstandError,
    DataSetMismatchError,
    NodeError,
    OutOfResourcesError,
    ProcessingFailureError,
    classify,
)
from dicom_node.network.data_set import read_header
from dicom_node.network.file_meta import encode_file_meta
from dicom_node.network.identity import InstanceIdentity, identify
from dicom_node.network.room import Room
from pipelines.cine.facts import frame_facts
from storage.files import InstanceFiles, StoredFile
from storage.instances import QuarantinedObject, ReceivedInstance, Reception, record_instances, record_quarantine
from storage.ledger import Ledger, utc_now

__all__ = ["InstanceReceiver", "StoreRequest", "StoreResponse"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """One C-STORE request (PS3.7 9.1.1)."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: bytes
    """The data set as received."""
    association_id: str
    calling_ae_title: str


@dataclass(frozen=True, slots=True)
class StoreResponse:
    """Status of a C-STORE response (PS3.4 B.2.3) and its ErrorComment."""

    status: int
    comment: str = ""


SUCCESS = StoreResponse(0x0000)


@dataclass(frozen=True, slots=True)
class InstanceReceiver:
    """Takes in instances; safe to use from all associations at once."""

    ledger: Ledger
    files: InstanceFiles
    room: Room
    conflicts: Literal["accept", "refuse"]

    def receive(self, request: StoreRequest) -> StoreResponse:
        """Take in one instance; every failure becomes a status, a log line and, where it can be, a quarantined file."""
        try:
            if not self.room.admits(len(request.data)):
                raise OutOfResourcesError(
                    "the disk is nearly full",
                    subject=request.sop_instance_uid,
                    remedy="free space; accepting starts again above storage.high_watermark_mb",
                )
            try:
                dataset = read_header(request.data, request.transfer_syntax_uid)
                identity = identify(
                    dataset,
                    affected_sop_class_uid=request.sop_class_uid,
                    affected_sop_instance_uid=request.sop_instance_uid,
                )
            except (CannotUnderstandError, DataSetMismatchError) as error:
                self._quarantine(request, error.what)
                raise
            return self._keep(request, identity, dataset)
        except Exception as error:  # noqa: BLE001 - a peer must get a status whatever happens
            return _refusal(request, classify(error))

    def _keep(self, request: StoreRequest, identity: InstanceIdentity, dataset: Dataset) -> StoreResponse:
        file = self.files.store(
            request.data, file_meta=_file_meta(request), transfer_syntax_uid=request.transfer_syntax_uid
        )
        (reception,) = record_instances(
            self.ledger, [_received(request, identity, file, frame_facts(dataset).to_json())], at=utc_now()
        )
        if reception is Reception.CONFLICT:
            what = "other bytes are held under this SOP Instance UID"
            self._quarantine(request, what)
            if self.conflicts == "refuse":
                raise CannotUnderstandError(
                    what, subject=request.sop_instance_uid, remedy="give changed objects a UID of their own"
                )
            _log.warning(
                "conflicting duplicate quarantined, first kept",
                sop_instance_uid=request.sop_instance_uid,
                association=request.association_id,
                calling_ae_title=request.calling_ae_title,
            )
        return SUCCESS

    def _quarantine(self, request: StoreRequest, reason: str) -> None:
        file = self.files.quarantine(
            request.data, file_meta=_file_meta(request), transfer_syntax_uid=request.transfer_syntax_uid
        )
        record_quarantine(
            self.ledger,
            QuarantinedObject(
                digest=file.digest,
                path=str(file.path),
                reason=reason,
                sop_instance_uid=request.sop_instance_uid,
                association_id=request.association_id,
            ),
            at=utc_now(),
        )


def _file_meta(request: StoreRequest) -> bytes:
    return encode_file_meta(
        request.sop_class_uid, request.sop_instance_uid, request.transfer_syntax_uid, request.calling_ae_title
    )


def _received(
    request: StoreRequest, identity: InstanceIdentity, file: StoredFile, facts: dict[str, Any]
) -> ReceivedInstance:
    return ReceivedInstance(
        sop_class_uid=identity.sop_class_uid,
        sop_instance_uid=identity.sop_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        study_instance_uid=identity.study_instance_uid,
        transfer_syntax_uid=request.transfer_syntax_uid,
        digest=file.digest,
        path=str(file.path),
        size=file.size,
        association_id=request.association_id,
        calling_ae_title=request.calling_ae_title,
        modality=identity.modality,
        series_description=identity.series_description,
        study_description=identity.study_description,
        manufacturer=identity.manufacturer,
        body_part_examined=identity.body_part_examined,
        facts=facts,
    )


def _refusal(request: StoreRequest, error: NodeError) -> StoreResponse:
    what = error.what
    place = None
    if isinstance(error, ProcessingFailureError):
        # The text of an unforeseen exception may quote the data set.
        what = "unforeseen failure"
        place = _place(error.__cause__ or error)
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
    return StoreResponse(error.dimse_status, what[:64])


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}" if frames else type(error).__name__
