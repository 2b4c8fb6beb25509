"""From the estimate of microvascular obstruction to the parts of the results: group, attribution map, panel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from highdicom.sr import FindingSite, Measurement, MeasurementProperties
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_node.results.canvas import DARK, HEIGHT, WIDTH, Page
from dicom_node.results.capture import rasters, secondary_captures
from dicom_node.results.codes import CHAMBER, private, ucum
from dicom_node.results.content import MeasurementGroup, group, source_image, text_item
from dicom_node.results.header import BANNER, ResultContext
from dicom_node.results.keyphase import source_image_item
from dicom_node.results.numbers import ReportedNumber
from dicom_node.results.parts import (
    EncodingRequest,
    Heading,
    Panel,
    Paragraph,
    Parts,
    ReportPart,
    SummaryPart,
    TextBlock,
    as_source,
    frames_of,
)
from dicom_node.results.report import significant
from dicom_node.results.roles import ResultRole
from dicom_node.results.summary import LEFT, RIGHT
from pipelines.cine.stack import FrameSource
from pipelines.function.findings import Chamber
from pipelines.obstruction.findings import Method, MotionContribution, Obstruction, SliceObstruction

__all__ = ["ATTRIBUTION", "encode"]

ATTRIBUTION = ResultRole("obstruction-attribution", 1, "AI obstruction attribution - RESEARCH")

_NAMES = {Method.NETWORK: "the network", Method.WALL_MOTION: "the wall model"}
_METHODS = {
    Method.NETWORK: (
        "R(2+1)D network with transformer on motion-normalised clips of each slice, pooled over slices and calibrated"
    ),
    Method.WALL_MOTION: (
        "linear score of how far the wall moves less where it moves least, from contours at end diastole and end "
        "systole, calibrated; it sees no obstruction: deep and large infarcts move less, and have one more often"
    ),
}
_LEARNT = (
    "How motion and obstruction belong together was learnt from {data}. What was learnt from simulated hearts only "
    "says nothing about a patient until it was measured on patients."
)
_MAPS = {
    Method.NETWORK: (
        "The map (Grad-CAM, each place by its own gradient, within the muscle) shows what raised the estimate, at 14 "
        "mm a cell: it is no outline of an infarct or an obstruction. On simulated hearts it lay in the infarct "
        "hardly more than by chance."
    ),
    Method.WALL_MOTION: (
        "The map shows where the wall moves less than the wall of this heart does on average, from half a standard "
        "deviation to two: it is no outline of an obstruction."
    ),
}
_GROUPS = ("Microvascular obstruction", "Microvascular obstruction, second opinion")
"""Tracking identifiers of the groups of the report, of the estimate and of the second opinion."""
_NUMBERS = ("obstruction", "obstruction_second_opinion")
_OF_OPINION = {"obstruction": "", "obstruction_second_opinion": " by a second model, shown beside the one reported"}
_SECOND = (
    "Second opinion: another model, shown beside the estimate that is reported. Where the two differ, neither is known "
    "to be right."
)
_COMPARED = "What moved it, compared with an average heart of the training"
_TITLES = (
    "What raised the estimate of microvascular obstruction",
    "What raised the second opinion on microvascular obstruction",
)
_STRONG = 0.4
"""Of a logit: about ten percent of the probability where that is one half."""
_WEAK = 0.05
"""A contribution to the logit that moves the probability by about a percent at most."""
_WEAKEST_SHOWN = 0.25
_STRIP = 6
"""Slices of a row."""


def encode(request: EncodingRequest) -> Parts:
    """Encode the estimate of microvascular obstruction."""
    found = request.found.findings[Obstruction]
    sources = [_source(found, each) for each in found.slices]
    opinions = _opinions(found)
    captures = [request.object(ATTRIBUTION, page, sources) for page in _attribution(request.context, opinions)]
    groups = tuple(
        _group(request.context, one, (_source(one, one.key), as_source(capture)), name)
        for one, capture, name in zip(opinions, captures, _GROUPS, strict=False)
    )
    evidence = tuple(dict.fromkeys((*(_source(one, one.key) for one in opinions), *map(as_source, captures))))
    part = ReportPart(groups=groups, evidence=evidence, looked_at=frames_of([found.stack]))
    return Parts(
        objects=lambda: captures,
        report=lambda _variant: part,
        summary=SummaryPart(
            stacks=(found.stack,),
            panels=(Panel("Microvascular obstruction, estimated without contrast", 84.0, _panel(found)),),
            text=_text(found),
        ),
        key_numbers=_key_numbers(found),
        numbers={
            f"{name}_{figure}_percent": 100 * value
            for one, name in zip(opinions, _NUMBERS, strict=False)
            for figure, value in (
                ("probability", one.probability),
                ("lower", one.interval.lower),
                ("upper", one.interval.upper),
            )
        },
        described=tuple(
            ReportedNumber(
                f"{name}_probability_percent",
                100 * one.probability,
                "%",
                f"Probability{_OF_OPINION[name]}, for {one.population}; {_METHODS[one.method]}. {_discrimination(one)} "
                "Research use only.",
                lower=100 * one.interval.lower,
                upper=100 * one.interval.upper,
            )
            for one, name in zip(opinions, _NUMBERS, strict=False)
        ),
    )


def _opinions(found: Obstruction) -> tuple[Obstruction, ...]:
    """The estimate that is reported, then the second opinion where there is one."""
    return (found,) if found.second_opinion is None else (found, found.second_opinion)


def _discrimination(found: Obstruction) -> str:
    """How well the model told hearts apart that it had not seen: no more may be read into a probability."""
    area, interval = found.area_under_curve, found.area_interval
    return (
        f"Area under the curve on hearts not seen in training {area:.2f} (95 % interval {interval.lower:.2f} to "
        f"{interval.upper:.2f}; 0.50 is chance)."
    )


def _learnt(found: Obstruction) -> str:
    return _LEARNT.format(data=found.models[0].training_data)


def _of_slices(found: Obstruction) -> str:
    """Probability by slice; empty where a site's labels told of hearts only."""
    return ", ".join(
        f"{each.index + 1}: {_percent(each.probability):.0f} %"
        for each in found.slices
        if math.isfinite(each.probability)
    )


