"""What becomes of rewards before they are weighed: one of the tuple's choices, as values.

Each reads :class:`~gempi_jax.contracts.Samples` and returns advantages; those that compare samples of a group take all
that follows axis 0 as the group.  Equal rewards give exactly 0: their mean may differ from them by rounding, so a
statistic is taken of differences.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.contracts import Samples
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import LARGEST, require
from gempi_jax.numerics.masked import centre, real, standardize
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Given:
    """A_i as the world made them: rewards less its baseline, or a critic's."""

    by_group = False
    from_rewards = False

    def __call__(self, samples: Samples, axis_name: AxisName = None) -> Float[Array, "*E"]:
        """A_i."""
        return samples.advantages


@dataclasses.dataclass(frozen=True)
class Standardized:
    """(A - mean) / std over the batch, as DAR has it (He et al. 2025, algorithm 1) and PPO, which calls it whitening.

    Attributes:
      ddof: 1 divides the variance by N - 1, as TRL's PPO does; 0 by N.
    """

    ddof: int = 0
    by_group = False
    from_rewards = False

    def __post_init__(self):
        require(self.ddof in (0, 1), f"Standardized.ddof is {self.ddof}: 1 divides by N - 1, 0 by N.")

    def __call__(self, samples: Samples, axis_name: AxisName = None) -> Float[Array, "*E"]:
        """Zero mean and unit standard deviation; zeros where all are equal; what is no number stays."""
        advantages = samples.advantages
        usable = real(advantages, samples.mask) & (jnp.abs(advantages) < LARGEST)
        standard = standardize(advantages, where=usable, axis_name=axis_name)
        number = reductions.count(usable, axis_name=axis_name).astype(standard.dtype)
        scaled = standard * jnp.sqrt(jnp.maximum(number - self.ddof, 0.0) / jnp.maximum(number, 1.0))
        return jnp.where(usable, scaled, advantages)


@dataclasses.dataclass(frozen=True)
class Rewards:
    """r_i less a constant, whatever the world's baseline: samples are compared over the batch, not with their group.

    Attributes:
      less: the constant, units of reward; the middle of binary rewards makes them signs (TOPR).
    """

    less: float = 0.0
    by_group = False
    from_rewards = True

    def __post_init__(self):
        require(math.isfinite(self.less), f"Rewards.less is {self.less}: give a finite number, in units of reward.")

    def __call__(self, samples: Samples, axis_name: AxisName = None) -> Float[Array, "*E"]:
        """A_i."""
        return given_rewards(samples) - self.less


@dataclasses.dataclass(frozen=True)
class GroupCentred:
    """r_i minus the mean reward of its group."""

    by_group = True
    from_rewards = True

    def __call__(self, samples: Samples, axis_name: AxisName = None) -> Float[Array, "*E"]:
        """A_i."""
        rewards, mask = grouped(samples)
        return centre(rewards, where=mask, axis=-1).reshape(samples.advantages.shape)


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """r_i minus the mean of the others' rewards: K / (K - 1) times r_i - mean(r) (RLOO, Ahmadian et al. 2024)."""

    by_group = True
    from_rewards = True

    def __call__(self, samples: Samples, axis_name: AxisName = None) -> Float[Array, "*E"]:
        """A_i, 0 for a sample without others."""
        rewards, mask = grouped(samples)
        number = jnp.sum(mask, axis=-1, keepdims=True).astype(rewards.dtype)
        scale = jnp.where(number > 1, number / jnp.maximum(number - 1, 1), 0.0)
        return (scale * centre(rewards, where=mask, axis=-1)).reshape(samples.advantages.shape)


