"""The summary: what a radiologist reads, in pages composed of the parts of packages.

Each page names its patient, since a page is printed and passed on alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.results.canvas import HEIGHT, MARGIN, WIDTH, Page, Theme, clipped, text_width, wrapped
from dicom_node.results.content import confidence_sentence, omission_sentence
from dicom_node.results.header import BANNER
from dicom_node.results.parts import Heading, Panel, Paragraph, SummaryPart, TextBlock
from dicom_node.results.patient import PatientLine
from dicom_node.results.provenance import Provenance
from dicom_node.results.refusal import without_numbers
from dicom_node.results.report import declined_sentences
from dicom_node.results.verdict import headline
from pipelines.cine.stack import CineStudy, Omission
from pipelines.errors import Refusal
from pipelines.quality.findings import Grade, QualityAssessment, QualityFinding

__all__ = [
    "BOTTOM",
    "FOOT_SIZE",
    "LEFT",
    "LIMITS",
    "RIGHT",
    "TOP",
    "foot_lines",
    "grade_color",
    "legend",
    "listing_pages",
    "refusal_pages",
    "summary_pages",
    "text_pages",
]

LEFT, RIGHT = MARGIN, WIDTH - MARGIN
TOP, BOTTOM = 38.0, HEIGHT - 15.0
"""Between the banner and the foot of every page, mm."""
FOOT_SIZE = 7.5
"""Points."""
_GAP = 5.0
_BODY = 8.0
"""Points of running text."""
_LEADING_MM = 0.494
"""Line spacing of 1.4, mm for a point."""
_TEXT_GAP = 8.0
_SCALES = (1.0, 0.94, 0.88)
"""Sizes of text to try where a last page would hold little."""
_GRADE_WORDS = {Grade.EXCELLENT: "within", Grade.GOOD: "departs", Grade.POOR: "caution", Grade.UNUSABLE: "unusable"}

LIMITS = (
    "Contours and numbers come from an algorithm and were checked by nobody. Do not use them for diagnosis or "
    "treatment."
)


def summary_pages(
    theme: Theme,
    title: str,
    study: CineStudy,
    parts: Sequence[SummaryPart],
    declined: Mapping[str, Sequence[Refusal]],
    quality: QualityAssessment | None,
    provenance: Provenance,
) -> list[Figure]:
    """Draw the summary of packages that found something.

    Parameters
    ----------
    title
        What the pages are about, as within a sentence.
    parts
        What each package adds, in the order of the route.
    declined
        Of the packages that gave nothing: title and causes.
    quality
        Findings of quality control, where a package judged it.

    Returns
    -------
    list of Figure
        The pages of each package, then the panels of all, then as many pages as text takes.
    """
    pages = [page for part in parts for page in part.pages(theme)]
    pages += _panel_pages(theme, [panel for part in parts for panel in part.panels])
    blocks: list[_Block] = []
    if declined:
        blocks += [
            Heading("Not analysed"),
            *(Paragraph(sentence) for sentence in declined_sentences(declined, of_all=False)),
        ]
    if quality is not None:
        blocks += [Heading("Confidence"), Paragraph(confidence_sentence(quality.overall))]
        blocks += _quality_blocks(quality)
    blocks += _omission_blocks(study.omissions) + _series_blocks(provenance)
    blocks += [block for part in parts for block in part.text]
    blocks += _software_blocks(provenance)
    pages += text_pages(theme, blocks)
    _finish(pages, title, None if quality is None else quality.overall, provenance)
    return [page.figure for page in pages]


def refusal_pages(
    theme: Theme,
    title: str,
    study: CineStudy,
    declined: Mapping[str, Sequence[Refusal]],
    quality: QualityAssessment | None,
    provenance: Provenance,
) -> list[Figure]:
    """Draw why a study was declined."""
    blocks: list[_Block] = [Heading("Not analysed")]
    blocks += [Paragraph(sentence, size=12) for sentence in declined_sentences(declined, of_all=True)]
    blocks.append(Paragraph("No numbers are reported for this study.", muted=True))
    if quality is not None:
        blocks += _quality_blocks(without_numbers(quality))
    blocks += _omission_blocks(study.omissions) + _series_blocks(provenance) + _software_blocks(provenance)
    pages = text_pages(theme, blocks)
    _finish(pages, title, Grade.UNUSABLE, provenance)
    return [page.figure for page in pages]


def listing_pages(theme: Theme, title: str, blocks: Sequence[TextBlock], provenance: Provenance) -> list[Figure]:
    """Draw pages of text alone."""
    pages = text_pages(theme, [*blocks, Heading("Limits"), Paragraph(LIMITS)])
    _finish(pages, title, None, provenance)
    return [page.figure for page in pages]


# -- frame of every page -----------------------------------------------------------------------------------------------


def grade_color(theme: Theme, grade: Grade) -> str:
    """Colour of a grade; green is for what patients have shown to be well, which nothing is."""
    return {
        Grade.EXCELLENT: theme.muted,
        Grade.GOOD: theme.muted,
        Grade.POOR: theme.caution,
        Grade.UNUSABLE: theme.bad,
    }[grade]


def _finish(pages: Sequence[Page], title: str, overall: Grade | None, provenance: Provenance) -> None:
    for number, page in enumerate(pages, start=1):
        theme = page.theme
        if provenance.patient is not None:
            _name_patient(page, provenance.patient)
        page.text(LEFT, 17.5, headline(title), 17, bold=True)
        of = f"page {number} of {len(pages)}"
        scanner = clipped(f"cardiac MR  ·  {provenance.scanner}", 9, RIGHT - LEFT - text_width(of, 8.5) - 4)
        page.text(LEFT, 23, scanner, 9, color=theme.muted)
        page.text(RIGHT, 22.5, of, 8.5, color=theme.muted, align="right")
        if overall is not None:
            page.pill(RIGHT, 15.0, f"CONFIDENCE  {overall.name}", grade_color(theme, overall))
        page.rectangle(LEFT, 26.5, RIGHT - LEFT, 6.4, theme.banner, radius=1.4)
        page.text(
            WIDTH / 2, 29.7, BANNER, 9, color=theme.on_banner, bold=True, align="center", baseline="center_baseline"
        )
        page.line((LEFT, RIGHT), (HEIGHT - 12, HEIGHT - 12), theme.faint)
        models = ", ".join(f"{model.name} {model.version}" for model in provenance.models)
        contact = f"contact: {provenance.contact}" if provenance.contact else ""
        for below, line in enumerate(foot_lines(f"dicom-node {SOFTWARE_VERSION}", models, provenance.created, contact)):
            page.text(LEFT, HEIGHT - 7.5 + 3.4 * below, line, FOOT_SIZE, color=theme.muted)


def foot_lines(software: str, models: str, created: str, contact: str) -> tuple[str, ...]:
    """What stands at the foot of a page: one line, or two where the names of the networks are too long for it.

    Of two lines the date is in the first, and only names of networks, or a contact of a whole line, are cut; the report
    holds both.
    """
    whole = "  ·  ".join(filter(None, (software, models, created, contact)))
    if text_width(whole, FOOT_SIZE) <= RIGHT - LEFT:
        return (whole,)
    first = "  ·  ".join(filter(None, (software, created, contact)))
    return tuple(clipped(line, FOOT_SIZE, RIGHT - LEFT) for line in (first, models) if line)


def _name_patient(page: Page, patient: PatientLine) -> None:
    """Write the line of identity; the details get smaller before anything is cut."""
    details, width = "  ·  ".join(patient.details), RIGHT - LEFT
    name_width = text_width(patient.name, 10, bold=True) + 8
    size = 9.0
    while size > 6.5 and name_width + text_width(details, size) > width:
        size -= 0.5
    details = clipped(details, size, max(0.75 * width, width - name_width))
    name = clipped(patient.name, 10, width - text_width(details, size) - 8, bold=True)
    page.text(LEFT, 8.5, name, 10, bold=True)
    page.text(RIGHT, 8.5, details, size, align="right")
    page.line((LEFT, RIGHT), (10.4, 10.4), page.theme.faint)


def legend(page: Page, right: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
    """Write names with a line of their colour, from ``right`` leftwards; entries are (name, colour)."""
    for name, color in reversed(entries):
        right -= text_width(name, 8.5, bold=True)
        page.text(right, y, name, 8.5, color=color, bold=True)
        page.line((right - 6, right - 1.5), (y - 1.1, y - 1.1), color, 1.8)
        right -= 10


# -- panels ------------------------------------------------------------------------------------------------------------


def _panel_pages(theme: Theme, panels: Sequence[Panel]) -> list[Page]:
    """Flow panels through two columns a page."""
    width = (RIGHT - LEFT - _GAP) / 2
    pages: list[Page] = []
    places = _columns(theme, pages, width, _GAP)
    at = BOTTOM
    page, x = Page(theme), LEFT
    for panel in panels:
        if panel.height > BOTTOM - TOP:
            raise ValueError(f"panel {panel.title!r} is {panel.height:g} mm high; {BOTTOM - TOP:g} are there")
        if at + panel.height > BOTTOM:
            page, x = next(places)
            at = TOP
        page.rectangle(x, at, width, panel.height, theme.panel, radius=2)
        page.text(x + 5, at + 7, panel.title, 10, bold=True)
        panel.draw(page, x + 5, at + 10, width - 10, panel.height - 13)
        at += panel.height + _GAP
    return pages


# -- text pages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Finding:
    finding: QualityFinding


_Block = TextBlock | _Finding


def _quality_blocks(quality: QualityAssessment) -> list[_Block]:
    within = " ".join(finding.sentence for finding in quality.findings if finding.grade is Grade.EXCELLENT)
    blocks: list[_Block] = [Heading("Checks of images and measurements")]
    blocks += [_Finding(finding) for finding in quality.departures]
    return [*blocks, Paragraph(f"Within limits: {within}", muted=True)] if within else blocks


def _omission_blocks(omissions: Iterable[Omission]) -> list[_Block]:
    sentences = [omission_sentence(omission) for omission in omissions]
    if not sentences:
        sentences = ["Nothing: all images of the study that are cine were used."]
    return [Heading("Left out"), *(Paragraph(sentence) for sentence in sentences)]


def _series_blocks(provenance: Provenance) -> list[_Block]:
    rows: list[_Block] = [
        Paragraph(
            f"{series.number}  {series.description or 'no description'}: {series.images} images, {series.used_for}"
        )
        for series in provenance.series
    ]
    return [Heading("Input series"), *(rows or [Paragraph("No series was assembled into a cine.")])]


def _software_blocks(provenance: Provenance) -> list[_Block]:
    blocks: list[_Block] = [Heading("Software and limits")]
    blocks.append(Paragraph(f"dicom-node {SOFTWARE_VERSION}, Device UID {provenance.device_uid}"))
    for model in provenance.models:
        blocks.append(
            Paragraph(
                f"{model.name} {model.version} ({model.task}); trained on {model.training_data}; "
                f"licence {model.licence}; weights SHA-256 {model.weights_sha256}"
            )
        )
    blocks.append(Paragraph(LIMITS))
    if provenance.institution or provenance.contact:
        contact = ", ".join(part for part in (provenance.institution, provenance.contact) if part)
        blocks.append(Paragraph(f"Contact: {contact}"))
    return blocks


def text_pages(theme: Theme, blocks: Sequence[_Block]) -> list[Page]:
    """Flow blocks through two columns a page, a little smaller where that saves a last page with little on it."""
    width = (RIGHT - LEFT - _TEXT_GAP) / 2
    places = _flow(blocks, width, _SCALES[0])
    scale = _SCALES[0]
    if _last_page_has_little(places):
        for smaller in _SCALES[1:]:
            tighter = _flow(blocks, width, smaller)
            if tighter[-1].column // 2 < places[-1].column // 2:
                places, scale = tighter, smaller
                break
    pages: list[Page] = []
    for place in places:
        while len(pages) <= place.column // 2:
            pages.append(Page(theme))
        x = LEFT + place.column % 2 * (width + _TEXT_GAP)
        _draw(pages[-1], place.block, x, place.top, width, scale)
    return pages or [Page(theme)]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a block stands: its column, counted through the pages, and its top and end, mm."""

    block: _Block
    column: int
    top: float
    end: float


