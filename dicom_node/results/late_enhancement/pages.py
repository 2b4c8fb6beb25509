"""The summary page of acquired late enhancement: contours on the slices, extents, bull's eye of transmurality."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from numpy.typing import NDArray

from dicom_node.results.canvas import DARK, Page, Theme
from dicom_node.results.charts import bulls_eye, color_bar
from dicom_node.results.late_enhancement.structures import STRUCTURES
from dicom_node.results.parts import Heading, Paragraph, TextBlock
from dicom_node.results.summary import BOTTOM, LEFT, RIGHT, TOP, legend
from pipelines.cine.stack import LateEnhancementStack
from pipelines.late_enhancement.findings import ExtentMethod, LateEnhancement
from pipelines.late_enhancement.labels import WALL, Tissue

__all__ = ["enhancement_page", "enhancement_text"]

_TRANSMURALITY_MAP = LinearSegmentedColormap.from_list(
    "transmurality", ["#24506e", "#3f8f8b", "#c9c46b", "#ef9a3c", "#c43d2f"]
)
_SHEET_WIDTH = 150.0
_ON_WHITE = "#b59b00"
"""The yellow of the infarct as letters on a white page."""
_GAP = 1.2
_MARGIN_MM = 10.0
_WORDS = {
    ExtentMethod.NETWORK: "Network",
    ExtentMethod.FWHM: "Full width at half maximum",
    ExtentMethod.SD2: "2 SD above remote muscle",
    ExtentMethod.SD5: "5 SD above remote muscle",
    ExtentMethod.SD6: "6 SD above remote muscle",
}


def _colors() -> dict[Tissue, str]:
    return {Tissue(one.label): f"#{one.rgb[0]:02x}{one.rgb[1]:02x}{one.rgb[2]:02x}" for one in STRUCTURES}


def enhancement_page(theme: Theme, found: LateEnhancement, stack: LateEnhancementStack) -> Page:
    """Draw the page."""
    page = Page(theme)
    colors = _colors()
    page.text(LEFT, TOP + 3.4, f"Acquired, {found.reconstruction}", 10, bold=True)
    entries = [
        ("cavity", colors[Tissue.LV]),
        ("wall", colors[Tissue.MYO]),
        ("infarct", colors[Tissue.INFARCT] if theme is DARK else _ON_WHITE),
        ("MVO", colors[Tissue.OBSTRUCTION]),
    ]
    legend(page, LEFT + _SHEET_WIDTH, TOP + 3.4, entries)
    _sheet(page, found, stack, LEFT, TOP + 6, _SHEET_WIDTH, BOTTOM - TOP - 10)
    x = LEFT + _SHEET_WIDTH + 5
    width = RIGHT - x
    page.rectangle(x, TOP, width, 66, theme.panel, radius=2)
    _table(page, found, x + 5, TOP, width - 10)
    page.rectangle(x, TOP + 69, width, BOTTOM - TOP - 69, theme.panel, radius=2)
    _by_segment(page, found, x, TOP + 69, width)
    return page


def enhancement_text(found: LateEnhancement) -> tuple[TextBlock, ...]:
    """How the numbers came about, and how far they can be trusted."""
    network = found.extent(ExtentMethod.NETWORK)
    lines = [*found.cautions, *found.notes]
    if network.interval is not None:
        lines.append(
            f"Interval of the network's extent: {network.interval.lower:.0f} to {network.interval.upper:.0f} %, from "
            "errors on patients that it had not seen, or from the spread of its ensemble where that is wider."
        )
    lines.append(
        "Probability of presence: a logistic law of the labelled extent, calibrated on patients that the network had "
        f"not seen. Mean agreement of the ensemble: {found.agreement:.2f}."
    )
    if found.alignment is not None:
        shifts = np.linalg.norm(found.alignment.shift_mm, axis=1)
        laid = np.isfinite(shifts)
        lines.append(
            f"{int(laid.sum())} of {len(shifts)} slices were laid onto the cine at end diastole (phase "
            f"{found.alignment.phase + 1}), shifted by {float(shifts[laid].mean()):.1f} mm in the mean and at most "
            f"{float(shifts[laid].max()):.1f} mm; Dice of the ventricle then "
            f"{float(found.alignment.overlap[laid].mean()):.2f}."
        )
    if found.without_segments is not None:
        lines.append(found.without_segments)
    lines.append(
        "The network learnt from patients after or without an infarct (one hospital, two scanners). Enhancement of "
        "other causes (myocarditis, cardiomyopathy, amyloid) is unknown to it."
    )
    return (Heading("How the late enhancement was read"), *(Paragraph(line) for line in lines))


def _window(found: LateEnhancement, stack: LateEnhancementStack, index: int) -> tuple[float, float]:
    """Grey values shown black and white: remote muscle dark, the brightest of the ventricle white."""
    inside = stack.pixels[index][found.labels[index] > 0]
    if inside.size < 10:
        low, high = np.percentile(stack.pixels[index], (2, 98))
    else:
        low, high = np.percentile(inside, (1, 99))
    low -= 0.25 * (high - low)
    return float(low), float(max(high, low + 1))


def _sheet(
    page: Page, found: LateEnhancement, stack: LateEnhancementStack, x: float, y: float, width: float, height: float
) -> None:
    theme, spacing = page.theme, stack.geometry.pixel_spacing
    seen = np.argwhere((found.labels > 0).any(axis=0))
    middle = (seen.min(axis=0) + seen.max(axis=0) + 1) / 2
    half = ((seen.max(axis=0) + 1 - seen.min(axis=0)) * spacing).max() / 2 + _MARGIN_MM
    first = np.clip(np.round(middle - half / spacing).astype(int), 0, found.labels.shape[1:])
    end = np.clip(np.round(middle + half / spacing).astype(int), 0, found.labels.shape[1:])
    rows, columns = slice(first[0], end[0]), slice(first[1], end[1])
    tall, wide = (end[0] - first[0]) * spacing[0], (end[1] - first[1]) * spacing[1]
    count = stack.slices

    def scale_of(across: int) -> float:
        down = -(-count // across)
        return float(min((width - (across - 1) * _GAP) / across / wide, (height - (down - 1) * _GAP) / down / tall))

    across = max(range(1, count + 1), key=scale_of)
    scale = scale_of(across)
    for index in range(count):
        left = x + index % across * (wide * scale + _GAP)
        top = y + index // across * (tall * scale + _GAP)
        axes = page.axes(left, top, wide * scale, tall * scale)
        low, high = _window(found, stack, index)
        axes.imshow(
            stack.pixels[index, rows, columns],
            cmap="gray",
            vmin=low,
            vmax=high,
            aspect="auto",
            interpolation="bilinear",
        )
        for mask, color, line in _outlines(found.labels[index, rows, columns]):
            if mask.any():
                axes.contour(mask.astype(float), levels=[0.5], colors=[color], linewidths=line)
        axes.set_axis_off()
        share = found.extent(ExtentMethod.NETWORK).by_slice[index]
        said = f"{index + 1}" + ("" if np.isnan(share) else f"  {share:.0f} %")
        axes.text(
            0.03,
            0.97,
            said,
            transform=axes.transAxes,
            fontsize=6.5,
            color="#ffffff",
            va="top",
            bbox={"facecolor": "#000000", "alpha": 0.6, "pad": 1.2, "linewidth": 0},
        )
    said = "% of the muscle of each slice, by the network; window by slice"
    page.text(x, BOTTOM + 0.6, said, 6.5, color=theme.muted)


def _outlines(labels: NDArray[np.uint8]) -> list[tuple[NDArray[np.bool_], tuple[float, float, float], float]]:
    colors = {tissue: to_rgb(color) for tissue, color in _colors().items()}
    wall = np.isin(labels, WALL)
    return [
        (wall | (labels == Tissue.LV), colors[Tissue.MYO], 0.8),
        (labels == Tissue.LV, colors[Tissue.LV], 0.8),
        (labels >= Tissue.INFARCT, colors[Tissue.INFARCT], 1.1),
        (labels == Tissue.OBSTRUCTION, colors[Tissue.OBSTRUCTION], 1.1),
    ]


def _table(page: Page, found: LateEnhancement, x: float, y: float, width: float) -> None:
    theme = page.theme
    page.text(x, y + 7, "Enhanced muscle", 10, bold=True)
    columns = (x + width - 22, x + width)
    for place, name in zip(columns, ("% of LV", "g"), strict=True):
        page.text(place, y + 7, name, 7.5, color=theme.muted, align="right")
    at = y + 13.5
    for one in found.extents:
        first = one.method is ExtentMethod.NETWORK
        end = page.text(x, at, _WORDS[one.method], 9, bold=first)
        if one.interval is not None:
            said = f"{one.interval.lower:.0f} to {one.interval.upper:.0f} %"
            page.text(end + 2, at, said, 7, color=theme.muted)
        page.text(columns[0], at, f"{one.percent:.1f}", 10 if first else 9, bold=first, align="right")
        page.text(columns[1], at, f"{one.grams:.1f}", 9, align="right")
        at += 5.6
    page.line((x, x + width), (at - 2.6, at - 2.6), theme.faint, 0.5)
    at += 2.0
    for name, value, mark in (
        (
            "Infarct",
            f"{_said(found.infarct.present)}, probability {found.infarct.probability:.2f}",
            found.infarct.present,
        ),
        (
            "Microvascular obstruction",
            f"{_said(found.obstruction.present)}, probability {found.obstruction.probability:.2f}, "
            f"{found.obstruction_percent:.1f} %",
            found.obstruction.present,
        ),
        ("Left ventricular muscle", f"{found.mass_g:.0f} g on these slices", False),
        ("Agreement of the ensemble", f"{found.agreement:.2f}", found.agreement < 0.8),
    ):
        page.text(x, at, name, 9)
        page.text(x + width, at, value, 9, align="right", bold=mark, color=theme.caution if mark else None)
        at += 5.6


def _said(present: bool) -> str:
    return "present" if present else "not found"


def _by_segment(page: Page, found: LateEnhancement, x: float, y: float, width: float) -> None:
    theme = page.theme
    at = y + 7
    if found.segments:
        page.text(x + 5, at, "Transmurality of enhancement, % of the wall", 10, bold=True)
        values = np.full(16, np.nan)
        for one in found.segments:
            values[one.segment - 1] = one.transmurality_percent
        centre = x + width / 2
        bulls_eye(page, centre, y + 40, 26.0, values, (0.0, 100.0), _TRANSMURALITY_MAP, "{:.0f}")
        color_bar(page, centre - 15, y + 72, 30, (0.0, 100.0), _TRANSMURALITY_MAP, "%")
        at = y + 80.0
    else:
        page.text(x + 5, at, "Segments", 10, bold=True)
        at = page.paragraph(x + 5, at + 6, found.without_segments or "", 8, width - 10, color=theme.muted)
    for sentence in found.cautions:
        if at > BOTTOM - 5:
            break
        at = page.paragraph(x + 5, at, sentence, 7.2, width - 10, color=theme.caution) + 0.6
