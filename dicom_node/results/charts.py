"""The pictures of the summary: volume curves, contours, bull's eyes, reference gauges."""

from __future__ import annotations

from collections.abc import Sequence

import contourpy
import numpy as np
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.patches import Circle, Patch, Wedge
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dicom_node.results.canvas import Page, text_width
from pipelines.cine.stack import CineStack
from pipelines.function.findings import ChamberFunction, Keyframes
from pipelines.function.normals import ReferenceInterval, Standing
from pipelines.segmentation.labels import Label

__all__ = [
    "bulls_eye",
    "color_bar",
    "contour_sheet",
    "gauge",
    "heart_crop",
    "outlines",
    "volume_curves",
    "without_minus_zero",
]

THICKNESS_MAP = LinearSegmentedColormap.from_list(
    "thickness", ["#2b3a67", "#3f6fb5", "#58b3a6", "#c9d66b", "#f3a53c", "#c43d2f"]
)
THICKENING_MAP = LinearSegmentedColormap.from_list(
    "thickening", ["#8e1f2f", "#d65f3c", "#efc15a", "#9fce83", "#3f9d86", "#23607c"]
)
_CONTOUR_SMOOTHING = 0.6
"""Standard deviation, pixels: takes the staircase off, moves no edge by more than a fraction of a pixel."""
_CROP_MARGIN_MM = 9.0


def without_minus_zero(number: str) -> str:
    """A formatted number; what was rounded to zero from below has no sign."""
    return number[1:] if number.startswith("-") and float(number) == 0 else number


def volume_curves(
    page: Page, x: float, y: float, width: float, height: float, chambers: Sequence[ChamberFunction], key: Keyframes
) -> None:
    """LV and RV volume over the cardiac cycle, with end diastole and end systole marked."""
    theme = page.theme
    axes = page.plot(x + 11, y + 9, width - 15, height - 20, "ms after the R wave")
    top = 0.0
    for chamber in chambers:
        color = theme.lv if chamber.chamber.value == "LV" else theme.rv
        curve = chamber.curve
        times, smooth = curve.times_ms, curve.smoothed_ml
        if curve.rr_ms is not None:
            # The cycle closes: the first phase comes again after one RR interval.
            times, smooth = np.r_[times, times[0] + curve.rr_ms], np.r_[smooth, smooth[0]]
        axes.plot(times, smooth, color=color, linewidth=1.8, solid_capstyle="round")
        axes.plot(curve.times_ms, curve.ml, linestyle="none", marker="o", markersize=2.6, color=color, alpha=0.75)
        for phase in (key.end_diastole, key.end_systole):
            axes.plot(
                curve.times_ms[phase],
                curve.ml[phase],
                marker="o",
                markersize=6,
                markerfacecolor=theme.panel,
                markeredgecolor=color,
                markeredgewidth=1.6,
            )
        top = max(top, float(curve.ml.max()), float(smooth.max()))
    axes.set_ylim(0, top * 1.18)
    for name, phase, milliseconds in (
        ("ED", key.end_diastole, key.end_diastole_ms),
        ("ES", key.end_systole, key.end_systole_ms),
    ):
        where = float(chambers[0].curve.times_ms[phase])
        axes.axvline(where, color=theme.muted, linewidth=0.7, linestyle=(0, (3, 3)))
        label = f"{name} {milliseconds:.0f} ms" if np.isfinite(milliseconds) else name
        left, right = axes.get_xlim()
        align = "right" if where > left + 0.8 * (right - left) else "left"
        axes.annotate(
            f" {label} ", (where, top * 1.15), fontsize=7.5, color=theme.text, ha=align, va="top", fontweight="bold"
        )
    axes.set_ylabel("ml", fontsize=7.5, color=theme.muted, labelpad=2)


def gauge(page: Page, x: float, y: float, width: float, value: float, normal: ReferenceInterval) -> None:
    """A value on its reference interval: the interval is the middle half of the track."""
    theme = page.theme
    span = (normal.upper - normal.lower) or 1.0
    page.rectangle(x, y - 0.55, width, 1.1, theme.faint, radius=0.55)
    page.rectangle(x + width / 4, y - 0.55, width / 2, 1.1, theme.muted, radius=0.3)
    outside = normal.standing(value) is not Standing.WITHIN
    place = (value - normal.lower) / span / 2 + 0.25
    where = x + width * min(max(place, 0.0), 1.0)
    page.canvas.add_artist(
        Circle((where, y), 1.25, facecolor=theme.caution if outside else theme.text, edgecolor=theme.panel, linewidth=1)
    )


