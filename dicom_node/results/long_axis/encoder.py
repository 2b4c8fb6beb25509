"""From what long-axis cine gave to the parts of the results: measurement groups and a page."""

from __future__ import annotations

import numpy as np
from highdicom.sr import FindingSite, Measurement
from matplotlib.axes import Axes
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from dicom_node.results.canvas import Page, Theme
from dicom_node.results.codes import LEFT_ATRIUM, private, ucum
from dicom_node.results.content import MeasurementGroup, group, text_item
from dicom_node.results.header import ResultContext
from dicom_node.results.long_axis.images import extremes, view_objects
from dicom_node.results.parts import (
    EncodingRequest,
    Heading,
    Paragraph,
    Parts,
    ReportPart,
    SummaryPart,
    TextBlock,
    frames_of,
)
from dicom_node.results.summary import LEFT, RIGHT, TOP
from pipelines.long_axis.findings import (
    AtrialFunction,
    LongAxisFunction,
    LongAxisLabel,
    LongAxisView,
    LongAxisViews,
    Valve,
)

__all__ = ["encode", "summary_text"]

_EXCURSION = {Valve.MITRAL: "MAPSE", Valve.TRICUSPID: "TAPSE"}
_GAP = 5.0
_HALF_FIELD_MM = 75.0
_METHOD = "annulus points of segmented long-axis cine, smoothed over the cycle"


def encode(request: EncodingRequest) -> Parts:
    """Encode annulus motion and atrial function."""
    findings = request.found.findings
    found, views = findings[LongAxisFunction], findings[LongAxisViews]
    stacks = tuple(view.stack for view in views.views)
    part = ReportPart(groups=tuple(_groups(request.context, found)), looked_at=frames_of(stacks))
    return Parts(
        objects=lambda: list(view_objects(request, views)),
        report=lambda _variant: part,
        summary=SummaryPart(
            stacks=stacks, pages=lambda theme: [_page(theme, found, views)], text=summary_text(found, views)
        ),
        key_numbers=_key_numbers(found),
        numbers=_numbers(found),
    )


def _groups(context: ResultContext, found: LongAxisFunction) -> list[MeasurementGroup]:
    groups: list[MeasurementGroup] = []
    numbers = [
        Measurement(name=private(_EXCURSION[valve]), value=round(value, 1), unit=ucum("mm"))
        for valve, value in found.plane_excursion_mm.items()
    ]
    if numbers:
        groups.append(
            group(context, "Valve planes", measurements=numbers, items=[text_item(private("METHOD"), _METHOD)])
        )
    atrium = found.atrium
    if atrium is not None:
        values: tuple[tuple[Code, float, str], ...] = (
            (private("LAVMAX"), atrium.maximum_ml, "ml"),
            (private("LAVMIN"), atrium.minimum_ml, "ml"),
            (private("LASR"), atrium.reservoir_percent, "%"),
            (private("LASCD"), atrium.conduit_percent, "%"),
            (private("LASCT"), atrium.booster_percent, "%"),
        )
        groups.append(
            group(
                context,
                "Left atrium",
                finding_sites=[FindingSite(LEFT_ATRIUM)],
                measurements=[
                    Measurement(name=name, value=round(value, 1), unit=ucum(unit)) for name, value, unit in values
                ],
                items=[text_item(private("METHOD"), _atrial_method(atrium))],
            )
        )
    return groups


def _atrial_method(atrium: AtrialFunction) -> str:
    how = "biplane" if len(atrium.views) > 1 else "single plane"
    return f"area and length, {how}, on {' and '.join(atrium.views)}; strain of the wall from annulus to annulus"


def _key_numbers(found: LongAxisFunction) -> tuple[str, ...]:
    said = [f"{_EXCURSION[valve]} {value:.0f} mm" for valve, value in found.plane_excursion_mm.items()]
    if found.atrium is not None:
        strain = found.atrium.reservoir_percent
        said.append(f"left atrium {found.atrium.maximum_ml:.0f} ml, reservoir strain {strain:.0f} %")
    return (f"Long axis: {', '.join(said)}.",)


def _numbers(found: LongAxisFunction) -> dict[str, float]:
    numbers = {f"{_EXCURSION[valve]}_mm": value for valve, value in found.plane_excursion_mm.items()}
    if found.atrium is not None:
        numbers |= {
            "LA_maximum_ml": found.atrium.maximum_ml,
            "LA_minimum_ml": found.atrium.minimum_ml,
            "LA_reservoir_percent": found.atrium.reservoir_percent,
            "LA_conduit_percent": found.atrium.conduit_percent,
            "LA_booster_percent": found.atrium.booster_percent,
        }
    return numbers


def summary_text(found: LongAxisFunction, views: LongAxisViews) -> tuple[TextBlock, ...]:
    """How the numbers came about: views, methods, and what was moved in time or left out."""
    lines = [
        f"Long-axis views read: {', '.join(view.name for view in views.views)}; mean agreement of the segmentations "
        f"{found.agreement:.2f}.",
        f"MAPSE and TAPSE: {_METHOD}; the largest way of the middle of the annulus along the long axis.",
        "The long-axis network was trained on simulated images only: look at the contours.",
    ]
    for view in views.views:
        if view.delay:
            way = "later" if view.delay > 0 else "earlier"
            lines.append(
                f"The phases of {view.name} come {abs(view.delay):.0%} of the cycle {way} than those of the short "
                "axis: it was moved in time by that, and its trigger should be looked at."
            )
    if views.out_of_step:
        left_out = " and ".join(view.name for view in views.out_of_step)
        lines.append(
            f"Not used: {left_out}, whose ventricle does not fill and empty as the short axis does; look at the gating."
        )
    if found.atrium is not None:
        lines.append(f"Left atrium: {_atrial_method(found.atrium)}.")
    else:
        lines.append("Left atrium: not measured, since no view shows it whole or its contours change beyond belief.")
    return (Heading("How the long-axis numbers came about"), *(Paragraph(line) for line in lines))


