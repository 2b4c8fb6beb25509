"""Taking an object out of quarantine, on the way that every instance takes."""

from __future__ import annotations

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicom_node.config import Configuration, ConflictAnswer
from dicom_node.errors import NodeError
from dicom_node.hosts import owner_name
from dicom_node.network.file_meta import decode_file_meta
from dicom_node.network.reception import InstanceReceiver, StoreRequest
from dicom_node.network.watermarks import Watermarks
from storage.files import InstanceFiles
from storage.instances import close_association, open_association, stored_digest
from storage.ledger import Ledger, utc_now
from storage.overview import QuarantineOverview

__all__ = ["accept_quarantined", "study_of"]


def accept_quarantined(
    configuration: Configuration, ledger: Ledger, files: InstanceFiles, quarantined: QuarantineOverview
) -> None:
    """Take an object in as if it had come now; it replaces what is held under its SOP Instance UID.

    Raises
    ------
    NodeError
        It is a result that failed the gate, or it cannot be taken in.
    OSError
        Its file cannot be read.
    """
    subject = quarantined.sop_instance_uid or quarantined.digest
    if quarantined.job_id is not None:
        raise NodeError(
            "is a result of this node that failed the gate",
            subject=subject,
            remedy=f"run job {quarantined.job_id} again once the cause is mended",
        )
    node, storage = configuration.node, configuration.storage
    watermarks = Watermarks(
        files.free_bytes, low_watermark_mb=storage.low_watermark_mb, high_watermark_mb=storage.high_watermark_mb
    )
    receiver = InstanceReceiver(ledger, files, watermarks, lambda _sender: ConflictAnswer.REPLACE)
    content = files.readable(quarantined.path).read_bytes()
    meta = decode_file_meta(content)
    sender = meta.source_ae_title or node.ae_title
    association_id = open_association(
        ledger,
        calling_ae_title=sender,
        called_ae_title=node.ae_title,
        address="",
        at=utc_now(),
        receiver=owner_name(configuration, "quarantine"),
    )
    try:
        request = StoreRequest(
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            association_id=association_id,
            calling_ae_title=sender,
        )
        response = receiver.receive(request, (content[meta.length :],))
    finally:
        receiver.commit.close()
        close_association(ledger, association_id, outcome="released", at=utc_now())
    if response.status != 0x0000:
        raise NodeError(f"cannot be taken in: {response.comment}", subject=subject, remedy="drop it, or send it anew")
    if stored_digest(ledger, meta.sop_instance_uid) != quarantined.digest:
        raise NodeError(
            "cannot be taken in: its SOP Instance UID is held in another study",
            subject=subject,
            remedy="delete that study first, or drop this object",
        )


def study_of(files: InstanceFiles, quarantined: QuarantineOverview) -> str:
    """StudyInstanceUID of an object that was kept aside; empty where it cannot be read."""
    try:
        header = dcmread(files.readable(quarantined.path), stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        return str(header.get("StudyInstanceUID") or "")
    except (OSError, InvalidDicomError, ValueError):
        return ""
