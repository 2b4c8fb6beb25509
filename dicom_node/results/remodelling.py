"""From the estimated risk of remodelling to the parts of the results: a group, the attribution map, a page, a panel."""

from __future__ import annotations

import numpy as np
from highdicom.sr import FindingSite, Measurement, MeasurementProperties
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_node.results.canvas import DARK, Page, Theme
from dicom_node.results.capture import rasters, secondary_captures
from dicom_node.results.charts import color_bar, heart_crop
from dicom_node.results.codes import CHAMBER, private, ucum
from dicom_node.results.content import MeasurementGroup, group, source_image, text_item
from dicom_node.results.header import BANNER, ResultContext
from dicom_node.results.motion.keyframes import KEYFRAME_WORDS
from dicom_node.results.numbers import ReportedNumber
from dicom_node.results.objects import ResultObject
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
from dicom_node.results.summary import BOTTOM, LEFT, RIGHT, TOP
from pipelines.cine.stack import FrameSource
from pipelines.function.findings import Chamber
from pipelines.function.slices import SliceMeasures
from pipelines.remodelling.findings import Attribution, Contribution, RemodellingRisk
from pipelines.segmentation.labels import Label

__all__ = ["ATTRIBUTION", "encode", "reason"]

ATTRIBUTION = ResultRole("remodelling-attribution", 1, "AI {title} attribution map - RESEARCH")
_POPULATION = "Patients with an acute, reperfused infarct a few days old"
_TRAINED = (
    "Trained on simulated hearts whose outcome is drawn from an invented law: the probability has not been shown to "
    "hold for any patient."
)
_COMPARED = "What moved it, compared with an average patient of the training"
_HEAT = LinearSegmentedColormap.from_list("attribution", ["#3b0f70", "#b5367a", "#fb8761", "#fcfdbf"])
_FAINTEST = 0.08
_TILES = 6
_WEAK = 0.05
"""A contribution to the logit that moves the probability by about a percent at most."""


def encode(request: EncodingRequest) -> Parts:
    """Encode the risk of remodelling."""
    findings = request.found.findings
    found, slices = findings[RemodellingRisk], findings[SliceMeasures]
    shown = found.attribution
    labels = None if shown is None else slices.labels[shown.phase]
    capture = None if shown is None or labels is None else _capture(request, found, shown, labels)
    evidence = () if shown is None or capture is None else (*_key_frame(found, shown), as_source(capture))
    part = ReportPart(
        groups=(_group(request.context, found, capture),), evidence=evidence, looked_at=frames_of((found.stack,))
    )
    return Parts(
        objects=lambda: [] if capture is None else [capture],
        report=lambda _variant: part,
        summary=SummaryPart(
            stacks=(found.stack,),
            pages=lambda theme: [] if shown is None or labels is None else [_page(theme, found, shown, labels)],
            panels=(
                Panel(
                    "Risk of adverse remodelling",
                    66,
                    lambda page, x, y, width, _height: _risk(page, found, x, y, width),
                ),
            ),
            text=_text(found),
        ),
        key_numbers=_key_numbers(found),
        numbers=_numbers(found),
        described=_described(found),
    )


def reason(contribution: Contribution) -> str:
    """A contribution in words: "global longitudinal strain −8 % raises it"."""
    effect = "raises it" if contribution.logit > 0 else "lowers it"
    if abs(contribution.logit) < _WEAK:
        effect = "hardly moves it"
    if contribution.unit == "1":
        return f"{contribution.name} {effect}"
    return f"{contribution.name} {contribution.value:.0f} % {effect}".replace("-", "−")


def _reasons(found: RemodellingRisk) -> str:
    """All contributions in one sentence, the strongest first."""
    said = [reason(one) for one in found.contributions]
    first = said[0]
    if abs(found.contributions[0].logit) >= _WEAK:
        first += " most"
    return f"{'; '.join([first, *said[1:]])}."


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f}"


def _key_frame(found: RemodellingRisk, attribution: Attribution) -> tuple[FrameSource, ...]:
    return tuple(found.stack.sources[attribution.phase][index] for index in attribution.slices)


