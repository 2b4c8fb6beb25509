"""The gate: checks each result object, read again from its bytes, before it is delivered.

Checks of each object: the IOD (dciodvfy), whose patient and study it says it is, what its references point to, and
what pixels and geometry come back. An error is blamed on the object unless it sits in a value that was carried over
from the source as it stands: a study whose UID breaks PS3.5 stays that study.
"""

from __future__ import annotations

import io
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from dicom_node.errors import NodeError
from dicom_node.results.agreement import disagreements, same
from dicom_node.results.identity import CARRIED
from dicom_node.results.iod import IOD_TIMEOUT_S, iod_findings
from dicom_node.results.objects import ResultObject, Surroundings
from dicom_node.results.problems import GateCheck, Problem
from dicom_node.results.sources import SourceDatasets
from pipelines.cine.elements import raw

__all__ = ["check", "origins"]

_WORKERS = 4
_REFERENCED_SOP_INSTANCE_UID = 0x00081155


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
    # The filter belongs to the process, so it is set once, around the threads too.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(max_workers=_WORKERS) as workers:
            # dciodvfy runs in processes of its own; the other checks, which are Python, meanwhile.
            iod = workers.map(lambda each: _iod_problems(each, sources), objects)
            reread = [_reread(each) for each in objects]
            known = {each.sop_instance_uid for each in objects} | set(sources.paths) | set(earlier)
            results = {str(one.SOPInstanceUID): one for one in reread if isinstance(one, Dataset)}
            surroundings = Surroundings(sources, results)
            departures = [
                _departures(one, each, surroundings, known) for one, each in zip(reread, objects, strict=True)
            ]
            return [(*found, *others) for found, others in zip(iod, departures, strict=True)]


def origins(each: ResultObject, sources: SourceDatasets) -> list[Dataset]:
    """Headers that the values of a result come from: of its patient and study, and of each frame behind it."""
    layers = [layer for source in each.sources for layer in sources.layers(source)]
    return list({id(one): one for one in (sources.header(each.reference_uid), *layers)}.values())


def _iod_problems(each: ResultObject, sources: SourceDatasets) -> tuple[Problem, ...]:
    # A data set converts its values as they are asked for, so no two threads share one.
    dataset = _reread(each)
    if isinstance(dataset, Problem):
        return ()
    try:
        referenced = _referenced(dataset)
    except Exception:  # noqa: BLE001 - what cannot be read to its end is a finding of `_departures`
        return ()
    try:
        findings = iod_findings(dataset, origins(each, sources), _named(referenced, sources))
    except subprocess.TimeoutExpired:
        return (Problem(GateCheck.IOD, f"dciodvfy did not end within {IOD_TIMEOUT_S} s"),)
    return tuple(
        Problem(GateCheck.IOD, f"{finding.path} {finding.message}".strip()) for finding in findings if finding.error
    )


def _named(referenced: set[str], sources: SourceDatasets) -> list[Dataset]:
    """Headers of the source instances that an object refers to: what it was not made from may be evidence as well."""
    return [sources.header(uid) for uid in sorted(referenced & set(sources.paths))]


# -- what comes back ---------------------------------------------------------------------------------------------------


def _reread(each: ResultObject) -> Dataset | Problem:
    """The object as a recipient reads it, or why it cannot be read."""
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
        if not same(reference, dataset, keyword):
            if reference.get(keyword):
                yield Problem(GateCheck.IDENTITY, f"{keyword} differs from that of the source study")
            else:
                yield Problem(GateCheck.IDENTITY, f"{keyword} has a value that the source study does not have")
    images = [reference, *map(sources.header, sorted({source.sop_instance_uid for source in each.sources}))]
    for keyword in disagreements(images):
        yield Problem(GateCheck.IDENTITY, f"the source instances disagree in {keyword}")
    if any(not same(reference, image, "StudyInstanceUID") for image in images):
        yield Problem(GateCheck.IDENTITY, "the source instances are of several studies")
    if str(dataset.file_meta.MediaStorageSOPInstanceUID) != str(dataset.SOPInstanceUID):
        yield Problem(GateCheck.IDENTITY, "MediaStorageSOPInstanceUID is not SOPInstanceUID")


def _references(dataset: Dataset, known: set[str]) -> Iterator[Problem]:
    # Only what this software refers to itself; what the source study refers to was carried over.
    for uid in sorted(_referenced(dataset, but=CARRIED) - known):
        yield Problem(GateCheck.REFERENCES, f"it refers to {uid}, which is neither a source nor among the results")


def _referenced(dataset: Dataset, but: Sequence[str] = ()) -> set[str]:
    found: set[str] = set()
    for tag in list(dataset.keys()):
        # Raw: converting every value of every object to look for UIDs took a third of the gate's own time.
        element = raw(dataset, tag)
        if element is None:
            continue
        if element.VR == "SQ":
            if keyword_for_tag(tag) not in but:
                found.update(*(_referenced(item) for item in dataset[tag].value))
        elif tag == _REFERENCED_SOP_INSTANCE_UID:
            found.add(str(dataset[tag].value))
    return found
