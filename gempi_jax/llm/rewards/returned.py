"""What a reward function returned as numbers: one for each completion, or an error that says which is none."""

import inspect
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gempi_jax.llm.rewards.specs import RewardError, RewardSpec, describe, shown


def as_numbers(
    spec: RewardSpec, returned: Any, completions: Sequence
) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """(values, which are given) of what a reward function returned; a value is 0 where ``None`` was.

    Raises:
      RewardError: it is not one number, or ``None``, for each completion.
    """
    if inspect.iscoroutine(returned):
        returned.close()
        raise RewardError(
            f"reward {spec.name!r}: {describe(spec.function)} is async; name a function that calls asyncio.run on it."
        )
    if (
        isinstance(returned, (str, bytes, Mapping))
        or not hasattr(returned, "__len__")
        or not hasattr(returned, "__iter__")
    ):
        raise RewardError(
            f"reward {spec.name!r}: {describe(spec.function)} returned {shown(returned)}, a {type(returned).__name__}"
            "; return a list with one number, or None, for each completion."
        )
    if len(returned) != len(completions):
        raise RewardError(
            f"reward {spec.name!r}: {describe(spec.function)} returned {len(returned)} values for {len(completions)} "
            "completions; return one for each, None where it does not apply."
        )
    values, given = np.zeros(len(completions)), np.ones(len(completions), bool)
    for index, value in enumerate(returned):
        if value is None:
            given[index] = False
        elif isinstance(number := _plain(value), numbers.Real):
            values[index] = _as_float(number)
        else:
            raise RewardError(
                f"reward {spec.name!r}: {describe(spec.function)} returned {shown(value)}, a {type(value).__name__}, "
                f"for sample {index} ({shown(completions[index])}); return a float, or None where it does not apply.",
                index,
            )
    return values, given


def _as_float(number: numbers.Real) -> float:
    """As floats are rounded: a whole number beyond them is infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _plain(value: Any) -> Any:
    """Scalars of numpy, jax and torch as Python's own."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
