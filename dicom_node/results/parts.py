"""What an encoder is given, and the parts that it makes; :mod:`dicom_node.results.encode` puts them together.

The encoder of a package is the function ``encode`` of ``dicom_node/results/<name of the package>.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydicom.dataset import Dataset

from dicom_node.config import DestinationProfile
from dicom_node.results.canvas import Page, Theme
from dicom_node.results.content import MeasurementGroup
from dicom_node.results.header import ResultContext, encoded
from dicom_node.results.numbers import ReportedNumber
from dicom_node.results.objects import Expected, ResultObject
from dicom_node.results.roles import OWN_OFFSETS, ResultRole, Variant
from dicom_node.results.sources import SourceDatasets
from pipelines.cine.stack import CineStack, CineStudy, FrameSource, LateEnhancementStack
from pipelines.study import PackageFindings

__all__ = [
    "Encode",
    "EncodingRequest",
    "Heading",
    "Panel",
    "Paragraph",
    "Parts",
    "ReportPart",
    "SummaryPart",
    "TextBlock",
    "as_source",
    "frames_of",
    "result_object",
]


@dataclass(frozen=True, slots=True, eq=False)
class EncodingRequest:
    """One package that found something on a study, to be encoded.

    Attributes
    ----------
    found : PackageFindings
        What the package found.
    context : ResultContext
        Identity, dates and equipment of its objects.
    sources : SourceDatasets
        The source instances.
    destinations : mapping of str to DestinationProfile
        Who gets the results; empty when they are made for nobody in particular (``analyze``).
    variants : mapping of Variant to tuple of str
        The variants that destinations want, with the names of who wants each.
    """

    study: CineStudy
    found: PackageFindings
    context: ResultContext
    sources: SourceDatasets
    destinations: Mapping[str, DestinationProfile]
    variants: Mapping[Variant, tuple[str, ...]]

    def object(
        self,
        role: ResultRole,
        dataset: Dataset,
        sources: Sequence[FrameSource],
        expected: Expected | None = None,
        destinations: Iterable[str] | None = None,
    ) -> ResultObject:
        """Finish an object: header, bytes, and where it goes (to all destinations unless said otherwise).

        Parameters
        ----------
        sources
            Source frames that it was derived from.
        expected
            What the gate must find in it, beyond what holds for every object.

        Raises
        ------
        ValueError
            The series number of the role is the node's own.
        """
        if role.series_offset in OWN_OFFSETS:
            raise ValueError(f"role {role.value}: series_offset {role.series_offset} is the node's own")
        names = self.destinations if destinations is None else destinations
        return result_object(self.context, role, dataset, sources, expected, names)


@dataclass(frozen=True, slots=True, eq=False)
class ReportPart:
    """What a package adds to the structured report (TID 1500).

    Attributes
    ----------
    groups : tuple of MeasurementGroup
        Measurement groups (TID 1411, TID 1501), made with :func:`dicom_node.results.content.group`.
    library : tuple of pydicom.Dataset
        Image library groups (TID 1602) of the images that the groups refer to.
    evidence : tuple of FrameSource
        Instances that the groups or the library refer to.
    looked_at : tuple of FrameSource
        Instances that were used and are not referred to.
    expected : tuple of Expected
        What the gate must find in the report, beyond what holds for every report.
    """

    groups: tuple[MeasurementGroup, ...]
    library: tuple[Dataset, ...] = ()
    evidence: tuple[FrameSource, ...] = ()
    looked_at: tuple[FrameSource, ...] = ()
    expected: tuple[Expected, ...] = ()


@dataclass(frozen=True, slots=True)
class Heading:
    """Heading on the text pages of a summary."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text on the text pages of a summary."""

    text: str
    size: float = 8.0
    """Points."""
    muted: bool = False


TextBlock = Heading | Paragraph


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """A framed picture of half a page's width; the panels of all packages share pages.

    Attributes
    ----------
    title : str
    height : float
        Of the frame, mm; at most 150.
    draw : callable
        Called with the page and the x, y, width and height, mm, of the room below the title.
    """

    title: str
    height: float
    draw: Callable[[Page, float, float, float, float], None]


def _no_pages(_theme: Theme) -> list[Page]:
    return []


def _no_objects() -> Sequence[ResultObject]:
    return ()


@dataclass(frozen=True, slots=True, eq=False)
class SummaryPart:
    """What a package adds to the summary pages.

    Attributes
    ----------
    stacks : tuple of CineStack and LateEnhancementStack
        What its numbers come from.
    pages : callable
        Draws whole pages in a theme, without what frames every page (title, banner, foot).
    panels : tuple of Panel
    text : tuple of Heading and Paragraph
        How the numbers came about, ranges, limits.
    synthetic : bool
        Whether it shows or tells what was synthesised and not acquired: the objects that hold it then have
        SyntheticData (0008,001C) YES (PS3.3 C.12.1), and so has the report.
    """

    stacks: tuple[CineStack | LateEnhancementStack, ...] = ()
    pages: Callable[[Theme], list[Page]] = _no_pages
    panels: tuple[Panel, ...] = ()
    text: tuple[TextBlock, ...] = ()
    synthetic: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Everything that an encoder makes of what its package found.

    Attributes
    ----------
    objects : callable
        Makes image series and segmentations, what is referred to before what refers to it. It is called once, when the
        pages are being drawn already, and before ``report``.
    report : callable
        Its part of the report in a variant. The same part in every variant for most.
    summary : SummaryPart
    key_numbers : tuple of str
        The most important numbers in sentences, for the front page.
    numbers : mapping of str to float
        All numbers by name, the unit at its end (``LVEF_percent``), for ``results.json``.
    described : tuple of ReportedNumber
        Those among them that have bounds, a method or a normal range, for the radiologist's report.
    """

    report: Callable[[Variant], ReportPart]
    objects: Callable[[], Sequence[ResultObject]] = _no_objects
    summary: SummaryPart = field(default_factory=SummaryPart)
    key_numbers: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    described: tuple[ReportedNumber, ...] = ()


class Encode(Protocol):
    """``encode`` of an encoder module."""

    def __call__(self, request: EncodingRequest) -> Parts:
        """Encode what a package found; called only when it found what it gives."""
        ...


def result_object(
    context: ResultContext,
    role: ResultRole,
    dataset: Dataset,
    sources: Sequence[FrameSource],
    expected: Expected | None,
    destinations: Iterable[str],
) -> ResultObject:
    """Finish an object: identity of patient and study, bytes, and where it goes."""
    return ResultObject(
        role=role,
        dataset=dataset,
        content=encoded(context, dataset),
        destinations=frozenset(destinations),
        reference_uid=str(context.reference.SOPInstanceUID),
        sources=tuple(sources),
        expected=expected,
    )


def frames_of(stacks: Iterable[CineStack | LateEnhancementStack]) -> tuple[FrameSource, ...]:
    """The source frames of stacks."""
    found: list[FrameSource] = []
    for stack in stacks:
        lines = (stack.sources,) if isinstance(stack, LateEnhancementStack) else stack.sources
        found += [source for line in lines for source in line]
    return tuple(found)


def as_source(each: ResultObject) -> FrameSource:
    """A result object as something that another result refers to."""
    return FrameSource(
        sop_class_uid=each.sop_class_uid,
        sop_instance_uid=each.sop_instance_uid,
        series_instance_uid=each.series_instance_uid,
        frame_number=None,
        instance_number=int(each.dataset.InstanceNumber),
        trigger_time_ms=None,
    )
