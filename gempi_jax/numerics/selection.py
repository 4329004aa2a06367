"""Exactly the k largest of a global batch, without a sort.

A float is mapped to an integer of the same order and a threshold between the k-th and the next is searched by counting:
by interpolation, with a bisection after every other step as the bound.  Counts add over devices, so the selection never
depends on how the batch is spread; integers compare without rounding, so ties are seen as ties and are broken by a
second score, then by the index.
"""

from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Int32

from gempi_jax.numerics import reductions
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array

_LOWEST = -(1 << 31)
"""The key of what must not be chosen; no number maps to it."""

_THINNED = 16_384
"""Keys of a large batch (of each device's part) that are searched first."""


def sortable(scores: Float[Array, "*E"]) -> Int32[Array, "*E"]:
    """Integers in the order of the floats; -0 equals +0."""
    scores = scores.astype(jnp.float32)
    # Under jit the compiler takes an added 0 away, but not a select.
    bits = jax.lax.bitcast_convert_type(jnp.where(scores == 0.0, 0.0, scores), jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def selection_size(fraction: float, number: Int[Array, "..."]) -> Int[Array, "..."]:
    """k = max(1, floor(fraction * number)) in integers: 0.29 of 100 is 29, as written, not 28."""
    exact = Fraction(fraction).limit_denominator(1_000_000)
    blocks, rest = number // exact.denominator, number % exact.denominator
    # rest * numerator in two digits of base 1000, as by hand: no product leaves 32 bits.
    high, low = divmod(exact.numerator, 1000)
    tens, left = rest * high // exact.denominator, rest * high % exact.denominator
    part = 1000 * tens + (1000 * left + rest * low) // exact.denominator
    return jnp.maximum(1, blocks * exact.numerator + part)


class _Bracket(NamedTuple):
    """count(keys >= low) >= k > count(keys >= high), with both counts."""

    low: Array
    high: Array
    at_low: Array
    at_high: Array
    step: Array


def _count(keys: Int32[Array, "*E"], threshold: Array, axis_name: AxisName) -> Array:
    return reductions.sum((keys >= threshold).astype(jnp.int32), axis_name=axis_name)


def _widest(keys: Int32[Array, "*E"], axis_name: AxisName) -> _Bracket:
    """All keys that may be chosen; above the largest, which is no number at 2^31 - 1, nothing is left."""
    low, largest = jnp.int32(_LOWEST + 1), reductions.max_int(keys, axis_name=axis_name)
    at_low = _count(keys, low, axis_name)
    nothing = jnp.zeros_like(at_low)
    return _Bracket(jnp.full_like(at_low, low), largest + 1, at_low, nothing, nothing)


def _narrowed(bracket: _Bracket, keys: Int32[Array, "*E"], k: Int[Array, ""], axis_name: AxisName) -> _Bracket:
    """For a large batch: between two ranks of a part of it that are far enough apart to hold the k-th between them."""
    stride = keys.size // _THINNED
    if stride < 8:
        return bracket
    part = keys.reshape(-1)[::stride]
    widest = _widest(part, axis_name)
    share = widest.at_low.astype(jnp.float32) / jnp.maximum(bracket.at_low, 1).astype(jnp.float32)
    rank = share * k.astype(jnp.float32)
    margin = 3.0 * jnp.sqrt(rank) + 3.0
    below = jnp.clip((rank + margin).astype(jnp.int32), 1, jnp.maximum(widest.at_low, 1))
    above = jnp.clip((rank - margin).astype(jnp.int32), 1, jnp.maximum(widest.at_low, 1))
    low, high = (_search(widest, part, r, axis_name).low for r in (below, above))
    at_low, at_high = _count(keys, low, axis_name), _count(keys, high, axis_name)
    low_holds, high_holds = at_low >= k, (at_high < k) & (high > low)
    return bracket._replace(
        low=jnp.where(low_holds, low, bracket.low),
        at_low=jnp.where(low_holds, at_low, bracket.at_low),
        high=jnp.where(high_holds, high, bracket.high),
        at_high=jnp.where(high_holds, at_high, bracket.at_high),
    )


def _threshold(keys: Int32[Array, "*E"], k: Int[Array, ""], axis_name: AxisName) -> tuple[Array, Array]:
    """A t with count(keys >= t) = k, or else the k-th largest key; and that count."""
    last = _search(_narrowed(_widest(keys, axis_name), keys, k, axis_name), keys, k, axis_name)
    return last.low, last.at_low


def _search(first: _Bracket, keys: Int32[Array, "*E"], k: Int[Array, ""], axis_name: AxisName) -> _Bracket:
    """Narrows a bracket until its low end is the threshold."""

    def width(bracket):
        return jax.lax.bitcast_convert_type(bracket.high - bracket.low, jnp.uint32)

    def unfinished(bracket):
        return (bracket.at_low > k) & (width(bracket) > 1)

    def narrow(bracket):
        span = width(bracket)
        share = (bracket.at_low - k).astype(jnp.float32) / (bracket.at_low - bracket.at_high).astype(jnp.float32)
        guess = (share * span.astype(jnp.float32)).astype(jnp.uint32)
        offset = jnp.clip(jnp.where(bracket.step % 2 == 0, guess, span // 2), 1, span - 1)
        middle = bracket.low + jax.lax.bitcast_convert_type(offset, jnp.int32)
        number = _count(keys, middle, axis_name)
        enough = number >= k
        return _Bracket(
            jnp.where(enough, middle, bracket.low),
            jnp.where(enough, bracket.high, middle),
            jnp.where(enough, number, bracket.at_low),
            jnp.where(enough, bracket.at_high, number),
            bracket.step + 1,
        )

    return jax.lax.while_loop(unfinished, narrow, first)


def _top(candidates: Bool[Array, "*E"], scores: list[Array], k: Int[Array, ""], axis_name: AxisName):
    """The k best candidates by the first key, ties by the next; the last key has no ties."""
    keys = jnp.where(candidates, scores[0], _LOWEST)
    threshold, number = _threshold(keys, k, axis_name)
    reached = (keys >= threshold) & candidates
    if len(scores) == 1:
        return reached

    def among_ties():
        sure = (keys > threshold) & candidates
        missing = k - reductions.count(sure, axis_name=axis_name)
        return sure | _top(reached & ~sure, scores[1:], missing, axis_name)

    return jax.lax.cond(number > k, among_ties, lambda: reached)


def top_k_mask(
    scores: Float[Array, "*E"],
    fraction: float,
    *,
    where: Bool[Array, "*E"] | None = None,
    tie_break: Float[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Bool[Array, "*E"]:
    """Marks exactly k = max(1, floor(fraction * N)) of the N real entries with the largest scores.

    Args:
      scores: what to sort by; NaN counts as masked.
      fraction: rho in (0, 1].
      where: the entries that are real.
      tie_break: second score among equal first scores; after it the lower global index wins.
      axis_name: mapped axes over which the leading axis is spread.

    Returns:
      The selection S; all false only where nothing is real.

    Raises:
      ValueError: when the fraction is outside (0, 1]; where shapes disagree.
    """
    for name, value in (("where", where), ("tie_break", tie_break)):
        if value is not None and value.shape != scores.shape:
            raise ValueError(
                f"top_k_mask: {name} has shape {value.shape}, not {scores.shape}; give one for each score."
            )
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction is {fraction}: top-k keeps a share in (0, 1]; 0.5 is V-MPO's, 1.0 keeps all.")
    candidates = ~jnp.isnan(scores) if where is None else where & ~jnp.isnan(scores)
    available = reductions.count(candidates, axis_name=axis_name)
    k = jnp.minimum(selection_size(fraction, available), available)
    position = reductions.global_index(scores.shape, axis_name=axis_name)
    keys = [sortable(scores), -position]
    if tie_break is not None:
        keys.insert(1, sortable(jnp.where(jnp.isnan(tie_break), -jnp.inf, tie_break)))
    return _top(candidates, keys, k, axis_name)


def top_k_of_groups(
    scores: Float[Array, "G K"],
    fraction: float,
    *,
    where: Bool[Array, "G K"] | None = None,
    tie_break: Float[Array, "G K"] | None = None,
) -> Bool[Array, "G K"]:
    """:func:`top_k_mask` of each row on its own, by sorting: rows are short, and none is spread over devices."""
    candidates = ~jnp.isnan(scores) if where is None else where & ~jnp.isnan(scores)
    second = jnp.zeros_like(scores) if tie_break is None else jnp.where(jnp.isnan(tie_break), -jnp.inf, tie_break)
    # The bits of an integer turned over reverse its order without leaving its range.
    order = jnp.lexsort((~sortable(second), ~sortable(scores), ~candidates), axis=-1)
    available = jnp.sum(candidates, axis=-1, keepdims=True, dtype=jnp.int32)
    k = jnp.minimum(selection_size(fraction, available), available)
    return candidates & (jnp.argsort(order, axis=-1) < k)
