"""A whole run: what is trained, on what, judged by what, in which phases."""

import dataclasses
import math

from gempi_jax.runners.settings.checks import require
from gempi_jax.runners.settings.data import DataSettings
from gempi_jax.runners.settings.model import ModelSettings
from gempi_jax.runners.settings.phase import PhaseSettings


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """Greedy held-out evaluation: prompts at a time, and how many completions are kept as text."""

    batch_prompts: int = 128
    num_samples: int = 16

    def __post_init__(self):
        require(self.batch_prompts > 0, "batch_prompts", self.batch_prompts, "must be at least 1")
        require(self.num_samples >= 0, "num_samples", self.num_samples, "must be at least 1, or 0 to keep none")


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """A checkpoint every so many iterations, of which the latest ``keep`` stay."""

    every: int = 10
    keep: int = 2

    def __post_init__(self):
        for name in ("every", "keep"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be at least 1")


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis; their product is the number of devices used."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """A whole run: what is trained, on what, judged by what, in which phases.

    Attributes:
      model, data, eval, checkpoint, mesh: see their classes.
      rewards: name -> weight; a name of ``runners.tasks.REWARDS``, ``package.module:function``, ``file.py:function``,
        or ``classifier:DIR?label=NAME``, see ``runners.tasks``.
      reward_functions: more of them, ``NAME`` or ``WEIGHT*NAME``: keys of a config hold no dots, as names of files do.
      phases: by name, in order.
      seed: of everything random.
      max_skips_in_a_row: the run ends with an error after so many iterations in a row that could make no update,
        since a loss, a reward or a gradient was not finite.
      preemption_grace_seconds: from a signal until the run is saved from outside the main thread.
      keep_boundary: one more copy of the state on the devices, so that a signal is answered at any moment; without it
        one that comes once the M-step has begun is answered after the iteration.
    """

    model: ModelSettings
    data: DataSettings
    rewards: dict[str, float]
    phases: dict[str, PhaseSettings]
    eval: EvalSettings = EvalSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    mesh: MeshSettings = MeshSettings()
    reward_functions: tuple[str, ...] = ()
    seed: int = 0
    max_skips_in_a_row: int = 5
    preemption_grace_seconds: float = 1.0
    keep_boundary: bool = True

    def __post_init__(self):
        # Larger ones lose their upper bits, and two runs would be one.
        require(-(2**31) <= self.seed < 2**31, "seed", self.seed, "must be in [-2**31, 2**31)")
        require(self.max_skips_in_a_row > 0, "max_skips_in_a_row", self.max_skips_in_a_row, "must be at least 1")
        grace = self.preemption_grace_seconds
        require(0 <= grace < math.inf, "preemption_grace_seconds", grace, "must be a number of at least 0")