@dataclasses.dataclass(frozen=True)
class GroupStandardized:
    """(r - mean) / (std + epsilon) over the group (GRPO, Shao et al. 2024).

    Attributes:
      epsilon: added to the standard deviation, units of reward.
      ddof: 1 divides the variance by K - 1, as TRL does; 0 by K.
    """

    epsilon: float = 1e-4
    ddof: int = 1
    by_group = True
    from_rewards = True

    def __post_init__(self):
        require(self.epsilon >= 0, f"GroupStandardized.epsilon is {self.epsilon}: give at least 0, in units of reward.")
        require(self.ddof in (0, 1), f"GroupStandardized.ddof is {self.ddof}: 1 divides by K - 1, 0 by K.")

    def __call__(self, samples: Samples, axis_name: AxisName = None) -> Float[Array, "*E"]:
        """A_i; zeros where the group's rewards are all equal."""
        rewards, mask = grouped(samples)
        deviations = centre(rewards, where=mask, axis=-1)
        number = jnp.sum(mask, axis=-1, keepdims=True).astype(rewards.dtype)
        variance = jnp.sum(jnp.square(deviations), axis=-1, keepdims=True) / jnp.maximum(number - self.ddof, 1.0)
        spread = jnp.sqrt(jnp.where(variance > 0, variance, 1.0)) * (variance > 0) + self.epsilon
        return (deviations / jnp.where(spread > 0, spread, 1.0)).reshape(samples.advantages.shape)


@dataclasses.dataclass(frozen=True)
class RatioToMean:
    """(r_i - mean) / mean over the group, for rewards of at least 0 (MaxRL, 2602.02710); 0 where the mean is none."""

    by_group = True
    from_rewards = True

    def __call__(self, samples: Samples, axis_name: AxisName = None) -> Float[Array, "*E"]:
        """A_i; zeros in a group without a reward above 0, or with one below."""
        rewards, mask = grouped(samples)
        mean = jnp.mean(rewards, axis=-1, keepdims=True, where=mask)
        counts = (mean > 0) & jnp.all(rewards >= 0, axis=-1, keepdims=True, where=mask)
        deviations = centre(rewards, where=mask, axis=-1)
        return jnp.where(counts, deviations / jnp.where(counts, mean, 1.0), 0.0).reshape(samples.advantages.shape)


@dataclasses.dataclass(frozen=True)
class GroupRank:
    """How many of its group a sample beats, less how many beat it, over the number of the others: in [-1, 1].

    Above 0 is the better half of a group, below 0 the worse; samples that tie have one rank, and so lie in one half.
    """

    by_group = True
    from_rewards = True

    def __call__(self, samples: Samples, axis_name: AxisName = None) -> Float[Array, "*E"]:
        """A_i, 0 for a sample without others."""
        rewards, mask = grouped(samples)
        # What is not real stands behind all that is, and is counted by nobody.
        ordered = jnp.sort(jnp.where(mask, rewards, jnp.inf), axis=-1)
        number = jnp.sum(mask, axis=-1, keepdims=True)
        below, up_to = (jax.vmap(functools.partial(jnp.searchsorted, side=side)) for side in ("left", "right"))
        ranks = below(ordered, rewards) - (number - up_to(ordered, rewards))
        ranks = jnp.where(mask, ranks / jnp.maximum(number - 1, 1), 0.0).astype(rewards.dtype)
        return ranks.reshape(samples.advantages.shape)


def given_rewards(samples: Samples) -> Float[Array, "*E"]:
    """The rewards.

    Raises:
      ValueError: samples without.
    """
    if samples.rewards is None:
        raise ValueError("Samples.rewards is None: this transform starts from the rewards themselves; give them.")
    return samples.rewards


def grouped(samples: Samples) -> tuple[Float[Array, "G E"], Array]:
    """Rewards and mask, all that follows axis 0 in one axis.

    Raises:
      ValueError: samples without rewards, or without groups.
    """
    given = given_rewards(samples)
    if given.ndim < 2:
        raise ValueError(f"rewards {given.shape}: groups need a second axis, [G, K].")
    rewards = given.reshape(given.shape[0], -1)
    return rewards, real(given, samples.mask).reshape(rewards.shape)


Transform = Given | Standardized | Rewards | GroupCentred | LeaveOneOut | GroupStandardized | RatioToMean | GroupRank
"""How rewards become advantages."""
