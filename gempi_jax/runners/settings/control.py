"""A run in environments: where, with which networks and critic, by which method, for how long."""

import dataclasses
import math
from typing import Any

from gempi_jax.runners.settings.checks import at_least_one, require
from gempi_jax.runners.settings.optimizer import DualSettings, OptimizerSettings
from gempi_jax.runners.settings.run import CheckpointSettings, MeshSettings


@dataclasses.dataclass(frozen=True)
class EnvironmentSettings:
    """Where the policy acts.

    Attributes:
      name: of :func:`gempi_jax.rl.make`.
      options: of that environment.
      normalize: on the host, observations less their moving mean, over their moving deviation.
      overlapped: on the host, the next unroll is collected while the last is learnt from, by a policy an iteration old:
        faster, and less is learnt from a step.
    """

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    normalize: bool = False
    overlapped: bool = False


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """Torso, core and head; the core's kind is ``config.core``.

    Attributes:
      torso: mlp (dense layers on the flattened observation), cnn or resnet (on pictures [H, W, channels]).
      torso_widths: of dense layers.
      channels: of a cnn's or resnet's convolutions.
      scale: what pictures are multiplied by first; 1/255 for bytes.
      activation: tanh or relu, of the mlp torso.
      width: of the core; of an mlp core the one layer, and 0 has none.
      num_layers, num_heads, mlp_width, memory_length: of a transformer core.
      gate: of gtrxl: gru, output, input, highway or sigmoid_tanh.
      previous: whether the core reads the last action and reward.
      distribution: of continuous actions: gaussian, or tanh_gaussian, which keeps within finite bounds.
      initial_scale: of a Gaussian, its standard deviation at the start.
      dtype: of a core's activations and memory.
    """

    torso: str = "mlp"
    torso_widths: tuple[int, ...] = (64,)
    channels: tuple[int, ...] = (16,)
    scale: float = 1.0
    activation: str = "relu"
    width: int = 32
    num_layers: int = 2
    num_heads: int = 2
    mlp_width: int = 64
    memory_length: int = 32
    gate: str = "gru"
    previous: bool = False
    distribution: str = "gaussian"
    initial_scale: float = 1.0
    dtype: str = "float32"

    def __post_init__(self):
        at_least_one(self, "num_layers", "num_heads", "mlp_width", "memory_length")
        require(self.width >= 0, "width", self.width, "must be at least 1, or 0 for an mlp core without a layer")


@dataclasses.dataclass(frozen=True)
class CriticSettings:
    """V, and how it makes advantages.

    Attributes:
      estimator: gae, unroll_returns (V-MPO's: rewards to the unroll's end, then V), n_step_returns, vtrace.
      lam: of gae and vtrace.
      n: of n_step_returns.
      gamma: what the next step counts.
      features: own (a network of its own, as the policy's), shared (the policy's, which its loss moves, too) or
        detached (the policy's, left as they are).
      coefficient: of the value loss.
      value_clip: V that has moved so far towards its target stops, units of return; 0 without.
      popart: step size of moving statistics of the returns, by which V learns normalised ones (PopArt); 0 without.
    """

    estimator: str = "gae"
    lam: float = 0.95
    n: int = 5
    gamma: float = 0.99
    features: str = "shared"
    coefficient: float = 0.5
    value_clip: float = 0.0
    popart: float = 0.0

    def __post_init__(self):
        require(0 <= self.gamma <= 1, "gamma", self.gamma, "a discount lies in [0, 1]")
        require(0 < self.coefficient < math.inf, "coefficient", self.coefficient, "must be above 0, finite")
        require(self.value_clip >= 0, "value_clip", self.value_clip, "must be above 0, or 0 for none")
        require(0 <= self.popart < 1, "popart", self.popart, "must be in (0, 1), or 0 for none")


@dataclasses.dataclass(frozen=True)
class ReplaySettings:
    """Unrolls of earlier policies, from which an iteration learns; for cores that remember nothing.

    Attributes:
      capacity: unrolls of each environment that are kept; 0 learns from each unroll once, as it comes.
      batch: unrolls that an iteration draws; its updates are cut from them, or, with Q, from their states.
    """

    capacity: int = 0
    batch: int = 64

    def __post_init__(self):
        at_least_one(self, "batch")
        require(self.capacity >= 0, "capacity", self.capacity, "must be at least 1, or 0 for none")


@dataclasses.dataclass(frozen=True)
class ActionValueSettings:
    """Q(s, a), of a network of its own, for methods that compare the actions of a state: mpo, on a replay.

    Attributes:
      torso_widths: of its dense layers, activation relu.
      num_samples: K, actions of pi_t that are sampled in a state; 0 takes all of a discrete environment.
      backup: of its targets: n_step, or retrace, which corrects for who acted.
      n: of n_step; 1 is right whoever acted.
      lam: of retrace.
      learning_rate: of its Adam.
      period: iterations between refreshes of the network that makes targets.
    """

    torso_widths: tuple[int, ...] = (128, 128)
    num_samples: int = 16
    backup: str = "n_step"
    n: int = 1
    lam: float = 1.0
    learning_rate: float = 1e-3
    period: int = 4

    def __post_init__(self):
        at_least_one(self, "n", "period")
        require(self.num_samples >= 0, "num_samples", self.num_samples, "must be at least 2, or 0 for all actions")


