"""What became of each instance of a store transaction: Store Instances Response Module (PS3.18 I.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from pydicom.dataset import Dataset

from dicom_node.errors import CannotUnderstandError

__all__ = [
    "DICOM_JSON",
    "DICOM_XML",
    "StoreOutcome",
    "StoredInstance",
    "read_store_response",
    "store_response_json",
    "store_response_xml",
]

DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
_JSON = (DICOM_JSON, "application/json")
_XML = (DICOM_XML, "application/xml", "text/xml")
_NATIVE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One instance of a transaction."""

    sop_class_uid: str
    sop_instance_uid: str
    failure_reason: int | None = None
    """Failure Reason (0008,1197), a status of PS3.4 B.2.3 or PS3.7 annex C; ``None`` when it was stored."""
    warning_reason: int | None = None
    """Warning Reason (0008,1196) of one that was stored."""


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """A transaction."""

    instances: tuple[StoredInstance, ...] = ()
    other_failures: tuple[int, ...] = ()
    """Failure Reason of each part that holds no instance one could name (0008,119A)."""


def store_response_json(outcome: StoreOutcome) -> bytes:
    """The module as application/dicom+json (PS3.18 annex F)."""
    return _module(outcome).to_json().encode("utf-8")


def store_response_xml(outcome: StoreOutcome) -> bytes:
    """The module as application/dicom+xml (Native DICOM Model, PS3.19 A.1)."""
    root = ElementTree.Element("NativeDicomModel", {"xmlns": _NATIVE})
    _write_xml(root, _module(outcome))
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def read_store_response(content: bytes, media_type: str) -> StoreOutcome:
    """Read the module as other servers write it.

    Parameters
    ----------
    media_type
        Of the response, without parameters.

    Raises
    ------
    CannotUnderstandError
        It is of another type, or not what its type says.
    """
    try:
        if media_type in _JSON:
            module = Dataset.from_json(content.decode("utf-8"))
        elif media_type in _XML:
            module = _read_xml(ElementTree.fromstring(content))
        else:
            raise CannotUnderstandError(f"the answer is of type {media_type or 'unknown'}")
        return StoreOutcome(
            (
                *(_read(item, failed=False) for item in _items(module, "ReferencedSOPSequence")),
                *(_read(item, failed=True) for item in _items(module, "FailedSOPSequence")),
            ),
            tuple(_number(item, "FailureReason") or 0x0110 for item in _items(module, "OtherFailuresSequence")),
        )
    except CannotUnderstandError:
        raise
    except Exception as error:
        # pydicom's reader lets through whatever it stumbles over.
        raise CannotUnderstandError(f"the answer cannot be read: {type(error).__name__}") from error


def _module(outcome: StoreOutcome) -> Dataset:
    module = Dataset()
    # There is no retrieve service: type 2, empty.
    module.RetrieveURL = ""
    stored = [_item(one) for one in outcome.instances if one.failure_reason is None]
    failed = [_item(one) for one in outcome.instances if one.failure_reason is not None]
    if stored:
        module.ReferencedSOPSequence = stored
    if failed:
        module.FailedSOPSequence = failed
    if outcome.other_failures:
        others = []
        for reason in outcome.other_failures:
            other = Dataset()
            other.FailureReason = reason
            others.append(other)
        module.OtherFailuresSequence = others
    return module


def _item(one: StoredInstance) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = one.sop_class_uid
    item.ReferencedSOPInstanceUID = one.sop_instance_uid
    if one.failure_reason is not None:
        item.FailureReason = one.failure_reason
        return item
    item.RetrieveURL = ""
    if one.warning_reason is not None:
        item.WarningReason = one.warning_reason
    return item


def _items(module: Dataset, keyword: str) -> Sequence[Dataset]:
    return module.get(keyword) or ()


def _read(item: Dataset, *, failed: bool) -> StoredInstance:
    # Some servers warn with a zero.
    return StoredInstance(
        str(item.get("ReferencedSOPClassUID") or ""),
        str(item.get("ReferencedSOPInstanceUID") or ""),
        failure_reason=(_number(item, "FailureReason") or 0x0110) if failed else None,
        warning_reason=None if failed else _number(item, "WarningReason") or None,
    )


def _number(item: Dataset, keyword: str) -> int | None:
    value = item.get(keyword)
    return None if value is None or value == "" else int(value)


def _write_xml(parent: ElementTree.Element, dataset: Iterable[object]) -> None:
    for element in dataset:
        tag = f"{element.tag:08X}"  # type: ignore[attr-defined]
        attribute = ElementTree.SubElement(
            parent,
            "DicomAttribute",
            {"tag": tag, "vr": element.VR, "keyword": element.keyword},  # type: ignore[attr-defined]
        )
        values = element.value  # type: ignore[attr-defined]
        if element.VR == "SQ":  # type: ignore[attr-defined]
            for number, item in enumerate(values, start=1):
                _write_xml(ElementTree.SubElement(attribute, "Item", {"number": str(number)}), item)
        elif values not in (None, ""):
            ElementTree.SubElement(attribute, "Value", {"number": "1"}).text = str(values)


def _read_xml(parent: ElementTree.Element) -> Dataset:
    dataset = Dataset()
    for attribute in parent:
        vr = attribute.get("vr", "UN")
        tag = int(attribute.get("tag", ""), 16)
        if vr == "SQ":
            dataset.add_new(tag, "SQ", [_read_xml(item) for item in attribute])
        elif vr in ("UI", "US", "UR"):
            text = next((value.text or "" for value in attribute), "").strip()
            if text:
                dataset.add_new(tag, vr, int(text) if vr == "US" else text)
    return dataset
