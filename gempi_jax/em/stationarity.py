"""The stationarity condition of (22) for any mix of f-divergences, and its roots by nested monotone search.

Written relative to a base measure (counting, or the sampler) with v = log(q / base) and r_j = log(pi_j / base),

    A(y) - sum_j lambda_j f_j'(exp(v(y) - r_j(y))) = mu,    sum of exp(v) = 1,

or q(y) = 0 where the left side is below mu for every q > 0.  The left side falls in v(y), and the mass falls in mu.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gempi_jax.numerics.divergences import FDivergence
from gempi_jax.types import Array

_HUGE = 1e30
"""Prices and masses beyond count as infinite."""

_FAR = 1e5
"""Nats, beyond every log-ratio."""

_MAX_ITERATIONS = 80


class Terms(NamedTuple):
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


def bracket_level(mass_at, low: Array, high: Array) -> tuple[Array, Array]:
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


def mixture_between(light: Array, heavy: Array, log_mass) -> Array:
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
