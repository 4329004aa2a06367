"""Several runs on one page: seeds of one setting as one curve with its spread, settings against each other."""

import math
import pathlib
from collections.abc import Callable, Sequence
from html import escape

from gempi_jax.report.aggregate import Summary, summarize
from gempi_jax.report.checks import findings
from gempi_jax.report.document import figure_html, page, table_html, write_page
from gempi_jax.report.panels import PANELS, PROGRESS, RETURNS, Panel, expand
from gempi_jax.report.plots import NUM_COLORS, curve, draw
from gempi_jax.report.records import Run, read_run
from gempi_jax.report.tables import (
    Table,
    duration,
    group_labels,
    headline_metric,
    is_accuracy,
    last_mean,
    number,
    or_dash,
    percent,
    points,
    rounded,
    seconds,
    signed,
    stages,
)

FILE_NAME = "comparison.html"


def write_comparison(workdirs: Sequence[str | pathlib.Path], path: str | pathlib.Path) -> pathlib.Path:
    """Writes a page that compares runs.

    Args:
      workdirs: of the runs, at least one.
      path: the page, or an existing folder, which gets ``comparison.html``.

    Returns:
      The page's path.

    Raises:
      FileNotFoundError: a workdir holds no metrics.
    """
    target = pathlib.Path(path)
    target = target / FILE_NAME if target.is_dir() else target
    return write_page(target, comparison_page([read_run(workdir) for workdir in workdirs]))


def run_table(runs: Sequence[Run]) -> Table:
    """One row per run: the figure that it is judged by at each stage, the gain of the last phase, its cost."""
    metric, form, difference = _metric(runs)
    labels = _stage_labels(runs, metric)
    rows = []
    for run in runs:
        found = _stages(run, metric)
        gain = _gain(run, metric)
        rows.append(
            (
                run.name,
                str(run.config.get("seed", "–")),
                *(or_dash(found.get(label, math.nan), form) for label in labels),
                or_dash(gain, signed(difference)),
                or_dash(last_mean(run, "mstep/kl_over_budget"), rounded),
                duration(seconds(run)),
            )
        )
    return Table(("run", "seed", *labels, _gain_header(difference), "KL over budget", "time in steps"), rows)


def group_table(runs: Sequence[Run]) -> Table:
    """One row per setting: mean ± standard deviation over its seeds, and the mean's 95 % interval."""
    metric, form, difference = _metric(runs)
    labels = _stage_labels(runs, metric)
    rows = []
    for name, members in groups(runs).items():
        cells = []
        for label in labels:
            values = [found[label] for run in members if label in (found := _stages(run, metric))]
            cells.append(_spread(summarize(values), form) if values else "–")
        gains = [gain for gain in (_gain(run, metric) for run in members) if math.isfinite(gain)]
        cells.append(_spread(summarize(gains), signed(difference)) if gains else "–")
        rows.append((name, str(len(members)), *cells))
    return Table(("setting", "runs", *labels, _gain_header(difference)), rows)


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by setting: those that differ in the seed alone are together."""
    found: dict[str, list[Run]] = {}
    for label, run in zip(group_labels(runs), runs, strict=True):
        found.setdefault(label, []).append(run)
    return found


def comparison_page(runs: Sequence[Run]) -> str:
    """The page as text."""
    metric = _metric(runs)[0]
    members = groups(runs)
    plural = "setting" if len(members) == 1 else "settings"
    parts = [
        f"<header><h1>Comparison of {len(runs)} runs</h1>",
        f"<p class='sub'>{len(members)} {plural}, judged by {escape(metric)}</p></header>",
        f"<h2>By setting</h2><div class='card'>{table_html(group_table(runs))}"
        "<p class='note'>Mean ± standard deviation over seeds [95 % interval of the mean, Student's t].</p></div>",
        f"<h2>By run</h2><div class='card'>{table_html(run_table(runs))}</div>",
        _findings(runs),
        _charts(members, metric, all(is_accuracy(run, metric) for run in runs)),
        "<footer>A curve is the mean over the seeds of a setting; its band is the mean's 95 % interval. "
        + " · ".join(escape(str(run.workdir)) for run in runs)
        + "</footer>",
    ]
    return page("Comparison of runs", parts)


def _charts(members: dict[str, list[Run]], metric: str, share: bool) -> str:
    runs = [run for group in members.values() for run in group]
    axis = next((run.axis for run in runs if run.axis != "step"), "step")
    if "episode/" in metric:
        first = tuple(RETURNS._replace(title=line.label.capitalize(), lines=(line,)) for line in RETURNS.lines)
    else:
        progress = Panel("Held-out result", "Greedy answers to held-out problems.", PROGRESS.lines[:1], share=share)
        progress = progress._replace(lines=(progress.lines[0]._replace(metric=metric),))
        first = progress, Panel("Training reward", "Of the sampled completions.", PROGRESS.lines[1:], share=share)
    figures = []
    for panel in (*first, *PANELS):
        lines = expand(panel, sorted({name for run in runs for name in run.names()}))
        for line, name in lines:
            found = [curve(label, name, panel, group) for label, group in members.items()]
            curves = [one for one in found if one.series][:NUM_COLORS]
            if curves:
                title = panel.title if len(lines) == 1 else f"{panel.title}: {line}"
                figures.append(figure_html(panel, title, curves, draw(curves, panel, name=title, axis=axis)))
    left_out = f"<p class='note'>The first {NUM_COLORS} settings are drawn.</p>" if len(members) > NUM_COLORS else ""
    return f'<h2>Curves</h2>{left_out}<div class="charts">{"".join(figures)}</div>' if figures else ""


def _metric(runs: Sequence[Run]):
    metric = next((name for run in runs if (name := headline_metric(run))), "reward")
    accuracy = all(is_accuracy(run, metric) for run in runs)
    return metric, percent if accuracy else number, points if accuracy else number


def _gain_header(difference: Callable[[float], str]) -> str:
    return "gain of the last phase" + (", points" if difference is points else "")


def _stages(run: Run, metric: str) -> dict[str, float]:
    """Runs whose last phases differ are compared at their ends."""
    found = stages(run, metric)
    return {("at the end" if stage is found[-1] else stage.label): stage.value for stage in found}


def _stage_labels(runs: Sequence[Run], metric: str) -> list[str]:
    labels = dict.fromkeys(label for run in runs for label in _stages(run, metric))
    return sorted(labels, key=lambda label: label == "at the end")


def _gain(run: Run, metric: str) -> float:
    found = stages(run, metric)
    return found[-1].value - found[-2].value if len(found) > 1 else math.nan


def _spread(summary: Summary, form: Callable[[float], str]) -> str:
    if summary.count == 1:
        return form(summary.mean)
    return f"{form(summary.mean)} ± {form(summary.std).lstrip('+')} [{form(summary.low)}, {form(summary.high)}]"


def _findings(runs: Sequence[Run]) -> str:
    """What several runs share is said once."""
    concerned: dict[str, list[str]] = {}
    for run in runs:
        for text in findings(run):
            concerned.setdefault(text, []).append(run.name)
    if not concerned:
        return ""
    items = "".join(
        f"<li>{'all runs' if len(names) == len(runs) else escape(', '.join(names))}: {escape(text)}</li>"
        for text, names in concerned.items()
    )
    return f'<div class="findings" role="note"><b>Worth knowing</b><ul>{items}</ul></div>'
