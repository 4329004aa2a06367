"""Figures of runs as rows of text: for the page, for the terminal, for a README."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gempi_jax.report.records import Phase, Run

HEADLINES = ("heldout/reward", "heldout/episode/return", "episode/return", "reward")
"""What a run is judged by: the first of these that it recorded."""

METHOD_NAMES = {
    "sft": "SFT", "awr": "AWR", "vmpo": "V-MPO", "mpo": "MPO", "dar": "DAR", "at_dar": "AT-DAR", "dar_tr": "DAR-TR",
    "top_k_dar": "Top-k DAR", "rl_em": "RL-EM", "ppo": "PPO", "dpo": "DPO", "ipo": "IPO", "rdpo": "rDPO",
    "beta_dpo": "β-DPO", "reinforce": "REINFORCE", "virel": "VIREL", "maxmin": "MaxMin",
}  # fmt: skip


class Table(NamedTuple):
    """A heading row and rows of as many cells."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Stage(NamedTuple):
    """Where a figure stood: at the start, or at the end of a phase."""

    label: str
    step: int
    value: float


def number(value: float, digits: int = 4) -> str:
    """So many significant digits at most; thousands are separated, very large and small numbers have an exponent."""
    if not math.isfinite(value):
        return "not finite"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 2}e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    decimals = 0 if value == 0 else digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{value:.{max(decimals, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def rounded(value: float) -> str:
    """Three significant digits, for reading at a glance."""
    return number(value, 3)


def steps_text(value: float) -> str:
    """A number of steps that fits under an axis: ``800``, ``50k``, ``1.5M``."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:g}"


def short(value: float) -> str:
    """A number that fits beside an axis: ``7.5e-4``."""
    if value and abs(value) < 1e-2:
        return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
    return number(value)


def percent(value: float) -> str:
    """A share, in per cent with one decimal."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares, in percentage points, without their name."""
    return f"{100 * value:.1f}"


def signed(form: Callable[[float], str]) -> Callable[[float], str]:
    """The form with a plus before what is above zero."""
    return lambda value: ("+" if value > 0 else "") + form(value)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def phase_label(run: Run, phase: Phase | str) -> str:
    """The method's name, or the phase's where several phases share a method or the config does not tell."""
    name = phase if isinstance(phase, str) else phase.name
    methods = {one.name: _method(run, one.name) for one in run.phases}
    method = methods.get(name, name)
    return METHOD_NAMES.get(method, method) if list(methods.values()).count(method) == 1 else name


def _method(run: Run, phase: str) -> str:
    section = run.config.get(phase)
    method = section.get("method") if isinstance(section, dict) else None
    return method if isinstance(method, str) else phase


def headline_metric(run: Run) -> str | None:
    """The first of ``HEADLINES`` with a value."""
    return next((name for name in HEADLINES if len(run.series(name).steps)), None)


def is_accuracy(run: Run, metric: str) -> bool:
    """Whether a figure is a share of right answers: within [0, 1], and the held-out problems have answers."""
    values = run.series(metric).values
    judged = "episode/" not in metric and (not run.samples or any("answer" in sample for sample in run.samples))
    return bool(judged and len(values) and values.min() >= 0 and values.max() <= 1)


def stages(run: Run, metric: str) -> list[Stage]:
    """The figure before the first phase, where it was measured, and after each."""
    found = []
    for index, phase in enumerate(run.phases):
        series = run.series(metric, phase.name)
        if index == 0 and len(series.steps) > 1 and series.steps[0] == phase.first == 0:
            found.append(Stage("at the start", 0, float(series.values[0])))
        if len(series.steps):
            found.append(Stage(f"after {phase_label(run, phase)}", int(series.steps[-1]), float(series.values[-1])))
    return found


def last_mean(run: Run, metric: str, share: float = 0.1) -> float:
    """Mean over the last tenth of a metric's finite values, at least one; NaN without any."""
    values = run.series(metric).values
    return float(values[-max(1, int(len(values) * share)) :].mean()) if len(values) else math.nan


def seconds(run: Run, phase: str | None = None) -> float:
    """Sum of ``step_time``; evaluation, checkpoints and set-up are not in it."""
    return float(run.series("step_time", phase).values.sum())


def phase_table(run: Run) -> Table:
    """One row per phase: what it did, how long it took, what it was worth."""
    metric = headline_metric(run)
    accuracy = metric is not None and is_accuracy(run, metric)
    form = percent if accuracy else number
    metric_of_speed = "perf/tokens_per_second" if run.axis == "step" else "perf/steps_per_second"
    before, rows = math.nan, []
    for phase in run.phases:
        series = run.series(metric, phase.name) if metric else None
        after = float(series.values[-1]) if series and len(series.steps) else math.nan
        if math.isnan(before) and series and len(series.steps) > 1:
            before = float(series.values[0])
        speed = run.series(metric_of_speed, phase.name).values
        rows.append(
            (
                phase_label(run, phase),
                f"{phase.first} – {phase.last}",
                or_dash(before, form),
                or_dash(after, form),
                or_dash(after - before, signed(points if accuracy else number)),
                duration(seconds(run, phase.name)),
                number(float(np.median(speed))) if len(speed) else "–",
            )
        )
        before = after if math.isfinite(after) else before
    return Table(
        (
            "phase",
            "steps",
            f"{metric} before" if metric else "before",
            "after",
            "gain, points" if accuracy else "gain",
            "time in steps",
            "tokens/s" if run.axis == "step" else "steps/s",
        ),
        rows,
    )


def time_shares(run: Run) -> list[tuple[str, float]]:
    """Seconds by activity (``timing_s/*``), the largest first, and what ``step_time`` holds beyond them."""
    prefix = "timing_s/"
    times = {
        name[len(prefix) :]: float(run.series(name).values.sum()) for name in run.names() if name.startswith(prefix)
    }
    rest = seconds(run) - sum(times.values())
    if times and rest > 0.01 * seconds(run):
        times["other"] = rest
    return sorted(((name, value) for name, value in times.items() if value > 0), key=lambda item: -item[1])


def configuration(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Settings as (section, [(dotted key, value)]); what stands at the top level comes first."""
    top = [(key, _setting(value)) for key, value in config.items() if not isinstance(value, dict)]
    sections = [(key, _flatten(value)) for key, value in config.items() if isinstance(value, dict) and value]
    return ([("run", top)] if top else []) + sections


def _flatten(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in section.items():
        nested = isinstance(value, dict) and value
        rows += _flatten(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", _setting(value))]
    return rows


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def or_dash(value: float, form: Callable[[float], str]) -> str:
    """The formatted value, or a dash where there is none."""
    return form(value) if math.isfinite(value) else "–"


def to_markdown(table: Table) -> str:
    """The table as Markdown, its columns aligned."""
    rows = [table.header, *([cell.replace("|", "\\|") for cell in row] for row in table.rows)]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(table.header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def seed_free(config: Mapping[str, Any]) -> dict[str, str]:
    """All settings but the seed, by dotted key: equal for runs that are repetitions of each other."""
    flat = _flatten(config)
    return {key: value for key, value in flat if key != "seed"}


def group_labels(runs: Sequence[Run]) -> list[str]:
    """One label per run; runs that differ in the seed alone share theirs, which names the settings that differ."""
    settings = [seed_free(run.config) if run.config else {"workdir": run.name} for run in runs]
    keys = sorted({key for one in settings for key in one if any(one[key] != other.get(key) for other in settings)})
    short = {key: key.rpartition(".")[2] for key in keys}
    names = {key: short[key] if list(short.values()).count(short[key]) == 1 else key for key in keys}
    labels = []
    for run, one in zip(runs, settings, strict=True):
        different = [_difference(names[key], one[key]) for key in keys if key in one]
        final = phase_label(run, run.phases[-1]) if run.phases else run.name
        labels.append(", ".join(different[:3]) + (", …" if len(different) > 3 else "") if different else final)
    return labels


def _difference(key: str, value: str) -> str:
    return METHOD_NAMES.get(value, value) if key == "method" else f"{key}={value}"
