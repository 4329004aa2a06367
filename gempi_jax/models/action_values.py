"""Q(s, a) of states and several actions of each."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from gempi_jax.types import Array

KERNEL = nn.initializers.normal(0.01)
"""Of the last layer, so that a fresh Q is near 0."""


class DiscreteValues(nn.Module):
    """One number for each of ``num_actions`` actions, of which those asked for are returned.

    Attributes:
      torso: observations [N, 1, ...] -> features [N, 1, D].
      num_actions: of the environment.
    """

    torso: nn.Module
    num_actions: int

    @nn.compact
    def __call__(self, observations: Float[Array, "N ..."], actions: Int[Array, "N K"]) -> Float[Array, "N K"]:
        """Q, in units of return."""
        features = self.torso(observations[:, None])[:, 0].astype(jnp.float32)
        values = nn.Dense(self.num_actions, kernel_init=KERNEL, name="values")(features)
        return jnp.take_along_axis(values, actions, axis=-1)


class ContinuousValues(nn.Module):
    """One number for observation and action side by side.

    An environment takes actions outside its bounds as the nearest inside, and so does Q, which sees finite bounds as
    -1 and 1.

    Attributes:
      torso: [N, K, observation and action] -> features [N, K, D].
      low, high: bounds of the actions, one for all or one for each entry; infinite where there is none.
    """

    torso: nn.Module
    low: float | tuple[float, ...] = -np.inf
    high: float | tuple[float, ...] = np.inf

    @nn.compact
    def __call__(self, observations: Float[Array, "N ..."], actions: Float[Array, "N K A"]) -> Float[Array, "N K"]:
        """Q, in units of return."""
        shape, size = actions.shape[:2], actions.shape[-1]
        low, high = (np.broadcast_to(np.asarray(x, np.float32), (1, 1, size)) for x in (self.low, self.high))
        finite = np.isfinite(low) & np.isfinite(high)
        lower, upper = np.where(finite, low, -1.0), np.where(finite, high, 1.0)
        scaled = (2.0 * jnp.clip(actions, low, high) - lower - upper) / (upper - lower)
        flat = observations.reshape(shape[0], 1, -1).astype(jnp.float32)
        both = jnp.concatenate([jnp.broadcast_to(flat, (*shape, flat.shape[-1])), scaled], axis=-1)
        features = self.torso(both).astype(jnp.float32)
        return nn.Dense(1, kernel_init=KERNEL, name="value")(features)[..., 0]


__all__ = ["ContinuousValues", "DiscreteValues"]