def _reason(one: MotionContribution) -> str:
    """How one motion of the wall moved the probability, in words."""
    way = "raised" if one.logit > 0 else "lowered"
    much = "" if abs(one.logit) >= _STRONG else " a little"
    here, usual = (f"{100 * value:.0f}".replace("-", "−") for value in (one.value, one.usual))
    return f"{one.motion} {here} % (average {usual} %) {way} it{much}"


def _reasons(found: Obstruction) -> str:
    """What moved the probability, the strongest first; empty of a network."""
    if not found.contributions:
        return ""
    said = [_reason(one) for one in found.contributions if abs(one.logit) >= _WEAK]
    if not said:
        return "Nothing: the wall moves as in the average heart of the training."
    return f"In the fifth of the wall that moves least: {'; '.join(said)}."


def _source(found: Obstruction, each: SliceObstruction) -> FrameSource:
    return found.stack.sources[each.phase][each.index]


def _percent(probability: float) -> float:
    return round(100 * probability, 0)


def _group(context: ResultContext, found: Obstruction, images: tuple[FrameSource, ...], name: str) -> MeasurementGroup:
    upper = significant(max(found.interval.upper - found.probability, 0.0) * 100)
    lower = significant(max(found.probability - found.interval.lower, 0.0) * 100)
    heart = Measurement(
        name=private("MVO_PROB"),
        value=_percent(found.probability),
        unit=ucum("%"),
        properties=MeasurementProperties(upper_measurement_uncertainty=upper, lower_measurement_uncertainty=lower),
    )
    of_slices, reasons = _of_slices(found), _reasons(found)
    return group(
        context,
        name,
        finding_sites=[FindingSite(CHAMBER[Chamber.LV])],
        measurements=[heart],
        items=[
            *([text_item(private("MVO_SLICES"), of_slices)] if of_slices else []),
            *([text_item(private("MVO_REASON"), reasons)] if reasons else []),
            text_item(private("METHOD"), f"{_METHODS[found.method]}. {_discrimination(found)}"),
            text_item(private("LIMITS"), f"For {found.population}. {_learnt(found)} Research use only."),
            *([text_item(private("NOTE"), _SECOND)] if name == _GROUPS[1] else []),
            text_item(private("NOTE"), f"{_MAPS[found.method]} It is the series “{ATTRIBUTION.series_description}”."),
            *(source_image(image) for image in images),
        ],
    )


