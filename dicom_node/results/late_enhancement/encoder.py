"""From what was found on acquired late enhancement to the parts of the results."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dicom_node.config import SegmentationTarget
from dicom_node.results.late_enhancement.groups import METHOD_WORDS, SEGMENTATION, enhancement_part
from dicom_node.results.late_enhancement.pages import enhancement_page, enhancement_text
from dicom_node.results.late_enhancement.structures import STRUCTURES
from dicom_node.results.numbers import ReportedNumber
from dicom_node.results.objects import ResultObject
from dicom_node.results.parts import EncodingRequest, Parts, SummaryPart
from dicom_node.results.phase_objects import segmentation_object
from dicom_node.results.roles import Variant
from dicom_node.results.segmentation import EncodedSegmentation, segmentation
from pipelines.cine.stack import CineStack, LateEnhancementStack
from pipelines.late_enhancement.findings import ExtentMethod, LateEnhancement

__all__ = ["encode"]


def encode(request: EncodingRequest) -> Parts:
    """Encode labels, extents, depth by segment and presence."""
    found = request.found.findings[LateEnhancement]
    stack = request.study.late_enhancement[found.stack]
    segmentations = {variant: _segmentation(request, found, stack, variant) for variant in request.variants}
    return Parts(
        objects=lambda: [made for made, _ in segmentations.values()],
        report=lambda variant: enhancement_part(request.context, found, stack, segmentations[variant][1]),
        summary=SummaryPart(
            stacks=(stack,),
            pages=lambda theme: [enhancement_page(theme, found, stack)],
            text=enhancement_text(found),
        ),
        key_numbers=_key_numbers(found),
        numbers=_numbers(found),
        described=tuple(_described(found)),
    )


def _described(found: LateEnhancement) -> Iterator[ReportedNumber]:
    """The numbers that have bounds or a method."""
    for one in found.extents:
        interval = one.interval
        yield ReportedNumber(
            f"LGE_{_key(one.method)}_percent",
            one.percent,
            "%",
            f"acquired late enhancement, {METHOD_WORDS[one.method]}; % of the left ventricular muscle",
            lower=None if interval is None else interval.lower,
            upper=None if interval is None else interval.upper,
        )
    network = f"acquired late enhancement, {METHOD_WORDS[ExtentMethod.NETWORK]}"
    yield ReportedNumber("LGE_network_g", found.extent(ExtentMethod.NETWORK).grams, "g", network)
    yield ReportedNumber("LGE_obstruction_percent", found.obstruction_percent, "%", network)
    for name, presence in (("infarct", found.infarct), ("obstruction", found.obstruction)):
        law = f"{network}: logistic law of the extent"
        yield ReportedNumber(f"LGE_{name}_probability", presence.probability, "1", law)
    for segment in found.segments:
        yield ReportedNumber(
            f"LGE_segment{segment.segment}_percent", segment.percent, "%", f"{network}; AHA segment {segment.segment}"
        )


def _segmentation(
    request: EncodingRequest, found: LateEnhancement, stack: LateEnhancementStack, variant: Variant
) -> tuple[ResultObject, EncodedSegmentation]:
    """SEG on the acquired images: they show one moment, so no derived series is needed to draw it on."""
    seg = segmentation(
        request.context,
        SEGMENTATION,
        _one_phase(stack),
        found.labels,
        stack.sources,
        variant=Variant(SegmentationTarget.KEY_PHASE, variant.omit_empty_frames),
        when="LGE",
        structures=STRUCTURES,
        content_label="LATE_ENHANCEMENT",
        content="Left ventricle and infarct",
    )
    place = (stack.geometry, stack.frame_of_reference_uid)
    names = request.variants[variant]
    return segmentation_object(request, SEGMENTATION, seg, *place, stack.sources, names), seg


def _one_phase(stack: LateEnhancementStack) -> CineStack:
    """The stack as a cine of one phase: what a SEG needs of it is the same."""
    return CineStack(
        view=stack.view,
        pixels=stack.pixels[None],
        geometry=stack.geometry,
        sources=(stack.sources,),
        trigger_times=stack.trigger_times_ms[None],
        rr_intervals=np.full(stack.slices, np.nan),
        frame_of_reference_uid=stack.frame_of_reference_uid,
        regridded_slices=stack.regridded_slices,
        interpolated_slices=stack.interpolated_slices,
    )


def _key_numbers(found: LateEnhancement) -> tuple[str, ...]:
    network, half = found.extent(ExtentMethod.NETWORK), found.extent(ExtentMethod.FWHM)
    if not found.infarct.present:
        said = (
            f"Late enhancement: no infarct found (probability {found.infarct.probability:.2f}, "
            f"{network.percent:.0f} % of the left ventricular muscle labelled)."
        )
        return (said,)
    between = ""
    if network.interval is not None:
        between = f" ({network.interval.lower:.0f} to {network.interval.upper:.0f} %)"
    said = (
        f"Late enhancement: infarct of {network.percent:.0f} %{between} of the left ventricular muscle by the network, "
        f"{half.percent:.0f} % by full width at half maximum; probability {found.infarct.probability:.2f}."
    )
    core = (
        f"Microvascular obstruction: {found.obstruction_percent:.1f} % of the left ventricular muscle, probability "
        f"{found.obstruction.probability:.2f}."
        if found.obstruction.present
        else f"Microvascular obstruction: none found (probability {found.obstruction.probability:.2f})."
    )
    return said, core


def _numbers(found: LateEnhancement) -> dict[str, float]:
    numbers = {f"LGE_{_key(one.method)}_percent": one.percent for one in found.extents}
    numbers |= {
        "LGE_network_g": found.extent(ExtentMethod.NETWORK).grams,
        "LGE_obstruction_percent": found.obstruction_percent,
        "LGE_infarct_probability": found.infarct.probability,
        "LGE_infarct_present": float(found.infarct.present),
        "LGE_obstruction_probability": found.obstruction.probability,
        "LGE_LVM_g": found.mass_g,
        "LGE_agreement": found.agreement,
    }
    for one in found.segments:
        numbers[f"LGE_segment{one.segment}_percent"] = one.percent
        numbers[f"LGE_segment{one.segment}_transmurality_percent"] = one.transmurality_percent
    return numbers


def _key(method: ExtentMethod) -> str:
    return method.value.replace(" ", "")
