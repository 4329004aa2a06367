"""How far a weighted sample is from a uniform one. Weights need not be normalised unless it is said."""

from typing import NamedTuple

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
    return scoped(log_weights, where=mask, axis=axis, axis_name=axis_name).kl(log_ratios)


class Scoped(NamedTuple):
    """Log-weights normalised over the batch, or by group, and what is read off them.

    Attributes:
      weights: sum to 1 over the batch: over one scope (``axis=None``), or 1/G in each of the G groups left.
      relative: log(q_i / b_i) = l_i - log Z-hat of the scope, formed without either: 0 where there is no weight.
      log_partition: log Z-hat of every scope, with the scope as axes of one; 0 where it is empty.
      live: whether a scope has any weight, likewise.
      axis_name: mapped axes over which the samples or the groups are spread.
      by_group: whether a scope is a group.
    """

    weights: Float[Array, "*E"]
    relative: Float[Array, "*E"]
    log_partition: Float[Array, "..."]
    live: Bool[Array, "..."]
    axis_name: AxisName
    by_group: bool

    def kl(self, log_ratios: Float[Array, "m *E"]) -> Float[Array, "m"]:
        """KL-hat(q || pi_j), nats; the mean over groups by group."""
        inside = self.weights > 0
        excess = jnp.where(inside[None], self.relative[None] - jnp.where(inside[None], log_ratios, 0.0), 0.0)
        terms = self.weights[None] * excess
        return reductions.sum(terms, axis=tuple(range(1, terms.ndim)), axis_name=self.axis_name)

    def over_scopes(self, values: Float[Array, "..."]) -> Float[Array, ""]:
        """The value of the batch, or the mean of those of the groups that have any weight."""
        if not self.by_group:
            return jnp.sum(values)
        return reductions.mean(values, where=self.live, axis_name=self.axis_name)


def scoped(
    log_weights: Float[Array, "*E"],
    *,
    where: Bool[Array, "*E"],
    axis: int | None,
    axis_name: AxisName = None,
) -> Scoped:
    """Normalises over each scope: the batch (``axis=None``), or the groups, which then count alike."""
    within = axis_name if axis is None else None
    weights, below, top, total = normalized(log_weights, where=where, axis=axis, axis_name=within)
    number = reductions.sum(jnp.sum(where, axis=axis, keepdims=True, dtype=jnp.int32), axis=(), axis_name=within)
    live = total > 0
    mean = total / jnp.maximum(number, 1).astype(total.dtype)
    log_mean = jnp.where(live, jnp.log(jnp.where(live, mean, 1.0)), 0.0)
    if axis is not None:
        groups = jnp.maximum(reductions.count(live, axis_name=axis_name), 1).astype(weights.dtype)
        weights = weights / groups
    relative = jnp.where(weights > 0, below - log_mean, 0.0)
    return Scoped(weights, relative, log_mean + jnp.where(live, top, 0.0), live, axis_name, axis is not None)