def _key_numbers(found: Obstruction) -> tuple[str, ...]:
    low, high = _percent(found.interval.lower), _percent(found.interval.upper)
    return (
        f"Microvascular obstruction, estimated without contrast: {_percent(found.probability):.0f} % ({low:.0f} to "
        f"{high:.0f} %). {_discrimination(found)}",
        *([] if found.second_opinion is None else [_beside(found.second_opinion)]),
    )


def _beside(second: Obstruction) -> str:
    """The second opinion in a sentence."""
    low, high = _percent(second.interval.lower), _percent(second.interval.upper)
    return (
        f"Second opinion on obstruction, {_NAMES[second.method]}: {_percent(second.probability):.0f} % ({low:.0f} to "
        f"{high:.0f} %; area under the curve {second.area_under_curve:.2f}, {second.area_interval.lower:.2f} to "
        f"{second.area_interval.upper:.2f})."
    )


def _text(found: Obstruction) -> tuple[TextBlock, ...]:
    reasons = _reasons(found)
    lines = (
        f"For {found.population}: the route of this study says that it is one. {_sentence(_METHODS[found.method])}",
        _discrimination(found),
        *([f"{_COMPARED}. {reasons}"] if reasons else []),
        "The interval (95 %) of a probability holds what the calibration on few hearts leaves open (of a network the "
        "mirrored views, too), and not the difference between the hearts that it was calibrated on and this patient.",
        _learnt(found),
        _MAPS[found.method],
        *([] if found.second_opinion is None else _about(found.second_opinion)),
    )
    return (Heading("How the probability of obstruction came about"), *(Paragraph(line) for line in lines))


def _about(second: Obstruction) -> list[str]:
    """What the summary says of the second opinion."""
    of_slices = _of_slices(second)
    return [
        f"{_SECOND} {_sentence(_METHODS[second.method])} {_discrimination(second)}",
        *([f"Its probability by slice: {of_slices}."] if of_slices else []),
        _MAPS[second.method],
    ]


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _attribution(context: ResultContext, opinions: Sequence[Obstruction]) -> list[Dataset]:
    """A page for each estimate."""
    pages = [_page(one, title) for one, title in zip(opinions, _TITLES, strict=False)]
    captures = secondary_captures(context, ATTRIBUTION, rasters(pages), "Attribution of the obstruction estimate")
    for dataset, one in zip(captures, opinions, strict=True):
        # The page names nobody.
        dataset.BurnedInAnnotation = "NO"
        dataset.SourceImageSequence = [
            source_image_item(_source(one, each), spatial_locations_preserved=False) for each in one.slices
        ]
    return captures


def _page(found: Obstruction, title: str) -> Figure:
    """The key slice without and with its map, and all slices below."""
    page = Page(DARK)
    page.text(LEFT, 12, title, 13, bold=True)
    page.rectangle(LEFT, 16, RIGHT - LEFT, 6.4, DARK.banner, radius=1.4)
    page.text(WIDTH / 2, 19.2, BANNER, 9, color=DARK.on_banner, bold=True, align="center", baseline="center_baseline")
    side = 82.0
    for column, mapped in enumerate((False, True)):
        _picture(page, found, found.key, LEFT + column * (side + 5), 32, side, mapped=mapped)
    page.text(LEFT, 30, f"{_name(found, found.key)}, as acquired and with the map", 8.5)
    x = LEFT + 2 * (side + 5) + 4
    _verdict(page, found, x, 38, RIGHT - x)
    strip = (RIGHT - LEFT - (_STRIP - 1) * 3) / _STRIP
    shown = _spread(found.slices, _STRIP)
    for column, each in enumerate(shown):
        left = LEFT + column * (strip + 3)
        _picture(page, found, each, left, 126, strip, mapped=True)
        said = f": {_percent(each.probability):.0f} %" if math.isfinite(each.probability) else ""
        page.text(left, 124, f"{_name(found, each)}{said}", 7.5)
    below = 126 + strip + 8
    reasons = _reasons(found)
    if reasons:
        page.text(LEFT, below, _COMPARED, 9, bold=True)
        page.paragraph(LEFT, below + 5, reasons, 8.5, RIGHT - LEFT)
    page.paragraph(LEFT, HEIGHT - 14, _MAPS[found.method], 7.5, RIGHT - LEFT, color=DARK.muted)
    return page.figure


