"""The summary: what a radiologist reads, in pages. No patient identity is drawn; it stands in the header."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dicom_node.results.canvas import HEIGHT, MARGIN, WIDTH, Page, Theme, clipped, text_width, wrapped
from dicom_node.results.charts import (
    THICKENING_MAP,
    THICKNESS_MAP,
    bulls_eye,
    color_bar,
    contour_sheet,
    gauge,
    heart_crop,
    volume_curves,
)
from dicom_node.results.content import omission_sentence
from dicom_node.results.header import BANNER, SOFTWARE_VERSION
from dicom_node.results.provenance import Provenance
from dicom_node.results.refusal import without_numbers
from dicom_node.results.report import ReportContent, range_description
from pipelines.cine.stack import CineStudy, Omission
from pipelines.errors import Refusal
from pipelines.function.findings import Measurement, Quantity
from pipelines.function.normals import Standing
from pipelines.quality.findings import Grade, QualityAssessment, QualityFinding
from pipelines.segmentation.labels import CineSegmentation, Label

__all__ = ["function_pages", "refusal_pages"]

_LEFT, _RIGHT = MARGIN, WIDTH - MARGIN
_TOP, _BOTTOM = 38.0, HEIGHT - 15.0
_BODY = 8.0
"""Points of running text."""
_THICKNESS_LIMITS = (4.0, 16.0)
_THICKENING_LIMITS = (0.0, 80.0)
_ROWS: tuple[tuple[str, str, Quantity, Quantity | None], ...] = (
    ("End-diastolic volume", "ml", Quantity.LVEDV, Quantity.RVEDV),
    ("End-systolic volume", "ml", Quantity.LVESV, Quantity.RVESV),
    ("Stroke volume", "ml", Quantity.LVSV, Quantity.RVSV),
    ("Ejection fraction", "%", Quantity.LVEF, Quantity.RVEF),
    ("Cardiac output", "l/min", Quantity.LVCO, Quantity.RVCO),
    ("ED volume index", "ml/m²", Quantity.LVEDVI, Quantity.RVEDVI),
    ("ES volume index", "ml/m²", Quantity.LVESVI, Quantity.RVESVI),
    ("Stroke volume index", "ml/m²", Quantity.LVSVI, Quantity.RVSVI),
    ("Cardiac index", "l/min/m²", Quantity.LVCI, Quantity.RVCI),
    ("Myocardial mass", "g", Quantity.LVM, None),
    ("Mass index", "g/m²", Quantity.LVMI, None),
    ("Peak ejection rate", "ml/s", Quantity.LVPER, Quantity.RVPER),
    ("Peak filling rate", "ml/s", Quantity.LVPFR, Quantity.RVPFR),
)
_GROUP_STARTS = frozenset({"ED volume index", "Myocardial mass", "Peak ejection rate"})

LIMITS = (
    "Contours and numbers come from an algorithm and were checked by nobody. Do not use them for diagnosis or "
    "treatment.",
    "The cine images alone were used, and no contrast agent is needed for it; scar, perfusion and valves are not "
    "assessed.",
    "Congenital disease, implanted devices, arrhythmia and children were not part of the training.",
)


def function_pages(
    theme: Theme, content: ReportContent, segmentation: CineSegmentation, provenance: Provenance
) -> list[Figure]:
    """Draw the summary of ventricular function.

    Returns
    -------
    list of Figure
        Numbers, curves and bull's eyes; contours at ED and ES; then as many pages as quality and provenance take.
    """
    first = _numbers(theme, content)
    second = _contours(theme, content, segmentation)
    rest = _text_pages(theme, [*_quality_blocks(content.quality), *_provenance_blocks(content, provenance)])
    pages = [first, second, *rest]
    _finish(pages, content.quality.overall, provenance)
    return [page.figure for page in pages]


def refusal_pages(
    theme: Theme,
    study: CineStudy,
    refusals: Sequence[Refusal],
    quality: QualityAssessment | None,
    provenance: Provenance,
) -> list[Figure]:
    """Draw why a study was declined."""
    blocks: list[_Block] = [_Heading("Not analysed")]
    blocks += [_Paragraph(refusal.sentence, size=12) for refusal in refusals]
    blocks.append(_Paragraph("No numbers are reported for this study.", muted=True))
    if quality is not None:
        blocks += _quality_blocks(without_numbers(quality))
    blocks += _omission_blocks(study.omissions) + _series_blocks(provenance) + _software_blocks(provenance)
    pages = _text_pages(theme, blocks)
    _finish(pages, Grade.UNUSABLE, provenance)
    return [page.figure for page in pages]


# -- frame of every page -----------------------------------------------------------------------------------------------


def _grade_color(theme: Theme, grade: Grade) -> str:
    return {Grade.EXCELLENT: theme.good, Grade.GOOD: theme.good, Grade.POOR: theme.caution, Grade.UNUSABLE: theme.bad}[
        grade
    ]


def _finish(pages: Sequence[Page], overall: Grade, provenance: Provenance) -> None:
    for number, page in enumerate(pages, start=1):
        theme = page.theme
        page.text(_LEFT, 16.5, "Ventricular function", 19, bold=True)
        page.text(_LEFT, 23, f"cine cardiac MR  ·  {provenance.scanner}", 9, color=theme.muted)
        page.text(_RIGHT, 22.5, f"page {number} of {len(pages)}", 8.5, color=theme.muted, align="right")
        page.pill(_RIGHT, 13.5, f"QUALITY  {overall.name}", _grade_color(theme, overall))
        page.rectangle(_LEFT, 26.5, _RIGHT - _LEFT, 6.4, theme.banner, radius=1.4)
        page.text(
            WIDTH / 2, 29.7, BANNER, 9, color=theme.on_banner, bold=True, align="center", baseline="center_baseline"
        )
        page.line((_LEFT, _RIGHT), (HEIGHT - 12, HEIGHT - 12), theme.faint)
        models = ", ".join(f"{model.name} {model.version}" for model in provenance.models) or "no model ran"
        contact = f"  ·  contact: {provenance.contact}" if provenance.contact else ""
        page.text(
            _LEFT,
            HEIGHT - 7.5,
            clipped(
                f"dicom-node {SOFTWARE_VERSION}  ·  {models}  ·  {provenance.created}{contact}", 7.5, _RIGHT - _LEFT
            ),
            7.5,
            color=theme.muted,
        )


# -- page 1: numbers ---------------------------------------------------------------------------------------------------


def _numbers(theme: Theme, content: ReportContent) -> Page:
    page = Page(theme)
    function = content.function
    found = {measurement.quantity: measurement for measurement in function.measurements()}
    left_width = 134.0
    page.rectangle(_LEFT, _TOP, left_width, 116, theme.panel, radius=2)
    _table(page, content, found, _LEFT + 5, _TOP, left_width - 10)
    right = _LEFT + left_width + 5
    right_width = _RIGHT - right
    page.rectangle(right, _TOP, right_width, 70, theme.panel, radius=2)
    chambers = [function.lv] if function.rv is None else [function.lv, function.rv]
    page.text(right + 5, _TOP + 7, "Volume over the cardiac cycle", 10, bold=True)
    _legend(page, right + right_width - 5, _TOP + 7, [("LV", theme.lv), ("RV", theme.rv)][: len(chambers)])
    volume_curves(page, right, _TOP, right_width, 70, chambers, function.keyframes)
    page.rectangle(right, _TOP + 73, right_width, 84, theme.panel, radius=2)
    _bulls_eyes(page, content, right, _TOP + 73, right_width)
    page.rectangle(_LEFT, _TOP + 119, left_width, 38, theme.panel, radius=2)
    _attention(page, content, _LEFT + 5, _TOP + 119, left_width - 10)
    return page


def _legend(page: Page, right: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
    for name, color in reversed(entries):
        right -= text_width(name, 8.5, bold=True)
        page.text(right, y, name, 8.5, color=color, bold=True)
        page.line((right - 6, right - 1.5), (y - 1.1, y - 1.1), color, 1.8)
        right -= 10


def _format(value: float, unit: str) -> str:
    """As read aloud: whole numbers, one decimal for what is measured in litres."""
    return f"{value:.1f}" if unit.startswith("l/min") else f"{value:.0f}"


def _table(
    page: Page,
    content: ReportContent,
    found: dict[Quantity, Measurement],
    x: float,
    y: float,
    width: float,
) -> None:
    theme = page.theme
    lv, rv = x + 56.0, x + 96.0
    page.text(x, y + 7, "Measurements", 10, bold=True)
    page.text(lv, y + 7, "LV", 10, bold=True, color=theme.lv, align="right")
    page.text(rv, y + 7, "RV", 10, bold=True, color=theme.rv, align="right")
    for column in (lv, rv):
        page.text(column + 3, y + 7, "reference range", 7, color=theme.muted)
    at = y + 10.0
    for name, unit, *quantities in _ROWS:
        if name in _GROUP_STARTS:
            page.line((x, x + width), (at + 1.3, at + 1.3), theme.faint, 0.5)
            at += 1.8
        base = at + 5.4
        end = page.text(x, base, name, 9)
        page.text(end + 1.5, base, unit, 7.5, color=theme.muted)
        for column, quantity in zip((lv, rv), quantities, strict=True):
            _cell(page, content, None if quantity is None else found.get(quantity), quantity, column, base)
        at += 6.75
    heart_rate, bsa = found.get(Quantity.HEART_RATE), found.get(Quantity.BSA)
    page.line((x, x + width), (at + 1.3, at + 1.3), theme.faint, 0.5)
    facts = [
        f"heart rate {heart_rate.value:.0f} /min" if heart_rate else "heart rate not known",
        f"body surface area {bsa.value:.2f} m² ({content.function.bsa_formula})"
        if bsa
        else "height or weight not known: no indices",
    ]
    page.text(x, at + 6.6, "  ·  ".join(facts), 7.5, color=theme.muted)
    sources = dict.fromkeys(each.source for each in content.ranges.values())
    text = "reference: " + "; ".join(sources) if sources else "no reference range: sex or age of the patient not known"
    page.text(x, at + 10.6, clipped(text, 6.8, width), 6.8, color=theme.muted)


def _cell(
    page: Page, content: ReportContent, found: Measurement | None, quantity: Quantity | None, x: float, y: float
) -> None:
    theme = page.theme
    if quantity is None:
        return
    if found is None:
        page.text(x, y, "–", 9, color=theme.muted, align="right")
        return
    normal = content.ranges.get(quantity)
    outside = normal is not None and normal.standing(found.value) is not Standing.WITHIN
    page.text(
        x,
        y,
        _format(found.value, quantity.unit),
        11,
        bold=True,
        align="right",
        color=theme.caution if outside else None,
    )
    if normal is not None:
        gauge(page, x + 3, y - 2.6, 20, found.value, normal)
        page.text(x + 13, y + 1.0, f"{normal.lower:.0f}–{normal.upper:.0f}", 6, color=theme.muted, align="center")


def _bulls_eyes(page: Page, content: ReportContent, x: float, y: float, width: float) -> None:
    theme = page.theme
    wall = content.function.wall
    middle = width / 4
    if wall is None:
        page.text(x + 5, y + 7, "Wall", 10, bold=True)
        page.paragraph(
            x + 5,
            y + 16,
            "Not measured: the insertion points of the right ventricle were not found, and with them the segments.",
            9,
            width - 10,
            color=theme.muted,
        )
        return
    for index, (title, values, limits, colors, pattern, unit) in enumerate(
        (
            ("Wall thickness at ED", wall.ed_thickness_mm, _THICKNESS_LIMITS, THICKNESS_MAP, "{:.1f}", "mm"),
            ("Wall thickening", wall.thickening_percent, _THICKENING_LIMITS, THICKENING_MAP, "{:.0f}", "%"),
        )
    ):
        centre = x + middle + index * 2 * middle
        page.text(centre, y + 7, f"{title}, {unit}", 10, bold=True, align="center")
        bulls_eye(page, centre, y + 43, 26.5, values, limits, colors, pattern)
        color_bar(page, centre - 15, y + 78.5, 30, limits, colors, unit)


def _attention(page: Page, content: ReportContent, x: float, y: float, width: float) -> None:
    theme = page.theme
    concerns = content.quality.concerns
    refused = [refusal.sentence for refusal in content.refusals]
    title = "Read with these findings in mind" if concerns or refused else "Quality"
    page.text(x, y + 7, title, 10, bold=True)
    at, end = y + 13.0, y + 36.0
    lines: list[tuple[str, str]] = [(finding.sentence, _grade_color(theme, finding.grade)) for finding in concerns]
    lines += [(sentence, theme.caution) for sentence in refused]
    if not lines:
        lines = [("No finding of quality control asks for caution; all checks are on the following pages.", theme.good)]
    lines += [(note, theme.muted) for note in content.function.notes]
    if content.study.omissions:
        count = len(content.study.omissions)
        lines.append(
            (f"{count} group{'s' if count > 1 else ''} of images left out, see the following pages.", theme.muted)
        )
    for position, (sentence, color) in enumerate(lines):
        text = wrapped(sentence, 8.5, width - 4)
        more = len(lines) - position - 1
        if at + (len(text) - 1) * 4.2 > end - (4.2 if more else 0):
            page.text(x + 4, at, f"and {more + 1} more, see the following pages", 8.5, color=theme.muted)
            return
        page.rectangle(x, at - 2.5, 1.6, 2.6 + (len(text) - 1) * 4.2, color, radius=0.8)
        for line in text:
            page.text(x + 4, at, line, 8.5)
            at += 4.2
        at += 1.0


# -- page 2: contours --------------------------------------------------------------------------------------------------


def _contours(theme: Theme, content: ReportContent, segmentation: CineSegmentation) -> Page:
    page = Page(theme)
    stack, function = content.stack, content.function
    key = function.keyframes
    phases = (key.end_diastole, key.end_systole)
    labels = segmentation.labels
    crop = heart_crop(stack, labels[list(phases)])
    rows, columns = slice(crop[0], crop[1]), slice(crop[2], crop[3])
    grey = stack.pixels[list(phases), :, rows, columns]
    blood = np.isin(labels[list(phases), :, rows, columns], (Label.LV, Label.RV))
    # Blood nearly white; fat is brighter by far and would leave the heart dark.
    low = np.percentile(grey, 1)
    high = 1.2 * np.percentile(grey[blood], 95) if blood.any() else np.percentile(grey, 99)
    order = list(range(stack.slices))
    if function.base_slice > function.apex_slice:
        order.reverse()
    times = (key.end_diastole_ms, key.end_systole_ms)
    height = (_BOTTOM - _TOP - 14) / 2
    for index, (name, phase, milliseconds) in enumerate(
        zip(("End diastole", "End systole"), phases, times, strict=True)
    ):
        top = _TOP + index * (height + 8)
        when = f", {milliseconds:.0f} ms" if np.isfinite(milliseconds) else ""
        end = page.text(_LEFT, top + 3.4, name, 10, bold=True)
        page.text(end + 2, top + 3.4, f"phase {phase + 1} of {stack.phases}{when}; base first", 8.5, color=theme.muted)
        if index == 0:
            _legend(
                page,
                _RIGHT,
                top + 3.4,
                [("LV cavity", theme.lv), ("myocardium", theme.myocardium), ("RV cavity", theme.rv)],
            )
        contour_sheet(
            page,
            _LEFT,
            top + 6,
            _RIGHT - _LEFT,
            height - 1,
            stack,
            phase,
            labels[phase],
            order,
            _captions(content, labels[phase], phase, order),
            crop,
            (float(low), max(float(high), float(low) + 1)),
        )
    return page


def _captions(content: ReportContent, labels: NDArray[np.uint8], phase: int, order: Sequence[int]) -> list[str]:
    function = content.function
    levels = function.wall.levels if function.wall is not None else (None,) * content.stack.slices
    captions = []
    for index in order:
        parts = [str(index + 1)]
        level = levels[index]
        if level:
            parts.append(level)
        if labels[index].any() and not function.counted_slices[phase, index]:
            parts.append("LV not counted")
        captions.append("  ".join(parts))
    return captions


# -- text pages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Heading:
    text: str


@dataclass(frozen=True, slots=True)
class _Paragraph:
    text: str
    size: float = _BODY
    muted: bool = False


@dataclass(frozen=True, slots=True)
class _Finding:
    finding: QualityFinding


_Block = _Heading | _Paragraph | _Finding


def _quality_blocks(quality: QualityAssessment) -> list[_Block]:
    worst_first = sorted(quality.findings, key=lambda finding: -finding.grade)
    return [_Heading("Quality control"), *(_Finding(finding) for finding in worst_first)]


def _provenance_blocks(content: ReportContent, provenance: Provenance) -> list[_Block]:
    function = content.function
    blocks = _omission_blocks(content.study.omissions) + _series_blocks(provenance)
    how = list(function.notes)
    if function.wall is not None:
        how.append(f"Wall: {function.wall.method}.")
    uncertain = [
        f"{each.quantity.value.split('_')[0]} {each.value:.1f} {each.quantity.unit} "
        f"({each.interval.lower:.1f} to {each.interval.upper:.1f})"
        for each in function.measurements()
        if each.interval is not None
    ]
    if uncertain:
        how.append(f"With their uncertainty: {', '.join(uncertain)}.")
    blocks += [_Heading("How the numbers came about"), *(_Paragraph(text) for text in how)]
    ranges: dict[str, list[str]] = {}
    for quantity, normal in content.ranges.items():
        ranges.setdefault(f"{normal.source}: {range_description(normal)}", []).append(quantity.value.split("_")[0])
    if ranges:
        blocks.append(_Heading("Reference ranges"))
        blocks += [_Paragraph(f"{', '.join(names)}: {origin}.") for origin, names in ranges.items()]
    return blocks + _software_blocks(provenance)


def _omission_blocks(omissions: Iterable[Omission]) -> list[_Block]:
    sentences = [omission_sentence(omission) for omission in omissions]
    if not sentences:
        sentences = ["Nothing: all images of the study that are cine were used."]
    return [_Heading("Left out"), *(_Paragraph(sentence) for sentence in sentences)]


def _series_blocks(provenance: Provenance) -> list[_Block]:
    rows: list[_Block] = [
        _Paragraph(
            f"{series.number}  {series.description or 'no description'}: {series.images} images, {series.used_for}"
        )
        for series in provenance.series
    ]
    return [_Heading("Input series"), *(rows or [_Paragraph("No series was assembled into a cine.")])]


def _software_blocks(provenance: Provenance) -> list[_Block]:
    blocks: list[_Block] = [_Heading("Software and limits")]
    blocks.append(_Paragraph(f"dicom-node {SOFTWARE_VERSION}, Device UID {provenance.device_uid}"))
    for model in provenance.models:
        blocks.append(
            _Paragraph(
                f"{model.name} {model.version} ({model.task}); trained on {model.training_data}; "
                f"licence {model.licence}; weights SHA-256 {model.weights_sha256}"
            )
        )
    blocks += [_Paragraph(limit) for limit in LIMITS]
    if provenance.institution or provenance.contact:
        contact = ", ".join(part for part in (provenance.institution, provenance.contact) if part)
        blocks.append(_Paragraph(f"Contact: {contact}"))
    return blocks


def _text_pages(theme: Theme, blocks: Sequence[_Block]) -> list[Page]:
    """Flow blocks through two columns a page."""
    gap = 8.0
    width = (_RIGHT - _LEFT - gap) / 2
    pages: list[Page] = []
    places = _columns(theme, pages, width, gap)
    page, x = next(places)
    at = _TOP + 2.0
    for position, block in enumerate(blocks):
        needed = _height(block, width)
        if isinstance(block, _Heading) and position + 1 < len(blocks):
            # A heading stays with what follows it.
            needed += min(_height(blocks[position + 1], width), 12.0)
        if at + needed > _BOTTOM and at > _TOP + 2.0:
            page, x = next(places)
            at = _TOP + 2.0
        at = _draw(page, block, x, at, width)
    return pages


def _columns(theme: Theme, pages: list[Page], width: float, gap: float) -> Iterator[tuple[Page, float]]:
    while True:
        page = Page(theme)
        pages.append(page)
        yield page, _LEFT
        yield page, _LEFT + width + gap


def _height(block: _Block, width: float) -> float:
    if isinstance(block, _Heading):
        return 9.0
    if isinstance(block, _Finding):
        return len(wrapped(_finding_text(block), _BODY, width - 22)) * _BODY * 0.494 + 1.4
    return len(wrapped(block.text, block.size, width)) * block.size * 0.494 + 1.4


def _finding_text(block: _Finding) -> str:
    finding = block.finding
    if finding.grade < Grade.POOR:
        return finding.sentence
    name = finding.check.value
    return f"{name[:1].upper()}{name[1:]}: {finding.sentence}"


def _draw(page: Page, block: _Block, x: float, at: float, width: float) -> float:
    theme = page.theme
    if isinstance(block, _Heading):
        page.text(x, at + 5.2, block.text, 11, bold=True)
        page.line((x, x + width), (at + 7.2, at + 7.2), theme.faint, 0.6)
        return at + 9.0
    if isinstance(block, _Finding):
        color = _grade_color(theme, block.finding.grade)
        page.rectangle(x, at + 0.9, 1.6, 2.7, color, radius=0.8)
        page.text(x + 3.4, at + 3.4, block.finding.grade.name.lower(), _BODY, color=color, bold=True)
        page.paragraph(x + 22, at + 3.4, _finding_text(block), _BODY, width - 22, leading=1.4)
    else:
        page.paragraph(
            x, at + 3.4, block.text, block.size, width, color=theme.muted if block.muted else None, leading=1.4
        )
    return at + _height(block, width)
