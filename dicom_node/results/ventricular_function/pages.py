"""Summary pages of ventricular function: numbers, curves and bull's eyes; contours at ED and ES."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dicom_node.results.canvas import Page, Theme, clipped, wrapped
from dicom_node.results.charts import (
    THICKENING_MAP,
    THICKNESS_MAP,
    bulls_eye,
    color_bar,
    contour_sheet,
    gauge,
    heart_crop,
    volume_curves,
    without_minus_zero,
)
from dicom_node.results.parts import Heading, Paragraph, TextBlock
from dicom_node.results.summary import BOTTOM, LEFT, RIGHT, TOP, grade_color, legend
from dicom_node.results.ventricular_function.groups import ReportContent, range_description
from pipelines.function.findings import Measurement, Quantity
from pipelines.function.normals import Standing
from pipelines.segmentation.labels import Label

__all__ = ["format_value", "function_pages", "function_text", "with_interval"]

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
    "The cine images alone were used, and no contrast agent is needed for it; scar, perfusion and valves are not "
    "assessed.",
    "Congenital disease, implanted devices, arrhythmia and children were not part of the training.",
)


def function_pages(theme: Theme, content: ReportContent) -> list[Page]:
    """Draw the two pages: numbers, curves and bull's eyes; contours."""
    return [_numbers(theme, content), _contours(theme, content)]


def function_text(content: ReportContent) -> tuple[TextBlock, ...]:
    """How the numbers came about, whom the reference ranges hold for, and limits."""
    function = content.function
    how = list(function.notes)
    if function.wall is not None:
        how.append(f"Wall: {function.wall.method}.")
    how.append(
        "Intervals are made of the scatter of the volume curve, the choice of the basal slice, and the errors of this "
        "network's contours on phantoms. They aim at 95 %. The truth lay in 80 to 95 % of them on 20 phantoms held "
        "out, and on 16 patients in 94 to 100 % for the left ventricle and 62 to 100 % for the right."
    )
    blocks: list[TextBlock] = [Heading("How the numbers came about"), *(Paragraph(text) for text in how)]
    ranges: dict[str, list[str]] = {}
    for quantity, normal in content.ranges.items():
        ranges.setdefault(f"{normal.source}: {range_description(normal)}", []).append(quantity.value.split("_")[0])
    if ranges:
        blocks.append(Heading("Reference ranges"))
        blocks += [Paragraph(f"{', '.join(names)}: {origin}.") for origin, names in ranges.items()]
    blocks += [Heading("Limits of the analysis"), *(Paragraph(limit) for limit in LIMITS)]
    return tuple(blocks)


# -- page 1: numbers ---------------------------------------------------------------------------------------------------


def _numbers(theme: Theme, content: ReportContent) -> Page:
    page = Page(theme)
    function = content.function
    found = {measurement.quantity: measurement for measurement in function.measurements()}
    left_width = 134.0
    page.rectangle(LEFT, TOP, left_width, 116, theme.panel, radius=2)
    _table(page, content, found, LEFT + 5, TOP, left_width - 10)
    right = LEFT + left_width + 5
    right_width = RIGHT - right
    page.rectangle(right, TOP, right_width, 70, theme.panel, radius=2)
    chambers = [function.lv] if function.rv is None else [function.lv, function.rv]
    page.text(right + 5, TOP + 7, "Volume over the cardiac cycle", 10, bold=True)
    legend(page, right + right_width - 5, TOP + 7, [("LV", theme.lv), ("RV", theme.rv)][: len(chambers)])
    volume_curves(page, right, TOP, right_width, 70, chambers, function.keyframes)
    page.rectangle(right, TOP + 73, right_width, 84, theme.panel, radius=2)
    _bulls_eyes(page, content, right, TOP + 73, right_width)
    page.rectangle(LEFT, TOP + 119, left_width, 38, theme.panel, radius=2)
    _attention(page, content, LEFT + 5, TOP + 119, left_width - 10)
    return page


