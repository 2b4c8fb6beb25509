"""Summary pages of synthetic late enhancement: what was predicted, and the images beside the cine.

Every row of synthetic images, and every tile in it, says that nobody acquired it: pages are cut up and passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

from dicom_node.results.canvas import Page, Theme, text_width
from dicom_node.results.charts import bulls_eye, color_bar, heart_crop, outlines
from dicom_node.results.parts import Heading, Paragraph, TextBlock
from dicom_node.results.summary import BOTTOM, LEFT, RIGHT, TOP
from dicom_node.results.synthetic_enhancement.beside import on_slice
from dicom_node.results.synthetic_enhancement.groups import TRAINED_ON, mean_deviation
from dicom_node.results.synthetic_enhancement.label import TEXT
from pipelines.cine.stack import CineStack, LateEnhancementStack
from pipelines.synthetic_enhancement.findings import Extent, SyntheticEnhancement

__all__ = ["synthetic_pages", "synthetic_text"]

PROBABILITY_MAP = LinearSegmentedColormap.from_list(
    "enhancement", ["#1b2333", "#2f4b7c", "#7a5195", "#d45087", "#f9885a", "#ffe08a"]
)
_GAP, _TILE_GAP = 5.0, 1.2
_STRIP = 15.0
_ROW_TITLE = 6.0
_LARGEST_DEVIATION = 0.3
"""Standard deviation, in units where dense scar is 1, that is drawn brightest."""


def synthetic_pages(
    theme: Theme,
    found: SyntheticEnhancement,
    stack: CineStack,
    heart: NDArray[np.bool_],
    acquired: LateEnhancementStack | None,
) -> list[Page]:
    """Draw both pages.

    Parameters
    ----------
    heart : (R, C) bool
        What the tiles are to show.
    acquired
        Late enhancement that was acquired in the same study, shown beside.
    """
    return [_numbers(theme, found, stack), _images(theme, found, stack, heart, acquired)]


def synthetic_text(found: SyntheticEnhancement) -> tuple[TextBlock, ...]:
    """The paragraphs that say how the prediction was made, and its limits."""
    lines = [
        TRAINED_ON,
        f"Hyperintense: {found.hyperintense.method}. Intermediate: {found.intermediate.method}. Intervals are of the "
        f"spread of {found.samples} samples of {found.steps} steps each, and hold nothing of what the network does not "
        f"know of patients.",
        "Blood and papillary muscles are not counted. Numbers come from the images without the words drawn into them.",
        *found.notes,
    ]
    return (Heading("How synthetic enhancement came about"), *(Paragraph(line) for line in lines))


# -- page 1: numbers ---------------------------------------------------------------------------------------------------


def _numbers(theme: Theme, found: SyntheticEnhancement, stack: CineStack) -> Page:
    page = Page(theme)
    _strip(page)
    top = TOP + _STRIP + 3
    left_width = 118.0
    page.rectangle(LEFT, top, left_width, BOTTOM - top, theme.panel, radius=2)
    _table(page, found, LEFT + 5, top, left_width - 10)
    right = LEFT + left_width + _GAP
    right_width = RIGHT - right
    page.rectangle(right, top, right_width, 86, theme.panel, radius=2)
    _bulls_eyes(page, found, right, top, right_width)
    page.rectangle(right, top + 89, right_width, BOTTOM - top - 89, theme.panel, radius=2)
    _by_slice(page, found, stack, right, top + 89, right_width, BOTTOM - top - 89)
    return page


def _strip(page: Page) -> None:
    page.rectangle(LEFT, TOP, RIGHT - LEFT, _STRIP, page.theme.bad, radius=1.4)
    middle = (LEFT + RIGHT) / 2
    page.text(middle, TOP + 6.4, TEXT, 14, color=page.theme.background, bold=True, align="center")
    said = "Predicted from cine alone, without a contrast agent, by a network that was trained on simulated cine."
    page.text(middle, TOP + 12.2, said, 9.5, color=page.theme.background, align="center")


def _table(page: Page, found: SyntheticEnhancement, x: float, y: float, width: float) -> None:
    theme = page.theme
    page.text(x, y + 7, "Predicted enhancement of the left ventricular muscle", 10, bold=True)
    at = y + 16.0
    page.text(x, at, "Probability of any enhancement", 9.5)
    page.text(x + width, at, f"{found.study_probability:.2f}", 15, bold=True, align="right")
    at += 9.5
    for name, extent in (("Hyperintense extent", found.hyperintense), ("Intermediate extent", found.intermediate)):
        at = _extent(page, name, extent if found.present else None, x, at, width)
    deviation = mean_deviation(found)
    if deviation is not None:
        page.text(x, at, "Spread of the samples in the muscle", 9.5)
        page.text(x + width, at, f"{deviation:.2f}", 11, bold=True, align="right")
        at += 3.6
        page.text(x, at, "standard deviation; dense scar is 1, nulled muscle 0", 6.5, color=theme.muted)
        at += 6.4
    page.line((x, x + width), (at - 2.5, at - 2.5), theme.faint, 0.5)
    if found.classifiers:
        page.text(x, at + 2.5, "Ways to the probability", 9, bold=True)
        at += 8.0
        for one in found.classifiers:
            color = None if one.reported else theme.muted
            name = f"{one.name} (reported)" if one.reported else one.name
            page.text(x, at, name, 8.5, color=color, bold=one.reported)
            page.text(x + width, at, f"{one.probability:.2f}", 9, color=color, bold=one.reported, align="right")
            at += 5.2
    for sentence in found.withheld:
        at = page.paragraph(x, at + 3.5, f"The image is withheld: {sentence}", 9, width, color=theme.caution)
    at = page.paragraph(x, at + 3.5, TRAINED_ON, 7.5, width, color=theme.muted)
    for note in found.notes:
        at = page.paragraph(x, at + 2.0, note, 7.5, width, color=theme.muted)


def _extent(page: Page, name: str, extent: Extent | None, x: float, at: float, width: float) -> float:
    page.text(x, at, name, 9.5)
    if extent is None:
        page.text(x + width, at, "not reported", 9.5, bold=True, align="right")
        return at + 7.0
    page.text(x + width, at, f"{extent.percent:.0f} %", 13, bold=True, align="right")
    interval = f"{extent.interval.lower:.0f} to {extent.interval.upper:.0f} %"
    page.text(x + width - 22, at, interval, 8, color=page.theme.muted, align="right")
    said = f"of the muscle on the slices looked at; {extent.method}"
    return page.paragraph(x, at + 3.6, said, 6.5, width, color=page.theme.muted) + 3.2


def _bulls_eyes(page: Page, found: SyntheticEnhancement, x: float, y: float, width: float) -> None:
    if not found.segments:
        page.text(x + 5, y + 7, "Prediction by segment", 10, bold=True)
        text = "Not told: the insertion points of the right ventricle were not found, and with them the segments."
        page.paragraph(x + 5, y + 16, text, 9, width - 10, color=page.theme.muted)
        return
    probability, percent = np.full(16, np.nan), np.full(16, np.nan)
    for one in found.segments:
        probability[one.segment - 1] = one.probability
        if found.present:
            percent[one.segment - 1] = one.percent
    drawn = (
        ("Probability of enhancement", probability, (0.0, 1.0), "{:.2f}", ""),
        ("Predicted extent, % of the segment", percent, (0.0, 100.0), "{:.0f}", "%"),
    )
    for number, (title, values, limits, pattern, unit) in enumerate(drawn):
        centre = x + width / 4 + number * width / 2
        page.text(centre, y + 7, title, 9.5, bold=True, align="center")
        bulls_eye(page, centre, y + 43, 26.5, values, limits, PROBABILITY_MAP, pattern)
        color_bar(page, centre - 15, y + 79, 30, limits, PROBABILITY_MAP, unit)


def _by_slice(
    page: Page, found: SyntheticEnhancement, stack: CineStack, x: float, y: float, width: float, height: float
) -> None:
    theme = page.theme
    page.text(x + 5, y + 7, "Probability of enhancement by slice", 9.5, bold=True)
    count = stack.slices
    left, right, base, tall = x + 8, x + width - 8, y + height - 8, height - 24
    step = (right - left) / count
    page.line((left, right), (base, base), theme.faint, 0.6)
    for index in range(count):
        middle = left + (index + 0.5) * step
        probability = found.slice_probability.get(index)
        page.text(middle, base + 4, str(index + 1), 7, color=theme.muted, align="center")
        if probability is None:
            page.text(middle, base - 1.5, "–", 7, color=theme.muted, align="center")
            continue
        bar = max(probability * tall, 0.4)
        page.rectangle(middle - 0.32 * step, base - bar, 0.64 * step, bar, theme.myocardium)
        page.text(middle, base - bar - 1.2, f"{probability:.2f}", 7, align="center")


# -- page 2: images ----------------------------------------------------------------------------------------------------

_Tile = Callable[[int], NDArray[np.uint8]]
"""Gives the tile of a slice, (r, c, 3) sRGB."""


def _images(
    theme: Theme,
    found: SyntheticEnhancement,
    stack: CineStack,
    heart: NDArray[np.bool_],
    acquired: LateEnhancementStack | None,
) -> Page:
    page = Page(theme)
    _strip(page)
    first_row, end_row, first_column, end_column = heart_crop(stack, heart[None].astype(np.uint8))
    window = np.s_[first_row:end_row, first_column:end_column]
    cine = stack.pixels[found.phase]
    low, high = (float(v) for v in np.percentile(cine[:, *window], (1, 99.5)))

    rows: list[tuple[str, _Tile, bool]] = [
        ("Cine, end diastole: acquired", lambda index: _grey(cine[index][window], low, high), False)
    ]
    image, uncertainty = found.image, found.uncertainty
    if image is not None:
        title = f"{TEXT}: predicted late enhancement; outlined: hyperintense"
        rows.append((title, lambda index: _grey(image[index][window], 0.0, 1.0), True))
    if image is not None and uncertainty is not None:
        title = f"{TEXT}: standard deviation of {found.samples} samples"
        rows.append((title, lambda index: _colored(uncertainty[index][window] / _LARGEST_DEVIATION), True))
    if image is None:
        title = f"{TEXT}: probability of enhancement in the muscle"
        rows.append((title, lambda index: _colored(found.probability[index][window]), True))
    beside = {} if acquired is None else _beside(acquired, stack, found.slices, window)
    if beside:
        shades = np.concatenate([values[np.isfinite(values)] for values in beside.values()])
        dark, bright = (float(v) for v in np.percentile(shades, (1, 99.5)))
        empty = np.full(cine[0][window].shape, dark, np.float32)
        title = "Acquired late enhancement, nearest slice by position; breath-holds not aligned"
        rows.append((title, lambda index: _grey(beside.get(index, empty), dark, bright), False))
    top = TOP + _STRIP + 2
    height = (BOTTOM - top) / len(rows)
    for number, (title, tile, synthetic) in enumerate(rows):
        lines = found.enhanced if number == 1 and image is not None else None
        _row(page, found.slices, title, tile, synthetic, lines, window, stack, top + number * height, height)
    return page


def _beside(
    acquired: LateEnhancementStack, stack: CineStack, slices: Sequence[int], window: tuple[slice, slice]
) -> dict[int, NDArray[np.float32]]:
    """Acquired slices on the pixels of the tiles, by cine slice; only where any of it was imaged."""
    found = {index: on_slice(acquired, stack, index) for index in slices}
    cut = {index: values[window] for index, values in found.items() if values is not None}
    return {index: values for index, values in cut.items() if np.isfinite(values).any()}


def _row(
    page: Page,
    slices: Sequence[int],
    title: str,
    tile: _Tile,
    synthetic: bool,
    outlined: NDArray[np.bool_] | None,
    window: tuple[slice, slice],
    stack: CineStack,
    y: float,
    height: float,
) -> None:
    theme = page.theme
    page.text(LEFT, y + 4, title, 8.5, bold=True, color=theme.bad if synthetic else None)
    tall = (window[0].stop - window[0].start) * stack.geometry.pixel_spacing[0]
    wide = (window[1].stop - window[1].start) * stack.geometry.pixel_spacing[1]
    count = len(slices)
    scale = min((RIGHT - LEFT - (count - 1) * _TILE_GAP) / count / wide, (height - _ROW_TITLE - _TILE_GAP) / tall)
    tile_width, tile_height = wide * scale, tall * scale
    at_y = y + _ROW_TITLE
    for number, index in enumerate(slices):
        at_x = LEFT + number * (tile_width + _TILE_GAP)
        page.canvas.imshow(
            tile(index),
            extent=(at_x, at_x + tile_width, at_y + tile_height, at_y),
            aspect="auto",
            interpolation="bilinear",
            zorder=1.2,
        )
        _caption(page, at_x, at_y, f"slice {index + 1}")
        if synthetic:
            _caption(page, at_x, at_y + tile_height - 3.2, "SYNTHETIC")
        if outlined is not None:
            part = outlined[index][window]
            place = np.array([at_x, at_y])
            scale_by = np.array([tile_width / part.shape[1], tile_height / part.shape[0]])
            lines = [place + (line + 0.5) * scale_by for line in outlines(part)]
            page.canvas.add_collection(LineCollection(lines, colors="#ffe119", linewidths=0.9, zorder=2), autolim=False)


def _caption(page: Page, x: float, y: float, text: str) -> None:
    # On bright tissue white letters need a ground.
    page.rectangle(x, y, text_width(text, 5.5) + 1.6, 3.2, "#000000d8", above=1.5)
    page.text(x + 0.8, y + 2.4, text, 5.5, color="#ffffff")


def _grey(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    scaled = np.nan_to_num(np.clip((values - low) / max(high - low, 1e-9), 0, 1))
    return np.repeat((scaled * 255).astype(np.uint8)[..., None], 3, axis=2)


def _colored(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(PROBABILITY_MAP(np.clip(values, 0, 1))[..., :3] * 255).astype(np.uint8)
