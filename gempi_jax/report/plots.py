"""Curves as inline SVG whose colours and fonts come from the page, so that one drawing suits light and dark."""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gempi_jax.report.aggregate import band, running_median, smooth
from gempi_jax.report.panels import Panel, expand
from gempi_jax.report.records import Run, Series
from gempi_jax.report.tables import phase_label, short, steps_text

# Colours that stand for variables of the page's style sheet until the drawing is done.
_VARIABLES = {"#0a0b01": "ink", "#0a0b02": "muted", "#0a0b03": "rule", "#0a0b04": "shade"}
_VARIABLES |= {f"#0a0c0{index}": f"c{index}" for index in range(1, 7)}
_COLORS = {name: color for color, name in _VARIABLES.items()}
NUM_COLORS = 6
# A curve is a running mean over 1/25 of its points; an evaluation now and then stays as it is.
_POINTS_PER_WINDOW = 25

_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 9.0,
    "text.parse_math": False,  # names of users' metrics and folders are not TeX
    "axes.edgecolor": _COLORS["rule"],
    "axes.labelcolor": _COLORS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": _COLORS["muted"],
    "ytick.color": _COLORS["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": _COLORS["rule"],
    "grid.linewidth": 0.7,
}


class Curve(NamedTuple):
    """What is drawn.

    Attributes:
      label: in the figure's keys.
      series: one per run; several are drawn as their mean and its 95 % interval.
      sparse: each point is a measurement of its own: drawn with dots, never smoothed.
    """

    label: str
    series: tuple[Series, ...]
    sparse: bool = False


def curves_of(run: Run, panel: Panel, phase: str | None = None) -> list[Curve]:
    """The panel's lines for which the run has values."""
    curves = [curve(label, name, panel, [run], phase) for label, name in expand(panel, run.names())]
    return [one for one in curves if one.series][:NUM_COLORS]


def curve(label: str, metric: str, panel: Panel, runs: Sequence[Run], phase: str | None = None) -> Curve:
    """A metric of several runs, or seeds of one; those that have no values are left out."""
    found = [series for run in runs for series in run.by_seed(metric, phase)]
    if panel.positive:
        found = [Series(one.steps[one.values > 0], one.values[one.values > 0]) for one in found]
    return Curve(label, tuple(one for one in found if len(one.steps)), sparse=metric.startswith("heldout/"))


