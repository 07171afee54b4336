"""The report's pictures: each function draws one, or returns None where there is no data."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.ticker import FuncFormatter

from wmtp.report.compare import Comparison, difficulty_rates
from wmtp.report.drawing import (
    add_legend,
    cut_start,
    draw_curve,
    draw_curves,
    draw_rate,
    series,
    set_labels,
    set_title,
)
from wmtp.report.groups import BASELINE
from wmtp.report.svg import INK, colours, markers, new_figure, render
from wmtp.report.text import short_number

_WEIGHT_STATISTICS = {
    "effective_sample_size": "effective sample size",
    "max": "largest weight",
    "zero_share": "share of zeros",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture as an `<svg>` element, with its title and what a reader must know to read it."""

    title: str
    svg: str
    caption: str
    wide: bool = False


def draw_plots(comparison: Comparison) -> list[Plot]:
    """Return all pictures that the runs have data for, in reading order."""
    with matplotlib.rc_context({"text.parse_math": False}):  # names may hold dollar signs
        drawn = [learning_curves(comparison), held_out_by_head(comparison)]
        for benchmark in comparison.benchmarks:
            drawn.append(solve_rates(comparison, benchmark))
            drawn.append(solve_rates_by_difficulty(comparison, benchmark))
        drawn += [throughput(comparison), value_model(comparison), weight_statistics(comparison)]
    return [plot for plot in drawn if plot is not None]


def learning_curves(comparison: Comparison) -> Plot | None:
    """Return held-out cross-entropy over trained tokens: head 0, or all heads of a lone group."""
    figure, (axis,) = new_figure(6.2, 3.6)
    alone = len(comparison.groups) == 1
    if alone:
        runs = comparison.groups[0].runs
        heads = range(len(runs[0].held_out("ce")))
        shades = {f"head {k}": f"eval/ce/head_{k}" for k in heads}
        palette, shapes = colours(shades), markers(shades)
        drawn = [draw_curve(axis, runs, key, palette[n], shapes[n], n) for n, key in shades.items()]
    else:
        drawn = draw_curves(axis, comparison.groups, "eval/ce/head_0")
    if not any(drawn):
        return None
    cut_start(axis)
    set_labels(axis, "trained tokens", "nats per token")
    add_legend(figure, axis)
    return Plot(
        f"Held-out cross-entropy during training, {'per head' if alone else 'head 0'}",
        render(figure, "learning", "Held-out cross-entropy against trained tokens"),
        "Lower is better. Line: mean over seeds; band: range over seeds. "
        "The very start may lie above the picture.",
    )


def held_out_by_head(comparison: Comparison) -> Plot | None:
    """Return the final held-out cross-entropy of each head, per group."""
    values = {
        group.label: runs
        for group in comparison.groups
        if (runs := [heads for run in group.runs if (heads := run.held_out("ce"))])
    }
    if not values:
        return None
    figure, (axis,) = new_figure(6.2, 3.6)
    for label, colour, shape, shift in series(comparison.groups, values):
        num_heads = min(map(len, values[label]))
        table = np.array([heads[:num_heads] for heads in values[label]])
        mean = table.mean(axis=0)
        places = np.arange(num_heads) + shift
        axis.vlines(places, table.min(axis=0), table.max(axis=0), color=colour, linewidth=2)
        axis.plot(places, mean, shape, color=colour, markersize=8, label=label)
    most = max(len(heads) for runs in values.values() for heads in runs)
    axis.set_xticks(range(most), [f"head {head}" for head in range(most)])
    axis.set_xlim(-0.5, most - 0.5)
    set_labels(axis, "", "nats per token")
    add_legend(figure, axis)
    return Plot(
        "Final held-out cross-entropy per head",
        render(figure, "heads", "Final held-out cross-entropy per head"),
        "Lower is better. Head k predicts the token k + 1 places ahead. Bars: range over seeds.",
    )


def solve_rates(comparison: Comparison, benchmark: str) -> Plot | None:
    """Return pass@1 per group with its interval; None for a lone group, the table says it all."""
    rates = comparison.solve_rates[benchmark]
    if len(rates) < 2:
        return None
    figure, (axis,) = new_figure(6.2, 0.9 + 0.42 * len(rates))
    if (baseline := rates.get(BASELINE)) is not None:
        axis.axvline(100 * baseline.value, color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.6)
    for row, (label, colour, shape, _) in enumerate(series(comparison.groups, rates)):
        draw_rate(axis, rates[label], row, colour, shape, horizontal=True)
    axis.set_yticks(range(len(rates)), list(rates))
    axis.set_ylim(len(rates) - 0.5, -0.5)
    axis.grid(False, axis="y")
    set_labels(axis, "pass@1, % of tasks", "")
    return Plot(
        f"Solved tasks: {benchmark}",
        render(figure, f"pass-{_identifier(benchmark)}", f"pass@1 on {benchmark} per algorithm"),
        "Bars: 95 % intervals. Dashed: the baseline. Overlapping bars do not decide: the runs "
        "answer the same tasks, so the paired differences in the table do.",
    )


