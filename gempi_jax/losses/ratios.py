"""Log-ratios of the fitted policy to a policy that is held fixed: what surrogates, preferences and regressions read.

The base is the policy that sampled (pi_old, pi_t), a reference (pi_ref), or any other; it is detached here, once.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.numerics import k3, reductions
from gempi_jax.numerics.checks import same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.types import Array


def log_ratios(
    log_probs: Float[Array, "*E"], base_log_probs: Float[Array, "*E"], *, where: Bool[Array, "*E"] | None = None
) -> Float[Array, "*E"]:
    """rho = log pi_theta - sg[log pi_base] of each entry, nats; 0 where masked, whatever stands there.

    Args:
      log_probs: log pi_theta of what was sampled, per term or summed over terms.
      base_log_probs: log pi_base of the same, detached here.
      where: the entries that are real.

    Raises:
      ValueError: where shapes disagree.
    """
    same_shape("log_ratios", log_probs=log_probs, base_log_probs=base_log_probs, where=where)
    mask = real(log_probs, where)
    # Before the subtraction: padding may be infinite, and its derivative would be NaN.
    return jnp.where(mask, log_probs, 0.0) - reductions.detach(jnp.where(mask, base_log_probs, 0.0))


def sequence_log_ratios(
    log_probs: Float[Array, "*E L"], base_log_probs: Float[Array, "*E L"], *, where: Bool[Array, "*E L"] | None = None
) -> Float[Array, "*E"]:
    """log r_seq(theta) = sum_t (l_theta,t - l_base,t) of each example: the log of the product of its terms' ratios.

    It stays in log space, where the product itself would overflow.  Arguments and errors as for :func:`log_ratios`.
    """
    return jnp.sum(log_ratios(log_probs, base_log_probs, where=where), axis=-1)


def kl_terms(
    log_probs: Float[Array, "*E"],
    base_log_probs: Float[Array, "*E"],
    estimator: Callable[[Array, Array], Array] = k3,
    *,
    where: Bool[Array, "*E"] | None = None,
) -> Float[Array, "*E"]:
    """An estimate of KL(pi_theta || pi_base) from each entry, nats, 0 where masked; GRPO has k3 of each token.

    Args:
      log_probs: log pi_theta of what was sampled.
      base_log_probs: log pi_base of the same, detached here.
      estimator: :func:`gempi_jax.numerics.k1`, ``k2`` or ``k3``.
      where: the entries that are real.

    Raises:
      ValueError: where shapes disagree.
    """
    rho = log_ratios(log_probs, base_log_probs, where=where)
    return estimator(rho, jnp.zeros_like(rho))
