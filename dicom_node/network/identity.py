"""Reads what identifies an object: the identifiers that the ledger, the routes and the sender go by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.charset import decode_bytes

from dicom_node.errors import DataSetMismatchError
from dicom_node.network.data_set import SPECIFIC_CHARACTER_SET, Header

__all__ = ["IDENTIFYING", "InstanceIdentity", "identify", "is_uid"]

# PS3.5 9.1 forbids leading zeros in a component, yet archives are full of them and equality is all that is asked here.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """What is kept of a header; descriptions decoded, ``""`` where absent."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    series_description: str
    study_description: str
    manufacturer: str
    body_part_examined: str


def is_uid(value: str) -> bool:
    """Whether a value can be a UID: digits and dots, at most 64 characters."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def identify(
    header: Header,
    *,
    affected_sop_class_uid: str,
    affected_sop_instance_uid: str,
    study_instance_uid: str | None = None,
) -> InstanceIdentity:
    """Identify a data set and hold it against the request that carried it.

    Parameters
    ----------
    header
        Read with :data:`IDENTIFYING`.
    affected_sop_class_uid, affected_sop_instance_uid
        Of the request (PS3.7 9.1.1.1).
    study_instance_uid
        Of the study that the request names, if it does (PS3.18 10.5.1).

    Raises
    ------
    DataSetMismatchError
        An identifier is missing or malformed, or is not that of the request.
    """
    uids = {
        keyword: _identifier(header, keyword)
        for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    }
    for keyword, affected in (
        ("SOPClassUID", affected_sop_class_uid),
        ("SOPInstanceUID", affected_sop_instance_uid),
        ("StudyInstanceUID", study_instance_uid),
    ):
        if affected is not None and uids[keyword] != affected:
            raise DataSetMismatchError(
                f"{keyword} of the data set is {uids[keyword]}, of the request {affected}",
                subject=affected_sop_instance_uid,
                remedy="correct the sender",
            )
    return InstanceIdentity(
        sop_class_uid=uids["SOPClassUID"],
        sop_instance_uid=uids["SOPInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        study_instance_uid=uids["StudyInstanceUID"],
        modality=_text(header, "Modality"),
        series_description=_text(header, "SeriesDescription"),
        study_description=_text(header, "StudyDescription"),
        manufacturer=_text(header, "Manufacturer"),
        body_part_examined=_text(header, "BodyPartExamined"),
    )


def _identifier(header: Header, keyword: str) -> str:
    value = header.values.get(_TAGS[keyword], b"").decode("latin-1").rstrip(" \0").lstrip(" ")
    if not value:
        raise DataSetMismatchError(f"{keyword} is missing", remedy="correct the sender")
    if not is_uid(value):
        raise DataSetMismatchError(f"{keyword} is not a UID (PS3.5 9.1)", remedy="correct the sender")
    return value


def _text(header: Header, keyword: str) -> str:
    value = header.values.get(_TAGS[keyword], b"")
    if value.isascii() and b"\x1b" not in value:
        # Every character set of PS3.3 C.12.1.1.2 begins as ASCII does, but for two signs of ISO_IR 13.
        return value.decode("ascii").strip(" \0")
    # No byte resets the encoding: these have one value, and a sign of two bytes may hold any of them.
    return decode_bytes(value, list(header.encodings), set()).strip(" \0")


_TAGS: Mapping[str, int] = {
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "Modality": 0x00080060,
    "Manufacturer": 0x00080070,
    "StudyDescription": 0x00081030,
    "SeriesDescription": 0x0008103E,
    "BodyPartExamined": 0x00180015,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
}

IDENTIFYING = frozenset({SPECIFIC_CHARACTER_SET, *_TAGS.values()})
"""Tags that :func:`identify` reads."""
