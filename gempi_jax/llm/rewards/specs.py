"""The terms of a reward: functions with a name and a weight, and the errors that name them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from gempi_jax import user_code


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


def check_specs(specs: Sequence[RewardSpec]) -> None:
    """Raises RewardError where there is nothing to reward with, or two terms have one name."""
    names = [spec.name for spec in specs]
    if not any(spec.weight != 0 for spec in specs):
        raise RewardError("rewards: no reward function has a weight other than 0; name at least one.")
    for name in names:
        if names.count(name) > 1:
            raise RewardError(f"rewards: two reward functions are called {name!r}; give each a name of its own.")


def describe(function: Callable) -> str:
    """Where a function is from, for errors: ``file.py:name``."""
    name = getattr(function, "__qualname__", type(function).__name__)
    return f"{user_code.module_of(function)}:{name}"


def shown(value: Any) -> str:
    """The start of a value as Python writes it, for errors."""
    try:
        text = repr(value)
    except ValueError:  # whole numbers of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
