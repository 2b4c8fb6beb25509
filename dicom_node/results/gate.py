"""The gate: checks each result object, read again from its bytes, before it is delivered.

Checks of each object: the IOD (dciodvfy), whose patient and study it says it is, what its references point to, and
what pixels and geometry come back. An error is blamed on the object unless it sits in a value that was carried over
from the source as it stands: a study whose UID breaks PS3.5 stays that study.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import EncapsulatedPDFStorage

from dicom_node.errors import NodeError
from dicom_node.results.agreement import disagreements, same
from dicom_node.results.identity import CARRIED
from dicom_node.results.iod import IOD_TIMEOUT_S, IodCheck, IodFinding, SourceUids
from dicom_node.results.objects import ResultObject, Surroundings
from dicom_node.results.problems import GateCheck, Problem
from dicom_node.results.sources import SourceDatasets
from pipelines.cine.elements import raw

__all__ = ["Gate", "check", "origins"]

_WORKERS = 4
_REFERENCED_SOP_INSTANCE_UID = 0x00081155


def check(
    objects: Sequence[ResultObject], sources: SourceDatasets, earlier: Iterable[str] = ()
) -> list[tuple[Problem, ...]]:
    """Check the objects of one job, all at once; see :class:`Gate`."""
    with Gate(sources, earlier) as gate:
        return gate.problems(objects)


class Gate:
    """The check of the objects of one job, which can begin before all of them are there; use it as a context.

    Parameters
    ----------
    sources
        The source instances, read again.
    earlier
        SOP Instance UIDs of results that are delivered already and may be referred to: predecessors, and what a front
        page lists.
    """

    def __init__(self, sources: SourceDatasets, earlier: Iterable[str] = ()) -> None:
        self._sources = sources
        self._elsewhere = frozenset(sources.paths) | frozenset(earlier)
        self._results: dict[str, Dataset] = {}
        self._taken: dict[int, _Taken] = {}
        self._agreement: dict[tuple[str, ...], tuple[Problem, ...]] = {}
        self._uids = SourceUids()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        # The filter belongs to the process, so it is set once, around the threads too.
        self._open.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        self._workers = ThreadPoolExecutor(max_workers=_WORKERS)
        # What was begun and nobody asks for any more need not end.
        self._open.callback(self._workers.shutdown, cancel_futures=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def take(self, objects: Sequence[ResultObject]) -> None:
        """Begin with objects; those that they refer to are among them, or were taken before, or are still to come."""
        reread = [_reread(each) for each in objects]
        self._results |= {str(one.SOPInstanceUID): one for one in reread if isinstance(one, Dataset)}
        surroundings = Surroundings(self._sources, self._results)
        for each, one in zip(objects, reread, strict=True):
            look = _look(one, each, surroundings, self._of_sources(each))
            self._taken[id(each)] = _Taken(each, self._conformance(each, one, look), look)

    def _conformance(self, each: ResultObject, reread: Dataset | Problem, look: _Look) -> _Conformance | None:
        if look.names is None or isinstance(reread, Problem):
            # That it cannot be read is a finding of `_look`.
            return None
        named = _named(look.names, self._sources)
        prepared = IodCheck.of(reread, origins(each, self._sources), named, self._uids)
        # dciodvfy runs in processes of its own; the other checks, which are Python, meanwhile.
        return _Conformance(prepared, self._workers.submit(prepared.said))

    def _of_sources(self, each: ResultObject) -> tuple[Problem, ...]:
        """What the instances that an object was made of contradict each other in; many objects are of the same."""
        uids = (each.reference_uid, *sorted({source.sop_instance_uid for source in each.sources}))
        if uids not in self._agreement:
            self._agreement[uids] = tuple(_contradictions([self._sources.header(uid) for uid in uids]))
        return self._agreement[uids]

    def problems(self, objects: Sequence[ResultObject]) -> list[tuple[Problem, ...]]:
        """What is wrong with each of the objects of the job, in their order; an empty tuple lets it pass.

        All that are to leave, and no others: references among them are followed. What was not taken is taken now.
        """
        self.take([each for each in objects if id(each) not in self._taken])
        known = self._elsewhere | {each.sop_instance_uid for each in objects}
        taken = [self._taken[id(each)] for each in objects]
        return [
            (*_iod_problems(one.conformance), *one.look.problems, *_lost(one.look.refers_to - known)) for one in taken
        ]


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen of an object, as a recipient reads it.

    Attributes
    ----------
    problems
        Whatever of it can be told without the objects that are still to come.
    refers_to
        SOP Instance UIDs; only what this software refers to itself: what the source study refers to was carried over.
    names
        The same with what was carried over; ``None`` of an object that cannot be read to its end.
    """

    problems: tuple[Problem, ...]
    refers_to: frozenset[str] = frozenset()
    names: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class _Conformance:
    """The check against the IOD, and what dciodvfy says."""

    check: IodCheck
    said: Future[list[IodFinding]]


