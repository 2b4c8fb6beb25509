"""Encoder of the toy analysis: one image series, one group of the report, one panel."""

from __future__ import annotations

from highdicom.sr import Measurement
from pipelines.toy.package import Brightness
from pydicom.sr.coding import Code

from dicom_node.results.canvas import Page
from dicom_node.results.codes import ucum
from dicom_node.results.content import group
from dicom_node.results.keyphase import key_phase_series
from dicom_node.results.objects import ExpectedSlice
from dicom_node.results.parts import EncodingRequest, Panel, Parts, ReportPart, SummaryPart, frames_of
from dicom_node.results.roles import ResultRole

__all__ = ["encode"]

IMAGES = ResultRole("brightest-phase", 1, "AI brightest phase - derived - RESEARCH")
BRIGHTNESS = Code("BRIGHTNESS", "99TOY", "Mean grey value")


def encode(request: EncodingRequest) -> Parts:
    """Encode the mean grey values and the brightest phase."""
    found, stack, context = request.found.findings[Brightness], request.study.short_axis, request.context
    if stack is None:
        raise ValueError("a brightness without a short-axis stack")
    largest = found.by_phase[found.brightest]
    images = []
    series = key_phase_series(context, IMAGES, stack, found.brightest, "brightest phase", request.sources)
    for index, (dataset, pixels) in enumerate(series):
        source = stack.sources[found.brightest][index]
        expected = ExpectedSlice(
            grey=stack.pixels[found.brightest, index],
            tolerance=0.0 if pixels.exact else abs(pixels.slope) * 0.51,
            geometry=stack.geometry,
            frame_of_reference_uid=stack.frame_of_reference_uid,
            index=index,
            source=source,
        )
        images.append(request.object(IMAGES, dataset, [source], expected))
    measured = Measurement(name=BRIGHTNESS, value=round(largest, 1), unit=ucum("1"))
    part = ReportPart(
        groups=(group(context, "Brightness", finding_type=BRIGHTNESS, measurements=[measured]),),
        looked_at=frames_of([stack]),
    )

    def draw(page: Page, x: float, y: float, width: float, height: float) -> None:
        step = width / len(found.by_phase)
        for index, value in enumerate(found.by_phase):
            tall = height * value / largest
            page.rectangle(x + index * step, y + height - tall, 0.8 * step, tall, page.theme.lv)

    return Parts(
        objects=lambda: images,
        report=lambda _variant: part,
        summary=SummaryPart(stacks=(stack,), panels=(Panel("Brightness by phase", 60, draw),)),
        key_numbers=(f"Largest mean grey value {largest:.1f}, in phase {found.brightest + 1}.",),
        numbers={"largest_mean_grey": largest},
    )
