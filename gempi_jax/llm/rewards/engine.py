"""Reward functions with TRL's signature ``f(prompts, completions, **columns) -> list[float | None]``, called strictly.

``None`` means that a function does not apply to a sample.  Everything else that is not one number for each completion
is an error that names the function, the sample and the fix: a reward that is silently 0 trains silently wrong.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from gempi_jax import user_code
from gempi_jax.llm.rewards.returned import as_numbers
from gempi_jax.llm.rewards.signature import parameters_of, takes_all
from gempi_jax.llm.rewards.specs import RewardError, RewardSpec, check_specs, describe, shown
from gempi_jax.llm.rewards.turns import as_turns


class RewardResult(NamedTuple):
    """Rewards of N completions.

    Attributes:
      total: weighted sum over the functions that apply; NaN and infinity are kept.
      by_name: unweighted, by function; NaN where a function does not apply.
      finite: the samples whose total is a finite number.  An update with any other is to be skipped and counted.
    """

    total: Float[np.ndarray, " N"]
    by_name: dict[str, Float[np.ndarray, " N"]]
    finite: Bool[np.ndarray, " N"]


def compute_rewards(
    specs: Sequence[RewardSpec], prompts: Sequence, completions: Sequence, columns: Mapping[str, Sequence]
) -> RewardResult:
    """Weighted sum of all reward functions, each called once with the whole batch, and copies of it.

    Args:
      specs: the terms.
      prompts: N texts (or role lists).
      completions: N texts; functions get those of role lists as role lists, see :func:`as_turns`.
      columns: other columns of the dataset by name, N values each.

    Raises:
      RewardError: a function raises, or ends the process (``exit``, argparse), or returns anything but N numbers or
        ``None``; no function applies to a sample; a column has another length.
    """
    check_specs(specs)
    count = len(completions)
    for name, values in {"prompts": prompts, **columns}.items():
        if len(values) != count:
            raise RewardError(
                f"compute_rewards: {name!r} has {len(values)} values for {count} completions; repeat each row for "
                "every completion of its prompt."
            )
    prompts, completions = as_turns(prompts, completions)
    total, applies, by_name = np.zeros(count), np.zeros(count, bool), {}
    with np.errstate(over="ignore", invalid="ignore"):
        for spec in specs:
            values, given = _call(spec, prompts, completions, columns)
            if spec.weight != 0:
                total = total + np.where(given, spec.weight * values, 0.0)
                applies = applies | given
            by_name[spec.name] = np.where(given, values, np.nan).astype(np.float32)
        total = total.astype(np.float32)
    if not applies.all():
        index = int(np.argmin(applies))
        raise RewardError(
            f"compute_rewards: no reward function applies to sample {index} ({shown(completions[index])}): "
            f"{', '.join(spec.name for spec in specs if spec.weight != 0)} returned None; return a number from one, or "
            "remove such rows.",
            index,
        )
    return RewardResult(total, by_name, np.isfinite(total))


def _call(spec: RewardSpec, prompts: Sequence, completions: Sequence, columns: Mapping[str, Sequence]):
    """(values [N] float64, given [N] bool) of one function."""
    parameters = parameters_of(spec.function)
    arguments = {**columns, "prompts": prompts, "completions": completions}
    if not takes_all(parameters):
        arguments = {name: values for name, values in arguments.items() if name in parameters}
    try:
        returned = _run(spec.function, arguments)
    except BaseException as error:
        user_code.let_through(error)
        sample, where = _culprit(spec.function, arguments)
        raise RewardError(
            f"reward {spec.name!r}: {describe(spec.function)} raised "
            f"{user_code.describe(error, user_code.source_of(spec.function))}, {where}. Catch it there"
            f"{'' if isinstance(error, Exception) else ', by name, since it is no Exception,'} and return 0.0, or None "
            "where it does not apply.",
            sample,
        ) from error
    return as_numbers(spec, returned, completions)


def _run(function: Callable, arguments: Mapping[str, Sequence]) -> Any:
    """What the function returns for copies of the arguments: whatever it changes, nobody else sees.

    Each value is copied by itself, since the samples of a prompt share its row.
    """
    copies = {name: [copy.deepcopy(value) for value in values] for name, values in arguments.items()}
    with user_code.alone(user_code.source_of(function)):
        return function(**copies)


def _culprit(function: Callable, arguments: Mapping[str, Sequence]) -> tuple[int | None, str]:
    """Which sample makes the function raise, the first that does alone, and in words."""
    completions = arguments.get("completions", arguments.get("prompts", ()))
    for index in range(len(completions)):
        try:
            _run(function, {name: [values[index]] for name, values in arguments.items()})
        except BaseException as error:
            user_code.let_through(error)
            return index, f"at sample {index} ({shown(completions[index])})"
    return None, f"for the {len(completions)} samples together, not for any alone"
