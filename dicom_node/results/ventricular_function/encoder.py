"""From what was found on the ventricles to the parts of the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dicom_node.config import SegmentationTarget
from dicom_node.results.normal_ranges import normal_table
from dicom_node.results.numbers import ReportedNumber
from dicom_node.results.objects import ResultObject
from dicom_node.results.parts import EncodingRequest, Parts, SummaryPart, as_source
from dicom_node.results.phase_objects import key_phase_objects, segmentation_object
from dicom_node.results.roles import Variant
from dicom_node.results.segmentation import EncodedSegmentation, segmentation
from dicom_node.results.ventricular_function.groups import KEY_PHASE, SEGMENTATION, ReportContent, function_part
from dicom_node.results.ventricular_function.pages import function_pages, function_text, with_interval
from pipelines.cine.stack import FrameSource
from pipelines.function.findings import Measurement, Quantity, VentricularFunction
from pipelines.function.normals import ReferenceInterval, reference_interval
from pipelines.function.slices import SliceMeasures
from pipelines.quality.findings import CONFIDENCE_MEANS, QualityAssessment
from pipelines.segmentation.labels import CineSegmentation

__all__ = ["encode", "key_numbers"]

_WHEN = {"ED": "end diastole", "ES": "end systole"}
_KEY_NUMBERS = (
    ("left ventricle", (Quantity.LVEF, Quantity.LVEDV, Quantity.LVESV, Quantity.LVM)),
    ("right ventricle", (Quantity.RVEF, Quantity.RVEDV, Quantity.RVESV)),
)
_WORDS = {
    Quantity.LVEF: "ejection fraction",
    Quantity.LVEDV: "end-diastolic volume",
    Quantity.LVESV: "end-systolic volume",
    Quantity.LVM: "myocardial mass",
    Quantity.RVEF: "ejection fraction",
    Quantity.RVEDV: "end-diastolic volume",
    Quantity.RVESV: "end-systolic volume",
}


def encode(request: EncodingRequest) -> Parts:
    """Encode ventricular function."""
    findings, study = request.found.findings, request.study
    stack = study.short_axis
    if stack is None:
        raise ValueError("ventricular function without a short-axis stack")
    table = normal_table(request.context.settings)
    ranges = {
        quantity: interval
        for quantity in Quantity
        if (interval := reference_interval(quantity, study.context, table)) is not None
    }
    content = ReportContent(
        study,
        stack,
        findings[SliceMeasures],
        findings[VentricularFunction],
        findings[QualityAssessment],
        ranges,
    )
    images = _Images(request, content)
    segmentations: dict[Variant, Mapping[str, EncodedSegmentation]] = {}

    def objects() -> list[ResultObject]:
        key_phases = list(images.key_phases())
        made = list(key_phases)
        for variant in request.variants:
            both = images.segmentations(variant, key_phases)
            segmentations[variant] = {when: seg for when, (_, seg) in both.items()}
            made += [each for each, _ in both.values()]
        return made

    return Parts(
        objects=objects,
        report=lambda variant: function_part(request.context, content, segmentations[variant]),
        summary=SummaryPart(
            stacks=content.stacks,
            pages=lambda theme: function_pages(theme, content),
            text=function_text(content),
        ),
        key_numbers=(
            *key_numbers(content.function, content.quality),
            *(one.sentence for one in findings[CineSegmentation].corrections),
        ),
        numbers={one.quantity.value: one.value for one in content.function.measurements()},
        described=tuple(_described(one, ranges.get(one.quantity)) for one in content.function.measurements()),
    )


def key_numbers(function: VentricularFunction, quality: QualityAssessment) -> tuple[str, ...]:
    """Sentences for the front page: the numbers with their intervals, and the confidence in them."""
    measured = {one.quantity: one for one in function.measurements()}
    sentences = []
    for chamber, quantities in _KEY_NUMBERS:
        said = [f"{_WORDS[each]} {with_interval(measured[each])}" for each in quantities if each in measured]
        if said:
            sentences.append(f"{chamber[:1].upper()}{chamber[1:]}: {', '.join(said)}.")
    if not sentences:
        return ()
    reasons = len(quality.departures)
    why = f"; {reasons} finding{'s' if reasons > 1 else ''} to read with the numbers" if reasons else ""
    means = CONFIDENCE_MEANS[quality.overall]
    return (*sentences, f"Confidence: {quality.overall.name} ({means}){why}. In brackets: 95 % intervals.")


def _described(one: Measurement, normal: ReferenceInterval | None) -> ReportedNumber:
    return ReportedNumber(
        one.quantity.value,
        one.value,
        one.quantity.unit,
        one.method,
        lower=None if one.interval is None else one.interval.lower,
        upper=None if one.interval is None else one.interval.upper,
        normal_lower=None if normal is None else normal.lower,
        normal_upper=None if normal is None else normal.upper,
        normal_source="" if normal is None else normal.source,
    )


def _editor(segmentation: CineSegmentation, phase: int) -> str | None:
    """Who drew the masks of a phase, as in the object that was sent; none where the network did."""
    return next((one.by for one in segmentation.corrections if one.phase == phase), None)


@dataclass(frozen=True, slots=True, eq=False)
class _Images:
    request: EncodingRequest
    content: ReportContent

    def _phases(self) -> dict[str, int]:
        key = self.content.function.keyframes
        return {"ED": key.end_diastole, "ES": key.end_systole}

    def key_phases(self) -> Iterator[ResultObject]:
        """Key-phase images for the destinations whose SEG refers to them."""
        wanting = [
            (variant, names)
            for variant, names in self.request.variants.items()
            if variant.references is SegmentationTarget.KEY_PHASE
        ]
        if not wanting:
            return
        names = [name for _, listed in wanting for name in listed]
        for when, phase in self._phases().items():
            stack = self.content.stack
            yield from key_phase_objects(self.request, KEY_PHASE[when], stack, phase, _WHEN[when], names)

    def segmentations(
        self, variant: Variant, key_phases: Sequence[ResultObject]
    ) -> Mapping[str, tuple[ResultObject, EncodedSegmentation]]:
        """SEG of both phases as a group of destinations gets them."""
        stack = self.content.stack
        made: dict[str, tuple[ResultObject, EncodedSegmentation]] = {}
        for when, phase in self._phases().items():
            role = SEGMENTATION[when]
            references: tuple[FrameSource, ...] = tuple(stack.sources[phase])
            if variant.references is SegmentationTarget.KEY_PHASE:
                references = tuple(as_source(each) for each in key_phases if each.role == KEY_PHASE[when])
            seg = segmentation(
                self.request.context,
                role,
                stack,
                self.content.slices.reported(phase),
                references,
                variant=variant,
                when=when,
                corrected_by=_editor(self.request.found.findings[CineSegmentation], phase),
            )
            names = self.request.variants[variant]
            sources = stack.sources[phase]
            place = (stack.geometry, stack.frame_of_reference_uid)
            made[when] = (segmentation_object(self.request, role, seg, *place, sources, names), seg)
        return made
