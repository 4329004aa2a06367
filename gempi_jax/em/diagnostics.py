"""How far a weighted sample is from a uniform one. Weights need not be normalised unless it is said."""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.em.mixture import normalize_weights, normalized
from gempi_jax.numerics import reductions
from gempi_jax.numerics.reductions import Axis, AxisName
from gempi_jax.types import Array


def effective_sample_size(
    weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Float[Array, "..."]:
    """ESS = (sum w)^2 / sum w^2: k for k equal weights, 1 for a single one, 0 without any."""
    # Only the proportions count: scaling by the largest keeps the squares away from underflow.
    largest = reductions.max(weights, where=where, axis=axis, axis_name=axis_name, keepdims=True)
    scaled = weights / jnp.where(largest > 0, largest, 1.0)
    total = reductions.sum(scaled, where=where, axis=axis, axis_name=axis_name)
    squares = reductions.sum(jnp.square(scaled), where=where, axis=axis, axis_name=axis_name)
    return jnp.square(total) / jnp.where(squares > 0, squares, 1.0)


def chi_squared(
    weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Float[Array, "..."]:
    """chi^2(q || b) = k sum w^2 / (sum w)^2 - 1 over the k samples of the scope, so that ESS = k / (1 + chi^2)."""
    mask = jnp.ones(weights.shape, bool) if where is None else where
    size = effective_sample_size(weights, where=mask, axis=axis, axis_name=axis_name)
    number = reductions.count(mask, axis=axis, axis_name=axis_name).astype(weights.dtype)
    return jnp.where(size > 0, number / jnp.where(size > 0, size, 1.0) - 1.0, 0.0)


def weights_entropy(
    weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Float[Array, "..."]:
    """-sum w log w, nats, of weights that sum to 1 over the scope: log k for k equal ones."""
    positive = weights > 0
    terms = jnp.where(positive, -weights * jnp.log(jnp.where(positive, weights, 1.0)), 0.0)
    return reductions.sum(terms, where=where, axis=axis, axis_name=axis_name)


def log_partition_bias(
    weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Float[Array, "..."]:
    """E[log Z-hat] - log Z by the delta method: -Var(w) / (2 k Z^2) = -chi^2 / (2 k), nats."""
    mask = jnp.ones(weights.shape, bool) if where is None else where
    number = jnp.maximum(reductions.count(mask, axis=axis, axis_name=axis_name), 1)
    spread = chi_squared(weights, where=mask, axis=axis, axis_name=axis_name)
    return -spread / (2.0 * number.astype(weights.dtype))


def truncation_mass(
    log_weights: Float[Array, "*E"],
    selected: Bool[Array, "*E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: Axis = None,
    axis_name: AxisName = None,
) -> Float[Array, "..."]:
    """Q*(S^c) = 1 - sum over S of w, with w normalised over all real samples: what the filter drops of the target."""
    weights = normalize_weights(log_weights, where=where, axis=axis, axis_name=axis_name)
    mask = ~selected if where is None else where & ~selected
    return reductions.sum(weights, where=mask, axis=axis, axis_name=axis_name)


def anchor_kl(
    log_weights: Float[Array, "*E"],
    log_ratios: Float[Array, "m *E"],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "m"]:
    """KL-hat(q || pi_j) = sum_i w_i (l_i - log Z-hat - r_ij), nats; the mean over groups when ``axis`` names one.

    Args:
      log_weights: l_i of any target, relative to the sampler.
      log_ratios: r_ij = log pi_j(y_i) - log b(y_i).
      where: the samples that are real and selected.
      axis: the samples of a group; ``None`` when the batch is one scope.
      axis_name: mapped axes over which the samples (``axis=None``) or the groups are spread.
    """
    mask = jnp.ones(log_weights.shape, bool) if where is None else where
    within = axis_name if axis is None else None
    weights = scope_weights(log_weights, where=mask, axis=axis, axis_name=axis_name)
    inside = weights > 0
    total = reductions.logsumexp(log_weights, where=mask, axis=axis, axis_name=within, keepdims=True)
    number = reductions.sum(jnp.sum(mask, axis=axis, keepdims=True, dtype=jnp.int32), axis=(), axis_name=within)
    log_z = jnp.where(total > -jnp.inf, total - jnp.log(jnp.maximum(number, 1).astype(total.dtype)), 0.0)
    log_target = jnp.where(inside, log_weights, 0.0) - log_z
    excess = log_target[None] - jnp.where(inside[None], log_ratios, 0.0)
    terms = jnp.where(inside, weights, 0.0)[None] * excess
    return reductions.sum(terms, axis=tuple(range(1, terms.ndim)), axis_name=axis_name)


def scope_weights(
    log_weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"],
    axis: int | None,
    axis_name: AxisName = None,
) -> Float[Array, "*E"]:
    """Weights that sum to 1 over the batch: over one scope (``axis=None``), or 1/G in each of the G groups left."""
    return scope_totals(log_weights, where=where, axis=axis, axis_name=axis_name)[0]


def scope_totals(
    log_weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"],
    axis: int | None,
    axis_name: AxisName = None,
) -> tuple[Float[Array, "*E"], Float[Array, ""], Float[Array, ""]]:
    """:func:`scope_weights`, log Z-hat (the mean over groups), and log sum exp over all samples together."""
    if axis is None:
        weights, log_total = normalized(log_weights, where=where, axis_name=axis_name)
        number = jnp.maximum(reductions.count(where, axis_name=axis_name), 1).astype(log_total.dtype)
        return weights, jnp.where(log_total > -jnp.inf, log_total - jnp.log(number), 0.0), log_total
    weights, log_total = normalized(log_weights, where=where, axis=axis)
    live = log_total > -jnp.inf
    number = jnp.maximum(reductions.count(where, axis=axis), 1).astype(log_total.dtype)
    log_z = reductions.mean(jnp.where(live, log_total, 0.0) - jnp.log(number), where=live, axis_name=axis_name)
    groups = jnp.maximum(reductions.count(live, axis_name=axis_name), 1).astype(weights.dtype)
    return weights / groups, log_z, reductions.logsumexp(log_total, axis_name=axis_name)
