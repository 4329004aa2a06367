"""Rows of completions that another policy wrote: rewards, and log-probabilities where a method needs them."""

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from gempi_jax.llm.rows import place_of
from gempi_jax.methods.base import Method
from gempi_jax.runners.data import Source


def check_scored(name: str, rows: Iterable[Mapping[str, Any]], method: Method) -> bool:
    """Whether the rows of a ``scored`` source carry ``log_prob``, log b(y) of the policy that wrote them.

    Without it b is taken to be pi_t, whose own anchor then drops out of every weight; any other anchor would be weighed
    against a policy that did not write the rows, and that training moves.

    Args:
      name: of the phase's section, for errors.
      rows: of the source.
      method: of the phase.

    Raises:
      ValueError: a row without a reward or, where it is needed, a log-probability; a value that is none.
    """
    # What is weighed against nobody, as a regression's base, may have been written by anybody.
    priced = ("ref",) if method.needs.kl_price else ()
    others = [anchor for anchor in (*method.needs.weighed, *priced) if anchor != "old"]
    start, without, carries = f"config.{name}.source = 'scored'", None, False
    for index, row in enumerate(rows):
        place = f"{start}: {place_of(row, f'row {index}')}"
        if "reward" not in row:
            raise ValueError(f"{place} has no column 'reward'")
        value = row.get("log_prob")
        if value is None:
            without = without or place
        elif not _is_log_prob(value):
            raise ValueError(
                f"{place} has log_prob {value!r}; it has to be a finite number of at most 0, the nats of the whole "
                "completion with its end token, added up"
            )
        else:
            carries = True
    if without and others:
        raise ValueError(
            f"{without} has no column 'log_prob', which the anchor {others[0]!r} is weighed against: log b(y) in nats, "
            "of the policy that wrote the completion, added up over its tokens and its end token; give it, or choose a "
            "method whose only anchor is 'old', such as awr"
        )
    if without and carries:
        raise ValueError(f"{without} has no column 'log_prob', and others do; give it to all")
    return carries


def check_references(name: str, rows: Iterable[Mapping[str, Any]], method: Method) -> bool:
    """Whether the rows of a ``scored`` source are to carry ``reference_rewards``, R numbers each.

    Args:
      name: of the phase's section, for errors.
      rows: of the source.
      method: of the phase.

    Raises:
      ValueError: a row without them, or with something else.
    """
    number = method.needs.reference_samples
    for index, row in enumerate(rows if number else ()):
        value = row.get("reference_rewards")
        given = list(value) if isinstance(value, Iterable) and not isinstance(value, str | Mapping) else []
        if len(given) != number or not all(_is_number(each) for each in given):
            raise ValueError(
                f"config.{name}.source = 'scored': {place_of(row, f'row {index}')} has reference_rewards {value!r}; "
                f"give the rewards of {number} completions of its prompt by the model that training starts from, "
                "finite numbers, or set method_args.reference_samples to how many there are"
            )
    return number > 0


def check_whole(name: str, source: Source) -> None:
    """Refuses rows that were cut where their ``log_prob`` is of the whole text."""
    if source.num_truncated:
        raise ValueError(
            f"config.{name}.source = 'scored': {source.num_truncated} rows are cut to the lengths of this run, and "
            "their 'log_prob' is of the whole text; set data.long_prompts and data.long_completions to 'drop'"
        )


def _is_log_prob(value: Any) -> bool:
    return _is_number(value) and value <= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
