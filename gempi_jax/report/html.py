"""``report.html``: one file that needs nothing else, runs no script and trusts no text."""

import math
import pathlib
from html import escape

import numpy as np

from gempi_jax.report import completions
from gempi_jax.report.checks import findings
from gempi_jax.report.document import figure_html, page, table_html, write_page
from gempi_jax.report.panels import PANELS, PROGRESS, RETURNS, Panel
from gempi_jax.report.plots import curves_of, draw, sparkline
from gempi_jax.report.records import Run, read_run
from gempi_jax.report.tables import (
    configuration,
    duration,
    headline_metric,
    is_accuracy,
    last_mean,
    number,
    percent,
    phase_label,
    phase_table,
    rounded,
    seconds,
    stages,
    time_shares,
)

FILE_NAME = "report.html"


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
    """Writes ``report.html`` of a run, finished or not, into its workdir.

    Args:
      workdir: a folder with ``metrics.jsonl``; ``config.json`` and ``samples.jsonl`` are used where they are.

    Returns:
      The page's path.

    Raises:
      FileNotFoundError: the folder or its metrics are missing.
    """
    run = read_run(workdir)
    return write_page(run.workdir / FILE_NAME, report_page(run))


def report_page(run: Run) -> str:
    """The page of one run as text."""
    parts = [
        f"<header><h1>{escape(run.name)}</h1><p class='sub'>{escape(_subtitle(run))}</p></header>",
        _headline(run),
        _tiles(run),
        _findings(run),
        _charts(run),
        completions.section(run),
        "<h2>Phases and time</h2>",
        _time(run),
        _other_metrics(run),
        _configuration(run),
        f"<footer>{escape(str(run.workdir))} · steps count over all phases · curves are running means, "
        "the thin line is what was recorded, and single spikes may leave the frame</footer>",
    ]
    return page(f"{run.name} · report", parts)


def _subtitle(run: Run) -> str:
    phases = " → ".join(phase_label(run, phase) for phase in run.phases)
    model, data = run.config.get("model"), run.config.get("data")
    parts = [phases]
    if isinstance(data, dict) and data.get("task"):
        parts.append(f"task {data['task']}")
    if isinstance(model, dict) and model.get("path"):
        parts.append(f"model {model['path']}")
    elif isinstance(model, dict) and "num_layers" in model and "hidden_size" in model:
        parts.append(f"new model, {model['num_layers']} layers of width {model['hidden_size']}")
    environment = run.config.get("environment")
    if isinstance(environment, dict) and environment.get("name"):
        parts += [str(environment["name"]), f"core {run.config.get('core')}"]
    if isinstance(run.config.get("num_seeds"), int) and run.config["num_seeds"] > 1:
        parts.append(f"{run.config['num_seeds']} seeds from {run.config.get('seed', 0)}")
    elif "seed" in run.config:
        parts.append(f"seed {run.config['seed']}")
    return " · ".join(part for part in parts if part)


def _headline(run: Run) -> str:
    metric = headline_metric(run)
    if metric is None:
        return ""
    accuracy = is_accuracy(run, metric)
    form = percent if accuracy else number
    found = stages(run, metric)
    blocks = [
        f'<div class="stage{" final" if index == len(found) - 1 else ""}"><div class="value">{form(stage.value)}</div>'
        f'<div class="label">{escape(stage.label)}</div></div>'
        for index, stage in enumerate(found)
    ]
    if len(found) > 1:
        blocks.append(_gain(found[-2], found[-1], accuracy))
    held_out = "Held-out accuracy" if accuracy else "Held-out reward"
    label = {
        "heldout/reward": held_out,
        "reward": "Training reward",
        "heldout/episode/return": "Return of the greedy policy",
        "episode/return": "Return",
    }[metric]
    return f'<div class="card stages"><p class="track"><b>{label}</b></p>{"".join(blocks)}</div>'


def _gain(before, after, accuracy: bool) -> str:
    gain = after.value - before.value
    amount = f"{100 * gain:+.1f} points" if accuracy else f"{gain:+.3g}"
    ratio = f", {after.value / before.value:.2f} ×" if before.value > 0 and after.value > 0 else ""
    css = "up" if gain > 0 else "down" if gain < 0 else ""
    return (
        f'<div class="stage gain"><div class="value {css}">{amount}{ratio}</div>'
        f'<div class="label">{escape(after.label)}, against {escape(before.label)}</div></div>'
    )


