"""What a reader should know before trusting a run's figures, in words."""

import math

import numpy as np

from gempi_jax.report.records import Run
from gempi_jax.report.tables import last_mean, number, percent, phase_label
from gempi_jax.training.budgets import PATIENCE, budget_notes


def findings(run: Run) -> list[str]:
    """Unreadable lines, skipped updates, values that are not finite, and signs of a run that went wrong."""
    found = list(run.problems)
    if not run.rows:
        found.append("metrics.jsonl holds no row yet.")
    for check in (_skipped, _no_signal, _not_finite, _unfinished, _trust_region, _sample_size, _infeasible, _cut_off):
        found += check(run)
    return found


def _skipped(run: Run) -> list[str]:
    count = int(max(run.series("skipped_updates").values, default=0))
    plural = "s were" if count > 1 else " was"
    return [f"{count} update{plural} skipped because loss, gradient or reward was not finite."] if count else []


def _no_signal(run: Run) -> list[str]:
    values = run.series("estep/flat_batch").values
    count = int((values > 0).sum())
    if not count:
        return []
    return [
        f"In {count} of {len(values)} steps all rewards that are compared were equal: without a signal the policy was "
        "left as it was."
    ]


def _not_finite(run: Run) -> list[str]:
    found = []
    for name in run.names():
        steps = [row["step"] for row in run.rows if isinstance(row.get(name), float) and not np.isfinite(row[name])]
        if steps:
            times = f"in {len(steps)} rows, first at" if len(steps) > 1 else "at"
            found.append(f"{name} is not finite {times} step {steps[0]}.")
    return found[:8] + ([f"{len(found) - 8} more metrics are not finite somewhere."] if len(found) > 8 else [])


def _unfinished(run: Run) -> list[str]:
    found = []
    wanted, reached = run.config.get("env_steps"), max((row.get("env_steps", 0) for row in run.rows), default=0)
    if isinstance(wanted, int):
        return (
            [f"The run is not finished: it stands at {reached:,.0f} of {wanted:,} steps."] if reached < wanted else []
        )
    lengths = {phase.name: phase.last for phase in run.phases}
    end = 0
    names = run.config.get("phases", ())
    for name in names if isinstance(names, list) else ():
        section = run.config.get(name)
        planned = section.get("num_iterations") if isinstance(section, dict) else None
        if not isinstance(planned, int):
            return []
        end += planned
        if lengths.get(name, -1) < end:
            reached = f"stands at step {lengths[name]} of {end}" if name in lengths else "has not begun"
            found.append(f"The run is not finished: {phase_label(run, name)} {reached}.")
    return found[:1]


def _trust_region(run: Run) -> list[str]:
    """Judged over each phase, not at its end alone: the latest stretch of iterations that missed a budget."""
    found: dict[str, str] = {}
    for phase in run.phases:
        rows = [row for row in run.rows if row.get("phase") == phase.name and any("_over_budget" in key for key in row)]
        for end in range(PATIENCE, len(rows) + 1):
            until = rows[end - 1]["step"]
            for name, note in budget_notes(rows[end - PATIENCE : end]).items():
                found[f"{phase.name}/{name}"] = f"{phase_label(run, phase.name)}, until step {until}: {note}"
    return list(found.values())


def _sample_size(run: Run) -> list[str]:
    share = last_mean(run, "estep/ess_fraction")
    if math.isfinite(share) and share < 0.1:
        return [f"The effective sample size ends at {percent(share)} of the batch: few samples carry the updates."]
    return []


def _infeasible(run: Run) -> list[str]:
    values = run.series("estep/shortfall").values
    count = int((values > 0).sum())
    if not count:
        return []
    return [f"The budgets were infeasible in {count} steps; raising each by {number(values.max())} nats mends it."]


def _cut_off(run: Run) -> list[str]:
    share = last_mean(run, "completions/clipped_ratio")
    if math.isfinite(share) and share > 0.2:
        return [f"{percent(share)} of the completions end at the length limit: raise max_completion_length."]
    return []
