"""The closed-form target (23) on samples: log-weights, their normalisation, and log Z-hat."""

import functools
from collections.abc import Callable

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


def log_weights_from_ratios(
    advantages: Float[Array, "*E"], log_ratios: Float[Array, "m *E"], coefficients: Float[Array, "m"]
) -> Float[Array, "*E"]:
    """l_i of (24) relative to the sampler, from r_ij; see :func:`importance_log_weights`."""
    if coefficients.shape[0] == 0:
        return jnp.zeros_like(advantages)
    # A sample that one anchor cannot produce has q* = 0; its -inf must reach neither a product nor a derivative.
    supported = over_anchors(
        lambda kept, ratio: kept & (ratio > -jnp.inf), log_ratios, jnp.ones(advantages.shape, bool)
    )
    tilt = advantages + weighted_sum(coefficients, jnp.where(supported[None], log_ratios, 0.0))
    return jnp.where(supported, tilt / jnp.sum(coefficients), -jnp.inf)


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
    return normalized(log_weights, where=where, axis=axis, axis_name=axis_name)[0]


def normalized(
    log_weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> tuple[Float[Array, "*E"], Float[Array, "..."]]:
    """:func:`normalize_weights`, and the log of the sum that it divides by; ``-inf`` where the scope is empty."""
    reductions.check_mask(log_weights, where)
    # A log-weight that overflowed is the largest there is, not NaN.
    log_weights = jnp.minimum(log_weights, jnp.finfo(log_weights.dtype).max)
    inside = log_weights > -jnp.inf if where is None else where & (log_weights > -jnp.inf)
    top = reductions.max(log_weights, where=inside, axis=axis, axis_name=axis_name, keepdims=True)
    # Divided by the sum rather than shifted by its logarithm: log-weights of 1e4 nats would round a shift to 1e-3.
    shifted = jnp.where(inside, log_weights - jnp.where(top > -jnp.inf, top, 0.0), 0.0)
    terms = jnp.where(inside, jnp.exp(shifted), 0.0)
    total = reductions.sum(jnp.sum(terms, axis=axis, keepdims=True), axis=(), axis_name=axis_name)
    some = jnp.where(total > 0, total, 1.0)
    log_total = jnp.where(total > 0, jnp.log(some) + top, -jnp.inf)
    return terms / some, jnp.squeeze(log_total, axis=tuple(range(log_weights.ndim)) if axis is None else axis)


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
