"""Whether two data sets say the same in an attribute, and whether the images of one study agree in whose study it is.

Spelling is compared where meaning counts: padding, trailing delimiters and the case of a name tell nothing apart
(PS3.5 6.2, PS3.4 C.2.2.2), and an attribute that one image leaves empty contradicts nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, MutableSequence

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import STR_VR, PersonName

from dicom_node.results.stated import stated
from pipelines.cine.elements import raw as raw_element

__all__ = ["IDENTIFYING", "disagreements", "plain", "same"]

IDENTIFYING = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
"""What tells whose study it is, and must not contradict itself within one."""


def plain(value: object) -> object:
    """Comparable form: strings as written (a DS such as ``NaN`` equals itself that way), items as tuples."""
    if isinstance(value, Dataset):
        return tuple((int(tag), _comparable(value, tag)) for tag in sorted(value.keys()) if tag != 0x00080005)
    if isinstance(value, MutableSequence):
        return tuple(plain(item) for item in value)
    return value if value is None or isinstance(value, bytes) else str(value)


def _comparable(dataset: Dataset, tag: int) -> object:
    """Comparable form of an element of an item: the same whether it was converted yet, and from implicit VR."""
    raw = raw_element(dataset, tag)
    if isinstance(raw, RawDataElement) and _written_vr(raw) in STR_VR:
        value = bytes(raw.value or b"").strip(b" \0")
        if value.isascii():
            parts = value.decode("ascii").split("\\")
            return parts[0] if len(parts) == 1 else tuple(part.strip(" \0") for part in parts)
        return value
    return plain(stated(dataset, tag))


def _written_vr(raw: RawDataElement) -> str:
    if raw.VR is not None:
        return str(raw.VR)
    return dictionary_VR(raw.tag) if dictionary_has_tag(raw.tag) else "UN"


def same(first: Dataset, second: Dataset, keyword: str) -> bool:
    """Whether two data sets have the same value of an attribute; absent is empty.

    The bytes decide where both have them (the character sets are the same then, or neither can be read), and what they
    read as otherwise.
    """
    ones = [_bytes(dataset, keyword) for dataset in (first, second)]
    if None not in ones and ones[0] == ones[1]:
        return True
    return plain(stated(first, keyword)) in _alike(plain(stated(second, keyword)))


def _alike(value: object) -> tuple[object, ...]:
    return (value, None, "", ()) if value in (None, "", ()) else (value,)


def _bytes(dataset: Dataset, keyword: str) -> bytes | None:
    raw = raw_element(dataset, keyword) if keyword in dataset else None
    if isinstance(raw, RawDataElement) and raw.VR not in (None, "SQ", "UN"):
        return bytes(raw.value or b"").strip(b" \0")
    name = raw.value if isinstance(raw, DataElement) else None
    if isinstance(name, PersonName) and isinstance(name.original_string, bytes):
        return name.original_string.strip(b" \0")
    return None


def disagreements(images: Iterable[Dataset]) -> tuple[str, ...]:
    """Attributes of ``IDENTIFYING`` in which the images of one study contradict each other, in that order.

    Two stated values that mean different things contradict each other; a Patient ID also contradicts its absence,
    because archives file by it.

    Parameters
    ----------
    images
        Headers; only the identifying elements and the character set are looked at.
    """
    stated: dict[str, list[tuple[bytes | None, object]]] = {keyword: [] for keyword in IDENTIFYING}
    for image in images:
        for keyword, seen in stated.items():
            entry = (_bytes(image, keyword), _meaning(image, keyword))
            if entry not in seen:
                seen.append(entry)
    return tuple(keyword for keyword, seen in stated.items() if _contradict(keyword, seen))


def _meaning(image: Dataset, keyword: str) -> object:
    value = stated(image, keyword)
    if keyword == "PatientName":
        first = value[0] if isinstance(value, MutableSequence) and value else value
        return _name(str(first if isinstance(first, PersonName) else first or ""))
    text = unicodedata.normalize("NFC", str(value or "")).strip(" \0")
    if keyword == "PatientBirthDate":
        # The old form yyyy.mm.dd (PS3.5 6.2), with a time behind it in some; of zeros it is a date that is not known.
        digits = re.sub(r"\D", "", text)[:8]
        return digits if digits.strip("0") else ""
    if keyword == "PatientSex":
        return text if text in ("M", "F") else ""
    if keyword == "IssuerOfPatientID":
        return text.casefold()
    return text


def _name(text: str) -> tuple[tuple[str, ...], ...]:
    """Component groups (alphabetic, ideographic, phonetic) of five components each."""
    groups = []
    for group in unicodedata.normalize("NFKC", text).casefold().split("=")[:3]:
        # "Doe, Jane" is what systems write that know no components.
        separator = "," if group.count(",") == 1 and "^" not in group else "^"
        components = [" ".join(part.split()) for part in group.split(separator)]
        groups.append(tuple((components + [""] * 5)[:5]))
    while len(groups) < 3:
        groups.append(("",) * 5)
    return tuple(groups)


def _contradict(keyword: str, seen: list[tuple[bytes | None, object]]) -> bool:
    if len(seen) < 2:
        return False
    if keyword == "PatientName":
        return any(
            _names_contradict(one, other) and not (raw is not None and raw == raw_other)
            for position, (raw, one) in enumerate(seen)
            for raw_other, other in seen[position + 1 :]
        )
    meanings = {meaning for _, meaning in seen}
    if keyword != "PatientID":
        meanings.discard("")
    spellings = {raw for raw, meaning in seen if meaning or keyword == "PatientID"}
    return len(meanings) > 1 and (None in spellings or len(spellings) > 1)


def _names_contradict(first: object, second: object) -> bool:
    """Whether a component that both state differs, in a group that both state, or they share no group at all."""
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    shared = [(one, other) for one, other in zip(first, second, strict=True) if any(one) and any(other)]
    if not shared:
        return any(map(any, first)) and any(map(any, second))
    return any(a != b for one, other in shared for a, b in zip(one, other, strict=True) if a and b)
