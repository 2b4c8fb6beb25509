"""From what was found of motion to the parts of the results."""

from __future__ import annotations

from dicom_node.results.motion.groups import motion_part
from dicom_node.results.motion.keyframes import KEYFRAMES, keyframe_selections
from dicom_node.results.motion.maps import strain_map
from dicom_node.results.motion.pages import motion_page, motion_text
from dicom_node.results.numbers import ReportedNumber
from dicom_node.results.parts import EncodingRequest, Parts, SummaryPart
from pipelines.cine.stack import View
from pipelines.motion.findings import CardiacMotion, Component

__all__ = ["encode"]

_SHORT = {Component.LONGITUDINAL: "GLS", Component.CIRCUMFERENTIAL: "GCS", Component.RADIAL: "GRS"}
"""Peak global strain, as the field names it."""


def encode(request: EncodingRequest) -> Parts:
    """Encode keyframes and strain."""
    found = request.found.findings[CardiacMotion]
    stacks = {entry.view: entry.stack for entry in found.keyframes.views}
    selections = keyframe_selections(request.context, found.keyframes, stacks)
    part = motion_part(request.context, found, stacks)
    objects = [request.object(KEYFRAMES, dataset, sources) for dataset, sources in selections]
    names = [name for name, profile in request.destinations.items() if profile.strain_map]
    if names:
        objects.append(strain_map(request, found, stacks[View.SAX], names))
    return Parts(
        report=lambda _variant: part,
        objects=lambda: objects,
        summary=SummaryPart(
            stacks=found.stacks,
            pages=lambda theme: [motion_page(theme, found)],
            text=motion_text(found),
        ),
        key_numbers=_key_numbers(found),
        numbers={f"{_SHORT[curve.component]}_percent": curve.peak_percent for curve in found.strain.curves()},
        described=tuple(
            ReportedNumber(
                f"{_SHORT[curve.component]}_percent",
                curve.peak_percent,
                "%",
                curve.method,
                lower=curve.interval.lower,
                upper=curve.interval.upper,
            )
            for curve in found.strain.curves()
        ),
    )


def _key_numbers(found: CardiacMotion) -> tuple[str, ...]:
    said = [f"{curve.component} {curve.peak_percent:.1f} %" for curve in found.strain.curves()]
    return (f"Peak global strain: {', '.join(said)}.",)