def solve_rates_by_difficulty(comparison: Comparison, benchmark: str) -> Plot | None:
    """Return pass@1 per level of difficulty and group."""
    rates = {g.label: found for g in comparison.groups if (found := difficulty_rates(g, benchmark))}
    if not rates:
        return None
    levels = sorted({level for found in rates.values() for level in found}, key=_level_key)
    figure, (axis,) = new_figure(6.2, 3.4)
    for label, colour, shape, shift in series(comparison.groups, rates):
        axis.plot([], [], shape, color=colour, markersize=8, label=label)
        for position, level in enumerate(levels):
            if (rate := rates[label].get(level)) is not None:
                draw_rate(axis, rate, position + shift, colour, shape)
    axis.set_xticks(range(len(levels)), levels)
    set_labels(axis, "difficulty", "pass@1, %")
    add_legend(figure, axis)
    return Plot(
        f"Solved tasks by difficulty: {benchmark}",
        render(figure, f"level-{_identifier(benchmark)}", f"pass@1 by difficulty on {benchmark}"),
        "Bars: 95 % intervals; none with two seeds, whose mean is shown. Few tasks per level.",
    )


def throughput(comparison: Comparison) -> Plot | None:
    """Return trained tokens per second, per group; None for a lone group."""
    speeds = {
        group.label: [v for run in group.runs for _, v in run.curve("train/tokens_per_second")]
        for group in comparison.groups
    }
    speeds = {label: values for label, values in speeds.items() if values}
    if len(speeds) < 2:
        return None
    figure, (axis,) = new_figure(6.2, 0.9 + 0.42 * len(speeds))
    for row, (label, colour, shape, _) in enumerate(series(comparison.groups, speeds)):
        low, middle, high = np.quantile(speeds[label], [0.1, 0.5, 0.9])
        axis.barh(row, middle, height=0.5, color=colour, alpha=0.3)
        axis.plot([low, high], [row, row], color=colour, linewidth=2)
        axis.plot(middle, row, shape, color=colour, markersize=8)
    axis.set_yticks(range(len(speeds)), list(speeds))
    axis.set_ylim(len(speeds) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.grid(False, axis="y")
    set_labels(axis, "trained tokens per second", "")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    return Plot(
        "Training throughput",
        render(figure, "speed", "Trained tokens per second per algorithm"),
        "Median over logging steps; bars: 10th to 90th percentile. Runs that shared a machine "
        "with other work are slower.",
    )


def value_model(comparison: Comparison) -> Plot | None:
    """Return how well the critic's value model predicts the reward, during training."""
    panels = [
        ("eval/value/auc", "AUC against the reward, held out", 0.5),
        ("train/value/explained_variance", "explained variance, training", 0.0),
    ]
    runs = [run for group in comparison.groups for run in group.runs]
    panels = [panel for panel in panels if any(run.curve(panel[0]) for run in runs)]
    if not panels:
        return None
    figure, axes = new_figure(6.2, 3.4, columns=len(panels))
    for axis, (key, name, uninformed) in zip(axes, panels, strict=True):
        draw_curves(axis, comparison.groups, key)
        axis.axhline(uninformed, color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.6)
        set_title(axis, name)
        set_labels(axis, "trained tokens", "")
    add_legend(figure, axes[0])
    return Plot(
        "The critic's value model",
        render(figure, "value", "AUC and explained variance of the value model during training"),
        "Dashed: a value model that knows nothing of the reward (0.5 and 0).",
    )


def weight_statistics(comparison: Comparison) -> Plot | None:
    """Return effective sample size, largest weight and share of zeros, per head, over training.

    None where nothing was logged or every weight is 1.
    """
    runs = [run for group in comparison.groups for run in group.runs]
    size = "train/weight/effective_sample_size/head_{}"
    num_heads = 0
    while any(run.curve(size.format(num_heads)) for run in runs):
        num_heads += 1
    sizes = [v for run in runs for k in range(num_heads) for _, v in run.curve(size.format(k))]
    if all(value > 1 - 1e-6 for value in sizes):
        return None
    rows = len(_WEIGHT_STATISTICS)
    figure, axes = new_figure(12.6, 5.6, rows, num_heads)
    for row, (key, name) in enumerate(_WEIGHT_STATISTICS.items()):
        for head in range(num_heads):
            axis = axes[row * num_heads + head]
            draw_curves(axis, comparison.groups, f"train/weight/{key}/head_{head}", mark=False)
            axis.set_ylim(bottom=0) if key == "max" else axis.set_ylim(-0.03, 1.03)
            set_labels(axis, "trained tokens" if row == rows - 1 else "", name if head == 0 else "")
            if row == 0:
                set_title(axis, f"head {head}")
    add_legend(figure, axes[0])
    return Plot(
        "Weights during training",
        render(figure, "weights", "Statistics of the weights per head during training"),
        "Effective sample size: (sum of w)² / (n · sum of w²), 1 when all weights are equal. "
        "Weights have mean 1 per head.",
        wide=True,
    )


def _identifier(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name)


def _level_key(level: str) -> tuple[float, str]:
    try:
        return float(level), level
    except ValueError:
        return float("inf"), level
