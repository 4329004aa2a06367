"""Linear maps of the last axis."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.types import Array


def matmul(inputs: Float[Array, "*N D"], kernel: Float[Array, "D F"]) -> Float[Array, "*N F"]:
    """inputs @ kernel with all leading axes folded into one.

    Folded, the gradient of the kernel contracts one axis; contracting several, XLA's CPU backend first copies both
    operands into another layout, which took longer than the product (160 ms against 104 ms for a gated MLP's gradient).
    """
    flat = inputs.reshape(-1, inputs.shape[-1])
    return jnp.dot(flat, kernel).reshape(*inputs.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """x W + b with parameters ``kernel`` [D, F] and ``bias`` [F].

    Attributes:
      features: F.
      use_bias: whether there is a bias; it starts at 0.
      dtype: of the computation; the parameters are float32.
      kernel_init: initialiser of the kernel.
    """

    features: int
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Any] = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, inputs: Float[Array, "*N D"]) -> Float[Array, "*N F"]:
        """The mapped vectors, in ``dtype``."""
        kernel = self.param("kernel", self.kernel_init, (inputs.shape[-1], self.features))
        outputs = matmul(inputs.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            outputs = outputs + bias.astype(self.dtype).reshape((1,) * (outputs.ndim - 1) + (-1,))
        return outputs
