"""The source instances of a study as the encoders need them: headers, looked up by SOP Instance UID."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import BaseTag

from dicom_node.errors import ProcessingFailureError
from dicom_node.results.agreement import IDENTIFYING
from dicom_node.results.dates import ACQUIRED, last_acquired
from dicom_node.results.stated import stated
from pipelines.cine import elements
from pipelines.cine.elements import DAMAGE
from pipelines.cine.reading import read_object
from pipelines.cine.stack import CineStack, CineStudy, FrameSource

__all__ = ["SourceDatasets", "frame_layers"]

_IDENTITY = tuple(
    BaseTag(tag_for_keyword(keyword) or 0) for keyword in ("SpecificCharacterSet", *IDENTIFYING, *ACQUIRED)
)
_PIXELS = 0x7FE0_0000


@dataclass(frozen=True, slots=True, eq=False)
class SourceDatasets:
    """Where each source instance lies, and its header without pixels: as it was read, or read once when asked for.

    Attributes
    ----------
    paths : dict of SOP Instance UID to file
    """

    paths: dict[str, Path] = field(default_factory=dict)
    _headers: dict[str, Dataset] = field(default_factory=dict, repr=False)
    _acquired: dict[tuple[str, int], datetime.datetime | None] = field(default_factory=dict, repr=False)

    def take(self, path: Path, dataset: Dataset) -> None:
        """Take in a data set that was read from a file; of two with one UID the first counts.

        What is made of the data set afterwards does not show here: text keeps the bytes of the source.
        """
        uid = _sop_instance_uid(dataset)
        if not uid or uid in self.paths:
            return
        implicit, little_endian = dataset.original_encoding
        header = FileDataset(
            path,
            {tag: element for tag, element in dataset.items() if tag < _PIXELS},
            file_meta=dataset.file_meta,
            is_implicit_VR=bool(implicit),
            is_little_endian=little_endian is not False,
        )
        header.set_original_encoding(implicit, little_endian, dataset.original_character_set)
        self.paths[uid] = path
        self._headers[uid] = _with_points(header)

    @classmethod
    def index(cls, paths: Iterable[Path]) -> SourceDatasets:
        """Index DICOM files; what is no DICOM is passed over, and of two files with one UID the first counts."""
        found: dict[str, Path] = {}
        for path in paths:
            try:
                header = read_object(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
            except DAMAGE:
                continue
            uid = _sop_instance_uid(header)
            if uid:
                found.setdefault(uid, path)
        return cls(found)

    def identities(self, study_instance_uid: str) -> list[Dataset]:
        """What the instances of a study say of whose study it is and when: ``IDENTIFYING`` and ``ACQUIRED`` alone.

        Copies: what is read of them leaves the headers as raw as they are.
        """
        found = []
        for uid in sorted(self.paths):
            header = self.header(uid)
            if str(header.get("StudyInstanceUID", "")) == study_instance_uid:
                identity = Dataset()
                for tag in _IDENTITY:
                    if tag in header:
                        identity[tag] = header.get_item(tag)
                found.append(identity)
        return found

    def last_acquired(self, study_instance_uid: str) -> datetime.datetime | None:
        """When the last image of a study was acquired, as its clock said."""
        asked = study_instance_uid, len(self.paths)
        if asked not in self._acquired:
            self._acquired[asked] = last_acquired(self.identities(study_instance_uid))
        return self._acquired[asked]

    def header(self, sop_instance_uid: str) -> Dataset:
        """Data set of an instance, without pixels.

        Raises
        ------
        ProcessingFailureError
            The instance is not among the files, or cannot be read any more.
        """
        if sop_instance_uid not in self._headers:
            path = self.paths.get(sop_instance_uid)
            if path is None:
                raise ProcessingFailureError(
                    "a source instance of the results is not among the files of the study",
                    subject=sop_instance_uid,
                    remedy="run the job again; if that repeats, look for the instance in the storage directory",
                )
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._headers[sop_instance_uid] = _with_points(read_object(path, stop_before_pixels=True))
            except DAMAGE as error:
                raise ProcessingFailureError(
                    f"a source instance cannot be read again: {type(error).__name__}",
                    subject=sop_instance_uid,
                    remedy="check the storage directory",
                ) from error
        return self._headers[sop_instance_uid]

    def reference(self, study: CineStudy) -> Dataset:
        """The instance whose patient and study the results take over.

        The first frame of the short axis; without one, of any stack; without stacks, the instance of the study with
        the smallest SOP Instance UID: the same whatever the order of arrival.
        """
        stacks: list[CineStack] = [study.short_axis] if study.short_axis is not None else list(study.stacks)
        for stack in stacks:
            return self.header(stack.sources[0][0].sop_instance_uid)
        return self.any_of(study.context.study_instance_uid)

    def any_of(self, study_instance_uid: str) -> Dataset:
        """The instance of a study with the smallest SOP Instance UID: the same whatever the order of arrival.

        Raises
        ------
        ProcessingFailureError
            There is none.
        """
        for uid in sorted(self.paths):
            header = self.header(uid)
            if str(header.get("StudyInstanceUID", "")) == study_instance_uid:
                return header
        raise ProcessingFailureError(
            "no source instance of the study is left to take patient and study from",
            subject=study_instance_uid,
            remedy="send the study again",
        )

    def layers(self, source: FrameSource) -> list[Dataset]:
        """Attributes of one frame, the most specific first."""
        return frame_layers(self.header(source.sop_instance_uid), source.frame_number)


def _sop_instance_uid(dataset: Dataset) -> str:
    """Raw: no value is converted, so an invalid UID neither warns nor changes."""
    element = elements.raw(dataset, "SOPInstanceUID")
    value = None if element is None else element.value
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0")


def _with_points(header: Dataset) -> Dataset:
    """The data set with a point in each decimal string that has a comma: what results carry over must be legal."""
    for tag, held in list(header.items()):
        # Most elements of most images hold none: nothing more is asked of them.
        if isinstance(held, RawDataElement) and held.value is not None and b"," not in held.value:
            continue
        element = elements.raw(header, tag)
        if not isinstance(element, RawDataElement) or not element.value or b"," not in element.value:
            continue
        if _is_decimal(element) and elements.numbers(({tag: element},), int(tag)):
            points = element.value.replace(b",", b".").rstrip(b"\\ ")
            header[tag] = element._replace(VR="DS", value=points, length=len(points))
    return header


def _is_decimal(element: RawDataElement) -> bool:
    implied = element.VR is None and dictionary_has_tag(element.tag) and dictionary_VR(element.tag) == "DS"
    return element.VR == "DS" or implied


def frame_layers(header: Dataset, frame_number: int | None) -> list[Dataset]:
    """Per-frame and shared functional group items of a frame, then the data set itself (PS3.3 C.7.6.16)."""
    if frame_number is None:
        return [header]
    return [
        *_macros(header, "PerFrameFunctionalGroupsSequence", frame_number - 1),
        *_macros(header, "SharedFunctionalGroupsSequence", 0),
        header,
    ]


def _macros(header: Dataset, keyword: str, index: int) -> Iterator[Dataset]:
    groups = stated(header, keyword) or []
    if index < len(groups):
        for element in groups[index]:
            if element.VR == "SQ" and element.value:
                yield element.value[0]