def _flow(blocks: Sequence[_Block], width: float, scale: float) -> list[_Place]:
    places: list[_Place] = []
    column, at = 0, TOP + 2.0
    for position, block in enumerate(blocks):
        height = needed = _height(block, width, scale)
        if isinstance(block, Heading) and position + 1 < len(blocks):
            # A heading stays with what follows it.
            needed += min(_height(blocks[position + 1], width, scale), 12.0)
        if at + needed > BOTTOM and at > TOP + 2.0:
            column, at = column + 1, TOP + 2.0
        places.append(_Place(block, column, at, at + height))
        at += height
    return places


def _last_page_has_little(places: Sequence[_Place]) -> bool:
    """Whether the last of several pages holds less than one column."""
    last = places[-1] if places else None
    return last is not None and last.column >= 2 and last.column % 2 == 0


def _columns(theme: Theme, pages: list[Page], width: float, gap: float) -> Iterator[tuple[Page, float]]:
    while True:
        page = Page(theme)
        pages.append(page)
        yield page, LEFT
        yield page, LEFT + width + gap


def _height(block: _Block, width: float, scale: float) -> float:
    if isinstance(block, Heading):
        return 9.0 * scale
    if isinstance(block, _Finding):
        size = _BODY * scale
        return len(wrapped(_finding_text(block), size, width - 22)) * size * _LEADING_MM + 1.4 * scale
    size = block.size * scale
    return len(wrapped(block.text, size, width)) * size * _LEADING_MM + 1.4 * scale


def _finding_text(block: _Finding) -> str:
    finding = block.finding
    if finding.grade < Grade.POOR:
        return finding.sentence
    name = finding.check.value
    return f"{name[:1].upper()}{name[1:]}: {finding.sentence}"


def _draw(page: Page, block: _Block, x: float, at: float, width: float, scale: float) -> None:
    theme = page.theme
    if isinstance(block, Heading):
        page.text(x, at + 5.2 * scale, block.text, 11 * scale, bold=True)
        page.line((x, x + width), (at + 7.2 * scale, at + 7.2 * scale), theme.faint, 0.6)
        return
    base, body = at + 3.4 * scale, _BODY * scale
    if isinstance(block, _Finding):
        color = grade_color(theme, block.finding.grade)
        page.rectangle(x, base - 2.5 * scale, 1.6, 2.7 * scale, color, radius=0.8)
        page.text(x + 3.4, base, _GRADE_WORDS[block.finding.grade], body, color=color, bold=True)
        page.paragraph(x + 22, base, _finding_text(block), body, width - 22, leading=1.4)
    else:
        color_of = theme.muted if block.muted else None
        page.paragraph(x, base, block.text, block.size * scale, width, color=color_of, leading=1.4)
