"""f-divergences as values: what (22) needs of each, exact for ratios of any size."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.types import Array


@dataclasses.dataclass(frozen=True)
class FDivergence:
    """D_f(q || p) = sum_y p f(q / p), with f convex, f(1) = 0 and f' as it enters the stationarity condition of (22).

    All functions take or give logarithms, log u = log q - log p, so that ratios of exp(-10000) stay exact.

    Attributes:
      name: for metrics and errors.
      perspective: (log q, log p) -> p f(q / p), at least 0; it overflows only where the divergence itself does.
      derivative: log u -> f'(u) up to a constant, increasing. Where f' is bounded above, f'(inf) = 0: mass that an
        anchor hardly has is then resolved. mu of (22) takes the constant up.
      inverse: s -> log u with f'(u) = s; -inf below the range of f', +inf above it.
    """

    name: str
    perspective: Callable[[Array, Array], Array]
    derivative: Callable[[Array], Array]
    inverse: Callable[[Array], Array]

    def __call__(self, log_q: Float[Array, "... V"], log_p: Float[Array, "... V"]) -> Float[Array, "..."]:
        """D_f(q || p) over the last axis, for distributions with p > 0 wherever q > 0."""
        shared = log_p > -jnp.inf
        terms = self.perspective(jnp.where(shared, log_q, 0.0), jnp.where(shared, log_p, 0.0))
        return jnp.sum(terms, axis=-1, where=shared)

    def generator(self, log_u: Float[Array, "*E"]) -> Float[Array, "*E"]:
        """log u -> f(u)."""
        return self.perspective(log_u, jnp.zeros_like(log_u))

    def curvature(self, log_u: Float[Array, "*E"]) -> Float[Array, "*E"]:
        """log u -> d f'(u) / d log u = u f''(u) > 0: how fast the price of mass rises."""
        return jax.jvp(self.derivative, (log_u,), (jnp.ones_like(log_u),))[1]


def _entropic(log_u):
    """u log u with its limit 0 at u = 0."""
    finite = log_u > -jnp.inf
    return jnp.where(finite, jnp.exp(log_u) * jnp.where(finite, log_u, 0.0), 0.0)


def _log1p(x):
    """log(1 + x), -inf from x = -1 down."""
    inside = x > -1.0
    return jnp.where(inside, jnp.log1p(jnp.where(inside, x, 0.0)), -jnp.inf)


def _log_below_zero(slope):
    """log(-s), and what gives log u = +inf from s = 0 up, where no u is dear enough."""
    inside = slope < 0
    return jnp.where(inside, jnp.log(jnp.where(inside, -slope, 1.0)), -jnp.inf)


def _perspective(below, above):
    """p f(u) where q <= p, and q g(1 / u) with g(t) = t f(1 / t) where q > p; both take logs of at most 0."""

    def terms(log_q, log_p):
        log_u = log_q - log_p
        small = log_u <= 0
        larger = jnp.exp(jnp.where(small, log_p, log_q))
        value = jnp.where(small, below(jnp.where(small, log_u, 0.0)), above(jnp.where(small, 0.0, -log_u)))
        # What underflows is nothing, even where f(0) is infinite.
        return jnp.where(larger > 0, larger * value, 0.0)

    return terms


def _tilted(log_t):
    """t log t - t + 1."""
    return _entropic(log_t) - jnp.expm1(log_t)


def _reversed(log_t):
    """-log t + t - 1."""
    return jnp.expm1(log_t) - log_t


def _shannon(log_t):
    """(t log t - (t + 1) log((t + 1) / 2)) / 2."""
    return 0.5 * (_entropic(log_t) - (1.0 + jnp.exp(log_t)) * jnp.log1p(0.5 * jnp.expm1(log_t)))


def _shannon_inverse(slope):
    """f' = -log(1 + 1/u) / 2 = s means 1/u = exp(-2 s) - 1."""
    inside = slope < 0
    rest = jnp.where(inside, -2.0 * slope, 1.0)
    return jnp.where(inside, -rest - jnp.log(-jnp.expm1(-rest)), jnp.inf)


