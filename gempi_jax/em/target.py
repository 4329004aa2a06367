"""The target (22) for any mix of f-divergences: closed forms where they exist, else roots of :mod:`.stationarity`."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from gempi_jax.em.checks import samples_agree
from gempi_jax.em.diagnostics import anchor_kl
from gempi_jax.em.mixture import log_weights_from_ratios
from gempi_jax.em.stationarity import Terms, bracket_level, mixture_between
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import known_values
from gempi_jax.numerics.divergences import KL, FDivergence
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array


def _solve(advantages, log_ratios, coefficients, divergences, log_total, where, axis, axis_name) -> Array:
    """v with exp(v) summing to exp(log_total) over the scope; -inf outside the support."""
    support = where & jnp.all(log_ratios > -jnp.inf, axis=0)
    within = axis_name if axis is None else None

    def normalized(values):
        total = reductions.logsumexp(values, where=support, axis=axis, axis_name=within, keepdims=True)
        total = jnp.where(total > -jnp.inf, total, 0.0)
        return jnp.where(support, values - total + log_total, -jnp.inf)

    ratios = jnp.where(support[None], log_ratios, 0.0)
    best = reductions.max(advantages, where=support, axis=axis, axis_name=within, keepdims=True)
    gain = jnp.where(support, advantages - jnp.where(best > -jnp.inf, best, 0.0), 0.0)
    if all(divergence is KL for divergence in divergences):
        return normalized(log_weights_from_ratios(gain, ratios, coefficients))
    terms = Terms(ratios, coefficients, divergences)

    def values_at(level):
        # +inf: no finite mass is dear enough at this mu.  More than all the mass there is says as much, more exactly.
        return jnp.where(support, jnp.minimum(terms.at(gain - level), log_total + 1.0), -jnp.inf)

    def log_mass(values):
        return reductions.logsumexp(values, axis=axis, axis_name=within, keepdims=True) - log_total

    # Any distribution brackets mu by the extremes of its own stationarity.  One with little where any anchor has little
    # is never very dear, so that its lowest is no extreme; one with much where any has much is never very cheap.
    few, many = (normalized(functools.reduce(pick, list(ratios))) for pick in (jnp.minimum, jnp.maximum))
    dear, cheap = (gain - terms.price(jnp.where(support, values, 0.0)) for values in (few, many))
    low = -reductions.max(-dear, where=support, axis=axis, axis_name=within, keepdims=True)
    high = reductions.max(cheap, where=support, axis=axis, axis_name=within, keepdims=True)
    live = high > -jnp.inf
    low, high = jnp.where(live, low, 0.0), jnp.where(live, high, 0.0)
    low, high = bracket_level(lambda level: log_mass(values_at(level)), low, high)
    light, heavy = jax.vmap(values_at)(jnp.stack([high, low]))
    return normalized(mixture_between(light, heavy, log_mass))


def _check(place, advantages, coefficients, divergences, log_ratios, where=None) -> None:
    sizes = (coefficients.shape[0], len(divergences), log_ratios.shape[0])
    if len(set(sizes)) != 1 or sizes[0] == 0:
        raise ValueError(
            f"{sizes[0]} coefficients, {sizes[1]} divergences and {sizes[2]} anchors: give one of each per "
            "anchor, and at least one anchor."
        )
    samples_agree(place, advantages, log_ratios, where=where)
    meaning = "coefficients must be at least 0 with a positive sum"
    known_values(place, coefficients, meaning, lambda values: (values >= 0).all() and 0 < values.sum() < np.inf)


def solve_target(
    advantages: Float[Array, "*E V"],
    anchor_log_probs: Float[Array, "m *E V"],
    coefficients: Float[Array, "m"],
    divergences: Sequence[FDivergence],
) -> Float[Array, "*E V"]:
    """log q* of (22) on a finite support: argmax_q E_q[A] - sum_j lambda_j D_j(q || pi_j).

    All KL is the closed form (23); one divergence needs one root (chi-squared: q = pi max(0, 1 + (A - mu) / lambda),
    which is sparse; reverse KL: q = lambda pi / (mu - A)); a mix needs two nested ones. Not differentiated.

    Args:
      advantages: A(y) over the support, the last axis.
      anchor_log_probs: log pi_j(y), nats; where one is -inf, q* is 0.
      coefficients: lambda_j > 0.
      divergences: D_j, as many.

    Returns:
      log q*(y), nats, normalised over the last axis; -inf where q* = 0.

    Raises:
      ValueError: when the numbers of coefficients, divergences and anchors differ, or shapes; for coefficients known
        before tracing that are below 0 or have no sum.
    """
    _check("solve_target", advantages, coefficients, divergences, anchor_log_probs)
    advantages, anchor_log_probs, coefficients = reductions.detach((advantages, anchor_log_probs, coefficients))
    everywhere = jnp.ones(advantages.shape, bool)
    return _solve(advantages, anchor_log_probs, coefficients, tuple(divergences), 0.0, everywhere, -1, None)


def target_log_weights(
    advantages: Float[Array, "*E"],
    anchor_log_ratios: Float[Array, "m *E"],
    coefficients: Float[Array, "m"],
    divergences: Sequence[FDivergence],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "*E"]:
    """The sampled form of :func:`solve_target`: log(q* / b) at samples of b, with mean 1 of q* / b over the scope.

    Args:
      advantages: A_i.
      anchor_log_ratios: r_ij = log pi_j(y_i) - log b(y_i), nats.
      coefficients: lambda_j > 0.
      divergences: D_j, as many.
      where: the samples that are real and selected.
      axis: the samples of a group; ``None`` when the batch is one scope.
      axis_name: mapped axes over which the samples (``axis=None``) or the groups are spread.

    Raises:
      ValueError: when the numbers of coefficients, divergences and anchors differ, or shapes; for coefficients known
        before tracing that are below 0 or have no sum.
    """
    _check("target_log_weights", advantages, coefficients, divergences, anchor_log_ratios, where)
    advantages, ratios, coefficients = reductions.detach((advantages, anchor_log_ratios, coefficients))
    mask = jnp.ones(advantages.shape, bool) if where is None else where
    within = axis_name if axis is None else None
    number = reductions.sum(jnp.sum(mask, axis=axis, keepdims=True, dtype=jnp.int32), axis=(), axis_name=within)
    log_total = jnp.log(jnp.maximum(number, 1).astype(advantages.dtype))
    return _solve(advantages, ratios, coefficients, tuple(divergences), log_total, mask, axis, axis_name)


def sampled_divergences(
    log_weights: Float[Array, "*E"],
    anchor_log_ratios: Float[Array, "m *E"],
    divergences: Sequence[FDivergence],
    *,
    where: Bool[Array, "*E"],
    axis: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "m"]:
    """D_j(q || pi_j) on samples of b: mean_i exp(r_ij) f_j(exp(l_i - r_ij)); KL by its own estimator.

    Args:
      log_weights: l_i = log(q / b) with mean 1 of exp(l) over the scope.
      anchor_log_ratios: r_ij, nats.
      divergences: D_j.
      where: the samples that are real and selected.
      axis: the samples of a group; the result is then the mean over groups.
      axis_name: mapped axes over which the samples (``axis=None``) or the groups are spread.
    """
    by_kl = None
    if any(divergence is KL for divergence in divergences):
        by_kl = anchor_kl(log_weights, anchor_log_ratios, where=where, axis=axis, axis_name=axis_name)
    support = where & jnp.all(anchor_log_ratios > -jnp.inf, axis=0)
    within, groups = (axis_name, None) if axis is None else (None, axis_name)

    def estimate(divergence, ratio):
        ratio = jnp.where(support, ratio, 0.0)
        terms = jnp.where(support, divergence.perspective(log_weights, ratio), 0.0)
        of_scope = reductions.mean(terms, where=where, axis=axis, axis_name=within)
        if axis is None:
            return of_scope
        return reductions.mean(of_scope, where=jnp.any(support, axis=axis), axis_name=groups)

    return jnp.stack([by_kl[j] if d is KL else estimate(d, anchor_log_ratios[j]) for j, d in enumerate(divergences)])
