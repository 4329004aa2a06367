"""Reward functions with TRL's signature ``f(prompts, completions, **columns) -> list[float | None]``, called strictly.

``None`` means that a function does not apply to a sample.  Everything else that is not one number for each completion
is an error that names the function, the sample and the fix: a reward that is silently 0 trains silently wrong.
"""

import copy
import dataclasses
import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from gempi_jax import user_code
from gempi_jax.llm.rewards.turns import as_turns

GIVEN = ("prompts", "completions")
"""What every reward function is given; all other arguments are columns of the dataset."""


class RewardError(ValueError):
    """A reward function that cannot be used as it is.

    Attributes:
      sample: which sample of the batch it fails for, ``None`` where it is no single one.
    """

    def __init__(self, message: str, sample: int | None = None):
        super().__init__(message)
        self.sample = sample


@dataclasses.dataclass(frozen=True)
class RewardSpec:
    """One term of the reward.

    Attributes:
      name: of the metric ``rewards/{name}/mean``.
      function: with TRL's signature; it is passed the columns that its parameters name (all, if it takes ``**``).
      weight: of the term in the total; 0 only logs it.
    """

    name: str
    function: Callable[..., Any]
    weight: float = 1.0

    def __post_init__(self):
        if not callable(self.function):
            raise RewardError(f"reward {self.name!r}: {self.function!r} is no function; pass a callable.")
        if not math.isfinite(self.weight):
            raise RewardError(f"reward {self.name!r}: weight {self.weight} is not finite; give a number.")


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
            f"compute_rewards: no reward function applies to sample {index} ({_start(completions[index])}): "
            f"{', '.join(spec.name for spec in specs if spec.weight != 0)} returned None; return a number from one, or "
            "remove such rows.",
            index,
        )
    return RewardResult(total, by_name, np.isfinite(total))


def check_specs(specs: Sequence[RewardSpec]) -> None:
    """Raises RewardError where there is nothing to reward with, or two terms have one name."""
    names = [spec.name for spec in specs]
    if not any(spec.weight != 0 for spec in specs):
        raise RewardError("rewards: no reward function has a weight other than 0; name at least one.")
    for name in names:
        if names.count(name) > 1:
            raise RewardError(f"rewards: two reward functions are called {name!r}; give each a name of its own.")


def check_columns(specs: Sequence[RewardSpec], available_columns: Collection[str]) -> None:
    """Finds, before anything runs, the columns that a reward function needs and the dataset lacks.

    Raises:
      RewardError: names the function, the missing column and the nearest that exists; also for a function that does not
        take completions.
    """
    check_specs(specs)
    for spec in specs:
        parameters = _parameters(spec.function)
        if parameters is None:
            continue
        if "completions" not in parameters and not _takes_all(parameters):
            raise RewardError(
                f"reward {spec.name!r}: {_describe(spec.function)} takes no completions; its signature has to be "
                "f(prompts, completions, **columns)."
            )
        for name, parameter in parameters.items():
            required = parameter.default is inspect.Parameter.empty and parameter.kind not in _VARIADIC
            if required and name not in GIVEN and name not in available_columns:
                raise RewardError(_missing_column(spec, name, available_columns))


def _missing_column(spec: RewardSpec, name: str, available: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name, list(available), n=1, cutoff=0.0)
    hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
    return (
        f"reward {spec.name!r}: {_describe(spec.function)} needs the column {name!r}, but the dataset has "
        f"{', '.join(sorted(available)) or 'no other columns'}{hint}. Map a column to {name!r}, or give the parameter "
        "a default."
    )


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _parameters(function: Callable) -> Mapping[str, inspect.Parameter] | None:
    """Parameters by name; ``None`` for the callables that do not tell."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def _takes_all(parameters: Mapping[str, inspect.Parameter] | None) -> bool:
    return parameters is None or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _call(spec: RewardSpec, prompts: Sequence, completions: Sequence, columns: Mapping[str, Sequence]):
    """(values [N] float64, given [N] bool) of one function."""
    parameters = _parameters(spec.function)
    arguments = {**columns, "prompts": prompts, "completions": completions}
    if not _takes_all(parameters):
        arguments = {name: values for name, values in arguments.items() if name in parameters}
    try:
        returned = _run(spec.function, arguments)
    except BaseException as error:
        user_code.let_through(error)
        sample, where = _culprit(spec.function, arguments)
        raise RewardError(
            f"reward {spec.name!r}: {_describe(spec.function)} raised "
            f"{user_code.describe(error, user_code.source_of(spec.function))}, {where}. Catch it there"
            f"{'' if isinstance(error, Exception) else ', by name, since it is no Exception,'} and return 0.0, or None "
            "where it does not apply.",
            sample,
        ) from error
    return _as_numbers(spec, returned, completions)


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
            return index, f"at sample {index} ({_start(completions[index])})"
    return None, f"for the {len(completions)} samples together, not for any alone"


def _as_numbers(spec: RewardSpec, returned: Any, completions: Sequence):
    if inspect.iscoroutine(returned):
        returned.close()
        raise RewardError(
            f"reward {spec.name!r}: {_describe(spec.function)} is async; name a function that calls asyncio.run on it."
        )
    if (
        isinstance(returned, (str, bytes, Mapping))
        or not hasattr(returned, "__len__")
        or not hasattr(returned, "__iter__")
    ):
        raise RewardError(
            f"reward {spec.name!r}: {_describe(spec.function)} returned {_start(returned)}, a {type(returned).__name__}"
            "; return a list with one number, or None, for each completion."
        )
    if len(returned) != len(completions):
        raise RewardError(
            f"reward {spec.name!r}: {_describe(spec.function)} returned {len(returned)} values for {len(completions)} "
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
                f"reward {spec.name!r}: {_describe(spec.function)} returned {_start(value)}, a {type(value).__name__}, "
                f"for sample {index} ({_start(completions[index])}); return a float, or None where it does not apply.",
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


def _start(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # whole numbers of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _describe(function: Callable) -> str:
    name = getattr(function, "__qualname__", type(function).__name__)
    return f"{user_code.module_of(function)}:{name}"
