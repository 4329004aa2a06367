"""What a reward function takes, read off its signature before anything runs."""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence

from gempi_jax.llm.rewards.specs import RewardError, RewardSpec, check_specs, describe

GIVEN = ("prompts", "completions")
"""What every reward function is given; all other arguments are columns of the dataset."""

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def parameters_of(function: Callable) -> Mapping[str, inspect.Parameter] | None:
    """Parameters by name; ``None`` for the callables that do not tell."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def takes_all(parameters: Mapping[str, inspect.Parameter] | None) -> bool:
    """Whether all columns are passed: to ``**columns``, and to callables that do not tell."""
    return parameters is None or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def check_columns(specs: Sequence[RewardSpec], available_columns: Collection[str]) -> None:
    """Finds, before anything runs, the columns that a reward function needs and the dataset lacks.

    Raises:
      RewardError: names the function, the missing column and the nearest that exists; also for a function that does not
        take completions.
    """
    check_specs(specs)
    for spec in specs:
        parameters = parameters_of(spec.function)
        if parameters is None:
            continue
        if "completions" not in parameters and not takes_all(parameters):
            raise RewardError(
                f"reward {spec.name!r}: {describe(spec.function)} takes no completions; its signature has to be "
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
        f"reward {spec.name!r}: {describe(spec.function)} needs the column {name!r}, but the dataset has "
        f"{', '.join(sorted(available)) or 'no other columns'}{hint}. Map a column to {name!r}, or give the parameter "
        "a default."
    )
