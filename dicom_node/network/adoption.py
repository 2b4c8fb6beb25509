"""Reading instance files into a ledger that does not name them: after its loss, or from an older copy of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from dicom_node.config import Configuration, ConflictAnswer
from dicom_node.errors import CannotUnderstandError
from dicom_node.hosts import owner_name
from dicom_node.network.file_meta import content_digest, decode_file_meta, mapped_file
from dicom_node.network.reception import InstanceReceiver, StoreRequest
from dicom_node.network.watermarks import Watermarks
from storage.files import INSTANCES, UNEXPLAINED, InstanceFiles, StoredFile
from storage.identity import rebind
from storage.instances import (
    QuarantinedObject,
    close_abandoned_associations,
    close_association,
    open_association,
    record_quarantine,
    stored_digest,
)
from storage.ledger import Ledger, utc_now
from storage.schema import InstanceRow, ReleasedFileRow

__all__ = ["Adoption", "adopt_files", "adoptable"]

KEPT_ASIDE = "was in quarantine when the ledger was lost, or taken out of it a short time before"
"""Reason under which quarantine keeps what is not read into the new ledger."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """What became of the files that the ledger did not name."""

    taken: int
    """Named by the ledger from now on; the studies that they belong to are scheduled when the node runs."""
    in_quarantine: tuple[str, ...]
    """Files whose header is not understood, whose SOP Instance UID the ledger holds with other bytes, or which the lost
    ledger had kept aside: of two objects under one UID, it had believed the other."""
    left: tuple[str, ...]
    """Files that are damaged (their content is not what their name says), or could not be stored now."""
    not_instances: int
    """Results and quarantined objects of the ledger that is lost: they stay where they are."""


def adoptable(ledger: Ledger, files: InstanceFiles) -> tuple[list[Path], int]:
    """Instance files that the ledger neither names nor let go of; and how many others there are."""
    with ledger.reading() as session:
        known = set(session.scalars(select(InstanceRow.path).where(InstanceRow.removed_at.is_(None))))
        known |= set(session.scalars(select(ReleasedFileRow.path)))
    stored = [path for path in files.stored_paths() if path.parts[0] == INSTANCES and str(path) not in known]
    aside = list(files.unexplained_paths())
    instances = [path for path in aside if path.parts[1] == INSTANCES]
    return [*stored, *instances], len(aside) - len(instances)


def adopt_files(configuration: Configuration, ledger: Ledger, files: InstanceFiles) -> Adoption:
    """Bind a ledger and a directory to each other, and read the instance files that the ledger lacks into it.

    The node must not run. Each file takes the way of an instance that comes in: written anew, flushed, committed; what
    stood aside is removed only after that.

    Raises
    ------
    IdentityError
        The ledger belongs to another directory that holds its files.
    OSError
        The directory cannot be read or written.
    """
    rebind(ledger, files, now=utc_now())
    node, storage = configuration.node, configuration.storage
    watermarks = Watermarks(
        files.free_bytes, low_watermark_mb=storage.low_watermark_mb, high_watermark_mb=storage.high_watermark_mb
    )
    receiver = InstanceReceiver(ledger, files, watermarks, lambda _sender: ConflictAnswer.REFUSE)
    name = owner_name(configuration, "adopt")
    close_abandoned_associations(ledger, name, at=utc_now())
    associations: dict[str, str] = {}
    taken, in_quarantine, left = 0, [], []
    paths, others = adoptable(ledger, files)
    try:
        for path in paths:
            outcome = _adopt(receiver, files, path, associations, name, node.ae_title)
            if outcome is None:
                left.append(str(path))
            elif outcome:
                taken += 1
            else:
                in_quarantine.append(str(path))
    finally:
        receiver.commit.close()
        for association_id in associations.values():
            close_association(ledger, association_id, outcome="released", at=utc_now())
    return Adoption(taken, tuple(in_quarantine), tuple(left), others)


def _adopt(
    receiver: InstanceReceiver,
    files: InstanceFiles,
    path: Path,
    associations: dict[str, str],
    name: str,
    called_ae_title: str,
) -> bool | None:
    """Whether the instance was taken (or else quarantined); ``None`` when its file was left as it is."""
    if files.holds_in_quarantine(path.stem):
        return _keep_aside(receiver.ledger, files, path)
    with mapped_file(files.readable(path)) as content:
        try:
            meta = decode_file_meta(content)
        except CannotUnderstandError:
            return None
        data = content[meta.length :]
        try:
            if content_digest(content) != path.stem:
                return None
            sender = meta.source_ae_title or called_ae_title
            if sender not in associations:
                associations[sender] = open_association(
                    receiver.ledger,
                    calling_ae_title=sender,
                    called_ae_title=called_ae_title,
                    address="",
                    at=utc_now(),
                    receiver=name,
                )
            request = StoreRequest(
                sop_class_uid=meta.sop_class_uid,
                sop_instance_uid=meta.sop_instance_uid,
                transfer_syntax_uid=meta.transfer_syntax_uid,
                association_id=associations[sender],
                calling_ae_title=sender,
            )
            incoming = receiver.begin(request)
            incoming.write(data)
            status = incoming.finish().status
        finally:
            data.release()
    if status == 0xA700:
        return None
    held = stored_digest(receiver.ledger, meta.sop_instance_uid) == path.stem
    if path.parts[0] == UNEXPLAINED:
        # It lies under its own name now: among the instances, or in quarantine.
        files.remove(path)
    return held


def _keep_aside(ledger: Ledger, files: InstanceFiles, path: Path) -> bool | None:
    """Record what the lost ledger had in quarantine as well: its patient may be the wrong one."""
    with mapped_file(files.readable(path)) as content:
        try:
            meta = decode_file_meta(content)
        except CannotUnderstandError:
            return None
        if content_digest(content) != path.stem:
            return None
        size = len(content)
    kept = files.copy_to_quarantine(StoredFile(str(path), path.stem, size))
    record_quarantine(
        ledger, QuarantinedObject(kept.digest, kept.path, KEPT_ASIDE, meta.sop_instance_uid), at=utc_now()
    )
    if path.parts[0] == UNEXPLAINED:
        files.remove(path)
    return False
