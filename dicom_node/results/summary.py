"""The summary: what a radiologist reads, in pages composed of the parts of packages.

No patient identity is drawn; it stands in the header.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.results.canvas import HEIGHT, MARGIN, WIDTH, Page, Theme, clipped, text_width, wrapped
from dicom_node.results.content import omission_sentence
from dicom_node.results.header import BANNER
from dicom_node.results.parts import Heading, Panel, Paragraph, SummaryPart, TextBlock
from dicom_node.results.provenance import Provenance
from dicom_node.results.refusal import without_numbers
from dicom_node.results.report import declined_sentences
from pipelines.cine.stack import CineStudy, Omission
from pipelines.errors import Refusal
from pipelines.quality.findings import Grade, QualityAssessment, QualityFinding

__all__ = [
    "BOTTOM",
    "LEFT",
    "LIMITS",
    "RIGHT",
    "TOP",
    "grade_color",
    "headline",
    "legend",
    "listing_pages",
    "refusal_pages",
    "summary_pages",
    "text_pages",
]

LEFT, RIGHT = MARGIN, WIDTH - MARGIN
TOP, BOTTOM = 38.0, HEIGHT - 15.0
"""Between the banner and the foot of every page, mm."""
_GAP = 5.0
_BODY = 8.0
"""Points of running text."""

LIMITS = (
    "Contours and numbers come from an algorithm and were checked by nobody. Do not use them for diagnosis or "
    "treatment."
)


def headline(title: str) -> str:
    """A title as it stands at the head of a page."""
    return f"{title[:1].upper()}{title[1:]}"


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
        blocks += [Heading("Not analysed"), *(Paragraph(sentence) for sentence in declined_sentences(declined))]
    if quality is not None:
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
    blocks += [Paragraph(sentence, size=12) for sentence in declined_sentences(declined)]
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
    """Colour of a grade of quality."""
    return {Grade.EXCELLENT: theme.good, Grade.GOOD: theme.good, Grade.POOR: theme.caution, Grade.UNUSABLE: theme.bad}[
        grade
    ]


def _finish(pages: Sequence[Page], title: str, overall: Grade | None, provenance: Provenance) -> None:
    for number, page in enumerate(pages, start=1):
        theme = page.theme
        page.text(LEFT, 16.5, headline(title), 19, bold=True)
        page.text(LEFT, 23, f"cardiac MR  ·  {provenance.scanner}", 9, color=theme.muted)
        page.text(RIGHT, 22.5, f"page {number} of {len(pages)}", 8.5, color=theme.muted, align="right")
        if overall is not None:
            page.pill(RIGHT, 13.5, f"QUALITY  {overall.name}", grade_color(theme, overall))
        page.rectangle(LEFT, 26.5, RIGHT - LEFT, 6.4, theme.banner, radius=1.4)
        page.text(
            WIDTH / 2, 29.7, BANNER, 9, color=theme.on_banner, bold=True, align="center", baseline="center_baseline"
        )
        page.line((LEFT, RIGHT), (HEIGHT - 12, HEIGHT - 12), theme.faint)
        models = ", ".join(f"{model.name} {model.version}" for model in provenance.models) or "no model ran"
        contact = f"  ·  contact: {provenance.contact}" if provenance.contact else ""
        page.text(
            LEFT,
            HEIGHT - 7.5,
            clipped(f"dicom-node {SOFTWARE_VERSION}  ·  {models}  ·  {provenance.created}{contact}", 7.5, RIGHT - LEFT),
            7.5,
            color=theme.muted,
        )


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
    worst_first = sorted(quality.findings, key=lambda finding: -finding.grade)
    return [Heading("Quality control"), *(_Finding(finding) for finding in worst_first)]


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
    """Flow blocks through two columns a page."""
    gap = 8.0
    width = (RIGHT - LEFT - gap) / 2
    pages: list[Page] = []
    places = _columns(theme, pages, width, gap)
    page, x = next(places)
    at = TOP + 2.0
    for position, block in enumerate(blocks):
        needed = _height(block, width)
        if isinstance(block, Heading) and position + 1 < len(blocks):
            # A heading stays with what follows it.
            needed += min(_height(blocks[position + 1], width), 12.0)
        if at + needed > BOTTOM and at > TOP + 2.0:
            page, x = next(places)
            at = TOP + 2.0
        at = _draw(page, block, x, at, width)
    return pages


def _columns(theme: Theme, pages: list[Page], width: float, gap: float) -> Iterator[tuple[Page, float]]:
    while True:
        page = Page(theme)
        pages.append(page)
        yield page, LEFT
        yield page, LEFT + width + gap


def _height(block: _Block, width: float) -> float:
    if isinstance(block, Heading):
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
    if isinstance(block, Heading):
        page.text(x, at + 5.2, block.text, 11, bold=True)
        page.line((x, x + width), (at + 7.2, at + 7.2), theme.faint, 0.6)
        return at + 9.0
    if isinstance(block, _Finding):
        color = grade_color(theme, block.finding.grade)
        page.rectangle(x, at + 0.9, 1.6, 2.7, color, radius=0.8)
        page.text(x + 3.4, at + 3.4, block.finding.grade.name.lower(), _BODY, color=color, bold=True)
        page.paragraph(x + 22, at + 3.4, _finding_text(block), _BODY, width - 22, leading=1.4)
    else:
        page.paragraph(
            x, at + 3.4, block.text, block.size, width, color=theme.muted if block.muted else None, leading=1.4
        )
    return at + _height(block, width)