def _spread(slices: tuple[SliceObstruction, ...], count: int) -> list[SliceObstruction]:
    """At most ``count`` slices, evenly from the first to the last."""
    chosen = sorted({round(place) for place in np.linspace(0, len(slices) - 1, min(count, len(slices)))})
    return [slices[index] for index in chosen]


def _name(found: Obstruction, each: SliceObstruction) -> str:
    return f"slice {each.index + 1} of {found.stack.slices}, phase {each.phase + 1}"


def _verdict(page: Page, found: Obstruction, x: float, y: float, width: float) -> float:
    """The probability with its interval, for whom, and the limits; returns the baseline below."""
    theme = page.theme
    page.text(x, y, f"{_percent(found.probability):.0f} %", 24, bold=True)
    low, high = _percent(found.interval.lower), _percent(found.interval.upper)
    page.text(x, y + 6, f"95 % interval {low:.0f} to {high:.0f} %", 9, color=theme.muted)
    y = page.paragraph(x, y + 13, f"For {found.population}.", 8, width)
    if not found.key.attribution.any():
        y = page.paragraph(x, y + 1, "No place in the muscle of this slice raised the estimate.", 8, width)
    y = page.paragraph(x, y + 1, _discrimination(found), 8, width)
    if found.second_opinion is not None:
        y = page.paragraph(x, y + 1, _beside(found.second_opinion), 8, width)
    return page.paragraph(x, y + 1, _learnt(found), 8, width, color=theme.caution)


def _panel(found: Obstruction) -> Callable[[Page, float, float, float, float], None]:
    def draw(page: Page, x: float, y: float, width: float, height: float) -> None:
        side = min(height - 8, 0.4 * width)
        _picture(page, found, found.key, x, y + 4, side, mapped=True)
        page.text(x, y + 2.5, _name(found, found.key), 7, color=page.theme.muted)
        _verdict(page, found, x + side + 5, y + 12, width - side - 5)

    return draw


def _picture(
    page: Page, found: Obstruction, each: SliceObstruction, x: float, y: float, side: float, *, mapped: bool
) -> None:
    """The square around the ventricle of one slice at its moment."""
    axes = page.axes(x, y, side, side)
    stack, square = found.stack, found.square
    spacing = stack.geometry.pixel_spacing
    pixels = stack.pixels[each.phase, each.index]
    half = square.field_mm / 2
    low, high = np.percentile(_inside(pixels, square.row_mm, square.column_mm, half, spacing), (1, 99.5))
    # Pixel centres lie at multiples of the spacing: the image in millimetres, the map on the square.
    rows, columns = pixels.shape
    extent = (-0.5 * spacing[1], (columns - 0.5) * spacing[1], (rows - 0.5) * spacing[0], -0.5 * spacing[0])
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear", aspect="auto")
    if mapped:
        _overlay(axes, each, (square.row_mm, square.column_mm), half)
    axes.set_xlim(square.column_mm - half, square.column_mm + half)
    axes.set_ylim(square.row_mm + half, square.row_mm - half)
    axes.set_axis_off()


def _overlay(axes: Axes, each: SliceObstruction, centre: tuple[float, float], half: float) -> None:
    row, column = centre
    axes.imshow(
        each.attribution,
        cmap="inferno",
        vmin=0,
        vmax=1,
        alpha=0.65 * (each.attribution > _WEAKEST_SHOWN).astype(np.float64),
        extent=(column - half, column + half, row + half, row - half),
        interpolation="nearest",
        aspect="auto",
    )


def _inside(
    pixels: NDArray[np.float32], row_mm: float, column_mm: float, half_mm: float, spacing: tuple[float, float]
) -> NDArray[np.float32]:
    rows = np.abs(np.arange(pixels.shape[0]) * spacing[0] - row_mm) <= half_mm
    columns = np.abs(np.arange(pixels.shape[1]) * spacing[1] - column_mm) <= half_mm
    inside = pixels[np.ix_(rows, columns)]
    return inside if inside.size else pixels