def bulls_eye(
    page: Page,
    x: float,
    y: float,
    radius: float,
    values: NDArray[np.float64],
    limits: tuple[float, float],
    colors: LinearSegmentedColormap,
    pattern: str,
) -> None:
    """AHA bull's eye, its middle at (x, y): anterior up, septum left (Cerqueira et al., Circulation 2002;105:539)."""
    theme = page.theme
    low, high = limits
    rings = (
        (1.0, 0.72, 6, 60.0, 0),
        (0.72, 0.44, 6, 60.0, 6),
        (0.44, 0.17, 4, 90.0, 12),
    )
    patches: list[Patch] = []
    faces: list[tuple[float, float, float]] = []

    def face(value: float) -> tuple[float, float, float]:
        if not np.isfinite(value):
            return to_rgb(theme.faint)
        red, green, blue, _ = colors(min(max((value - low) / (high - low), 0.0), 1.0))
        return float(red), float(green), float(blue)

    def label(place_x: float, place_y: float, value: float) -> None:
        if not np.isfinite(value):
            page.text(place_x, place_y, "–", 7.5, color=theme.muted, align="center", baseline="center_baseline")
            return
        red, green, blue = face(value)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
        page.text(
            place_x,
            place_y,
            without_minus_zero(pattern.format(value)).replace("-", "−"),
            7.5,
            color="#10151b" if dark else "#ffffff",
            bold=True,
            align="center",
            baseline="center_baseline",
        )

    for outer, inner, count, step, first in rings:
        for index in range(count):
            # Segment 1 (and 7, 13) is centred at the top; the numbers go counter-clockwise, towards the septum.
            middle = 90.0 + index * step
            value = float(values[first + index])
            # The y axis of the page points down, so angles are mirrored.
            patches.append(
                Wedge(
                    (x, y), radius * outer, -(middle + step / 2), -(middle - step / 2), width=radius * (outer - inner)
                )
            )
            faces.append(face(value))
    apex = float(values[16]) if len(values) > 16 else float("nan")
    patches.append(Circle((x, y), radius * 0.17))
    faces.append(face(apex))
    page.canvas.add_collection(
        PatchCollection(patches, facecolors=faces, edgecolors=theme.panel, linewidths=1.2), autolim=False
    )
    for outer, inner, count, step, first in rings:
        for index in range(count):
            angle = np.radians(90.0 + index * step)
            distance = radius * (outer + inner) / 2
            label(x + distance * np.cos(angle), y - distance * np.sin(angle), float(values[first + index]))
    if len(values) > 16:
        label(x, y, apex)
    for name, dx, dy in (("ant", 0, -1), ("sept", -1, 0), ("inf", 0, 1), ("lat", 1, 0)):
        align = {0: "center", -1: "right", 1: "left"}[dx]
        page.text(
            x + dx * (radius + 1.4),
            y + dy * (radius + 2.2),
            name,
            7,
            color=theme.muted,
            align=align,
            baseline="center_baseline",
        )


def color_bar(
    page: Page,
    x: float,
    y: float,
    width: float,
    limits: tuple[float, float],
    colors: LinearSegmentedColormap,
    unit: str,
) -> None:
    """Horizontal colour scale with its ends named."""
    gradient = colors(np.linspace(0, 1, 128))[None, :, :3]
    page.canvas.imshow(gradient, extent=(x, x + width, y + 1.6, y), aspect="auto", zorder=2)
    low, high = limits
    page.text(x - 1, y + 1.5, f"≤ {low:g}", 6.5, color=page.theme.muted, align="right")
    page.text(x + width + 1, y + 1.5, f"≥ {high:g} {unit}", 6.5, color=page.theme.muted)


