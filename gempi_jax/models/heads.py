"""Small heads on a hidden state."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.types import Array


class ValueHead(nn.Module):
    """V(x): a two-layer MLP from a hidden state to one number, in float32.

    Attributes:
      width: of the hidden layer; ``None`` for as wide as the input.
      bias_init: V of a fresh head, near enough: its last kernel starts small.
    """

    width: int | None = None
    bias_init: float = 0.0

    @nn.compact
    def __call__(self, hidden: Float[Array, "*N D"]) -> Float[Array, "*N"]:
        """The value of each hidden state, in units of reward."""
        values = hidden.astype(jnp.float32)
        values = jax.nn.gelu(nn.Dense(self.width or hidden.shape[-1], name="dense")(values))
        last = nn.Dense(
            1,
            kernel_init=nn.initializers.normal(0.01),
            bias_init=nn.initializers.constant(self.bias_init),
            name="value",
        )
        return last(values)[..., 0]


class ActionValueHead(nn.Module):
    """Q(s, .): one number for each of ``num_actions`` discrete actions, linear in the features, in float32."""

    num_actions: int

    @nn.compact
    def __call__(self, features: Float[Array, "*N D"]) -> Float[Array, "*N V"]:
        """The value of each action, in units of return; near 0 at first."""
        dense = nn.Dense(self.num_actions, kernel_init=nn.initializers.normal(0.01), name="action_values")
        return dense(features.astype(jnp.float32))
