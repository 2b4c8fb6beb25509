"""A page measured in millimetres: the drawing primitives of the summary, the same for screen and paper.

No pyplot and no global state: figures are made, drawn and dropped in a worker process that lives for months.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
from matplotlib.text import Text

from dicom_node.results.fonts import families

__all__ = ["DARK", "HEIGHT", "LIGHT", "MARGIN", "WIDTH", "Page", "Theme", "clipped", "text_width", "wrapped"]

WIDTH, HEIGHT = 297.0, 210.0
"""A4 landscape, mm."""
MARGIN = 12.0
_MM_PER_INCH = 25.4
_POINT_MM = _MM_PER_INCH / 72


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a page."""

    background: str
    panel: str
    text: str
    muted: str
    faint: str
    lv: str
    rv: str
    myocardium: str
    good: str
    caution: str
    bad: str
    banner: str
    on_banner: str


DARK = Theme(
    background="#0d1015",
    panel="#171c24",
    text="#eef2f6",
    muted="#9aa7b5",
    faint="#313a46",
    lv="#ff6b62",
    rv="#4aa3ff",
    myocardium="#57d07a",
    good="#57d07a",
    caution="#f2b441",
    bad="#ff6b62",
    banner="#f2b441",
    on_banner="#171c24",
)
"""For the secondary capture: a white page glares in a reading room."""

LIGHT = Theme(
    background="#ffffff",
    panel="#f3f5f8",
    text="#161c24",
    muted="#5b6774",
    faint="#d3d9e0",
    lv="#c8201c",
    rv="#005cb8",
    myocardium="#248a41",
    good="#248a41",
    caution="#b97800",
    bad="#c8201c",
    banner="#f2b441",
    on_banner="#161c24",
)
"""For the PDF, which gets printed."""


# A font reads its file when a character is first asked for. A forked process shares the position in that file with the
# process it came from, and both then read wrong widths or none, now and then: no page is laid out in a forked process.
@cache
def _fonts(bold: bool) -> tuple[FT2Font, ...]:
    weight = "bold" if bold else "normal"
    return tuple(
        font_manager.get_font(font_manager.findfont(font_manager.FontProperties(family=family, weight=weight)))
        for family in families()
    )


@cache
def _font_of(character: str, bold: bool) -> FT2Font | None:
    """The first font that has a character, as Matplotlib takes it."""
    return next((font for font in _fonts(bold) if font.get_char_index(ord(character)) != 0), None)


@cache
def _advance(character: str, bold: bool) -> float:
    font = _font_of(character, bold) or _fonts(bold)[0]
    font.set_size(100.0, 72)
    return float(font.load_char(ord(character), flags=LoadFlags.NO_HINTING).linearHoriAdvance) / 65536 / 100


@cache
def _drawable(character: str) -> str:
    return character if character.isprintable() and _font_of(character, False) is not None else "?"


@lru_cache(maxsize=4096)
def _families_for(text: str, bold: bool) -> tuple[str, ...]:
    """The families that a text needs, in order: Matplotlib looks each of them up again at each of its steps."""
    first = _fonts(bold)[0]
    return families()[:1] if all(_font_of(character, bold) is first for character in text) else families()


@lru_cache(maxsize=1024)
def _properties(families: tuple[str, ...], size: float, bold: bool) -> font_manager.FontProperties:
    return font_manager.FontProperties(family=families, size=size, weight="bold" if bold else "normal")


def _shown(text: str) -> str:
    """The text with what the font cannot draw replaced, so that nothing vanishes silently."""
    return "".join(map(_drawable, text))


@lru_cache(maxsize=4096)
def _unit_width(text: str, bold: bool) -> float:
    return sum(_advance(character, bold) for character in _shown(text))


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Width in mm of a line of text of ``size`` points."""
    return _unit_width(text, bold) * size * _POINT_MM


def clipped(text: str, size: float, width: float, *, bold: bool = False) -> str:
    """The text, cut with an ellipsis where it is wider than ``width`` mm."""
    if text_width(text, size, bold=bold) <= width:
        return text
    while text and text_width(text + "…", size, bold=bold) > width:
        text = text[:-1]
    return text.rstrip() + "…"


@lru_cache(maxsize=1024)
def wrapped(text: str, size: float, width: float) -> tuple[str, ...]:
    """Lines of at most ``width`` mm; a word that is wider is broken."""
    lines: list[str] = []
    line, used = "", 0.0
    space = text_width(" ", size)
    for whole in text.split():
        word = whole
        needed = text_width(word, size)
        if line and used + space + needed <= width:
            line, used = f"{line} {word}", used + space + needed
            continue
        if line:
            lines.append(line)
        while needed > width:
            cut = len(word) - 1
            while cut > 1 and text_width(word[:cut], size) > width:
                cut -= 1
            lines.append(word[:cut])
            word = word[cut:]
            needed = text_width(word, size)
        line, used = word, needed
    return (*lines, line)


class _Line(Text):
    """A line of text from its place to the right, which is drawn without the measuring that other alignments need."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw the text with its baseline at its place."""
        x, y = self.get_transform().transform(self.get_position())
        gc = renderer.new_gc()
        gc.set_foreground(to_rgba(self.get_color()), isRGBA=True)
        gc.set_antialiased(self.get_antialiased())
        if renderer.flipy():
            y = renderer.get_canvas_width_height()[1] - y
        shown = self.get_text().replace(r"\$", "$")
        renderer.draw_text(gc, x, y, shown, self.get_fontproperties(), 0.0)
        gc.restore()


