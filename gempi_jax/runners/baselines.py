"""What is taken off a reward to make an advantage, A_i = r_i - b(x), and which rewards it compares."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.numerics import centre, telling
from gempi_jax.types import Array


class Baseline(NamedTuple):
    """b(x), as a function of rewards.

    Attributes:
      subtract: rewards -> advantages.
      by_group: a sample is compared with the others of its prompt alone, so that a prompt whose rewards are all equal
        tells nothing; else with the batch.
    """

    subtract: Callable[[Float[Array, "G K"]], Float[Array, "G K"]]
    by_group: bool = False

    def __call__(self, rewards: Float[Array, "G K"]) -> Float[Array, "G K"]:
        """The advantages."""
        return self.subtract(rewards)

    def signal(self, rewards: Float[Array, "G K"]) -> Bool[Array, "G K"]:
        """The samples whose reward differs from another one that they are compared with.

        Judged by the rewards themselves: equal ones minus their mean are rounding, and minus a learned V(x) they are
        the errors of V, which say nothing of the completions.
        """
        return telling(rewards, axis=-1 if self.by_group else None)


def group_mean(rewards: Float[Array, "G K"]) -> Float[Array, "G K"]:
    """r - mean of the prompt's K rewards."""
    return centre(rewards, axis=-1)


def batch_mean(rewards: Float[Array, "G K"]) -> Float[Array, "G K"]:
    """r - mean over the batch."""
    return centre(rewards)


def zero(rewards: Float[Array, "G K"]) -> Float[Array, "G K"]:
    """The reward itself."""
    return rewards + jnp.zeros(())


BASELINES: dict[str, Baseline] = {
    "group_mean": Baseline(group_mean, by_group=True),
    "batch_mean": Baseline(batch_mean),
    # A critic makes the advantages, see `Plan`; what it starts from are the rewards themselves.
    "value": Baseline(zero),
    "zero": Baseline(zero),
}
