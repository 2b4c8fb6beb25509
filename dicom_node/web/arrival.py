"""One part of a store transaction on its way in: from a DICOM file in pieces to what became of the instance in it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import structlog

from dicom_node.errors import CannotUnderstandError
from dicom_node.network.capabilities import storage_contexts
from dicom_node.network.file_meta import FileMeta, decode_file_meta
from dicom_node.network.reception import IncomingInstance, InstanceReceiver, StoreRequest
from dicom_node.web.multipart import DICOM, MediaType
from dicom_node.web.store_response import StoredInstance

__all__ = ["IN_MEMORY_BYTES", "Arrival"]

_log = structlog.get_logger(__name__)

IN_MEMORY_BYTES = 1 << 20
"""Of one part before it goes to the disk; File Meta Information is shorter than that."""
_SOP_CLASS_NOT_SUPPORTED = 0x0122
_TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122
_CANNOT_UNDERSTAND = CannotUnderstandError.dimse_status


class Arrival:
    """Collects a part; not for several threads at once.

    Parameters
    ----------
    association_id, peer
        Of the upload that brings it.
    study_instance_uid
        The study that the request names, if it does.
    content_type
        Of the part.
    tell
        Logs why a part is refused: an event and its fields.
    """

    def __init__(
        self,
        instances: InstanceReceiver,
        association_id: str,
        peer: str,
        study_instance_uid: str | None,
        content_type: str,
        tell: Callable[..., None] = _log.warning,
    ) -> None:
        self._instances, self._association_id, self._peer = instances, association_id, peer
        self._study_instance_uid = study_instance_uid
        self._tell = tell
        self._media_type = MediaType.of(content_type or DICOM)
        self._waiting = bytearray()
        self._meta: FileMeta | None = None
        self._incoming: IncomingInstance | None = None
        self._outcome: StoredInstance | int | None = None
        self.size = 0
        """Bytes so far."""

    def add(self, data: bytes) -> bool:
        """Take a piece into memory; whether it is time to :meth:`write`."""
        self.size += len(data)
        if self._outcome is None:
            self._waiting += data
        return len(self._waiting) >= IN_MEMORY_BYTES

    def write(self) -> None:
        """Bring to the disk what waits in memory; may take its time, never raises."""
        data, self._waiting = memoryview(self._waiting), bytearray()
        if self._outcome is not None:
            return
        if self._incoming is None:
            try:
                self._meta = decode_file_meta(data)
            except CannotUnderstandError as error:
                self._tell("part refused", what=error.what, association=self._association_id)
                self._outcome = error.dimse_status
                return
            data = data[self._meta.length :]
            if (status := self._refusal(self._meta)) is not None:
                self._outcome = StoredInstance(self._meta.sop_class_uid, self._meta.sop_instance_uid, status)
                return
            self._incoming = self._instances.begin(
                StoreRequest(
                    sop_class_uid=self._meta.sop_class_uid,
                    sop_instance_uid=self._meta.sop_instance_uid,
                    transfer_syntax_uid=self._meta.transfer_syntax_uid,
                    association_id=self._association_id,
                    calling_ae_title=self._peer,
                    study_instance_uid=self._study_instance_uid,
                )
            )
        self._incoming.write(data)

    def finish(self) -> StoredInstance | int:
        """The part is whole: take it into the record; may take its time, never raises.

        Returns
        -------
        StoredInstance or int
            What became of the instance, or the Failure Reason of a part that holds none.
        """
        self.write()
        if self._outcome is None:
            assert self._meta is not None
            assert self._incoming is not None
            status = self._incoming.finish().status
            warning = status & 0xF000 == 0xB000
            self._outcome = StoredInstance(
                self._meta.sop_class_uid,
                self._meta.sop_instance_uid,
                failure_reason=None if status == 0x0000 or warning else status,
                warning_reason=status if warning else None,
            )
        return self._outcome

    def abandon(self) -> None:
        """The part breaks off: nothing is left of it."""
        if self._incoming is not None:
            self._incoming.abandon()

    def _refusal(self, meta: FileMeta) -> int | None:
        """Failure Reason of what a DICOM peer could not have offered, or of a part that contradicts itself."""
        syntaxes = _accepted().get(meta.sop_class_uid)
        if syntaxes is None:
            status, what = _SOP_CLASS_NOT_SUPPORTED, f"SOP class {meta.sop_class_uid} is not taken"
        elif meta.transfer_syntax_uid not in syntaxes:
            status, what = _TRANSFER_SYNTAX_NOT_SUPPORTED, f"transfer syntax {meta.transfer_syntax_uid} is not taken"
        elif self._media_type.name != DICOM:
            status, what = _CANNOT_UNDERSTAND, "the part says that it is of another type than application/dicom"
        elif self._media_type.parameters.get("transfer-syntax", meta.transfer_syntax_uid) != meta.transfer_syntax_uid:
            status, what = _CANNOT_UNDERSTAND, "the transfer syntax of the part is not that of the file in it"
        else:
            return None
        self._tell(
            "instance refused",
            status=f"{status:04X}",
            what=what,
            sop_instance_uid=meta.sop_instance_uid,
            association=self._association_id,
            calling_ae_title=self._peer,
        )
        return status


@functools.cache
def _accepted() -> dict[str, frozenset[str]]:
    """Transfer syntaxes by SOP class, the same as for DICOM peers."""
    return {
        str(context.abstract_syntax): frozenset(map(str, context.transfer_syntax)) for context in storage_contexts()
    }