def heart_crop(stack: CineStack, labels: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Square (in mm) around everything labelled, as rows and columns: first, end, first, end.

    Parameters
    ----------
    labels : (…, R, C) uint8
    """
    rows, columns = stack.pixels.shape[2:]
    seen = labels.reshape(-1, rows, columns).any(axis=0)
    spacing = np.array(stack.geometry.pixel_spacing)
    if seen.any():
        where = np.argwhere(seen)
        low, high = where.min(axis=0), where.max(axis=0) + 1
    else:
        low, high = np.array([0, 0]), np.array([rows, columns])
    middle = (low + high) / 2
    half = ((high - low) * spacing).max() / 2 + _CROP_MARGIN_MM
    first = np.clip(np.round(middle - half / spacing).astype(int), 0, [rows, columns])
    end = np.clip(np.round(middle + half / spacing).astype(int), 0, [rows, columns])
    return int(first[0]), int(end[0]), int(first[1]), int(end[1])


def contour_sheet(
    page: Page,
    x: float,
    y: float,
    width: float,
    height: float,
    stack: CineStack,
    phase: int,
    labels: NDArray[np.uint8],
    found: NDArray[np.uint8],
    order: Sequence[int],
    captions: Sequence[str],
    crop: tuple[int, int, int, int],
    window: tuple[float, float],
) -> None:
    """Tiles of one phase with the contours drawn: every slice, in the order given.

    Parameters
    ----------
    labels : (S, R, C) uint8
        Of this phase, as counted: drawn with whole lines.
    found : (S, R, C) uint8
        The same with what was found and is not counted, which is drawn dotted.
    window : (float, float)
        Grey values shown black and white.
    """
    theme = page.theme
    first_row, end_row, first_column, end_column = crop
    tall = (end_row - first_row) * stack.geometry.pixel_spacing[0]
    wide = (end_column - first_column) * stack.geometry.pixel_spacing[1]
    count, gap = len(order), 1.2
    columns = max(
        range(1, count + 1),
        key=lambda n: min((width - (n - 1) * gap) / n / wide, _row_height(height, count, n, gap) / tall),
    )
    scale = min((width - (columns - 1) * gap) / columns / wide, _row_height(height, count, columns, gap) / tall)
    tile_width, tile_height = wide * scale, tall * scale
    left = x + (width - (columns * tile_width + (columns - 1) * gap)) / 2
    low, high = window
    counted: dict[Label, list[NDArray[np.float64]]] = {Label.LV: [], Label.MYO: [], Label.RV: []}
    left_out: dict[Label, list[NDArray[np.float64]]] = {Label.LV: [], Label.MYO: [], Label.RV: []}
    for number, index in enumerate(order):
        at_x = left + (number % columns) * (tile_width + gap)
        at_y = y + (number // columns) * (tile_height + gap)
        grey = np.clip(
            (stack.pixels[phase, index, first_row:end_row, first_column:end_column] - low) / (high - low), 0, 1
        )
        page.canvas.imshow(
            np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=2),
            extent=(at_x, at_x + tile_width, at_y + tile_height, at_y),
            aspect="auto",
            interpolation="bilinear",
            zorder=1.2,
        )
        window_of = np.s_[index, first_row:end_row, first_column:end_column]
        drawn = _boundaries(labels[window_of], found[window_of])
        for label, mask in _boundaries(found[window_of], found[window_of]).items():
            # Contours are in pixel centres; the image's corner is half a pixel before the first centre.
            place, scale_by = (
                np.array([at_x, at_y]),
                np.array([tile_width / mask.shape[1], tile_height / mask.shape[0]]),
            )
            if (drawn[label] != mask).any():
                left_out[label] += [place + (line + 0.5) * scale_by for line in outlines(mask)]
            counted[label] += [place + (line + 0.5) * scale_by for line in outlines(drawn[label])]
        # Above the image: on bright tissue white letters need a ground.
        page.rectangle(at_x, at_y, text_width(captions[number], 6.5) + 2, 4.0, "#000000d8", above=1.5)
        page.text(at_x + 1, at_y + 2.9, captions[number], 6.5, color="#ffffff")
    for label, color in ((Label.MYO, theme.myocardium), (Label.LV, theme.lv), (Label.RV, theme.rv)):
        for lines, style in ((counted[label], "solid"), (left_out[label], (0, (1.0, 1.6)))):
            page.canvas.add_collection(
                LineCollection(lines, colors=color, linewidths=1.1, linestyles=style, zorder=2), autolim=False
            )


def _boundaries(tile: NDArray[np.uint8], found: NDArray[np.uint8]) -> dict[Label, NDArray[np.bool_]]:
    """What the contour of each label goes around; that of the wall includes the cavity found in it."""
    wall = tile == Label.MYO
    return {
        Label.LV: tile == Label.LV,
        Label.MYO: wall | (found == Label.LV) if wall.any() else wall,
        Label.RV: tile == Label.RV,
    }


def _row_height(height: float, count: int, columns: int, gap: float) -> float:
    rows = -(-count // columns)
    return (height - (rows - 1) * gap) / rows


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Closed outlines of a mask, (N, 2) of column and row in pixels."""
    if not mask.any():
        return []
    padded = np.pad(mask.astype(np.float64), 2)
    smooth = gaussian_filter(padded, _CONTOUR_SMOOTHING)
    generator = contourpy.contour_generator(z=smooth, line_type=contourpy.LineType.Separate)
    return [np.asarray(line, dtype=np.float64) - 2 for line in generator.lines(0.5)]