def format_value(value: float, unit: str) -> str:
    """A value as text: whole numbers, one decimal for what is measured in litres; zero has no sign."""
    return without_minus_zero(f"{value:.1f}" if unit.startswith("l/min") else f"{value:.0f}")


def with_interval(found: Measurement) -> str:
    """Value, unit and, in brackets, the bounds of the interval that it has."""
    unit = found.quantity.unit
    said = f"{format_value(found.value, unit)} {unit}"
    if found.interval is None:
        return said
    return f"{said} ({format_value(found.interval.lower, unit)} to {format_value(found.interval.upper, unit)})"


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
        "small: 95 % interval",
    ]
    page.text(x, at + 6.6, clipped("  ·  ".join(facts), 7.0, width), 7.0, color=theme.muted)
    text, fits = _reference(content)
    page.text(x, at + 10.6, clipped(text, 6.8, width), 6.8, color=theme.muted if fits else theme.caution, bold=not fits)


def _reference(content: ReportContent) -> tuple[str, bool]:
    """Where the reference ranges come from, and whether they are of people of the patient's age."""
    sources = dict.fromkeys(each.source for each in content.ranges.values())
    if not sources:
        return "no reference range: sex of the patient not known, or a child", True
    elsewhere = next((each for each in content.ranges.values() if each.age_fits is False), None)
    if elsewhere is not None:
        low, high = elsewhere.age_years
        age = content.study.context.age_years
        return f"Reference ranges are of people aged {low:.0f} to {high - 1:.0f}; this patient is {age:.0f}.", False
    return f"reference: {'; '.join(sources)}", True


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
    if found.interval is not None:
        bounds = (format_value(bound, quantity.unit) for bound in (found.interval.lower, found.interval.upper))
        page.text(x, y + 2.4, " to ".join(bounds).replace("-", "−"), 6, color=theme.muted, align="right")
    page.text(
        x,
        y,
        format_value(found.value, quantity.unit),
        11,
        bold=True,
        align="right",
        color=theme.caution if outside else None,
    )
    if normal is not None:
        gauge(page, x + 3, y - 2.0, 20, found.value, normal)
        page.text(x + 13, y + 2.4, f"{normal.lower:.0f}–{normal.upper:.0f}", 6, color=theme.muted, align="center")


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
    departures = content.quality.departures
    title = "Read with these findings in mind" if departures else "Checks"
    page.text(x, y + 7, title, 10, bold=True)
    at, end = y + 13.0, y + 36.0
    lines: list[tuple[str, str]] = [(finding.sentence, grade_color(theme, finding.grade)) for finding in departures]
    if not lines:
        lines = [("Every check is within its limits, which does not prove the numbers right.", theme.muted)]
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


def _contours(theme: Theme, content: ReportContent) -> Page:
    page = Page(theme)
    stack, function = content.stack, content.function
    key = function.keyframes
    phases = (key.end_diastole, key.end_systole)
    labels = content.slices.labels
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
    height = (BOTTOM - TOP - 14) / 2
    for index, (name, phase, milliseconds) in enumerate(
        zip(("End diastole", "End systole"), phases, times, strict=True)
    ):
        top = TOP + index * (height + 8)
        when = f", {milliseconds:.0f} ms" if np.isfinite(milliseconds) else ""
        end = page.text(LEFT, top + 3.4, name, 10, bold=True)
        page.text(end + 2, top + 3.4, f"phase {phase + 1} of {stack.phases}{when}; base first", 8.5, color=theme.muted)
        if index == 0:
            entries = [("LV cavity", theme.lv), ("myocardium", theme.myocardium), ("RV cavity", theme.rv)]
            if any((content.slices.reported(each) != labels[each]).any() for each in phases):
                entries.append(("dotted: found, not counted", theme.muted))
            legend(page, RIGHT, top + 3.4, entries)
        contour_sheet(
            page,
            LEFT,
            top + 6,
            RIGHT - LEFT,
            height - 1,
            stack,
            phase,
            content.slices.reported(phase),
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
        if (labels[index] == Label.LV).any() and not function.counted_slices[phase, index]:
            parts.append("LV not counted")
        captions.append("  ".join(parts))
    return captions
