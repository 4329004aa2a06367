"""Exactly the k largest of a global batch, without a sort.

A float is mapped to an unsigned integer of the same order and the k-th largest integer is found bit by bit, four bits
in a pass, by counting.  Counts add over devices, so the selection never depends on how the batch is spread; a
comparison of integers has no rounding, so ties are seen as ties and broken by a second score, then by the index.
"""

from fractions import Fraction

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, UInt32

from gempi_jax.numerics import reductions
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array

_BITS = 4


def sortable(scores: Float[Array, "*E"]) -> UInt32[Array, "*E"]:
    """Unsigned integers in the order of the floats: -0 equals +0, and 0 is left free for what must not be chosen."""
    bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32) + 0.0, jnp.uint32)
    negative = bits >> 31 == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))


def selection_size(fraction: float, number: Int[Array, ""]) -> Int[Array, ""]:
    """k = max(1, floor(fraction * number)) in integers: 0.29 of 100 is 29, as written, not 28."""
    exact = Fraction(fraction).limit_denominator(10_000)
    blocks, rest = number // exact.denominator, number % exact.denominator
    return jnp.maximum(1, blocks * exact.numerator + rest * exact.numerator // exact.denominator)


def kth_largest(keys: UInt32[Array, "*E"], k: Int[Array, ""], *, axis_name: AxisName = None) -> UInt32[Array, ""]:
    """The largest t for which at least k keys are >= t."""
    digits = jnp.arange(1, 1 << _BITS, dtype=jnp.uint32)

    def refine(step, prefix):
        shift = (32 - _BITS - _BITS * step).astype(jnp.uint32)
        candidates = prefix + (digits << shift)
        counts = jnp.stack([jnp.sum(keys >= candidate, dtype=jnp.int32) for candidate in candidates])
        counts = reductions.sum(counts, axis=(), axis_name=axis_name)
        # Counts fall as candidates rise: the number that still reach k is the digit.
        return prefix + (jnp.sum(counts >= k, dtype=jnp.uint32) << shift)

    return jax.lax.fori_loop(0, 32 // _BITS, refine, jnp.uint32(0))


def _take(candidates: Bool[Array, "*E"], keys: UInt32[Array, "*E"], k: Int[Array, ""], axis_name: AxisName):
    """Splits into entries that are surely among the k largest and those tied at the boundary, with what is missing."""
    keys = jnp.where(candidates, keys, jnp.uint32(0))
    threshold = jnp.maximum(kth_largest(keys, k, axis_name=axis_name), jnp.uint32(1))
    sure = keys > threshold
    missing = k - reductions.count(sure, axis_name=axis_name)
    return sure, keys == threshold, missing


def top_k_mask(
    scores: Float[Array, "*E"],
    fraction: float,
    *,
    where: Bool[Array, "*E"] | None = None,
    total: Bool[Array, "*E"] | None = None,
    tie_break: Float[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Bool[Array, "*E"]:
    """Marks exactly k = max(1, floor(fraction * N)) of the N real entries with the largest scores.

    Args:
      scores: what to sort by; NaN counts as masked.
      fraction: rho in (0, 1].
      where: the entries that may be chosen.
      total: the entries that N counts, when some of them may not be chosen; ``where`` by default.
      tie_break: second score among equal first scores; after it the lower global index wins.
      axis_name: mapped axes over which the leading axis is spread.

    Returns:
      The selection S; all false only where nothing is real.

    Raises:
      ValueError: when the fraction is outside (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction is {fraction}: top-k keeps a share in (0, 1]; 0.5 is V-MPO's, 1.0 keeps all.")
    candidates = ~jnp.isnan(scores) if where is None else where & ~jnp.isnan(scores)
    available = reductions.count(candidates, axis_name=axis_name)
    number = available if total is None else reductions.count(total, axis_name=axis_name)
    k = jnp.minimum(selection_size(fraction, number), available)
    chosen, tied, missing = _take(candidates, sortable(scores), k, axis_name)
    if tie_break is not None:
        second = sortable(jnp.where(jnp.isnan(tie_break), -jnp.inf, tie_break))
        more, tied, missing = _take(tied, second, missing, axis_name)
        chosen = chosen | more
    position = reductions.global_index(scores.shape, axis_name=axis_name).astype(jnp.uint32)
    more, last, _ = _take(tied, jnp.uint32(0xFFFFFFFF) - position, missing, axis_name)
    return (chosen | more | (last & (missing > 0))) & candidates
