"""The closed-form target (23) on samples: log-weights, their normalisation, and log Z-hat."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from gempi_jax.em.checks import samples_agree
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import known_values
from gempi_jax.numerics.reductions import Axis, AxisName
from gempi_jax.types import Array


def expand(per_anchor: Float[Array, "m"], like: Array) -> Array:
    """A vector over anchors with as many trailing axes as ``like``, which starts with the anchor axis."""
    return per_anchor.reshape(per_anchor.shape + (1,) * (like.ndim - 1))


def over_anchors(combine: Callable[[Array, Array], Array], rows: Array, initial: Array) -> Array:
    """Folds the anchors one by one: a reduction over so short an axis is slow on a CPU."""
    return functools.reduce(combine, [rows[j] for j in range(rows.shape[0])], initial)


def weighted_sum(factors: Float[Array, "m"], rows: Float[Array, "m *E"]) -> Float[Array, "*E"]:
    """sum_j factors_j rows_j, anchor by anchor."""
    terms = [factors[j] * rows[j] for j in range(rows.shape[0])]
    return functools.reduce(jnp.add, terms)


def anchor_log_ratios(
    anchor_log_probs: Float[Array, "m *E"], sampler_log_probs: Float[Array, "*E"]
) -> Float[Array, "m *E"]:
    """r_ij = log pi_j(y_i) - log b(y_i), nats; 0 for an anchor that is the sampler."""
    samples_agree("anchor_log_ratios", sampler_log_probs, anchor_log_probs)
    return anchor_log_probs - sampler_log_probs[None]


def supported(log_ratios: Float[Array, "m *E"], where: Bool[Array, "*E"]) -> Bool[Array, "*E"]:
    """The samples, of those in ``where``, that every anchor can produce."""
    return over_anchors(lambda kept, ratio: kept & (ratio > -jnp.inf), log_ratios, where)


def log_weights_from_ratios(
    advantages: Float[Array, "*E"], log_ratios: Float[Array, "m *E"], coefficients: Float[Array, "m"]
) -> Float[Array, "*E"]:
    """l_i of (24) relative to the sampler, from r_ij; see :func:`importance_log_weights`."""
    if coefficients.shape[0] == 0:
        return jnp.zeros_like(advantages)
    # A sample that one anchor cannot produce has q* = 0; its -inf must reach neither a product nor a derivative.
    possible = supported(log_ratios, jnp.ones(advantages.shape, bool))
    tilt = advantages + weighted_sum(coefficients, jnp.where(possible[None], log_ratios, 0.0))
    return jnp.where(possible, tilt / jnp.sum(coefficients), -jnp.inf)


def relative_log_weights(
    advantages: Float[Array, "*E"],
    log_ratios: Float[Array, "m *E"],
    coefficients: Float[Array, "m"],
    *,
    where: Bool[Array, "*E"],
    axis: int | None = None,
    axis_name: AxisName = None,
) -> tuple[Float[Array, "*E"], Float[Array, "..."]]:
    """l_i - A* / Lambda, where A* is the scope's largest advantage; and A*, with the scope as axes of one.

    At a temperature of 1e-8 the l_i themselves are 1e8 nats, whose differences float32 rounds to 8: formed from
    A_i - A* they are exact where they matter, and of samples that are tied for the best the sum of s_j r_ij is left,
    with s_j = lambda_j / Lambda.  The gap between best and others keeps weights and KLs as they are.

    Args:
      advantages: A_i.
      log_ratios: r_ij, nats; -inf means no mass.
      coefficients: lambda_j.
      where: the samples that are real and selected, among which A* is that of the best possible one.
      axis: the samples of a group; ``None`` when the batch is one scope.
      axis_name: mapped axes over which the samples (``axis=None``) or the groups are spread.
    """
    within = axis_name if axis is None else None
    best = reductions.max(advantages, where=supported(log_ratios, where), axis=axis, axis_name=within, keepdims=True)
    best = jnp.where(best > -jnp.inf, best, 0.0)
    return log_weights_from_ratios(advantages - best, log_ratios, coefficients), best


def importance_log_weights(
    advantages: Float[Array, "*E"],
    anchor_log_probs: Float[Array, "m *E"],
    sampler_log_probs: Float[Array, "*E"],
    coefficients: Float[Array, "m"],
) -> Float[Array, "*E"]:
    """l_i = (A_i + sum_j lambda_j (log pi_j(y_i) - log b(y_i))) / Lambda: (24) minus log b, not normalised.

    An anchor that is the sampler drops out, as in DAR (7); without anchors (SFT) every log-weight is 0.

    Args:
      advantages: A_i, units of reward.
      anchor_log_probs: log pi_j(y_i), nats; -inf gives log-weight -inf.
      sampler_log_probs: log b(y_i), nats, finite.
      coefficients: lambda_j >= 0 with a positive sum Lambda, units of the advantages.

    Returns:
      Log-weights relative to the sampler, nats.

    Raises:
      ValueError: where shapes disagree; for coefficients known before tracing that are below 0 or have no sum.
    """
    samples_agree("importance_log_weights", advantages, anchor_log_probs, coefficients, sampler_log_probs)
    if anchor_log_probs.shape[0] == 0:
        return jnp.zeros_like(advantages)
    known_values(
        "importance_log_weights",
        coefficients,
        "coefficients must be at least 0 with a positive sum",
        lambda values: (values >= 0).all() and 0 < values.sum() < np.inf,
    )
    return log_weights_from_ratios(advantages, anchor_log_ratios(anchor_log_probs, sampler_log_probs), coefficients)


def normalize_weights(
    log_weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Float[Array, "*E"]:
    """w_i = exp(l_i) / sum exp(l) over the scope, (27): zeros where the scope is empty.

    Args:
      log_weights: l_i, nats.
      where: the samples that are real and selected.
      axis: the scope; all axes (the batch) when ``None``, the last for groups.
      axis_name: mapped axes over which the scope is spread.
    """
    return normalized(log_weights, where=where, axis=axis, axis_name=axis_name).weights


class Normalized(NamedTuple):
    """Log-weights of a scope, taken apart so that what is large cancels before it is rounded.

    Attributes:
      weights: w_i, zero where the scope is empty.
      below: l_i minus the scope's largest, 0 for what has no weight at all.
      top: the scope's largest l, with the scope as axes of one; 0 where it is empty.
      total: sum of exp(below), likewise; 0 where it is empty.
    """

    weights: Float[Array, "*E"]
    below: Float[Array, "*E"]
    top: Float[Array, "..."]
    total: Float[Array, "..."]

    @property
    def log_total(self) -> Float[Array, "..."]:
        """log of the sum of exp(l); ``-inf`` where the scope is empty."""
        some = self.total > 0
        return jnp.where(some, jnp.log(jnp.where(some, self.total, 1.0)) + self.top, -jnp.inf)


def normalized(
    log_weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Normalized:
    """:func:`normalize_weights` and what a partition function or a KL needs beside them."""
    reductions.check_mask(log_weights, where)
    # A log-weight that overflowed is the largest there is, not NaN.
    log_weights = jnp.minimum(log_weights, jnp.finfo(log_weights.dtype).max)
    inside = log_weights > -jnp.inf if where is None else where & (log_weights > -jnp.inf)
    top = reductions.max(log_weights, where=inside, axis=axis, axis_name=axis_name, keepdims=True)
    top = jnp.where(top > -jnp.inf, top, 0.0)
    # Divided by the sum rather than shifted by its logarithm: log-weights of 1e4 nats would round a shift to 1e-3.
    below = jnp.where(inside, log_weights - top, 0.0)
    terms = jnp.where(inside, jnp.exp(below), 0.0)
    total = reductions.sum(jnp.sum(terms, axis=axis, keepdims=True), axis=(), axis_name=axis_name)
    return Normalized(terms / jnp.where(total > 0, total, 1.0), below, top, total)


def log_partition(
    log_weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
    keepdims: bool = False,
) -> Float[Array, "..."]:
    """log Z-hat = logsumexp(l) - log k over the k samples of the scope; ``-inf`` where it is empty.

    Z-hat is an unbiased importance-sampling average; its logarithm is biased by about -Var(w) / (2 k Z^2), see
    :func:`gempi_jax.em.log_partition_bias`.
    """
    mask = jnp.ones(log_weights.shape, bool) if where is None else where
    if keepdims:
        total = reductions.logsumexp(log_weights, where=mask, axis=axis, axis_name=axis_name, keepdims=True)
        number = reductions.sum(jnp.sum(mask, axis=axis, keepdims=True, dtype=jnp.int32), axis=(), axis_name=axis_name)
    else:
        total = reductions.logsumexp(log_weights, where=mask, axis=axis, axis_name=axis_name)
        number = reductions.count(mask, axis=axis, axis_name=axis_name)
    return total - jnp.log(jnp.maximum(number, 1).astype(total.dtype))