@dataclass(frozen=True, slots=True)
class _Taken:
    """An object, which is kept for as long as it is known by its ``id``, and what is being found in it."""

    object: ResultObject
    conformance: _Conformance | None
    look: _Look


def origins(each: ResultObject, sources: SourceDatasets) -> list[Dataset]:
    """Headers that the values of a result come from: of its patient and study, and of each frame behind it."""
    layers = [layer for source in each.sources for layer in sources.layers(source)]
    return list({id(one): one for one in (sources.header(each.reference_uid), *layers)}.values())


def _iod_problems(conformance: _Conformance | None) -> tuple[Problem, ...]:
    if conformance is None:
        return ()
    try:
        findings = conformance.check.findings(conformance.said.result())
    except subprocess.TimeoutExpired:
        return (Problem(GateCheck.IOD, f"dciodvfy did not end within {IOD_TIMEOUT_S} s"),)
    return tuple(
        Problem(GateCheck.IOD, f"{finding.path} {finding.message}".strip()) for finding in findings if finding.error
    )


def _named(referenced: frozenset[str], sources: SourceDatasets) -> list[Dataset]:
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


def _look(
    reread: Dataset | Problem, each: ResultObject, surroundings: Surroundings, of_sources: tuple[Problem, ...]
) -> _Look:
    if isinstance(reread, Problem):
        return _Look((reread,))
    try:
        problems = (*_differences(reread, each, surroundings), *of_sources)
        own, carried = _references(reread)
        return _Look(problems, own, own | carried)
    except NodeError:
        # A source that cannot be read says nothing about the object.
        raise
    except Exception as error:  # noqa: BLE001 - whatever a reader trips over is the finding
        return _Look((Problem(GateCheck.PIXELS, f"the object cannot be read again: {type(error).__name__}"),))


def _differences(dataset: Dataset, each: ResultObject, surroundings: Surroundings) -> Iterator[Problem]:
    yield from _identity(dataset, each, surroundings.sources)
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
    if str(dataset.file_meta.MediaStorageSOPInstanceUID) != str(dataset.SOPInstanceUID):
        yield Problem(GateCheck.IDENTITY, "MediaStorageSOPInstanceUID is not SOPInstanceUID")


def _contradictions(images: Sequence[Dataset]) -> Iterator[Problem]:
    for keyword in disagreements(images):
        yield Problem(GateCheck.IDENTITY, f"the source instances disagree in {keyword}")
    if any(not same(images[0], image, "StudyInstanceUID") for image in images):
        yield Problem(GateCheck.IDENTITY, "the source instances are of several studies")


def _lost(uids: Iterable[str]) -> Iterator[Problem]:
    for uid in sorted(uids):
        yield Problem(GateCheck.REFERENCES, f"it refers to {uid}, which is neither a source nor among the results")


def _references(dataset: Dataset) -> tuple[frozenset[str], frozenset[str]]:
    """SOP Instance UIDs that an object refers to: in what this software wrote, and in what it carried over."""
    own: set[str] = set()
    carried: set[str] = set()
    for tag in list(dataset.keys()):
        (carried if keyword_for_tag(tag) in CARRIED else own).update(_referenced(dataset, tag))
    return frozenset(own), frozenset(carried)


def _referenced(dataset: Dataset, tag: BaseTag) -> Iterator[str]:
    # Raw: converting every value of every object to look for UIDs took a third of the gate's own time.
    element = raw(dataset, tag)
    if element is None:
        return
    if element.VR == "SQ":
        for item in dataset[tag].value:
            for inner in list(item.keys()):
                yield from _referenced(item, inner)
    elif tag == _REFERENCED_SOP_INSTANCE_UID:
        yield str(dataset[tag].value)
