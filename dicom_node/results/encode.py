"""From the findings of a study to the objects that leave the node."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from dicom_node.config import DestinationProfile, ResultSettings, SegmentationTarget
from dicom_node.results.canvas import DARK, LIGHT, Theme
from dicom_node.results.capture import encapsulated_pdf, secondary_captures
from dicom_node.results.header import SOFTWARE_VERSION, ResultContext, ResultRole, encoded
from dicom_node.results.identity import CarriedIdentity, ResultIdentity, with_frames_of_reference
from dicom_node.results.keyphase import key_phase_series
from dicom_node.results.objects import Expected, ExpectedMask, ExpectedReport, ExpectedSlice, ResultObject
from dicom_node.results.provenance import provenance
from dicom_node.results.refusal import refusal_report, root_refusals
from dicom_node.results.report import ReportContent, function_report
from dicom_node.results.segmentation import EncodedSegmentation, segmentation
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.summary import function_pages, refusal_pages
from pipelines.analysis import Findings
from pipelines.cine.stack import CineStack, CineStudy, FrameSource
from pipelines.errors import Refusal
from pipelines.function.findings import Quantity, VentricularFunction
from pipelines.function.normals import reference_interval
from pipelines.function.slices import SliceMeasures
from pipelines.quality.findings import QualityAssessment
from pipelines.segmentation.labels import CineSegmentation, Label

__all__ = ["encode_refusal", "encode_study", "result_identity"]

_PHASES = (
    (ResultRole.KEY_PHASE_ED, ResultRole.SEGMENTATION_ED),
    (ResultRole.KEY_PHASE_ES, ResultRole.SEGMENTATION_ES),
)


@dataclass(frozen=True, slots=True)
class _Variant:
    """What a group of destinations gets alike: SEG and the report that refers to it."""

    references: SegmentationTarget
    omit_empty_frames: bool

    @property
    def name(self) -> str:
        """Part of the identity of the objects; empty for the usual variant."""
        parts = ["" if self.references is SegmentationTarget.KEY_PHASE else self.references.value]
        parts.append("omit-empty" if self.omit_empty_frames else "")
        return "+".join(part for part in parts if part)

    @property
    def series_offset(self) -> int:
        """Keeps the series numbers of variants apart where one archive gets several."""
        return 10 * (self.references is SegmentationTarget.SOURCE) + 20 * self.omit_empty_frames


def result_identity(
    study: CineStudy,
    findings: Findings,
    *,
    inputs: Iterable[str],
    route_name: str,
    settings: ResultSettings,
) -> ResultIdentity:
    """Identity of the results of one study version on one route.

    Parameters
    ----------
    inputs
        Digests of the input instances; where there are none (``analyze``), their SOP Instance UIDs.
    """
    found = findings.get(CineSegmentation)
    said = settings.model_dump(mode="json", exclude={"destinations"})
    return ResultIdentity.of(
        study_instance_uid=study.context.study_instance_uid,
        inputs=inputs,
        route_name=route_name,
        models=() if found is None else found.models,
        settings=json.dumps(said, sort_keys=True),
        software_version=SOFTWARE_VERSION,
    )


def encode_study(
    study: CineStudy,
    findings: Findings,
    sources: SourceDatasets,
    destinations: Mapping[str, DestinationProfile],
    settings: ResultSettings,
    identity: ResultIdentity,
    created: datetime.datetime,
) -> list[ResultObject]:
    """Encode everything that a study's destinations get.

    Parameters
    ----------
    study, findings
        What was assembled and what was found on it.
    sources
        The source instances.
    destinations
        Profiles by name. Without any, the usual objects are made for nobody in particular (``analyze``).
    identity
        See :func:`result_identity`.
    created
        Date and time that the objects carry, with time zone: of the study version, not of this attempt.

    Returns
    -------
    list of ResultObject
        In the order of delivery: images before what refers to them. Without ventricular function: the refusal.

    Raises
    ------
    ProcessingFailureError
        A source instance is missing or cannot be read.
    """
    # Values of the source go into the results as they stand, also where they break PS3.5.
    with disable_value_validation():
        study = with_frames_of_reference(study)
        found = findings.get(CineSegmentation)
        context = _context(study, findings, sources, settings, identity, created)
        function, quality = findings.get(VentricularFunction), findings.get(QualityAssessment)
        stack = study.short_axis
        if function is None or quality is None or found is None or stack is None:
            return _refused(context, study, findings, sources, destinations)
        ranges = {
            quantity: interval
            for quantity in Quantity
            if (interval := reference_interval(quantity, study.context)) is not None
        }
        content = ReportContent(study, stack, function, quality, root_refusals(findings.refusals), ranges)
        shown = _as_counted(found, findings.get(SliceMeasures))
        return _Encoder(context, content, found, shown, sources, dict(destinations)).objects()


def encode_refusal(
    study: CineStudy,
    refusal: Refusal,
    sources: SourceDatasets,
    destinations: Iterable[str],
    settings: ResultSettings,
    identity: ResultIdentity,
    created: datetime.datetime,
) -> list[ResultObject]:
    """Encode the report that a study was declined or its results withheld, alone; parameters as above."""
    with disable_value_validation():
        context = _context(study, Findings({}), sources, settings, identity, created)
        bare = dataclasses.replace(study, omissions=())
        report = refusal_report(context, bare, (refusal,), None)
        return [_object(context, ResultRole.REFUSAL, report, destinations, ())]


def _context(
    study: CineStudy,
    findings: Findings,
    sources: SourceDatasets,
    settings: ResultSettings,
    identity: ResultIdentity,
    created: datetime.datetime,
) -> ResultContext:
    found = findings.get(CineSegmentation)
    reference = sources.reference(study)
    return ResultContext(
        identity=identity,
        carried=CarriedIdentity.of(reference),
        reference=reference,
        created=created,
        settings=settings,
        models=() if found is None else found.models,
    )


def _refused(
    context: ResultContext,
    study: CineStudy,
    findings: Findings,
    sources: SourceDatasets,
    destinations: Mapping[str, DestinationProfile],
) -> list[ResultObject]:
    quality = findings.get(QualityAssessment)
    report = refusal_report(context, study, findings.refusals, quality)
    looked_at = _frames(study.stacks)
    origin = provenance(context, study, sources, measured=None)

    def pages(theme: Theme) -> list[Figure]:
        return refusal_pages(theme, study, root_refusals(findings.refusals), quality, origin)

    return [
        _object(context, ResultRole.REFUSAL, report, destinations, looked_at),
        *_summaries(context, pages, "Ventricular function: not analysed", destinations, looked_at),
    ]


def _summaries(
    context: ResultContext,
    pages: Callable[[Theme], list[Figure]],
    title: str,
    destinations: Mapping[str, DestinationProfile],
    sources: Sequence[FrameSource],
) -> list[ResultObject]:
    """The pages for those who want them: dark as images, light as PDF."""
    made: list[ResultObject] = []
    images = [name for name, profile in destinations.items() if profile.summary_secondary_capture]
    if images or not destinations:
        captures = secondary_captures(context, pages(DARK), title)
        made += [_object(context, ResultRole.SUMMARY, capture, images, sources) for capture in captures]
    documents = [name for name, profile in destinations.items() if profile.summary_pdf]
    if documents or not destinations:
        document = encapsulated_pdf(context, pages(LIGHT), title)
        made.append(_object(context, ResultRole.SUMMARY_PDF, document, documents, sources))
    return made


def _as_counted(found: CineSegmentation, slices: SliceMeasures | None) -> NDArray[np.uint8]:
    """Labels as the numbers count them: no LV cavity on a slice that is not counted, no wall above the valves."""
    if slices is None:
        return found.labels
    left_out = ~slices.counted[:, :, None, None] & (found.labels == Label.LV)
    left_out |= slices.above_base[None, :, None, None] & (found.labels == Label.MYO)
    return np.where(left_out, np.uint8(Label.BACKGROUND), found.labels)


def _frames(stacks: Iterable[CineStack]) -> tuple[FrameSource, ...]:
    return tuple(source for stack in stacks for line in stack.sources for source in line)


def _object(
    context: ResultContext,
    role: ResultRole,
    dataset: Dataset,
    destinations: Iterable[str],
    sources: Sequence[FrameSource],
    expected: Expected | None = None,
) -> ResultObject:
    return ResultObject(
        role=role,
        dataset=dataset,
        content=encoded(context, dataset),
        destinations=frozenset(destinations),
        reference_uid=str(context.reference.SOPInstanceUID),
        sources=tuple(sources),
        expected=expected,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Encoder:
    context: ResultContext
    content: ReportContent
    found: CineSegmentation
    shown: NDArray[np.uint8]
    """Labels (T, S, R, C) that the SEG shows."""
    sources: SourceDatasets
    destinations: dict[str, DestinationProfile]

    def objects(self) -> list[ResultObject]:
        """All objects, images first."""
        variants: dict[_Variant, list[str]] = {}
        for name, profile in self.destinations.items():
            variant = _Variant(profile.segmentation_references, profile.omit_empty_frames)
            variants.setdefault(variant, []).append(name)
        if not variants:
            variants[_Variant(SegmentationTarget.KEY_PHASE, omit_empty_frames=False)] = []
        made = []
        on_key_phase = [
            name
            for variant, names in variants.items()
            if variant.references is SegmentationTarget.KEY_PHASE
            for name in names
        ]
        references: dict[ResultRole, tuple[FrameSource, ...]] = {}
        if any(variant.references is SegmentationTarget.KEY_PHASE for variant in variants):
            for phase, (role, _) in zip(self._phases(), _PHASES, strict=True):
                series = self._key_phase(role, phase, on_key_phase)
                references[role] = tuple(_as_source(each) for each in series)
                made += series
        for variant, names in variants.items():
            made += self._segmentations_and_report(variant, names, references)
        return made + self._pages()

    def _pages(self) -> list[ResultObject]:
        stack, study = self.content.stack, self.content.study
        origin = provenance(self.context, study, self.sources, measured=stack)

        def pages(theme: Theme) -> list[Figure]:
            return function_pages(theme, self.content, self.found, origin)

        title = "Ventricular function from cine MR"
        return _summaries(self.context, pages, title, self.destinations, _frames([stack]))

    def _phases(self) -> tuple[int, int]:
        key = self.content.function.keyframes
        return key.end_diastole, key.end_systole

    def _key_phase(self, role: ResultRole, phase: int, names: Sequence[str]) -> list[ResultObject]:
        stack = self.content.stack
        series = []
        for index, (dataset, pixels) in enumerate(key_phase_series(self.context, role, stack, phase, self.sources)):
            source = stack.sources[phase][index]
            expected = ExpectedSlice(
                grey=stack.pixels[phase, index],
                tolerance=0.0 if pixels.exact else abs(pixels.slope) * 0.51,
                geometry=stack.geometry,
                frame_of_reference_uid=stack.frame_of_reference_uid,
                index=index,
                source=source,
            )
            series.append(_object(self.context, role, dataset, names, [source], expected))
        return series

    def _segmentations_and_report(
        self, variant: _Variant, names: Sequence[str], key_phase: Mapping[ResultRole, tuple[FrameSource, ...]]
    ) -> list[ResultObject]:
        stack = self.content.stack
        made: list[ResultObject] = []
        segs: list[EncodedSegmentation] = []
        used: list[FrameSource] = []
        for phase, (image_role, role) in zip(self._phases(), _PHASES, strict=True):
            on_sources = variant.references is SegmentationTarget.SOURCE
            references = stack.sources[phase] if on_sources else key_phase[image_role]
            seg = segmentation(
                self.context,
                role,
                stack,
                self.shown[phase],
                references,
                omit_empty_frames=variant.omit_empty_frames,
                variant=variant.name,
                variant_offset=variant.series_offset,
            )
            expected = ExpectedMask(
                labels=seg.labels,
                segments=seg.segments,
                geometry=stack.geometry,
                frame_of_reference_uid=stack.frame_of_reference_uid,
                references=seg.references,
            )
            made.append(_object(self.context, role, seg.dataset, names, stack.sources[phase], expected))
            segs.append(seg)
            used += stack.sources[phase]
        report = function_report(
            self.context, self.content, segs, variant=variant.name, variant_offset=variant.series_offset
        )
        expected_report = ExpectedReport(stack.geometry)
        made.append(_object(self.context, ResultRole.REPORT, report, names, _frames([stack]), expected_report))
        return made


def _as_source(each: ResultObject) -> FrameSource:
    return FrameSource(
        sop_class_uid=each.sop_class_uid,
        sop_instance_uid=each.sop_instance_uid,
        series_instance_uid=each.series_instance_uid,
        frame_number=None,
        instance_number=int(each.dataset.InstanceNumber),
        trigger_time_ms=None,
    )
