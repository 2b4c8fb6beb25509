"""The summary page of motion: strain curves, bull's eyes, keyframes on the motion descriptor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from dicom_node.results.canvas import Page, Theme
from dicom_node.results.charts import bulls_eye, color_bar
from dicom_node.results.motion.keyframes import KEYFRAME_WORDS
from dicom_node.results.parts import Heading, Paragraph, TextBlock
from dicom_node.results.summary import LEFT, RIGHT, TOP, legend
from pipelines.motion.findings import CardiacMotion, Component, Keyframe, StrainCurve

__all__ = ["motion_page", "motion_text"]

_SHORTENING_MAP = LinearSegmentedColormap.from_list(
    "shortening", ["#23607c", "#3f9d86", "#9fce83", "#efc15a", "#d65f3c", "#8e1f2f"]
)
_THICKENING_MAP = LinearSegmentedColormap.from_list(
    "radial", ["#8e1f2f", "#d65f3c", "#efc15a", "#9fce83", "#3f9d86", "#23607c"]
)
_LIMITS = {
    Component.LONGITUDINAL: (-25.0, 0.0),
    Component.CIRCUMFERENTIAL: (-25.0, 0.0),
    Component.RADIAL: (0.0, 80.0),
}
_SHORT = {
    Keyframe.END_DIASTOLE: "ED",
    Keyframe.MID_SYSTOLE: "MS",
    Keyframe.END_SYSTOLE: "ES",
    Keyframe.PEAK_FLOW: "PF",
    Keyframe.MID_DIASTOLE: "MD",
}
_GAP = 5.0


def motion_page(theme: Theme, found: CardiacMotion) -> Page:
    """Draw the page."""
    page = Page(theme)
    half = (RIGHT - LEFT - _GAP) / 2
    page.rectangle(LEFT, TOP, half, 76, theme.panel, radius=2)
    page.text(LEFT + 5, TOP + 7, "Global strain, %", 10, bold=True)
    colors = _colors(theme)
    legend(page, LEFT + half - 5, TOP + 7, [(str(curve.component), colors(curve)) for curve in found.strain.curves()])
    _curves(page, found, LEFT, TOP, half, colors)
    page.rectangle(LEFT, TOP + 79, half, 78, theme.panel, radius=2)
    _keyframes(page, found, LEFT, TOP + 79, half)
    right = LEFT + half + _GAP
    page.rectangle(right, TOP, half, 64, theme.panel, radius=2)
    _table(page, found, right + 5, TOP, half - 10)
    page.rectangle(right, TOP + 67, half, 90, theme.panel, radius=2)
    _bulls_eyes(page, found, right, TOP + 67, half)
    return page


def motion_text(found: CardiacMotion) -> tuple[TextBlock, ...]:
    """How the numbers came about."""
    strain = found.strain
    lines = [f"Keyframes: {found.keyframes.method}."]
    for curve in strain.curves():
        second = curve.second_percent[int(np.argmin(np.abs(curve.times_ms - curve.peak_ms)))]
        lines.append(
            f"{str(curve.component).capitalize()} strain: {curve.method}. A second way, {curve.second_method}, "
            f"gives {second:.1f} % at the same moment; the interval is {curve.interval.lower:.1f} to "
            f"{curve.interval.upper:.1f} %."
        )
    lines.append(f"Motion of the muscle through the short-axis slices: {strain.through_plane}.")
    lines.append(
        f"Registration: found directly and composed from frame to frame it differs by {found.disagreement_mm:.1f} mm; "
        f"after the whole cycle {found.closure_mm:.1f} mm are left; {found.folded_percent:.2g} % of the points fold."
    )
    lines += strain.notes
    return (Heading("How motion and strain came about"), *(Paragraph(line) for line in lines))


def _colors(theme: Theme) -> Callable[[StrainCurve], str]:
    table = {
        Component.LONGITUDINAL: theme.rv,
        Component.CIRCUMFERENTIAL: theme.lv,
        Component.RADIAL: theme.myocardium,
    }
    return lambda curve: table[curve.component]


def _curves(
    page: Page, found: CardiacMotion, x: float, y: float, width: float, color: Callable[[StrainCurve], str]
) -> None:
    axes = page.plot(x + 11, y + 11, width - 16, 54, "ms after the R wave")
    for curve in found.strain.curves():
        axes.plot(curve.times_ms, curve.percent, color=color(curve), linewidth=1.8)
        axes.plot(curve.times_ms, curve.second_percent, color=color(curve), linewidth=0.9, linestyle=(0, (3, 2)))
        axes.plot(curve.peak_ms, curve.peak_percent, marker="o", markersize=4, color=color(curve))
    axes.axhline(0, color=page.theme.muted, linewidth=0.6)
    page.text(x + 5, y + 74, "Dashed: the second way.", 7, color=page.theme.muted)


def _keyframes(page: Page, found: CardiacMotion, x: float, y: float, width: float) -> None:
    theme = page.theme
    page.text(x + 5, y + 7, "Motion descriptor and keyframes", 10, bold=True)
    axes = page.plot(x + 11, y + 11, width - 16, 42, "ms after the R wave")
    axes.set_ylim(-1.15, 1.3)
    axes.axhline(0, color=theme.muted, linewidth=0.6)
    at = y + 66.0
    for entry, color in zip(found.keyframes.views, (theme.lv, theme.rv), strict=False):
        phases = len(entry.descriptor.direction)
        period = _period(entry.times_ms, entry.phases, phases)
        moments = (np.arange(phases) + 0.5) * period
        axes.plot(moments, entry.descriptor.direction, color=color, linewidth=1.5)
        said = []
        for keyframe, phase in entry.phases.items():
            if entry is found.keyframes.views[0]:
                axes.axvline(phase * period, color=theme.muted, linewidth=0.7, linestyle=(0, (3, 3)))
                axes.annotate(_SHORT[keyframe], (phase * period, 1.12), fontsize=7.5, color=theme.text, ha="center")
            said.append(f"{_SHORT[keyframe]} {phase + 1}")
        page.text(x + 5, at, f"{entry.view} phases: {', '.join(said)} of {phases}", 8, color=color)
        at += 4.6
    words = ", ".join(f"{short} {KEYFRAME_WORDS[keyframe]}" for keyframe, short in _SHORT.items())
    page.text(x + 5, at, words, 6.5, color=theme.muted)


def _period(times: dict[Keyframe, float], phases: dict[Keyframe, int], count: int) -> float:
    """Milliseconds a phase; one where no time is known."""
    rates = [times[key] / phase for key, phase in phases.items() if phase > 0 and np.isfinite(times[key])]
    return float(np.median(rates)) if rates and count else 1.0


def _table(page: Page, found: CardiacMotion, x: float, y: float, width: float) -> None:
    theme = page.theme
    page.text(x, y + 7, "Peak global strain", 10, bold=True)
    columns = (x + 62, x + 92, x + width)
    for place, name in zip(columns, ("peak", "interval", "end systole"), strict=True):
        page.text(place, y + 7, name, 7.5, color=theme.muted, align="right")
    at = y + 14.0
    for curve in found.strain.curves():
        page.text(x, at, str(curve.component).capitalize(), 9)
        page.text(columns[0], at, f"{curve.peak_percent:.1f} %".replace("-", "−"), 10, bold=True, align="right")
        interval = f"{curve.interval.lower:.0f} … {curve.interval.upper:.0f}".replace("-", "−")
        page.text(columns[1], at, interval, 8, color=theme.muted, align="right")
        page.text(columns[2], at, f"{curve.end_systolic_percent:.1f} %".replace("-", "−"), 9, align="right")
        at += 7.0
    rows = []
    if found.strain.torsion is not None:
        rows.append(("Torsion", f"{found.strain.torsion.peak_deg_per_cm:.2f} °/cm"))
    rows += [
        ("Mechanical dispersion (circumferential)", f"{part.dispersion_ms:.0f} ms")
        for part in found.strain.segments
        if part.component is Component.CIRCUMFERENTIAL and np.isfinite(part.dispersion_ms)
    ]
    rows.append(("Registration disagreement", f"{found.disagreement_mm:.1f} mm"))
    page.line((x, x + width), (at - 3, at - 3), theme.faint, 0.5)
    for name, value in rows:
        page.text(x, at + 2, name, 9)
        page.text(x + width, at + 2, value.replace("-", "−"), 9, align="right")
        at += 6.0
    for note in found.strain.notes:
        at = page.paragraph(x, at + 3, note, 7.5, width, color=theme.caution) or at


def _bulls_eyes(page: Page, found: CardiacMotion, x: float, y: float, width: float) -> None:
    parts = [
        part
        for component in (Component.CIRCUMFERENTIAL, Component.RADIAL)
        for part in found.strain.segments
        if part.component is component
    ]
    if not parts:
        page.text(x + 5, y + 7, "Strain by segment", 10, bold=True)
        page.text(x + 5, y + 16, "Not measured: the insertion points of the RV were not found.", 8.5)
        return
    for index, part in enumerate(parts):
        centre = x + width / 4 + index * width / 2
        page.text(centre, y + 7, f"{str(part.component).capitalize()}, peak %", 10, bold=True, align="center")
        limits = _LIMITS[part.component]
        colors = _THICKENING_MAP if part.component is Component.RADIAL else _SHORTENING_MAP
        bulls_eye(page, centre, y + 45, 26.5, part.peak_percent, limits, colors, "{:.0f}")
        color_bar(page, centre - 15, y + 82, 30, limits, colors, "%")
