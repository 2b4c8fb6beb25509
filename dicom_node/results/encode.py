"""From the findings of packages on a study to the objects that leave the node."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

import structlog
from matplotlib.figure import Figure
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from dicom_node.config import DestinationProfile
from dicom_node.errors import NodeError, raised_at
from dicom_node.results.canvas import DARK, LIGHT, Theme
from dicom_node.results.capture import encapsulated_pdf, pdf, rasters, secondary_captures
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.drawing import begin_drawing
from dicom_node.results.encoders import encoder_of
from dicom_node.results.header import ResultContext
from dicom_node.results.identity import CarriedIdentity, with_frames_of_reference
from dicom_node.results.numbers import ReportedNumber, reported_numbers
from dicom_node.results.objects import ExpectedAll, ResultObject
from dicom_node.results.parts import EncodingRequest, Parts, frames_of, result_object
from dicom_node.results.provenance import provenance
from dicom_node.results.refusal import refusal_report
from dicom_node.results.report import composed_report
from dicom_node.results.roles import (
    REFUSAL,
    REFUSAL_SUMMARY,
    REFUSAL_SUMMARY_PDF,
    REPORT,
    SUMMARY,
    SUMMARY_PDF,
    ResultRole,
    variants,
)
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.summary import refusal_pages, summary_pages
from dicom_node.results.verdict import headline
from pipelines.cine.stack import CineStack, CineStudy, FrameSource, LateEnhancementStack
from pipelines.errors import Refusal, RefusalReason
from pipelines.package import AnalysisPackage
from pipelines.quality.findings import QualityAssessment
from pipelines.segmentation.labels import CineSegmentation
from pipelines.study import PackageFindings

__all__ = ["EncodedPackage", "EncodedStudy", "encode_refusal", "encode_study"]

_log = structlog.get_logger(__name__)

T = TypeVar("T")

SEVERAL = "cardiac MR"
"""Title of a report that several packages share."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPackage:
    """What became of one package in the results.

    Attributes
    ----------
    package : AnalysisPackage
    causes : tuple of Refusal
        Why it gave nothing; empty when it is encoded.
    key_numbers : tuple of str
        What was found, in sentences.
    numbers : mapping of str to float
        What was found, by name.
    reported : tuple of ReportedNumber
        The same, with units and, where there are any, bounds and normal ranges.
    """

    package: AnalysisPackage
    causes: tuple[Refusal, ...]
    key_numbers: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    reported: tuple[ReportedNumber, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class EncodedStudy:
    """The objects of packages that report together.

    Attributes
    ----------
    packages : tuple of EncodedPackage
        In the order of the route.
    objects : tuple of ResultObject
        In the order of delivery: what is referred to before what refers to it.
    """

    packages: tuple[EncodedPackage, ...]
    objects: tuple[ResultObject, ...]


def encode_study(
    study: CineStudy,
    found: Sequence[PackageFindings],
    sources: SourceDatasets,
    destinations: Mapping[str, DestinationProfile],
    circumstances: Circumstances,
    made: Callable[[Sequence[ResultObject]], None] = lambda _objects: None,
) -> EncodedStudy:
    """Encode what packages found on a study: objects of each, one report and one summary of all.

    A package that gave nothing, or whose encoder fails, withholds nothing of the others: the report says why. When no
    package found anything the report is the refusal.

    Parameters
    ----------
    found
        Of each package, in the order of the route.
    sources
        The source instances.
    destinations
        Profiles by name. Without any, the usual objects are made for nobody in particular (``analyze``).
    made
        Told of the objects that are made while the pages are still being drawn: there is time to look at them.

    Raises
    ------
    ConfigurationError
        A package has no encoder.
    ProcessingFailureError
        A source instance is missing or cannot be read.
    """
    # Values of the source go into the results as they stand, also where they break PS3.5.
    with disable_value_validation():
        named = with_frames_of_reference(study)
        return _Encoder(named, sources, dict(destinations), circumstances, made).encoded(found)


def encode_refusal(
    study: CineStudy,
    found: Sequence[PackageFindings],
    refusal: Refusal,
    sources: SourceDatasets,
    destinations: Mapping[str, DestinationProfile],
    circumstances: Circumstances,
) -> EncodedStudy:
    """Encode the report that a study is declined, or that its results are withheld: short, and alone.

    Parameters are those of :func:`encode_study`; of ``found`` only the packages and their networks are looked at.
    """
    with disable_value_validation():
        return _Encoder(study, sources, dict(destinations), circumstances).refused(found, refusal)


@dataclass(frozen=True, slots=True, eq=False)
class _Encoder:
    study: CineStudy
    sources: SourceDatasets
    destinations: dict[str, DestinationProfile]
    circumstances: Circumstances
    made: Callable[[Sequence[ResultObject]], None] = lambda _objects: None

    def encoded(
        self, found: Sequence[PackageFindings], failed: Mapping[str, Refusal] = MappingProxyType({})
    ) -> EncodedStudy:
        """All objects; ``failed`` are the packages whose encoders failed, by name."""
        parts: dict[str, Parts] = {}
        packages = []
        for one in found:
            made = self._parts(one, failed.get(one.package.name))
            if isinstance(made, Parts):
                parts[one.package.name] = made
                version = f"{one.package.name} {one.package.version}"
                reported = reported_numbers(made.described, made.numbers, version)
                packages.append(EncodedPackage(one.package, (), made.key_numbers, made.numbers, reported))
            else:
                packages.append(EncodedPackage(one.package, made))
        declined = {one.package.title: one.causes for one in packages if one.causes}
        quality = next((each for one in found if (each := one.findings.get(QualityAssessment)) is not None), None)
        context = self._context(found)
        together = [parts[one.package.name] for one in found if one.package.name in parts]
        if not together:
            return EncodedStudy(tuple(packages), self._whole(*self._refused(context, declined, quality)))
        # The pages first: they are drawn while the objects are made.
        pages = self._summary(context, together, declined, quality)
        objects: list[ResultObject] = []
        for name, own in parts.items():
            finished = _unless_it_fails(name, own.objects)
            if isinstance(finished, Refusal):
                return self.encoded(found, {**failed, name: finished})
            objects += finished
        objects += self._reports(context, together, declined, quality)
        return EncodedStudy(tuple(packages), self._whole(objects, pages))

    def _whole(
        self, objects: Sequence[ResultObject], pages: Callable[[], Sequence[ResultObject]]
    ) -> tuple[ResultObject, ...]:
        """All objects in the order of delivery; what is there is told of before the pages are waited for."""
        self.made(objects)
        return (*objects, *pages())

    def refused(self, found: Sequence[PackageFindings], refusal: Refusal) -> EncodedStudy:
        declined = {one.package.title: (refusal,) for one in found}
        context = self._context(found)
        context = replace(context, identity=context.identity.refined("refused", refusal.sentence))
        bare = replace(self.study, omissions=())
        report = refusal_report(context, bare, declined, None, self.circumstances.predecessors)
        return EncodedStudy(
            tuple(EncodedPackage(one.package, (refusal,)) for one in found),
            (result_object(context, REFUSAL, report, (), None, self.destinations),),
        )

    def _context(self, found: Sequence[PackageFindings]) -> ResultContext:
        """Identity and equipment of packages that share an object."""
        models = tuple(dict.fromkeys(model for one in found for model in one.models))
        reference = self.sources.reference(self.study)
        return ResultContext(
            title=found[0].package.title if len(found) == 1 else SEVERAL,
            series_block=found[0].package.series_block,
            identity=self.circumstances.identity(
                self.study.context.study_instance_uid,
                [f"{one.package.name} {one.package.version}" for one in found],
                models,
            ),
            carried=CarriedIdentity.of(reference),
            reference=reference,
            created=self.circumstances.created,
            settings=self.circumstances.settings,
            models=models,
            acquired=self.sources.last_acquired(self.study.context.study_instance_uid),
            editor=next((name for one in found for name in _editors(one)), ""),
        )

    def _parts(self, found: PackageFindings, failed: Refusal | None) -> Parts | tuple[Refusal, ...]:
        """What the encoder of a package makes; the causes when there is nothing, or when it fails or has failed."""
        if failed is not None:
            return (failed,)
        if not found.found:
            return found.causes
        encode = encoder_of(found.package)
        request = EncodingRequest(
            study=self.study,
            found=found,
            context=self._context([found]),
            sources=self.sources,
            destinations=self.destinations,
            variants=variants(self.destinations),
        )
        made = _unless_it_fails(found.package.name, lambda: encode(request))
        return (made,) if isinstance(made, Refusal) else made

    def _reports(
        self,
        context: ResultContext,
        parts: Sequence[Parts],
        declined: Mapping[str, Sequence[Refusal]],
        quality: QualityAssessment | None,
    ) -> list[ResultObject]:
        made = []
        for variant, names in variants(self.destinations).items():
            adds = [each.report(variant) for each in parts]
            report = composed_report(
                context, self.study, adds, declined, quality, variant, self.circumstances.predecessors
            )
            _say_what_is_synthetic(report, any(each.summary.synthetic for each in parts))
            used = list(dict.fromkeys(source for each in adds for source in each.looked_at))
            expected = ExpectedAll(tuple(one for each in adds for one in each.expected))
            made.append(result_object(context, REPORT, report, used, expected, names))
        return made

    def _summary(
        self,
        context: ResultContext,
        parts: Sequence[Parts],
        declined: Mapping[str, Sequence[Refusal]],
        quality: QualityAssessment | None,
    ) -> Callable[[], list[ResultObject]]:
        summaries = [each.summary for each in parts]
        every: list[CineStack | LateEnhancementStack] = [*self.study.stacks, *self.study.late_enhancement]
        stacks = [stack for stack in every if any(stack is one for each in summaries for one in each.stacks)]
        origin = provenance(context, self.study, self.sources, used=stacks)

        def pages(theme: Theme) -> list[Figure]:
            return summary_pages(theme, context.title, self.study, summaries, declined, quality, origin)

        title = f"{headline(context.title)} from cardiac MR" if len(parts) == 1 else headline(context.title)
        synthetic = any(each.synthetic for each in summaries)
        return self._pages(context, (SUMMARY, SUMMARY_PDF), pages, title, frames_of(stacks), synthetic=synthetic)

    def _refused(
        self,
        context: ResultContext,
        declined: Mapping[str, Sequence[Refusal]],
        quality: QualityAssessment | None,
    ) -> tuple[list[ResultObject], Callable[[], list[ResultObject]]]:
        """The report that nothing was found, and its pages."""
        # Another attempt may be refused for another reason: other sentences, other objects.
        sentences = [cause.sentence for causes in declined.values() for cause in causes]
        context = replace(context, identity=context.identity.refined("refused", *sentences))
        looked_at = frames_of((*self.study.stacks, *self.study.late_enhancement))
        origin = provenance(context, self.study, self.sources, used=())

        def pages(theme: Theme) -> list[Figure]:
            return refusal_pages(theme, context.title, self.study, declined, quality, origin)

        title = f"{headline(context.title)}: not analysed"
        drawn = self._pages(context, (REFUSAL_SUMMARY, REFUSAL_SUMMARY_PDF), pages, title, looked_at)
        report = refusal_report(context, self.study, declined, quality, self.circumstances.predecessors)
        return [result_object(context, REFUSAL, report, looked_at, None, self.destinations)], drawn

    def _pages(
        self,
        context: ResultContext,
        roles: tuple[ResultRole, ResultRole],
        pages: Callable[[Theme], list[Figure]],
        title: str,
        sources: Sequence[FrameSource],
        *,
        synthetic: bool = False,
    ) -> Callable[[], list[ResultObject]]:
        """Begin to draw the pages for those who want them, dark as images, light as PDF; gives what waits for them."""
        image_role, document_role = roles
        images = [name for name, profile in self.destinations.items() if profile.summary_secondary_capture]
        documents = [name for name, profile in self.destinations.items() if profile.summary_pdf]
        wanted = not self.destinations
        rastered = begin_drawing(functools.partial(rasters, pages(DARK))) if images or wanted else None
        printed = (
            begin_drawing(functools.partial(pdf, pages(LIGHT), title, context.created)) if documents or wanted else None
        )

        def made() -> list[ResultObject]:
            objects = []
            for capture in () if rastered is None else secondary_captures(context, image_role, rastered(), title):
                _say_what_is_synthetic(capture, synthetic)
                objects.append(result_object(context, image_role, capture, sources, None, images))
            if printed is not None:
                document = encapsulated_pdf(context, document_role, printed(), title)
                _say_what_is_synthetic(document, synthetic)
                objects.append(result_object(context, document_role, document, sources, None, documents))
            return objects

        return made


def _unless_it_fails(package: str, make: Callable[[], T]) -> T | Refusal:
    """What the encoder of a package makes; why there is nothing when it fails."""
    try:
        return make()
    except NodeError:
        raise
    except Exception as error:  # noqa: BLE001 - a defect in one encoder must not take the other packages with it
        _log.error("encoder failed", package=package, at=raised_at(error))
        sentence = f"The results could not be encoded ({type(error).__name__}); the log has the details."
        return Refusal(package, RefusalReason.ANALYSIS_FAILED, sentence)


def _say_what_is_synthetic(dataset: Dataset, synthetic: bool) -> None:
    """Set SyntheticData (0008,001C) where part of the content was made and not acquired."""
    if synthetic:
        dataset.SyntheticData = "YES"


def _editors(found: PackageFindings) -> tuple[str, ...]:
    """Who corrected masks that a package worked on, the last first."""
    segmentation = found.findings.get(CineSegmentation)
    corrections = () if segmentation is None else segmentation.corrections
    return tuple(one.by for one in reversed(corrections) if one.by)