def _tiles(run: Run) -> str:
    tiles = [
        ("KL over budget", last_mean(run, "mstep/kl_over_budget"), rounded),
        ("effective samples", last_mean(run, "estep/ess_fraction"), percent),
        ("temperature", last_mean(run, "estep/temperature"), rounded),
        ("multiplier", last_mean(run, "mstep/multiplier"), rounded),
        ("tokens/s", _median(run, "perf/tokens_per_second"), rounded),
        ("environment steps/s", _median(run, "perf/steps_per_second"), rounded),
        ("time in steps", seconds(run) or math.nan, duration),
        ("updates skipped", float(max(run.series("skipped_updates").values, default=math.nan)), rounded),
    ]
    blocks = [
        f'<div class="card tile"><div class="value">{form(value)}</div><div class="label">{label}</div></div>'
        for label, value, form in tiles
        if math.isfinite(value)
    ]
    return f'<div class="tiles">{"".join(blocks)}</div>' if blocks else ""


def _median(run: Run, metric: str) -> float:
    values = run.series(metric).values
    return float(np.median(values)) if len(values) else math.nan


def _findings(run: Run) -> str:
    found = findings(run)
    if not found:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in found)
    return f'<div class="findings" role="note"><b>Worth knowing</b><ul>{items}</ul></div>'


def _charts(run: Run) -> str:
    figures = []
    progress = RETURNS if curves_of(run, RETURNS) else PROGRESS
    curves = curves_of(run, progress)
    if curves:
        metric = headline_metric(run)
        panel = progress._replace(share=bool(metric) and is_accuracy(run, metric))
        options = {"run": run, "axis": run.axis}
        wide = draw(curves, panel, name="hero-wide", width=11.5, **options).replace("<svg", '<svg class="wide"', 1)
        narrow = draw(curves, panel, name="hero-narrow", **options).replace("<svg", '<svg class="narrow"', 1)
        figures.append(figure_html(panel, panel.title, curves, wide + narrow, "hero"))
    small = [figure for panel in PANELS for figure in _panel(run, panel)]
    if not figures and not small:
        return ""
    return "<h2>Curves</h2>" + "".join(figures) + f'<div class="charts">{"".join(small)}</div>'


def _panel(run: Run, panel: Panel) -> list[str]:
    phases = [phase.name for phase in run.phases] if panel.per_phase and len(run.phases) > 1 else [None]
    figures = []
    for phase in phases:
        curves = curves_of(run, panel, phase)
        if curves:
            title = panel.title if phase is None else f"{panel.title}, {phase_label(run, phase)}"
            svg = draw(curves, panel, name=title, run=run if phase is None else None, axis=run.axis)
            figures.append(figure_html(panel, title, curves, svg))
    return figures


def _time(run: Run) -> str:
    shares = time_shares(run)
    total = sum(value for _, value in shares)
    bars = "".join(
        f'<span class="k{index % 6 + 1}" style="flex: {value / total:.4f} 1 0"></span>'
        for index, (_, value) in enumerate(shares)
    )
    keys = "".join(
        f'<span><i class="k{index % 6 + 1}"></i>{escape(name)} <b>{percent(value / total)}</b></span>'
        for index, (name, value) in enumerate(shares)
    )
    table = f'<div class="card">{table_html(phase_table(run))}</div>'
    if not shares:
        return table
    shown = f'<div class="bar">{bars}</div><div class="keys">{keys}</div>'
    return f'{table}<div class="card"><h3>Where the time goes</h3>{shown}</div>'


def _other_metrics(run: Run) -> str:
    rows = []
    for name in run.names():
        series = run.series(name)
        if len(series.steps):
            cells = (series.values[0], series.values[-1], series.values.min(), series.values.max())
            numbers = "".join(f"<td>{number(float(cell))}</td>" for cell in cells)
            rows.append(f"<tr><td>{escape(name)}</td><td>{sparkline(series)}</td>{numbers}</tr>")
    if not rows:
        return ""
    head = "".join(f"<th>{cell}</th>" for cell in ("metric", "course", "first", "last", "lowest", "highest"))
    return (
        f'<details class="card"><summary>Every metric ({len(rows)})</summary><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _configuration(run: Run) -> str:
    cards = []
    for title, rows in configuration(run.config):
        body = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in rows)
        cards.append(
            f'<div class="card"><h3>{escape(title)}</h3><table class="settings"><tbody>{body}</tbody></table></div>'
        )
    return f'<h2>Configuration</h2><div class="charts">{"".join(cards)}</div>' if cards else ""
