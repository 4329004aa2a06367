"""Learning rates over the steps of a phase, as data that are checked when they are built."""

import dataclasses
import math

import optax


def check_number(name: str, value: float | int, valid: bool, fix: str) -> None:
    """Raises ``ValueError`` unless a setting is finite and valid, with what to give."""
    if not (valid and math.isfinite(value)):
        raise ValueError(f"{name} = {value}: give {fix}")


@dataclasses.dataclass(frozen=True)
class Constant:
    """The peak rate, after the warm-up, until the end."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """From the peak rate to a fraction of it in a straight line.

    Attributes:
      final_fraction: of the peak rate, at the last step; in [0, 1].
    """

    final_fraction: float = 0.0

    def __post_init__(self):
        check_number("final_fraction", self.final_fraction, 0 <= self.final_fraction <= 1, "a number from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Cosine:
    """From the peak rate to a fraction of it along half a cosine.

    Attributes:
      final_fraction: of the peak rate, at the last step; in [0, 1].
    """

    final_fraction: float = 0.0

    def __post_init__(self):
        check_number("final_fraction", self.final_fraction, 0 <= self.final_fraction <= 1, "a number from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps of a phase.

    Attributes:
      peak: the rate after the warm-up.
      warmup_steps: step s < warmup_steps takes (s + 1) / (warmup_steps + 1) of the peak, so that the first step moves.
      decay: what follows the warm-up.
    """

    peak: float
    warmup_steps: int = 0
    decay: Constant | Linear | Cosine = Constant()

    def __post_init__(self):
        check_number("learning rate", self.peak, self.peak >= 0, "a finite number of at least 0")
        check_number("warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "a whole number of at least 0")

    def build(self, total_steps: int) -> optax.Schedule:
        """The rate as a function of the number of updates made before.

        Args:
          total_steps: updates in the phase; the decay ends with the last of them.

        Raises:
          ValueError: the warm-up is longer than the phase.
        """
        if total_steps < 1 or self.warmup_steps > total_steps:
            raise ValueError(
                f"warmup_steps = {self.warmup_steps} of {total_steps} steps in all: give at least 1 step, and "
                "a warm-up no longer than the phase"
            )
        after = self._decay(max(total_steps - 1 - self.warmup_steps, 1))
        if not self.warmup_steps:
            return after
        warmup = optax.linear_schedule(self.peak / (self.warmup_steps + 1), self.peak, self.warmup_steps)
        return optax.join_schedules([warmup, after], [self.warmup_steps])

    def _decay(self, steps: int) -> optax.Schedule:
        match self.decay:
            case Constant():
                return optax.constant_schedule(self.peak)
            case Linear(final_fraction):
                return optax.linear_schedule(self.peak, self.peak * final_fraction, steps)
            case Cosine(final_fraction):
                return optax.cosine_decay_schedule(self.peak, steps, final_fraction)
