"""How a sub-layer's output y joins the stream x that it was computed from (Parisotto et al. 2019, section 3.2).

A gate is a module ``gate(x, y)``; the residual sum is one of them.  All have kernels alone, but for the bias b_g that
starts a gate near the identity, so that a fresh policy reacts to what it sees now.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.models.dense import Dense
from gempi_jax.types import Array

KERNEL = nn.initializers.lecun_normal()


class Gate(nn.Module):
    """What all gates share.

    Attributes:
      bias: b_g at the start; a parameter of each gate that has one.
      dtype: of the computation.
    """

    bias: float = 1.0
    dtype: Any = jnp.float32

    def linear(self, inputs: Float[Array, "*N D"], name: str, parts: int = 1) -> Float[Array, "*N F"]:
        """W inputs, for ``parts`` maps of D to D side by side in one product."""
        return Dense(parts * inputs.shape[-1], dtype=self.dtype, kernel_init=KERNEL, name=name)(inputs)

    def offset(self, like: Float[Array, "*N D"]) -> Float[Array, "..."]:
        """b_g [D], with the leading axes that it needs beside ``like``."""
        bias = self.param("bias", nn.initializers.constant(self.bias), (like.shape[-1],))
        return bias.astype(self.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


class Residual(Gate):
    """x + y: no gate."""

    def __call__(self, x: Float[Array, "*N D"], y: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """The sum."""
        return x + y


class InputGate(Gate):
    """sigmoid(W x) x + y; without a bias."""

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"], y: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """The gated stream."""
        return jax.nn.sigmoid(self.linear(x, "stream")) * x + y


class OutputGate(Gate):
    """x + sigmoid(W x - b_g) y."""

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"], y: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """The gated stream."""
        return x + jax.nn.sigmoid(self.linear(x, "stream") - self.offset(x)) * y


class HighwayGate(Gate):
    """s x + (1 - s) y with s = sigmoid(W x + b_g)."""

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"], y: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """The gated stream."""
        share = jax.nn.sigmoid(self.linear(x, "stream") + self.offset(x))
        return y + share * (x - y)


class SigmoidTanhGate(Gate):
    """x + sigmoid(W y - b_g) tanh(U y)."""

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"], y: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """The gated stream."""
        gate, value = jnp.split(self.linear(y, "output", 2), 2, axis=-1)
        return x + jax.nn.sigmoid(gate - self.offset(x)) * jnp.tanh(value)


class GRUGate(Gate):
    """(1 - z) x + z h of the method document, appendix B.

    r = sigmoid(W_r y + U_r x), z = sigmoid(W_z y + U_z x - b_g), h = tanh(W_g y + U_g (r x)).

    Parameters: ``output`` holds W_r, W_z, W_g side by side, ``stream`` U_r and U_z, ``candidate`` U_g.
    """

    bias: float = 2.0

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"], y: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """The gated stream."""
        of_y_r, of_y_z, of_y_h = jnp.split(self.linear(y, "output", 3), 3, axis=-1)
        of_x_r, of_x_z = jnp.split(self.linear(x, "stream", 2), 2, axis=-1)
        reset = jax.nn.sigmoid(of_y_r + of_x_r)
        update = jax.nn.sigmoid(of_y_z + of_x_z - self.offset(x))
        candidate = jnp.tanh(of_y_h + self.linear(reset * x, "candidate"))
        return x + update * (candidate - x)


__all__ = ["GRUGate", "Gate", "HighwayGate", "InputGate", "OutputGate", "Residual", "SigmoidTanhGate"]
