"""Linear maps of the last axis."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float

from gempi_jax.types import Array


def matmul(inputs: Float[Array, "*N D"], kernel: Float[Array, "D F"]) -> Float[Array, "*N F"]:
    """inputs @ kernel, with all leading axes folded into one.

    Folded, the gradient of the kernel contracts one axis; contracting several, XLA's CPU backend first copies both
    operands into another layout, which took longer than the product (160 ms against 104 ms for a gated MLP's gradient).
    """
    flat = inputs.reshape(-1, inputs.shape[-1])
    return product(flat, kernel).reshape(*inputs.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def product(rows: Float[Array, "N D"], kernel: Float[Array, "D F"], dtype: Any = None) -> Float[Array, "N F"]:
    """rows @ kernel, whose gradient in the kernel is a product of two matrices as they lie in memory.

    rows^T cotangent is what differentiation makes of it, a product down the columns of both, at 100 to 220 GFLOP/s by
    shape on a core that multiplies rows with columns at 220 to 240.  So the rows are transposed first, which costs N D
    moves for N D F products.

    Args:
      rows: N vectors.
      kernel: what multiplies them.
      dtype: that is accumulated in and returned; ``None`` for the operands' own.
    """
    return jnp.dot(rows, kernel, preferred_element_type=dtype)


def _product_tangent(dtype, primals, tangents):
    """d rows @ kernel + rows @ d kernel, the second such that its transpose multiplies what lies transposed already."""
    (rows, kernel), (of_rows, of_kernel) = primals, tangents
    terms = []
    if not isinstance(of_rows, SymbolicZero):
        terms.append(jnp.dot(of_rows, kernel, preferred_element_type=dtype))
    if not isinstance(of_kernel, SymbolicZero):
        # Without the barriers XLA folds transposes into the product again: this one, and that of a tied head's kernel.
        columns, of_kernel = jax.lax.optimization_barrier(rows.T), jax.lax.optimization_barrier(of_kernel)
        first = (((0,), (0,)), ((), ()))
        terms.append(jax.lax.dot_general(columns, of_kernel, first, preferred_element_type=dtype))
    value = product(rows, kernel, dtype)
    return value, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(value)


product.defjvp(_product_tangent, symbolic_zeros=True)


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