class Page:
    """One page; coordinates in mm from the top left corner."""

    def __init__(self, theme: Theme) -> None:
        self.theme = theme
        self.figure = Figure(figsize=(WIDTH / _MM_PER_INCH, HEIGHT / _MM_PER_INCH), facecolor=theme.background)
        self.canvas: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.canvas.set_axis_off()
        self.canvas.set_xlim(0, WIDTH)
        self.canvas.set_ylim(HEIGHT, 0)
        self.canvas.set_autoscale_on(False)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 9,
        *,
        color: str | None = None,
        bold: bool = False,
        align: str = "left",
        baseline: str = "baseline",
    ) -> float:
        """Write a line; returns the x where it ends (for left-aligned text)."""
        shown = _shown(text)
        # Nothing on a page scales itself to what it holds, so nothing is added by the ways that measure it for that.
        self.canvas.add_artist(
            (_Line if (align, baseline) == ("left", "baseline") and shown else Text)(
                x,
                y,
                shown.replace("$", r"\$"),
                fontproperties=_properties(_families_for(shown, bold), size, bold),
                color=color or self.theme.text,
                ha=align,
                va=baseline,
                clip_on=False,
            )
        )
        return x + text_width(text, size, bold=bold)

    def rectangle(
        self, x: float, y: float, width: float, height: float, color: str, *, radius: float = 0, above: float = 1
    ) -> None:
        """Fill a rectangle, with round corners where a radius is given; images lie at a height of 1.2, lines at 2."""
        corner, size = (x, y), (width, height)
        if radius:
            style = f"round,pad=0,rounding_size={radius}"
            patch: Patch = FancyBboxPatch(corner, *size, boxstyle=style, facecolor=color, linewidth=0, zorder=above)
        else:
            patch = Rectangle(corner, *size, facecolor=color, linewidth=0, zorder=above)
        self.canvas.add_artist(patch)

    def line(self, xs: Sequence[float], ys: Sequence[float], color: str, width: float = 0.6) -> None:
        """Draw a line, width in points."""
        self.canvas.add_artist(Line2D(list(xs), list(ys), color=color, linewidth=width, solid_capstyle="round"))

    def pill(self, right: float, y: float, text: str, color: str, *, size: float = 9) -> float:
        """A filled label whose right end is at ``right`` and whose middle is at ``y``; returns its left end."""
        width = text_width(text, size, bold=True) + 6
        height = size * _POINT_MM * 2
        self.rectangle(right - width, y - height / 2, width, height, color, radius=height / 2)
        self.text(
            right - width / 2,
            y,
            text,
            size,
            color=self.theme.background,
            bold=True,
            align="center",
            baseline="center_baseline",
        )
        return right - width

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes with ticks inside the page, its corner and size in mm."""
        return self.figure.add_axes((x / WIDTH, 1 - (y + height) / HEIGHT, width / WIDTH, height / HEIGHT))

    def plot(self, x: float, y: float, width: float, height: float, over: str) -> Axes:
        """Axes for curves in the colours of the page; ``over`` names what the curves run over."""
        axes, theme = self.axes(x, y, width, height), self.theme
        axes.set_facecolor(theme.panel)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(theme.faint)
        axes.tick_params(colors=theme.muted, labelsize=7.5, length=2.5, width=0.6, color=theme.faint)
        axes.grid(visible=True, color=theme.faint, linewidth=0.4)
        axes.set_axisbelow(True)
        axes.set_xlabel(over, fontsize=7.5, color=theme.muted, labelpad=2)
        return axes

    def paragraph(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        width: float,
        *,
        color: str | None = None,
        leading: float = 1.4,
    ) -> float:
        """Write wrapped text from the baseline ``y``; returns the baseline after it."""
        for line in wrapped(text, size, width):
            self.text(x, y, line, size, color=color)
            y += size * _POINT_MM * leading
        return y
