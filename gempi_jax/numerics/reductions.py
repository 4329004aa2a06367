"""Masked reductions over array axes and mapped device axes: the only file that names a collective.

Under plain ``jit`` with sharded arrays ``axis_name`` stays ``None`` and the compiler inserts the communication; inside
``jax.shard_map`` or ``jax.pmap`` it is the name (or names) of the mapped axes over which the examples are spread.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int, Num

from gempi_jax.types import Array

Axis = int | tuple[int, ...] | None
AxisName = str | tuple[str, ...] | None


def check_mask(x: Array, where: Array | None) -> None:
    """Raises ``ValueError`` unless a mask has one flag for each entry: one that broadcasts counts entries twice."""
    if where is not None and where.shape != x.shape:
        raise ValueError(f"the mask has shape {where.shape}, the array {x.shape}; give one flag for each entry.")


def sum(x: Num[Array, "*E"], *, where: Bool[Array, "*E"] | None = None, axis: Axis = None, axis_name: AxisName = None):
    """Sum of the unmasked entries; 0 where none is left."""
    check_mask(x, where)
    total = jnp.sum(x, axis=axis, where=where)
    return total if axis_name is None else lax.psum(total, axis_name)


def max(
    x: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
    keepdims: bool = False,
):
    """Largest unmasked entry, ``-inf`` where none is left. Not differentiated: it serves as a shift or a report."""
    check_mask(x, where)
    largest = jnp.max(lax.stop_gradient(x), axis=axis, where=where, initial=-jnp.inf, keepdims=keepdims)
    return largest if axis_name is None else lax.pmax(largest, axis_name)


def max_int(x: Int[Array, "*E"], *, axis_name: AxisName = None) -> Int[Array, ""]:
    """Largest entry of all."""
    largest = jnp.max(x)
    return largest if axis_name is None else lax.pmax(largest, axis_name)


def min(
    x: Float[Array, "*E"], *, where: Bool[Array, "*E"] | None = None, axis: Axis = None, axis_name: AxisName = None
):
    """Smallest unmasked entry, ``+inf`` where none is left. Not differentiated."""
    return -max(-x, where=where, axis=axis, axis_name=axis_name)


def count(where: Bool[Array, "*E"], *, axis: Axis = None, axis_name: AxisName = None):
    """Number of true entries, int32."""
    return sum(where.astype(jnp.int32), axis=axis, axis_name=axis_name)


def mean(
    x: Float[Array, "*E"], *, where: Bool[Array, "*E"] | None = None, axis: Axis = None, axis_name: AxisName = None
):
    """Mean of the unmasked entries; 0 where none is left."""
    counted = jnp.ones(x.shape, jnp.int32) if where is None else where.astype(jnp.int32)
    number = sum(counted, axis=axis, axis_name=axis_name).astype(x.dtype)
    return sum(x, where=where, axis=axis, axis_name=axis_name) / jnp.maximum(number, 1.0)


def logsumexp(
    x: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
    keepdims: bool = False,
):
    """log sum exp of the unmasked entries: ``-inf`` with gradient zero where none is left, never NaN.

    The mask acts before the exponential, so a masked entry may hold anything; the shift by the masked maximum keeps
    the largest term at exp(0), (28).
    """
    check_mask(x, where)
    if where is not None:
        x = jnp.where(where, x, -jnp.inf)
    shift = max(x, axis=axis, axis_name=axis_name, keepdims=True)
    shift = jnp.where(jnp.isfinite(shift), shift, 0.0)
    # exp(-inf) is 0 with derivative 0, but -inf minus the shift keeps a NaN-free tangent only if x itself is finite.
    finite = x > -jnp.inf
    terms = jnp.where(finite, jnp.exp(jnp.where(finite, x, shift) - shift), 0.0)
    total = jnp.sum(terms, axis=axis, keepdims=True)
    total = total if axis_name is None else lax.psum(total, axis_name)
    some = total > 0
    result = jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + shift, -jnp.inf)
    return result if keepdims else jnp.squeeze(result, axis=tuple(range(x.ndim)) if axis is None else axis)


def global_index(shape: tuple[int, ...], *, axis_name: AxisName = None) -> Int[Array, "..."]:
    """Position of every entry in the flattened global array, whose leading axis is spread over ``axis_name``."""
    size = 1
    for length in shape:
        size *= length
    index = lax.iota(jnp.int32, size).reshape(shape)
    return index if axis_name is None else index + jnp.int32(size) * lax.axis_index(axis_name).astype(jnp.int32)


def detach(tree):
    """Cuts the gradient: the one spelling of sg[.] in (2)."""
    return jax.tree.map(lax.stop_gradient, tree)
