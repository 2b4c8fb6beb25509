"""From the pattern that a heart resembles to the parts of the results: a group of the report, a panel, text."""

from __future__ import annotations

from highdicom.sr import FindingSite, Measurement
from pydicom.dataset import Dataset

from dicom_node.results.canvas import Page
from dicom_node.results.codes import CHAMBER, private, ucum
from dicom_node.results.content import MeasurementGroup, group, source_image, text_item
from dicom_node.results.header import ResultContext
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
    frames_of,
)
from pipelines.cine.stack import FrameSource
from pipelines.disease_pattern.findings import DiseasePattern, Pattern
from pipelines.function.findings import Chamber, Keyframes
from pipelines.function.slices import SliceMeasures

__all__ = ["encode"]

CODE = {
    Pattern.NORMAL: private("PAT_NORMAL"),
    Pattern.DILATED: private("PAT_DILATED"),
    Pattern.HYPERTROPHIC: private("PAT_HYPER"),
    Pattern.OLD_INFARCT: private("PAT_INFARCT"),
    Pattern.ABNORMAL_RV: private("PAT_RV"),
}
NO_DIAGNOSIS = "A resemblance to groups of patients of one hospital, not a diagnosis."
_METHOD = (
    "multinomial logistic model of volumes, wall and motion at end diastole and end systole; each group as "
    "frequent as any other in the training"
)


def encode(request: EncodingRequest) -> Parts:
    """Encode the pattern of a heart."""
    findings, stack = request.found.findings, request.study.short_axis
    found = findings[DiseasePattern]
    if stack is None:
        raise ValueError("a disease pattern without a short-axis stack")
    diastole, slices = findings[Keyframes].end_diastole, findings[SliceMeasures]
    middle = stack.sources[diastole][int(slices.lv_mm2[diastole].argmax())]
    part = ReportPart(
        groups=(_group(request.context, found, middle),), evidence=(middle,), looked_at=frames_of((stack,))
    )
    return Parts(
        report=lambda _variant: part,
        summary=SummaryPart(
            stacks=(stack,),
            panels=(
                Panel(
                    "Pattern that the heart resembles",
                    78,
                    lambda page, x, y, width, _height: _panel(page, found, x, y, width),
                ),
            ),
            text=_text(found),
        ),
        key_numbers=(_sentence(found),),
        numbers={_key(pattern): value for pattern, value in found.probabilities.items()},
        described=tuple(
            ReportedNumber(_key(pattern), value, "1", method=f"{NO_DIAGNOSIS} {_METHOD}")
            for pattern, value in found.probabilities.items()
        ),
    )


def _key(pattern: Pattern) -> str:
    return f"pattern_{pattern}_probability"


def _sentence(found: DiseasePattern) -> str:
    (first, high), (second, next_one), *_ = found.ranked
    return (
        f"Pattern, not a diagnosis: the heart resembles most the group \u201c{first.words}\u201d (probability "
        f"{high:.2f}; next: {second.words}, {next_one:.2f})."
    )


def _reasons(found: DiseasePattern) -> str:
    """What moved the likeliest pattern against the next, in one sentence."""
    (first, _), (second, _), *_ = found.ranked
    said = [
        f"{one.name} {one.value:.3g} speaks {'for' if one.logit > 0 else 'against'} it" for one in found.contributions
    ]
    return f"\u201c{first.words}\u201d against \u201c{second.words}\u201d: {'; '.join(said)}."


def _group(context: ResultContext, found: DiseasePattern, middle: FrameSource) -> MeasurementGroup:
    items: list[Dataset] = [
        text_item(private("LIMITS"), NO_DIAGNOSIS),
        text_item(private("METHOD"), _METHOD),
        text_item(private("PAT_REASON"), _reasons(found)),
        *(text_item(private("NOTE"), note) for note in found.notes),
        source_image(middle),
    ]
    return group(
        context,
        "Pattern that the heart resembles",
        finding_type=private("PATTERN"),
        finding_sites=[FindingSite(CHAMBER[Chamber.LV]), FindingSite(CHAMBER[Chamber.RV])],
        measurements=[
            Measurement(name=CODE[pattern], value=round(value, 3), unit=ucum("1"))
            for pattern, value in found.probabilities.items()
        ],
        items=items,
    )


def _text(found: DiseasePattern) -> tuple[TextBlock, ...]:
    lines = [
        f"Probabilities: {', '.join(f'{pattern.words} {value:.2f}' for pattern, value in found.ranked)}.",
        f"By a {_METHOD}. {found.departure:.1f} standard deviations from the patients of the training (root mean "
        "square over the features).",
        f"What speaks for {_reasons(found)}",
        *found.notes,
    ]
    return (Heading("How the pattern came about"), *(Paragraph(line) for line in lines))


def _panel(page: Page, found: DiseasePattern, x: float, y: float, width: float) -> None:
    """A bar for each pattern, and what speaks for the likeliest."""
    theme = page.theme
    at = page.paragraph(x, y + 2, NO_DIAGNOSIS, 7.5, width, color=theme.caution) + 4
    left, room = x + 0.47 * width, 0.41 * width
    for pattern, value in found.ranked:
        likeliest = pattern is found.ranked[0][0]
        page.text(x, at + 1, f"{pattern.words[:1].upper()}{pattern.words[1:]}", 8, bold=likeliest)
        page.rectangle(left, at - 1.6, room, 3.2, theme.faint, radius=1)
        page.rectangle(left, at - 1.6, max(room * value, 0.4), 3.2, theme.text if likeliest else theme.muted, above=1.1)
        page.text(x + width, at + 1, f"{value:.2f}", 9, bold=likeliest, align="right")
        at += 6.2
    (first, _), (second, _), *_ = found.ranked
    at = page.paragraph(
        x, at + 2, f"For {first.words} (right), against {second.words} (left):", 7.5, width, color=theme.muted
    )
    largest = max(abs(one.logit) for one in found.contributions)
    middle, half = x + 0.84 * width, 0.16 * width
    for one in found.contributions:
        at += 4.2
        page.text(x, at + 1, f"{one.name}: {one.value:.3g}", 7)
        length = half * one.logit / max(largest, 1e-9)
        page.rectangle(min(middle, middle + length), at - 1, max(abs(length), 0.3), 2.0, theme.muted, above=1.1)
        page.line((middle, middle), (at - 1.6, at + 1.6), theme.muted, 0.5)
