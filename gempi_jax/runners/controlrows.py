"""Rows of ``metrics.jsonl`` of runs in environments."""

from collections.abc import Callable

import jax
import numpy as np

from gempi_jax.contracts import Metrics
from gempi_jax.rl import EnvironmentFailed
from gempi_jax.runners.optimizers import control_optimizers
from gempi_jax.runners.settings import ControlSettings
from gempi_jax.training.state import TrainState

BY_SEED = ("episode/return", "episode/length", "heldout/episode/return", "heldout/episode/length")
"""Metrics of which each seed has a number of its own, too: ``episode/return/seed_0``."""


def summary(metrics: Metrics) -> dict[str, float]:
    """Means over the seeds of each seed's own mean; what has none, as returns where no episode ended, is left out.

    Args:
      metrics: sums and weights [S].
    """
    row = {}
    for name, metric in metrics.items():
        counted = metric.weight > 0
        row |= by_seed(name, np.where(counted, metric.sum / np.where(counted, metric.weight, 1.0), np.nan), counted)
    return row


def by_seed(name: str, values: np.ndarray, there: np.ndarray | None = None) -> dict[str, float]:
    """A metric's mean over the seeds, and of those in ``BY_SEED`` each seed's.

    Args:
      name: of the metric.
      values: [S].
      there: which seeds have one; ``None`` for all.
    """
    there = np.ones(values.shape, bool) if there is None else there
    if not there.any():
        return {}
    row = {name: float(np.mean(values[there]))}
    if name in BY_SEED and len(values) > 1:
        row |= {f"{name}/seed_{seed}": float(values[seed]) for seed in np.flatnonzero(there)}
    return row


def check_finite(name: str, metrics: Metrics, done: int, length: int) -> None:
    """Raises EnvironmentFailed where an observation or a reward was no number: nothing after it is worth anything.

    Args:
      name: of the environment.
      metrics: sums and weights [S] of a call.
      done: iterations before it.
      length: iterations of it.
    """
    found = metrics["environment/not_finite"].sum
    if np.any(found > 0):
        seed = int(np.argmax(found > 0))
        raise EnvironmentFailed(
            f"{name}: at {int(found[seed])} steps of seed {seed} an observation or a reward is no finite number, in "
            f"iterations {done + 1} to {done + length}; correct the environment. What was learnt before is in the last "
            "checkpoint.",
            seed,
            done,
        )


def account(settings: ControlSettings, state: TrainState, done: int, length: int, seconds: float) -> dict[str, float]:
    """What a call took and where it stands.

    Args:
      settings: of the run.
      state: after the call.
      done: iterations before it.
      length: iterations of it.
      seconds: of it.
    """
    env_steps = length * settings.steps_per_iteration
    updates = settings.updates_per_epoch * settings.num_epochs
    rate: Callable = control_optimizers(settings)[1]
    return {
        "env_steps": float(env_steps),
        "learning_rate": float(rate((done + length) * updates - 1)),
        "skipped_updates": float(np.sum(jax.device_get(state.skipped))),
        "step_time": seconds,
        "perf/steps_per_second": env_steps * settings.num_seeds / seconds,
    }


__all__ = ["BY_SEED", "account", "by_seed", "check_finite", "summary"]