def _page(theme: Theme, found: LongAxisFunction, views: LongAxisViews) -> Page:
    """Contours of each view at both ends of the motion, and the curves of annuli and atrium."""
    page = Page(theme)
    width = RIGHT - LEFT
    shown = views.views[:4]
    side = min((width - _GAP * (len(shown) - 1)) / max(len(shown), 1), 58.0)
    for index, view in enumerate(shown):
        x = LEFT + index * (side + _GAP)
        for row, (name, phase) in enumerate(zip(("largest LV", "smallest LV"), extremes(view).values(), strict=True)):
            _picture(page, view, phase, x, TOP + 6 + row * (side * 0.78 + 7), side, side * 0.78, name)
    top = TOP + 6 + 2 * (side * 0.78 + 7)
    height = 157 - (top - TOP)
    half = (width - _GAP) / 2
    page.rectangle(LEFT, top, half, height, theme.panel, radius=2)
    page.text(LEFT + 5, top + 6, "Way of the annuli towards the apex, mm", 9, bold=True)
    axes = page.plot(LEFT + 12, top + 10, half - 18, height - 20, "% of the cycle")
    for valve, color in ((Valve.MITRAL, theme.lv), (Valve.TRICUSPID, theme.rv)):
        if valve in found.excursion_mm:
            _curve(axes, found.excursion_mm[valve], color, f"{valve} ({_EXCURSION[valve]})")
    _legend(theme, axes)
    right = LEFT + half + _GAP
    page.rectangle(right, top, half, height, theme.panel, radius=2)
    page.text(right + 5, top + 6, "Left atrium, ml", 9, bold=True)
    if found.atrium is None:
        page.text(right + 5, top + 14, "Not measured: not whole on any view, or implausible contours.", 8.5)
    else:
        axes = page.plot(right + 12, top + 10, half - 18, height - 26, "% of the cycle")
        _curve(axes, found.atrium.volume_ml, theme.myocardium, "volume")
        atrium = found.atrium
        said = (
            f"reservoir {atrium.reservoir_percent:.0f} %, conduit {atrium.conduit_percent:.0f} %, booster "
            f"{atrium.booster_percent:.0f} %"
        )
        page.text(right + 5, top + height - 4, f"Strain: {said}", 8, color=theme.text)
    return page


def _curve(axes: Axes, values: NDArray[np.float64], color: str, name: str) -> None:
    percent = np.arange(len(values) + 1) * 100 / len(values)
    axes.plot(percent, np.r_[values, values[0]], color=color, linewidth=1.6, label=name)


def _legend(theme: Theme, axes: Axes) -> None:
    if len(axes.lines) > 1:
        axes.legend(fontsize=7, frameon=False, labelcolor=theme.text)


def _picture(
    page: Page, view: LongAxisView, phase: int, x: float, y: float, width: float, height: float, name: str
) -> None:
    """One frame around the heart with the contours of its chambers and the annulus points."""
    theme, geometry = page.theme, view.stack.geometry
    pixels = view.stack.pixels[phase, 0]
    inside = np.argwhere(view.labels[phase] > 0)
    middle = inside.mean(axis=0) if inside.size else np.array(pixels.shape) / 2
    half_rows = _HALF_FIELD_MM * height / width / geometry.pixel_spacing[0]
    half_columns = _HALF_FIELD_MM / geometry.pixel_spacing[1]
    axes = page.axes(x, y, width, height)
    low, high = np.percentile(view.stack.pixels, (1, 99.5))
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=high, aspect="auto", interpolation="bilinear")
    colors = {
        LongAxisLabel.LV: theme.lv,
        LongAxisLabel.MYO: theme.myocardium,
        LongAxisLabel.RV: theme.rv,
        LongAxisLabel.LA: theme.caution,
        LongAxisLabel.RA: theme.muted,
    }
    for label, color in colors.items():
        mask = view.labels[phase] == label
        if mask.any():
            axes.contour(mask.astype(float), levels=[0.5], colors=[color], linewidths=1.0)
    for points in view.annuli.values():
        places = _on_image(points[phase], view)
        axes.plot(places[:, 1], places[:, 0], "o-", color=theme.text, markersize=2.5, linewidth=0.8)
    axes.set_xlim(middle[1] - half_columns, middle[1] + half_columns)
    axes.set_ylim(middle[0] + half_rows, middle[0] - half_rows)
    axes.set_axis_off()
    page.text(x, y - 2, f"{view.name}, {name}, phase {phase + 1}", 7.5, color=theme.muted)


def _on_image(points: NDArray[np.float64], view: LongAxisView) -> NDArray[np.float64]:
    """Row and column of patient points, (N, 2)."""
    geometry = view.stack.geometry
    offset = points - geometry.positions[0]
    return np.stack(
        [
            offset @ geometry.column_direction / geometry.pixel_spacing[0],
            offset @ geometry.row_direction / geometry.pixel_spacing[1],
        ],
        axis=1,
    )