def draw(
    curves: Sequence[Curve], panel: Panel, *, name: str, run: Run | None = None, width: float = 4.2, axis: str = "step"
) -> str:
    """Draws a panel.

    Args:
      curves: at least one, each with at least one series.
      panel: what they show.
      name: unique on the page; identifies the drawing's inner parts.
      run: whose phases are shaded and interrupt the curves; ``None`` has none.
      width: in units of 72 CSS pixels.
      axis: what steps count.

    Returns:
      An ``<svg>`` element as wide as its place allows.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, 2.1 if width < 6 else 2.45))
        FigureCanvasSVG(figure)
        axes = _axes(figure, room_for_label=panel.reference is not None)
        cuts = [phase.first for phase in run.phases[1:]] if run is not None else []
        extents = [_draw_curve(axes, curve, _COLORS[f"c{i + 1}"], cuts) for i, curve in enumerate(curves)]
        _frame(axes, panel, np.concatenate(extents), axis)
        if run is not None:
            _shade_phases(axes, run, curves)
        return _to_svg(figure)


def _axes(figure: Figure, *, room_for_label: bool):
    """Fixed margins, in points: a layout engine would draw everything twice."""
    width, height = 72 * figure.get_figwidth(), 72 * figure.get_figheight()
    left, right, bottom, top = 36, 38 if room_for_label else 8, 30, 15
    return figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )


def _draw_curve(axes, curve: Curve, color: str, cuts: Sequence[int]) -> np.ndarray:
    """Draws one curve; returns the values that must be visible."""
    if len(curve.series) > 1:
        return _draw_band(axes, curve, color)
    steps, values = curve.series[0]
    if curve.sparse:
        _draw_dots(axes, steps, values, color)
        return values
    visible = []
    for index in np.split(np.arange(len(steps)), np.searchsorted(steps, cuts)):
        if len(index):
            visible.append(_draw_stretch(axes, Series(steps[index], values[index]), color))
    return np.concatenate(visible)


def _draw_band(axes, curve: Curve, color: str) -> np.ndarray:
    mean = band(curve.series if curve.sparse else [_calm(one) for one in curve.series])
    if curve.sparse:
        _draw_dots(axes, mean.steps, mean.mean, color)
        axes.vlines(mean.steps, mean.low, mean.high, color=color, alpha=0.5, linewidth=3.0)
        return np.concatenate([mean.mean, mean.low, mean.high])
    axes.fill_between(mean.steps, mean.low, mean.high, color=color, alpha=0.16, linewidth=0)
    axes.plot(mean.steps, mean.mean, color=color, linewidth=1.8)
    # Running means have widened spikes to the width of their window.
    window = 2 * (len(mean.steps) // _POINTS_PER_WINDOW) + 9
    return np.concatenate([running_median(values, window) for values in (mean.mean, mean.low, mean.high)])


def _draw_dots(axes, steps: np.ndarray, values: np.ndarray, color: str) -> None:
    """Measurements; a line between the first and the last alone would show a course that nobody measured."""
    size = 3.4 if len(steps) < 60 else 0
    axes.plot(steps, values, color=color, linewidth=1.8 if len(steps) > 2 else 0, marker="o", markersize=size)


def _draw_stretch(axes, series: Series, color: str) -> np.ndarray:
    if len(series.steps) >= 2 * _POINTS_PER_WINDOW:
        axes.plot(series.steps, series.values, color=color, linewidth=0.6, alpha=0.35)
    marker = "o" if len(series.steps) == 1 else ""
    axes.plot(series.steps, _calm(series).values, color=color, linewidth=1.8, marker=marker, markersize=3.4)
    # One wild value must not flatten all others: a spike may leave the frame.
    return np.concatenate([running_median(series.values, 9), np.quantile(series.values, [0.02, 0.98])])


def _calm(series: Series) -> Series:
    return Series(series.steps, smooth(series.values, max(1, len(series.values) // _POINTS_PER_WINDOW)))


def _frame(axes, panel: Panel, visible: np.ndarray, axis: str) -> None:
    visible = visible[np.isfinite(visible)]
    if panel.reference:
        level, label = panel.reference
        axes.axhline(level, color=_COLORS["ink"], linewidth=1.0, linestyle=(0, (4, 3)))
        axes.annotate(label, (1, level), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                      va="center", color=_COLORS["ink"])  # fmt: skip
        visible = np.append(visible, [0.0, level])
    if len(visible):
        axes.set_ylim(_limits(float(visible.min()), float(visible.max())))
    axes.margins(x=0.01)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel(axis, loc="right", labelpad=1)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: steps_text(value)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:g} %" if panel.share else short(value))
    )


def _limits(low: float, high: float) -> tuple[float, float]:
    """From zero where that costs less than half of the height; a hundredth of the value fills it at least."""
    widen = max(0.0, 0.01 * max(abs(low), abs(high)) - (high - low)) / 2
    low, high = (0.0 if 0 <= low < 0.5 * high else low - widen), high + widen
    margin = 0.08 * (high - low) or 1.0
    return low - (margin if low else 0.02 * high), high + margin


def _shade_phases(axes, run: Run, curves: Sequence[Curve]) -> None:
    """Every other phase is tinted, and named, where the figure spans more than one."""
    first = min(series.steps[0] for curve in curves for series in curve.series)
    last = max(series.steps[-1] for curve in curves for series in curve.series)
    shown = [phase for phase in run.phases if phase.last > first and phase.first < last]
    if len(shown) < 2:
        return
    for index, phase in enumerate(shown):
        begin = max(phase.first, first) if index == 0 else shown[index - 1].last
        end = min(phase.last, last)
        if index % 2 == 0:
            axes.axvspan(begin, end, color=_COLORS["shade"], linewidth=0, zorder=0)
        middle, label = (begin + end) / 2, phase_label(run, phase)
        axes.annotate(label, (middle, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points",
                      ha="center", color=_COLORS["muted"])  # fmt: skip


def _to_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # It would hold for the whole page.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    # Names of groups repeat from drawing to drawing and nothing refers to them.
    svg = re.sub(r'<g id="[a-z]+[a-z0-9.]*_\d+"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true"', svg, count=1)
    svg = re.sub(r"font(-family)?: [^;\"]*;? ?", _page_font, svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return re.sub(r"\n\s*", "\n", svg).strip()


def _page_font(match: re.Match) -> str:
    """Keeps a font's size and leaves its family to the page."""
    size = re.search(r"[\d.]+px", match[0])
    return f"font-size: {size[0]}; " if size else ""


def sparkline(series: Series, width: int = 120, height: int = 22) -> str:
    """A metric's course as a small ``<svg>``; empty where there is no course."""
    if len(series.steps) < 2:
        return ""
    values = smooth(series.values, max(1, len(series.values) // 30))
    index = np.unique(np.linspace(0, len(values) - 1, 60).astype(int))
    span, steps = np.ptp(values) or 1.0, series.steps[index]
    x = 1 + (width - 2) * (steps - steps[0]) / max(1, steps[-1] - steps[0])
    y = height - 2 - (height - 4) * (values[index] - values.min()) / span
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return f'<svg viewBox="0 0 {width} {height}" class="spark" aria-hidden="true"><polyline points="{points}"/></svg>'
