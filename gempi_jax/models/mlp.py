"""The position-wise part of a block."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.models.config import DecoderConfig
from gempi_jax.models.dense import Dense
from gempi_jax.types import Array


class MLP(nn.Module):
    """down(activation(gate(x)) * up(x)), or down(activation(up(x))) when not gated."""

    config: DecoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """Maps every position by itself."""
        config = self.config

        def dense(width, spread, name):
            kernel = nn.initializers.normal(spread)
            return Dense(width, use_bias=config.mlp_bias, dtype=self.dtype, kernel_init=kernel, name=name)

        spread = config.initializer_range
        up = dense(config.intermediate_size, spread, "up_proj")(hidden)
        if config.gated:
            up = config.activation(dense(config.intermediate_size, spread, "gate_proj")(hidden)) * up
        else:
            up = config.activation(up)
        return dense(config.hidden_size, spread / math.sqrt(2 * config.num_layers), "down_proj")(up)
