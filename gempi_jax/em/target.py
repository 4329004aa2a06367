"""The target (22) for any mix of f-divergences: nested monotone root-finding, closed forms where they exist.

Written relative to a base measure (counting, or the sampler) with v = log(q / base) and r_j = log(pi_j / base), the
stationarity condition is

    A(y) - sum_j lambda_j f_j'(exp(v(y) - r_j(y))) = mu,    sum of exp(v) = 1,

or q(y) = 0 where the left side is below mu for every q > 0.  The left side falls in v(y), and the mass falls in mu.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from gempi_jax.em.checks import samples_agree
from gempi_jax.em.diagnostics import anchor_kl
from gempi_jax.em.mixture import log_weights_from_ratios
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import known_values
from gempi_jax.numerics.divergences import KL, FDivergence
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array

_HUGE = 1e30
"""Prices and masses beyond count as infinite."""

_FAR = 1e5
"""Nats, beyond every log-ratio."""

_MAX_ITERATIONS = 80


class _Terms(NamedTuple):
    """lambda_j f_j'(exp(v - r_j)), summed over the anchors."""

    log_ratios: Array
    coefficients: Array
    divergences: tuple[FDivergence, ...]

    def price(self, log_target: Array) -> Array:
        """The marginal price of mass at v, increasing in v."""
        total = jnp.zeros_like(log_target)
        for coefficient, ratio, divergence in zip(self.coefficients, self.log_ratios, self.divergences, strict=True):
            # Where an anchor is free its slope may be infinite all the same; infinities of two signs cancel.
            slope = jnp.clip(coefficient * divergence.derivative(log_target - ratio), -_HUGE, _HUGE)
            total = total + jnp.where(coefficient > 0, slope, 0.0)
        return jnp.clip(total, -_HUGE, _HUGE)

    def at(self, level: Array) -> Array:
        """v with price(v) = level; -inf where every v costs more, +inf where none costs as much."""
        total = jnp.sum(self.coefficients)
        # At the largest of the anchors' own answers every term is at least its share, at the smallest at most.
        own = [ratio + d.inverse(level / total) for ratio, d in zip(self.log_ratios, self.divergences, strict=True)]
        if len(own) == 1:
            return own[0]
        own = [jnp.clip(each, -_FAR, _FAR) for each in own]
        low, high = functools.reduce(jnp.minimum, own), functools.reduce(jnp.maximum, own)

        def narrow(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            dear = self.price(middle) > level
            return jnp.where(dear, low, middle), jnp.where(dear, middle, high)

        # Halving to the last bit costs as many prices as Newton's safeguards, and compiles in half the time.
        low, high = jax.lax.fori_loop(0, 50, narrow, (low, high))
        paid = level > self.price(jnp.full_like(high, -jnp.inf))
        return jnp.where(paid, 0.5 * (low + high), -jnp.inf)


def _bracket(mass_at, low: Array, high: Array) -> tuple[Array, Array]:
    """mu on either side of log-mass 0, by bisection with regula falsi in between; ``mass_at`` falls in mu."""

    def unfinished(state):
        low, high, _, _, step = state
        narrow = high - low <= 2e-7 * jnp.maximum(jnp.abs(low), jnp.abs(high))
        return (step < _MAX_ITERATIONS) & ~jnp.all(narrow)

    def narrow(state):
        low, high, at_low, at_high, step = state
        share = jnp.clip(at_low / jnp.maximum(at_low - at_high, 1e-30), 0.02, 0.98)
        share = jnp.where((step % 3 == 2) | ~jnp.isfinite(at_low - at_high), 0.5, share)
        middle = low + share * (high - low)
        mass = jnp.clip(mass_at(middle), -_HUGE, _HUGE)
        heavy = mass > 0
        low, at_low = jnp.where(heavy, middle, low), jnp.where(heavy, mass, at_low)
        high, at_high = jnp.where(heavy, high, middle), jnp.where(heavy, at_high, mass)
        return low, high, at_low, at_high, step + 1

    # The masses at the ends are not looked up: while one is infinite, steps are bisections.
    ends = jnp.full_like(low, jnp.inf), jnp.full_like(high, -jnp.inf)
    low, high, *_ = jax.lax.while_loop(unfinished, narrow, (low, high, *ends, jnp.zeros((), jnp.int32)))
    return low, high


def _between(light: Array, heavy: Array, log_mass) -> Array:
    """The mixture of two answers, with masses below and above 1, that has mass 1.

    They agree within rounding but where the price of a sample has all but stopped to rise, as that of an f' bounded
    above does where an anchor has next to no mass: such a sample gets what the others leave.
    """
    over, under = jnp.maximum(log_mass(heavy), 0.0), jnp.maximum(-log_mass(light), 0.0)

    def log_lost(x):
        return jnp.log(-jnp.expm1(-x))

    apart = over + under > 1e-6
    width = log_lost(jnp.where(apart, over + under, 1.0))
    of_light, of_heavy = log_lost(over) - width, log_lost(under) - over - width
    return jnp.where(apart, jnp.logaddexp(of_light + light, of_heavy + heavy), light)


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
    terms = _Terms(ratios, coefficients, divergences)

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
    low, high = _bracket(lambda level: log_mass(values_at(level)), low, high)
    light, heavy = jax.vmap(values_at)(jnp.stack([high, low]))
    return normalized(_between(light, heavy, log_mass))


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