def _hellinger(log_t):
    """(sqrt(t) - 1)^2 / 2."""
    return 0.5 * jnp.square(jnp.expm1(0.5 * log_t))


def _half_chi_squared(log_q, log_p):
    """(q - p)^2 / (2 p)."""
    log_u = log_q - log_p
    return 0.5 * jnp.exp(jnp.where(log_u <= 0, log_p, log_q + log_u)) * jnp.square(jnp.expm1(-jnp.abs(log_u)))


# f = u log u - u + 1: the linear part vanishes for distributions and makes f >= 0, as in all that follow.
KL = FDivergence("kl", _perspective(_tilted, _reversed), lambda log_u: log_u, lambda slope: slope)
# f = -log u + u - 1, f' = -1/u: the target lambda p / (mu - A).
REVERSE_KL = FDivergence(
    "reverse_kl",
    _perspective(_reversed, _tilted),
    lambda log_u: -jnp.exp(-log_u),
    lambda slope: -_log_below_zero(slope),
)
# f = (u - 1)^2 / 2: half of Pearson's chi-squared, so that q = p max(0, 1 + (A - mu) / lambda).
CHI_SQUARED = FDivergence("chi_squared", _half_chi_squared, jnp.expm1, _log1p)
# f = (u log u - (u + 1) log((u + 1) / 2)) / 2: the mean of the two KLs to the midpoint, at most log 2.
JENSEN_SHANNON = FDivergence(
    "jensen_shannon",
    _perspective(_shannon, _shannon),
    lambda log_u: -0.5 * jnp.logaddexp(0.0, -log_u),
    _shannon_inverse,
)
# f = (sqrt(u) - 1)^2 / 2, at most 1.
SQUARED_HELLINGER = FDivergence(
    "squared_hellinger",
    _perspective(_hellinger, _hellinger),
    lambda log_u: -0.5 * jnp.exp(-0.5 * log_u),
    lambda slope: -2.0 * (_log_below_zero(slope) + jnp.log(2.0)),
)


def alpha_divergence(alpha: float) -> FDivergence:
    """f(u) = (u^a - a u + a - 1) / (a (a - 1)): a = 1 is KL, 0 reverse KL, 2 chi-squared, 1/2 four squared Hellingers.

    Args:
      alpha: the order a, any real number.

    Raises:
      ValueError: for an order that is not a finite number.
    """
    if not math.isfinite(alpha):
        raise ValueError(f"alpha is {alpha}: the order of a divergence is a finite number.")
    if alpha in (0.0, 1.0):
        return dataclasses.replace(KL if alpha else REVERSE_KL, name=f"alpha_{alpha:g}")

    def perspective(log_q, log_p):
        log_u = log_q - log_p
        near = jnp.abs(log_u) < 1.0
        small = jnp.where(near, log_u, 0.0)
        close = jnp.exp(log_p) * (jnp.expm1(alpha * small) - alpha * jnp.expm1(small))
        # q^a p^(1 - a) as one exponential: neither factor overflows alone.
        mixed = jnp.exp(jnp.where(near, 0.0, log_p + alpha * log_u))
        far = mixed - alpha * jnp.exp(log_q) + (alpha - 1.0) * jnp.exp(log_p)
        value = jnp.where(near, close, far) / (alpha * (alpha - 1.0))
        return jnp.where(jnp.isnan(value), jnp.inf, value)

    def sparse(slope):
        return _log1p((alpha - 1.0) * slope) / (alpha - 1.0)

    def dense(slope):
        return -(jnp.log(1.0 - alpha) + _log_below_zero(slope)) / (1.0 - alpha)

    return FDivergence(
        f"alpha_{alpha:g}",
        perspective,
        lambda log_u: (jnp.expm1 if alpha > 1.0 else jnp.exp)((alpha - 1.0) * log_u) / (alpha - 1.0),
        sparse if alpha > 1.0 else dense,
    )