@dataclasses.dataclass(frozen=True)
class PlaySettings:
    """Episodes of the greedy policy, by which a run is judged at its beginning and its end.

    Attributes:
      episodes: of each seed; 0 judges by what the sampled policy earns alone.
      every: iterations between judgements on the way; 0 for none.
    """

    episodes: int = 16
    every: int = 0

    def __post_init__(self):
        for name in ("episodes", "every"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be at least 1, or 0 for none")


ADAM = OptimizerSettings(name="adam", learning_rate=1e-3, schedule="linear", max_grad_norm=0.5)
"""What small networks learn with in a few hundred thousand steps."""


@dataclasses.dataclass(frozen=True)
class ControlSettings:
    """A whole run in environments.

    Attributes:
      environment, network, critic, action_values, replay, eval, optimizer, duals, checkpoint, mesh: see their classes.
      method: a name of ``gempi_jax.methods.METHODS``, or virel, with ``method_args`` for its factory.
      core: gtrxl, trxl_i, trxl, lstm, gru, or mlp, which remembers nothing.
      entropy_coefficient: of a bonus on the policy's entropy.  entropy_schedule: constant, linear, or cosine to 0.
      env_steps: of each seed, over all its environments; the run ends with the iteration that reaches it.
      num_environments: B.  unroll_length: T.  One iteration acts for B T steps.
      updates_per_epoch: optimiser steps per pass over an iteration's unrolls, cut by environment, or over what it draws
        from the replay.  num_epochs: passes.
      old_period: T_target, iterations between refreshes of pi_t, which acts.
      num_seeds: runs side by side in one program, from ``seed`` on.
      log_every: iterations in one call, and in one row of ``metrics.jsonl``.
      max_skips_in_a_row: the run ends with an error after so many iterations in a row that no seed could learn from.
      preemption_grace_seconds: from a signal until the run is saved from outside the main thread.
    """

    environment: EnvironmentSettings
    network: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
    critic: CriticSettings = dataclasses.field(default_factory=CriticSettings)
    action_values: ActionValueSettings = dataclasses.field(default_factory=ActionValueSettings)
    replay: ReplaySettings = dataclasses.field(default_factory=ReplaySettings)
    method: str = "vmpo"
    method_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    core: str = "mlp"
    entropy_coefficient: float = 0.0
    entropy_schedule: str = "constant"
    env_steps: int = 250_000
    num_environments: int = 16
    unroll_length: int = 64
    updates_per_epoch: int = 4
    num_epochs: int = 4
    old_period: int = 1
    optimizer: OptimizerSettings = ADAM
    duals: DualSettings = dataclasses.field(default_factory=DualSettings)
    eval: PlaySettings = dataclasses.field(default_factory=PlaySettings)
    checkpoint: CheckpointSettings = dataclasses.field(default_factory=CheckpointSettings)
    mesh: MeshSettings = dataclasses.field(default_factory=MeshSettings)
    num_seeds: int = 1
    seed: int = 0
    log_every: int = 5
    max_skips_in_a_row: int = 50
    preemption_grace_seconds: float = 1.0

    def __post_init__(self):
        counts = ("env_steps", "num_environments", "unroll_length", "updates_per_epoch", "num_epochs", "old_period")
        at_least_one(self, *counts, "num_seeds", "log_every", "max_skips_in_a_row")
        require(
            self.replay.capacity > 0 or self.num_environments % self.updates_per_epoch == 0,
            "num_environments",
            self.num_environments,
            f"must be a multiple of updates_per_epoch = {self.updates_per_epoch}: updates are cut by environment",
        )
        last = self.seed + self.num_seeds
        require(self.seed >= -(2**31) and last <= 2**31, "seed", self.seed, "all seeds must be in [-2**31, 2**31)")
        grace = self.preemption_grace_seconds
        require(0 <= grace < math.inf, "preemption_grace_seconds", grace, "must be a number of at least 0")
        require(
            self.mesh.fsdp == self.mesh.tensor == 1,
            "mesh",
            dataclasses.asdict(self.mesh),
            "control is spread over data alone: set fsdp and tensor to 1",
        )
        data, seeds = self.mesh.data, self.num_seeds
        environments = 0 if self.replay.capacity else self.num_environments // self.updates_per_epoch
        require(
            seeds % data == 0 or (environments > 0 and environments % data == 0),
            "mesh.data",
            data,
            f"must divide num_seeds = {seeds}, or the {environments} environments of an update",
        )

    @property
    def steps_per_iteration(self) -> int:
        """Of one seed."""
        return self.num_environments * self.unroll_length

    @property
    def num_iterations(self) -> int:
        """The fewest that reach ``env_steps``."""
        return -(-self.env_steps // self.steps_per_iteration)
