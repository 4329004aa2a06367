"""Normalisation of activations, accumulated in float32 whatever the activations are."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.models.config import RMS, Layer
from gempi_jax.types import Array


class Norm(nn.Module):
    """RMS or layer normalisation over the last axis.

    Attributes:
      kind: which of the two, with its constants.
      dtype: of the result.
    """

    kind: RMS | Layer
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """Normalises ``inputs``; the parameters are ``scale`` and, for layer normalisation, ``bias``."""
        width = inputs.shape[-1]
        # One leading axis: XLA's CPU backend fuses the row statistics better than over several.
        values = inputs.reshape(-1, width).astype(jnp.float32)
        if isinstance(self.kind, Layer):
            scale = self.param("scale", nn.initializers.ones_init(), (width,))
            bias = self.param("bias", nn.initializers.zeros_init(), (width,))
            centred = values - values.mean(-1, keepdims=True)
            normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.kind.epsilon)
            normal = normal * scale[None] + bias[None]
        else:
            scale = self.param("scale", nn.initializers.constant(1.0 - self.kind.offset), (width,))
            normal = values * jax.lax.rsqrt(jnp.square(values).mean(-1, keepdims=True) + self.kind.epsilon)
            normal = normal * (scale + self.kind.offset)[None]
        return normal.astype(self.dtype).reshape(inputs.shape)
