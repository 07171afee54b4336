"""What the pictures are made of: curves with bands, rates with intervals, labels and legends."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from wmtp.report.groups import Group
from wmtp.report.runs import Estimate, Run
from wmtp.report.svg import INK, colours, markers
from wmtp.report.text import short_number


def series(groups: Sequence[Group], shown: Collection[str]) -> list[tuple[str, str, str, float]]:
    """Return (label, colour, marker, sideways shift) of each group whose label is shown.

    Colour and marker of a group are the same in every picture, whichever groups it shows.
    """
    everyone = [group.label for group in groups]
    palette, shapes = colours(everyone), markers(everyone)
    names = [label for label in everyone if label in shown]
    step = 0.6 / max(len(names), 2)
    middle = (len(names) - 1) / 2
    return [(n, palette[n], shapes[n], (i - middle) * step) for i, n in enumerate(names)]


def draw_curves(axis: Axes, groups: Sequence[Group], key: str, mark: bool = True) -> list[bool]:
    """Draw `key` of every group that has it; return which had."""
    styles = series(groups, [group.label for group in groups])
    return [
        draw_curve(axis, group.runs, key, colour, shape if mark else "", label)
        for group, (label, colour, shape, _) in zip(groups, styles, strict=True)
    ]


def draw_curve(
    axis: Axes, runs: Sequence[Run], key: str, colour: str, marker: str, label: str
) -> bool:
    """Draw the mean of `key` over runs against tokens, with the range over runs as a band."""
    curves = [np.array(curve).T for run in runs if (curve := run.curve(key))]
    if not curves:
        return False
    start, stop = max(c[0, 0] for c in curves), min(c[0, -1] for c in curves)
    tokens = curves[0][0][(curves[0][0] >= start) & (curves[0][0] <= stop)]
    if not len(tokens):
        return False  # no stretch of training that all runs have in common
    table = np.array([np.interp(tokens, curve[0], curve[1]) for curve in curves])
    axis.plot(
        tokens, table.mean(axis=0), color=colour, marker=marker, markersize=4.5, linewidth=1.8,
        label=label,
    )  # fmt: skip
    if len(curves) > 1:
        axis.fill_between(
            tokens, table.min(axis=0), table.max(axis=0), color=colour, alpha=0.18, linewidth=0
        )
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.xaxis.set_major_locator(MaxNLocator(4))
    return True


def draw_rate(
    axis: Axes, rate: Estimate, position: float, colour: str, marker: str,
    horizontal: bool = False,
) -> None:  # fmt: skip
    """Draw a rate in per cent and its interval at `position` on the other axis."""
    low = rate.value if rate.low is None else rate.low
    high = rate.value if rate.high is None else rate.high
    span, point = [100 * low, 100 * high], [100 * rate.value]
    across = [position, position]
    bar = (span, across) if horizontal else (across, span)
    dot = (point, [position]) if horizontal else ([position], point)
    axis.plot(*bar, color=colour, linewidth=2)
    axis.plot(*dot, marker, color=colour, markersize=8)


def cut_start(axis: Axes) -> None:
    """Let the first fifth of training leave the picture where it would flatten the rest."""
    lines = [np.array(line.get_xydata()) for line in axis.lines]
    late = [points[points[:, 0] >= 0.2 * points[-1, 0], 1] for points in lines]
    low, high = min(values.min() for values in late), max(values.max() for values in late)
    axis.set_ylim(low - 0.08 * (high - low) - 1e-9, high + 0.08 * (high - low) + 1e-9)


def set_labels(axis: Axes, x: str, y: str) -> None:
    """Name the axes."""
    axis.set_xlabel(x)
    axis.set_ylabel(y, labelpad=7)


def set_title(axis: Axes, title: str) -> None:
    """Name one panel of several."""
    axis.set_title(title, loc="left", color=INK, fontsize=9.5)


def add_legend(figure: Figure, axis: Axes) -> None:
    """Put a legend above the axes when there is more than one series."""
    handles, labels = axis.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(
            handles, labels, loc="outside upper left", ncols=min(4, len(labels)), fontsize=9,
            frameon=False, labelcolor=INK, handlelength=1.6, columnspacing=1.4,
        )  # fmt: skip
