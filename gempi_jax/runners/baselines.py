"""What is taken off a reward to make an advantage, A_i = r_i - b(x)."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.types import Array

Baseline = Callable[[Float[Array, "G K"], Float[Array, "G"] | None], Float[Array, "G K"]]
"""(rewards, V(x) or None) -> advantages."""


def group_mean(rewards: Float[Array, "G K"], values: Float[Array, "G"] | None) -> Float[Array, "G K"]:
    """r - mean of the prompt's K rewards."""
    return rewards - rewards.mean(axis=-1, keepdims=True)


def batch_mean(rewards: Float[Array, "G K"], values: Float[Array, "G"] | None) -> Float[Array, "G K"]:
    """r - mean over the batch."""
    return rewards - rewards.mean()


def learned_value(rewards: Float[Array, "G K"], values: Float[Array, "G"] | None) -> Float[Array, "G K"]:
    """r - V(x), the document's sequence-level advantage."""
    return rewards - values[:, None]


def zero(rewards: Float[Array, "G K"], values: Float[Array, "G"] | None) -> Float[Array, "G K"]:
    """The reward itself."""
    return rewards + jnp.zeros(())


BASELINES: dict[str, Baseline] = {
    "group_mean": group_mean,
    "batch_mean": batch_mean,
    "value": learned_value,
    "zero": zero,
}
