"""A user's reward function by name, and a trial of all functions before any compute is spent."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gempi_jax import user_code
from gempi_jax.llm.rewards.engine import RewardResult, compute_rewards
from gempi_jax.llm.rewards.signature import check_columns
from gempi_jax.llm.rewards.specs import RewardError, RewardSpec

_TRIAL_ROWS = 32


class Preflight(NamedTuple):
    """What a trial of the reward functions found.

    Attributes:
      gold: mean reward by function on the gold completions; ``None`` where the rows have none.
      empty: mean reward by function on empty completions.
      notes: what is allowed but looks wrong, one sentence each.
    """

    gold: dict[str, float] | None
    empty: dict[str, float]
    notes: tuple[str, ...]


def preflight(specs: Sequence[RewardSpec], rows: Sequence[Mapping[str, Any]]) -> Preflight:
    """Calls every function on gold and on empty completions, so that a broken one stops the run before it starts.

    Args:
      specs: the terms of the reward.
      rows: of the dataset; gold completions are their ``completion``, or else their ``answer`` where it is a text.  The
        first 32 are tried.

    Raises:
      RewardError: whatever ``check_columns`` and ``compute_rewards`` raise, and a total that is NaN or infinite.
    """
    rows = rows[:_TRIAL_ROWS]
    columns = {name: [row.get(name) for row in rows] for name in (rows[0] if rows else {}) if name not in _PAIR}
    check_columns(specs, columns)
    prompts = [row["prompt"] for row in rows]
    gold = [row.get("completion", row.get("answer")) for row in rows]
    has_gold = bool(rows) and all(isinstance(text, (str, list)) for text in gold)
    on_empty = _means(specs, _trial(specs, prompts, [""] * len(rows), columns, "an empty completion"))
    on_gold = _means(specs, _trial(specs, prompts, gold, columns, "a gold completion")) if has_gold else None
    return Preflight(on_gold, on_empty, tuple(_notes(on_gold, on_empty)))


_PAIR = ("prompt", "completion")


def _trial(specs, prompts, completions, columns, what: str) -> RewardResult:
    result = compute_rewards(specs, prompts, completions, columns)
    if not result.finite.all():
        index = int(np.argmin(result.finite))
        values = ", ".join(f"{name} {values[index]}" for name, values in result.by_name.items())
        raise RewardError(
            f"rewards: {what} (row {index}) is worth {result.total[index]} ({values}); return finite numbers, or None "
            "where a function does not apply."
        )
    return result


def _means(specs: Sequence[RewardSpec], result: RewardResult) -> dict[str, float]:
    def mean(values: np.ndarray) -> float:
        given = values[~np.isnan(values)]
        return float(given.mean()) if given.size else float("nan")

    return {spec.name: mean(result.by_name[spec.name]) for spec in specs}


def _notes(gold: dict[str, float] | None, empty: dict[str, float]):
    for name, value in (gold or empty).items():
        if np.isnan(value):
            yield f"reward {name!r} returned None for all rows that were tried."
        elif gold and not value > empty[name]:
            yield (
                f"reward {name!r} gives gold completions {value:g} and empty ones {empty[name]:g}: nothing to learn."
            )


def load_reward(path: str) -> Callable[..., Any]:
    """The reward function that ``"package.module:function"`` or ``"folder/file.py:function"`` names.

    Raises:
      RewardError: names what is missing, module, file or function, and the nearest that exists.
    """
    return user_code.load_function(path, "load_reward", RewardError)
