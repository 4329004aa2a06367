"""Divergences of categorical and Gaussian policies in closed form, and estimators of KL from single samples."""

import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.types import Array


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