def _capture(
    request: EncodingRequest, found: RemodellingRisk, attribution: Attribution, labels: NDArray[np.uint8]
) -> ResultObject:
    """The attribution map on its key frame as one Secondary Capture."""
    page = Page(DARK)
    page.text(LEFT, 17.5, "What raised the estimated risk of remodelling", 17, bold=True)
    page.rectangle(LEFT, 22, RIGHT - LEFT, 6.4, DARK.banner, radius=1.4)
    page.text(
        (LEFT + RIGHT) / 2,
        25.2,
        BANNER,
        9,
        color=DARK.on_banner,
        bold=True,
        align="center",
        baseline="center_baseline",
    )
    _sheet(page, found, attribution, labels, LEFT, 34, RIGHT - LEFT, 150)
    page.paragraph(LEFT, 195, _TRAINED, 8, RIGHT - LEFT, color=DARK.muted)
    (dataset,) = secondary_captures(request.context, ATTRIBUTION, rasters([page.figure]), "Attribution map")
    # The page names nobody, whatever the pages of the summary do.
    dataset.BurnedInAnnotation = "NO"
    return request.object(ATTRIBUTION, dataset, _key_frame(found, attribution))


def _group(context: ResultContext, found: RemodellingRisk, capture: ResultObject | None) -> MeasurementGroup:
    lower, upper = found.interval.lower, found.interval.upper
    infarct = found.infarct
    measurements = [
        Measurement(
            name=private("LVAR_PROB"),
            value=round(found.probability, 3),
            unit=ucum("1"),
            properties=MeasurementProperties(
                upper_measurement_uncertainty=significant(max(upper - found.probability, 0.0)),
                lower_measurement_uncertainty=significant(max(found.probability - lower, 0.0)),
            ),
        ),
        Measurement(
            name=private("INFARCT_EST"),
            value=round(infarct.percent, 1),
            unit=ucum("%"),
            properties=MeasurementProperties(
                upper_measurement_uncertainty=significant(infarct.interval.upper - infarct.percent),
                lower_measurement_uncertainty=significant(infarct.percent - infarct.interval.lower),
            ),
        ),
    ]
    items: list[Dataset] = [
        text_item(private("LVAR_REASON"), _reasons(found)),
        text_item(
            private("LVAR_FOR"),
            f"{_POPULATION}; {_percent(found.population_probability)} % remodelled in the training population.",
        ),
        text_item(private("METHOD"), _method(found)),
        *(text_item(private("NOTE"), note) for note in found.notes),
    ]
    if found.attribution is not None and capture is not None:
        middle = _key_frame(found, found.attribution)[len(found.attribution.slices) // 2]
        items.append(source_image(middle))
        items.append(source_image(as_source(capture)))
    return group(
        context,
        "Risk of adverse remodelling",
        finding_type=private("LVAR_RISK"),
        finding_sites=[FindingSite(CHAMBER[Chamber.LV])],
        measurements=measurements,
        items=items,
    )


def _method(found: RemodellingRisk) -> str:
    names = ", ".join(one.name for one in found.contributions)
    return (
        f"logistic model of {names}; the interval is that of its bootstrap: how well its training determined it, not "
        "how well it fits this patient"
    )


def _key_numbers(found: RemodellingRisk) -> tuple[str, ...]:
    lower, upper = _percent(found.interval.lower), _percent(found.interval.upper)
    return (
        f"Risk of adverse remodelling {_percent(found.probability)} % ({lower} to {upper} %), by a model of simulated "
        "hearts.",
    )


def _numbers(found: RemodellingRisk) -> dict[str, float]:
    return {
        "remodelling_probability": found.probability,
        "remodelling_probability_lower": found.interval.lower,
        "remodelling_probability_upper": found.interval.upper,
        "infarct_estimate_percent": found.infarct.percent,
        **{f"remodelling_feature_{name}": value for name, value in found.features.items()},
    }


def _described(found: RemodellingRisk) -> tuple[ReportedNumber, ...]:
    return (
        ReportedNumber(
            "remodelling_probability",
            found.probability,
            "1",
            f"{_POPULATION}; {_method(found)}. {_TRAINED} Research use only.",
            lower=found.interval.lower,
            upper=found.interval.upper,
        ),
        ReportedNumber(
            "infarct_estimate_percent",
            found.infarct.percent,
            "%",
            "Regressed from function and motion without contrast agent; no late enhancement. Research use only.",
            lower=found.infarct.interval.lower,
            upper=found.infarct.interval.upper,
        ),
    )


def _text(found: RemodellingRisk) -> tuple[TextBlock, ...]:
    infarct = found.infarct
    keyframes = "" if found.attribution is None else "five keyframes of the short axis, "
    lines = [
        f"Probability {_percent(found.probability)} %, interval {_percent(found.interval.lower)} to "
        f"{_percent(found.interval.upper)} %: {_method(found)}.",
        f"{_COMPARED}: {_reasons(found)}",
        f"Where the heart lies comes from the node's own localisation and segmentation; {keyframes}morphology and "
        "motion are fused by a network, whose logit is one term of the logistic model.",
        f"Infarct size without contrast agent, regressed from function and motion: {infarct.percent:.0f} % of the "
        f"muscle ({infarct.interval.lower:.0f} to {infarct.interval.upper:.0f} %). It is no late enhancement.",
        "No image enters the estimate beyond what was measured on it: there is no map of what raised it."
        if found.attribution is None
        else "Attribution: guided Grad-CAM, which shows what in the images raised the output of the network, not why a "
        f"heart remodels. {_place(found.attribution)}",
        f"{_POPULATION} only. {_TRAINED}",
        *found.notes,
    ]
    return (Heading("How the risk of remodelling came about"), *(Paragraph(line) for line in lines))


def _risk(page: Page, found: RemodellingRisk, x: float, y: float, width: float) -> None:
    """Probability with its interval on a scale, and what moved it."""
    theme = page.theme
    page.text(x, y + 8, f"{_percent(found.probability)} %", 22, bold=True)
    said = f"{_percent(found.interval.lower)} to {_percent(found.interval.upper)} %"
    page.text(x + width, y + 5, said, 9, color=theme.muted, align="right")
    page.text(x + width, y + 9, "interval of the model", 7, color=theme.muted, align="right")
    at = y + 14
    page.rectangle(x, at - 1.2, width, 2.4, theme.faint, radius=1.2)
    low, high = (x + width * bound for bound in (found.interval.lower, found.interval.upper))
    page.rectangle(low, at - 1.2, max(high - low, 1.0), 2.4, theme.muted, above=1.1)
    place = x + width * found.probability
    page.rectangle(place - 0.5, at - 2, 1.0, 4.0, theme.text, above=1.3)
    mean = x + width * found.population_probability
    page.line((mean, mean), (at - 2, at + 2.4), theme.caution, 1.0)
    page.text(
        mean,
        at + 5.4,
        f"training population {_percent(found.population_probability)} %",
        6.5,
        color=theme.caution,
        align="center" if mean > x + 18 else "left",
    )
    at += 10
    largest = max([abs(one.logit) for one in found.contributions] + [0.5])
    for one in found.contributions:
        value = "" if one.unit == "1" else f" {one.value:.0f} %".replace("-", "−")
        page.text(x, at + 1, f"{one.name[:1].upper()}{one.name[1:]}{value}", 7.5)
        middle, half = x + width * 0.84, width * 0.16
        length = half * one.logit / largest
        color = theme.bad if one.logit > 0 else theme.good
        page.rectangle(min(middle, middle + length), at - 1.2, max(abs(length), 0.3), 2.6, color, above=1.1)
        page.line((middle, middle), (at - 2, at + 2.2), theme.muted, 0.5)
        at += 5.4
    page.text(x + width * 0.84, at + 0.6, "lowers | raises", 6.5, color=theme.muted, align="center")
    page.paragraph(x, at + 5, _TRAINED, 6.5, width, color=theme.caution)


def _place(attribution: Attribution) -> str:
    """Where the attribution lies, in a sentence."""
    if not any(attribution.share.values()):
        return "Nothing in the images raised the risk."
    return (
        f"{100 * attribution.in_ventricle:.0f} % of it lies in the left ventricle, which is "
        f"{100 * attribution.by_chance:.0f} % of what the network sees."
    )


def _page(theme: Theme, found: RemodellingRisk, attribution: Attribution, labels: NDArray[np.uint8]) -> Page:
    """The attribution map on its key frame."""
    page = Page(theme)
    _sheet(page, found, attribution, labels, LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP)
    return page


def _sheet(
    page: Page,
    found: RemodellingRisk,
    attribution: Attribution,
    labels: NDArray[np.uint8],
    x: float,
    y: float,
    width: float,
    height: float,
) -> None:
    """Slices of the key frame as they are, and below each the same with what raised the risk."""
    theme, stack = page.theme, found.stack
    page.rectangle(x, y, width, height, theme.panel, radius=2)
    title = f"Attribution at {KEYFRAME_WORDS[attribution.keyframe]}, phase {attribution.phase + 1} of {stack.phases}"
    page.text(x + 5, y + 7, title, 10, bold=True)
    heart = np.where((labels == Label.LV) | (labels == Label.MYO), labels, 0).astype(np.uint8)
    first_row, end_row, first_column, end_column = heart_crop(stack, heart)
    count = min(_TILES, len(attribution.slices))
    chosen = [attribution.slices[int(i)] for i in np.linspace(0, len(attribution.slices) - 1, count).round()]
    gap = 2.0
    side = min((width - 10 - (count - 1) * gap) / count, (height - 40) / 2)
    low, high = np.percentile(stack.pixels[attribution.phase], (1, 99.5))
    window = np.s_[first_row:end_row, first_column:end_column]
    for number, index in enumerate(chosen):
        left = x + 5 + number * (side + gap)
        grey = np.clip((stack.pixels[attribution.phase, index][window] - low) / max(high - low, 1e-6), 0, 1)
        image = np.repeat(grey[..., None], 3, axis=2)
        heat = attribution.map[index][window]
        share = np.where(heat > _FAINTEST, np.clip(heat, 0, 1) ** 0.6 * 0.85, 0.0)[..., None]
        overlaid = image * (1 - share) + _HEAT(np.clip(heat, 0, 1))[..., :3] * share
        for top, shown in ((y + 12, image), (y + 12 + side + gap, overlaid)):
            page.canvas.imshow(
                shown,
                extent=(left, left + side, top + side, top),
                aspect="auto",
                interpolation="bilinear",
                zorder=1.2,
            )
        page.text(left, y + 16 + 2 * side + gap, f"slice {index + 1}", 7, color=theme.muted)
    below = y + 24 + 2 * side + gap
    color_bar(page, x + 16, below, 40, (0, 1), _HEAT, "of the largest")
    shares = ", ".join(
        f"{KEYFRAME_WORDS[name]} {100 * part:.0f} %" for name, part in attribution.share.items() if part > 0
    )
    said = f"Share of the keyframes: {shares}. {_place(attribution)}" if shares else _place(attribution)
    below = page.paragraph(x + 90, below + 1.5, said, 7.5, width - 95, color=theme.muted) + 9
    page.text(x + 5, below, f"{_percent(found.probability)} %", 16, bold=True)
    lower, upper = _percent(found.interval.lower), _percent(found.interval.upper)
    page.text(x + 5, below + 5, f"interval of the model {lower} to {upper} %", 7.5, color=theme.muted)
    moved = f"{_COMPARED}: {_reasons(found)}"
    below = page.paragraph(x + 90, below - 3, moved, 8.5, width - 95)
    page.paragraph(x + 90, below + 2, f"For: {_POPULATION[:1].lower()}{_POPULATION[1:]}.", 8, width - 95)
