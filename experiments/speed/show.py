"""A table on the screen, and the same figures as JSON and as a picture."""

import datetime
import json
import pathlib
import platform
import statistics
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.speed.driver import Timing, commit, processor

COLORS = ("#1463c4", "#d4550c", "#1f8a4c", "#8a3aa8", "#0d8291", "#a8740a")
"""The report's."""
INK, MUTED, RULE = "#17212b", "#5c6a78", "#dde3e9"


def label(timing: Timing) -> str:
    """What a side did, in words."""
    return f"{timing.job.side} {timing.job.method}"


def ratio(ours: Timing, theirs: Timing) -> tuple[float, float, float]:
    """How many times as long theirs takes: median, least and most over the turns, each beside ours of the same turn."""
    ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def print_timings(title: str, timings: Sequence[Timing]) -> None:
    """One line per side; under each side of ours how many times as long the others take."""
    ours = [timing for timing in timings if timing.job.side == "ours"]
    print(f"\n{title}")
    head = "".join(f"{'x ' + timing.job.method:>20s}" for timing in ours)
    print(f"{'':24s} {'median s':>9s} {'least':>8s} {'most':>8s} {'first s':>8s} {'peak MiB':>9s}{head}")
    for timing in timings:
        line = f"{label(timing):24s} {timing.median:9.3f} {min(timing.seconds):8.3f} {max(timing.seconds):8.3f}"
        line += f" {timing.first['cpu_s']:8.1f} {timing.peak_mib:9.0f}"
        for each in ours:
            middle, low, high = ratio(each, timing)
            line += f"{f'{middle:.2f} ({low:.2f}-{high:.2f})':>20s}"
        print(line, flush=True)


def write_json(path: pathlib.Path, command: str, values: Any) -> None:
    """The figures, with the conditions under which they came about."""
    path.parent.mkdir(parents=True, exist_ok=True)
    conditions = {
        "command": command,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    path.write_text(json.dumps({"conditions": conditions, "results": values}, indent=1), encoding="utf-8")
    print(f"written: {path}", flush=True)


Bar = tuple[str, float, float, float]
"""Label, value, least, most."""


def write_bars(path: pathlib.Path, panels: dict[str, list[Bar]], unit: str) -> None:
    """Horizontal bars with their spread, a panel each; the first library of a panel has the first colour everywhere."""
    style = {"font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}
    families: dict[str, str] = {}
    rows = max(len(bars) for bars in panels.values())
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(3.6 * len(panels) + 0.6, 0.42 * rows + 1.0), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (title, bars) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for place, (name, value, low, high) in enumerate(bars):
                family = name.partition(" ")[0]
                color = families.setdefault(family, COLORS[len(families) % len(COLORS)])
                axes.barh(place, value, color=color, height=0.62)
                axes.hlines(place, low, high, color=INK, linewidth=1.0)
                axes.annotate(f" {value:.3g}", (max(value, high), place), va="center", color=INK)
            axes.set_yticks(range(len(bars)), [bar[0] for bar in bars])
            axes.invert_yaxis()
            axes.tick_params(length=0, colors=MUTED)
            axes.set_title(title, loc="left", color=INK, fontsize=9.5)
            axes.set_xlabel(unit, loc="right", color=MUTED)
            axes.margins(x=0.16)
            axes.grid(axis="x", color=RULE, linewidth=0.7)
            axes.set_axisbelow(True)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    print(f"written: {path}", flush=True)


def bar(timing: Timing) -> Bar:
    """Of a side's CPU seconds."""
    return label(timing), timing.median, min(timing.seconds), max(timing.seconds)
