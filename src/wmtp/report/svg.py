"""Turns a matplotlib figure into a small inline SVG that follows the page's colours.

Text stays text in the page's font; ink and grid take the page's CSS variables, so that one picture
serves light and dark mode. No pyplot, no state outside the figure.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Stand-ins, replaced by CSS variables in the SVG text; no other colour may equal them.
INK = "#010203"
GRID = "#040506"

_PALETTE = ("#009e73", "#c98b00", "#56a5d8", "#8f6fd1", "#b0605f", "#6f8f2f")
_KNOWN = {
    "mtp-baseline": "#868686",
    "critic-wmtp": "#d9631e",
    "rho1-wmtp": "#2383c4",
    "shuffled": "#c46fa3",
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def colours(labels: Iterable[str]) -> dict[str, str]:
    """Return a colour per label: fixed for our algorithms, safe for colour-blind readers."""
    rest = iter(_PALETTE * 10)
    return {label: _KNOWN.get(label) or next(rest) for label in labels}


def markers(labels: Iterable[str]) -> dict[str, str]:
    """Return a marker per label, so that nothing is told by colour alone."""
    return {label: _MARKERS[index % len(_MARKERS)] for index, label in enumerate(labels)}


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list]:
    """Return a figure of `width` x `height` inches and its styled axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    many = rows > 1
    grid = figure.subplots(
        rows, columns, squeeze=False, sharex=many, sharey="row" if many else "none"
    )
    axes = [axis for row in grid for axis in row]
    for axis in axes:
        _style(axis)
    return figure, axes


def _style(axis: Axes) -> None:
    axis.patch.set_alpha(0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GRID)
    axis.tick_params(colors=GRID, labelcolor=INK, labelsize=9, length=3)
    axis.grid(True, color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    for label in (axis.title, axis.xaxis.label, axis.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9.5)


def render(figure: Figure, name: str, description: str) -> str:
    """Return the figure as an `<svg>` element; `name` keeps its ids apart from other figures'."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    opening = (
        f'<svg role="img" aria-label="{html.escape(description)}" viewBox="{box[1]}" '
        f'preserveAspectRatio="xMidYMid meet">'
    )
    svg = opening + svg[svg.index(">") + 1 :]
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = svg.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    return re.sub(r"\s*\n\s*", "\n", svg)
