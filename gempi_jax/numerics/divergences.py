"""f-divergences as values, divergences of categorical and Gaussian policies, and estimators from single samples."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.types import Array


@dataclasses.dataclass(frozen=True)
class FDivergence:
    """D_f(q || p) = sum_y p f(q / p), with f convex, f(1) = 0 and f' as it enters the stationarity condition of (22).

    All functions take or give log u, u = q / p, so that ratios of exp(-10000) stay exact.

    Attributes:
      name: for metrics and errors.
      generator: log u -> f(u).
      derivative: log u -> f'(u), increasing.
      inverse: s -> log u with f'(u) = s; -inf below the range of f', +inf above it.
    """

    name: str
    generator: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    inverse: Callable[[Array], Array]

    def __call__(self, log_q: Float[Array, "... V"], log_p: Float[Array, "... V"]) -> Float[Array, "..."]:
        """D_f(q || p) over the last axis, for distributions with p > 0 wherever q > 0."""
        shared = log_p > -jnp.inf
        log_u = jnp.where(shared, log_q, 0.0) - jnp.where(shared, log_p, 0.0)
        return jnp.sum(jnp.exp(log_p) * self.generator(log_u), axis=-1, where=shared)


def _entropic(log_u):
    """u log u with its limit 0 at u = 0."""
    finite = log_u > -jnp.inf
    return jnp.where(finite, jnp.exp(log_u) * jnp.where(finite, log_u, 0.0), 0.0)


def _log1p(x):
    """log(1 + x), -inf from x = -1 down."""
    inside = x > -1.0
    return jnp.where(inside, jnp.log1p(jnp.where(inside, x, 0.0)), -jnp.inf)


def _shannon_inverse(slope):
    """f' = (log 2 - log(1 + 1/u)) / 2 = s means 1/u = exp(log 2 - 2 s) - 1."""
    rest = jnp.log(2.0) - 2.0 * slope
    inside = rest > 0
    return jnp.where(inside, -jnp.log(jnp.expm1(jnp.where(inside, rest, 1.0))), jnp.inf)


# f = u log u - u + 1: the linear part vanishes for distributions and puts f' = log u at 0 for u = 1.
KL = FDivergence("kl", lambda log_u: _entropic(log_u) - jnp.expm1(log_u), lambda log_u: log_u, lambda slope: slope)
# f = -log u + u - 1 has f' = 1 - 1/u: the target lambda p / (mu - A), with mu shifted by lambda.
REVERSE_KL = FDivergence(
    "reverse_kl",
    lambda log_u: jnp.expm1(log_u) - log_u,
    lambda log_u: -jnp.expm1(-log_u),
    lambda slope: -_log1p(-slope),
)
# f = (u - 1)^2 / 2: half of Pearson's chi-squared, so that q = p max(0, 1 + (A - mu) / lambda).
CHI_SQUARED = FDivergence("chi_squared", lambda log_u: 0.5 * jnp.square(jnp.expm1(log_u)), jnp.expm1, _log1p)
# f = (u log u - (u + 1) log((u + 1) / 2)) / 2: the mean of the two KLs to the midpoint, at most log 2.
JENSEN_SHANNON = FDivergence(
    "jensen_shannon",
    lambda log_u: 0.5 * (_entropic(log_u) - (jnp.exp(log_u) + 1.0) * (jnp.logaddexp(log_u, 0.0) - jnp.log(2.0))),
    lambda log_u: 0.5 * (jnp.log(2.0) - jnp.logaddexp(0.0, -log_u)),
    _shannon_inverse,
)
# f = (sqrt(u) - 1)^2 / 2, at most 1.
SQUARED_HELLINGER = FDivergence(
    "squared_hellinger",
    lambda log_u: 0.5 * jnp.square(jnp.expm1(0.5 * log_u)),
    lambda log_u: -0.5 * jnp.expm1(-0.5 * log_u),
    lambda slope: -2.0 * _log1p(-2.0 * slope),
)


def alpha_divergence(alpha: float) -> FDivergence:
    """f(u) = (u^a - a u + a - 1) / (a (a - 1)): a = 1 is KL, 0 reverse KL, 2 chi-squared, 1/2 four squared Hellingers.

    Args:
      alpha: the order a, any real number.
    """
    if alpha == 1.0:
        return dataclasses.replace(KL, name="alpha_1")
    if alpha == 0.0:
        return dataclasses.replace(REVERSE_KL, name="alpha_0")
    return FDivergence(
        f"alpha_{alpha:g}",
        lambda log_u: (jnp.expm1(alpha * log_u) - alpha * jnp.expm1(log_u)) / (alpha * (alpha - 1.0)),
        lambda log_u: jnp.expm1((alpha - 1.0) * log_u) / (alpha - 1.0),
        lambda slope: _log1p((alpha - 1.0) * slope) / (alpha - 1.0),
    )


def categorical_kl(log_p: Float[Array, "*E V"], log_q: Float[Array, "*E V"]) -> Float[Array, "*E"]:
    """KL(p || q), nats, exact over the last axis; outcomes with p = 0 cost nothing, whatever q says."""
    possible = log_p > -jnp.inf
    log_ratio = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
    return jnp.sum(jnp.exp(log_p) * log_ratio, axis=-1, where=possible)


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
