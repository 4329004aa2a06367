"""Budgets that are unused or overrun for long: what to say of them, and what to change."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PATIENCE = 10
"""Iterations in a row."""


class _Range(NamedTuple):
    """Shares of a budget between which it is met, and what to change outside."""

    low: float
    high: float
    unused: str
    overrun: str


_RANGES = {
    "estep/": _Range(
        0.8,
        1.1,
        "the samples differ less than it allows, so lower it; or a dual follows too slowly: use temperature 'solved', "
        "or raise duals.temperature_learning_rate",
        "no target meets all budgets (estep/feasible), so raise one by estep/shortfall; or a dual follows too slowly: "
        "use temperature 'solved', or raise duals.temperature_learning_rate",
    ),
    "mstep/": _Range(
        0.4,
        1.3,
        "the size or the number of updates limits the policy: raise optimizer.learning_rate or updates_per_epoch, or "
        "lower the budget",
        "steps are too large for the multiplier to hold: use enforced 'line_search', or lower optimizer.learning_rate "
        "or old_ema_decay, or raise the budget",
    ),
}


def budget_notes(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A sentence for each budget that the last iterations of a phase all left unused, or all overran.

    A line search that could lengthen a step has a scale above 1 where the budget is unused; one that shortens alone
    leaves it unused by choice, which is no finding.

    Args:
      rows: metrics of a phase's iterations, in order; ``*_over_budget*`` of the last ``PATIENCE`` count.

    Returns:
      Sentences by metric; none where there are fewer iterations.
    """
    last = rows[-PATIENCE:]
    # Where nothing could be told apart, no budget could be used.
    if len(last) < PATIENCE or any(row.get("estep/flat_batch") for row in last):
        return {}
    notes, shortens = {}, all(row.get("mstep/step_scale", math.inf) <= 1.0 for row in last)
    for name in sorted(name for name in last[-1] if "_over_budget" in name):
        shares = [float(row.get(name, float("nan"))) for row in last]
        limits = next((limits for prefix, limits in _RANGES.items() if name.startswith(prefix)), None)
        if limits is None:
            continue
        within = f"for {PATIENCE} iterations (at {min(shares):.2g} to {max(shares):.2g} of it)"
        if all(share < limits.low for share in shares) and not (shortens and name.startswith("mstep/")):
            notes[name] = f"{name}: a budget was unused {within}; {limits.unused}."
        elif all(share > limits.high for share in shares):
            notes[name] = f"{name}: a budget was overrun {within}; {limits.overrun}."
    return notes
