"""f-divergences as values, divergences of categorical and Gaussian policies, and estimators from single samples."""

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


def categorical_kl(log_p: Float[Array, "*E V"], log_q: Float[Array, "*E V"]) -> Float[Array, "*E"]:
    """KL(p || q), nats, exact over the last axis; outcomes with p = 0 cost nothing, whatever q says."""
    possible = log_p > -jnp.inf
    log_ratio = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
    return jnp.sum(jnp.exp(log_p) * log_ratio, axis=-1, where=possible)


def categorical_entropy(log_probs: Float[Array, "*E V"]) -> Float[Array, "*E"]:
    """S = -sum p log p, nats, exact over the last axis (the entropy bonus of section 4); 0 log 0 is 0."""
    possible = log_probs > -jnp.inf
    finite = jnp.where(possible, log_probs, 0.0)
    return -jnp.sum(jnp.exp(finite) * finite, axis=-1, where=possible)


def categorical_reverse_kl(log_p: Float[Array, "*E V"], log_q: Float[Array, "*E V"]) -> Float[Array, "*E"]:
    """KL(q || p), nats."""
    return categorical_kl(log_q, log_p)


def categorical_jensen_shannon(log_p: Float[Array, "*E V"], log_q: Float[Array, "*E V"]) -> Float[Array, "*E"]:
    """(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, nats; symmetric, at most log 2."""
    # Where both are impossible logaddexp has no derivative; the midpoint there is never used.
    possible = (log_p > -jnp.inf) | (log_q > -jnp.inf)
    midpoint = jnp.logaddexp(jnp.where(possible, log_p, 0.0), jnp.where(possible, log_q, 0.0)) - jnp.log(2.0)
    return 0.5 * (categorical_kl(log_p, midpoint) + categorical_kl(log_q, midpoint))


def categorical_chi_squared(log_p: Float[Array, "*E V"], log_q: Float[Array, "*E V"]) -> Float[Array, "*E"]:
    """Pearson's chi^2(p || q) = sum p^2 / q - 1 = sum q (p / q - 1)^2."""
    possible = log_q > -jnp.inf
    log_ratio = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
    inside = jnp.sum(jnp.exp(log_q) * jnp.square(jnp.expm1(log_ratio)), axis=-1, where=possible)
    outside = jnp.any(~possible & (log_p > -jnp.inf), axis=-1)
    return jnp.where(outside, jnp.inf, inside)


def k1(log_p: Float[Array, "*E"], log_q: Float[Array, "*E"]) -> Float[Array, "*E"]:
    """log p - log q at y ~ p: unbiased for KL(p || q), of either sign."""
    return log_p - log_q


def k2(log_p: Float[Array, "*E"], log_q: Float[Array, "*E"]) -> Float[Array, "*E"]:
    """(log p - log q)^2 / 2 at y ~ p: biased, never negative, right to second order near p = q."""
    return 0.5 * jnp.square(log_p - log_q)


def k3(log_p: Float[Array, "*E"], log_q: Float[Array, "*E"]) -> Float[Array, "*E"]:
    """q/p - 1 - log(q/p) at y ~ p: unbiased for KL(p || q) and never negative."""
    return jnp.expm1(log_q - log_p) - (log_q - log_p)


def gaussian_kl(
    mean_p: Float[Array, "*E A"],
    scale_p: Float[Array, "*E A"],
    mean_q: Float[Array, "*E A"],
    scale_q: Float[Array, "*E A"],
) -> tuple[Float[Array, "*E"], Float[Array, "*E"]]:
    """KL(p || q) of diagonal Gaussians, decoupled into mean and covariance (V-MPO, appendix C).

    The mean part measures the shift with p's covariance, the covariance part leaves the mean in place; their sum is
    KL(p || q) where the scales agree or the means do.

    Args:
      mean_p: of the policy before the update, pi_k.
      scale_p: its standard deviations, positive.
      mean_q: of the policy that is fitted, pi_theta.
      scale_q: its standard deviations, positive.

    Returns:
      (mean part, covariance part), nats.
    """
    shift = jnp.sum(jnp.square((mean_q - mean_p) / scale_p), axis=-1)
    log_ratio = jnp.log(scale_p) - jnp.log(scale_q)
    # tr - d - log det = sum(x^2 - 1 - log x^2) with x = scale_p / scale_q, by expm1 free of cancellation near x = 1.
    covariance = jnp.sum(jnp.expm1(2.0 * log_ratio) - 2.0 * log_ratio, axis=-1)
    return 0.5 * shift, 0.5 * covariance
