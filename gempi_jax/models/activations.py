"""Activation functions under the names that configurations compare by."""

import jax
from jaxtyping import Float

from gempi_jax.types import Array


def gelu(values: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """x Phi(x), with the exact normal distribution function."""
    return jax.nn.gelu(values, approximate=False)


def gelu_tanh(values: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """x Phi(x), with the approximation by tanh that GPT-2 and Gemma were trained with."""
    return jax.nn.gelu(values, approximate=True)
