"""PPO, section 4: the clipped surrogate on the ratio of two policies, per step or per sequence.

Not for dropout: r_t(theta) divides a pass of pi_theta by a pass of pi_old, and dropped units move the first but not the
second.  Before the first update, where the ratio should be exactly 1, it is not, some terms are clipped already, and
the gradient is that of a policy which nobody sampled from.  Without dropout the first pass has ratio 1, nothing clipped
and the plain policy gradient.  The M-steps of :mod:`gempi_jax.em` have no ratio and no such limit.

The log-ratios are those of :mod:`gempi_jax.losses.ratios`, the entropy bonus S is
:func:`gempi_jax.numerics.categorical_entropy`, the KL estimate :func:`gempi_jax.numerics.k1`.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import require, same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.types import Array

Epsilon = float | tuple[float, float]
"""How far below and above 1 the ratio may go; one number is both."""


class ClipIndicators(NamedTuple):
    """The terms that the clip takes the gradient from: below 1 - eps_low (A < 0) and above 1 + eps_high (A > 0)."""

    low: Bool[Array, "*T"]
    high: Bool[Array, "*T"]


def clipped_surrogate(
    log_ratios: Float[Array, "*T"],
    advantages: Float[Array, "..."],
    epsilon: Epsilon,
    *,
    where: Bool[Array, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """-min(r A, clip(r, 1 - eps_low, 1 + eps_high) A) of each term, r = exp(log_ratios): to be minimised.

    The document maximises L^CLIP, the mean of min(...).  Per step or token: ratios [*E, L] with an advantage for each
    term or one for each example.  Per sequence: the ratios of :func:`gempi_jax.losses.sequence_log_ratios`, [*E].

    Args:
      log_ratios: log pi_theta - log pi_old, nats, from a pass without dropout; :func:`gempi_jax.losses.log_ratios`.
      advantages: A, detached here; of the terms, or of the examples where terms come last.
      epsilon: eps, or (eps_low, eps_high); 0.2 is usual, (0.2, 0.28) is DAPO's.
      where: the terms that are real; 0 elsewhere.

    Raises:
      ValueError: where shapes disagree; for an epsilon whose lower part is outside (0, 1) or upper part not positive.
    """
    below, above = _log_bounds("clipped_surrogate", epsilon)
    ratios, advantages, _ = _real_terms("clipped_surrogate", log_ratios, advantages, where)
    # min(r A, clip(r) A) is r A with r bounded from above where A > 0 and from below where A < 0.  Bounding log r
    # keeps exp from overflowing in the branch that is not taken, whose gradient would be 0 * inf.
    bounded = jnp.where(advantages >= 0, jnp.minimum(ratios, above), jnp.maximum(ratios, below))
    return -jnp.exp(bounded) * advantages


def clip_indicators(
    log_ratios: Float[Array, "*T"],
    advantages: Float[Array, "..."],
    epsilon: Epsilon,
    *,
    where: Bool[Array, "*T"] | None = None,
) -> ClipIndicators:
    """Which terms have no gradient because they are clipped; arguments and errors as for :func:`clipped_surrogate`.

    A ratio outside the bounds on the other side of its advantage is not clipped, and its term moves the policy.
    """
    below, above = _log_bounds("clip_indicators", epsilon)
    ratios, advantages, mask = _real_terms("clip_indicators", log_ratios, advantages, where)
    return ClipIndicators(mask & (ratios < below) & (advantages < 0), mask & (ratios > above) & (advantages > 0))


def _real_terms(place, log_ratios, advantages, where):
    """Log-ratios and detached advantages of each term, 0 where masked, and the mask."""
    same_shape(place, log_ratios=log_ratios, where=where)
    if log_ratios.ndim and advantages.shape == log_ratios.shape[:-1]:
        advantages = jnp.broadcast_to(advantages[..., None], log_ratios.shape)
    require(
        advantages.shape == log_ratios.shape,
        f"{place}: advantages have shape {advantages.shape}, log_ratios {log_ratios.shape}; give one for each term, or "
        f"one for each example, {log_ratios.shape[:-1]}.",
    )
    mask = real(log_ratios, where)
    return jnp.where(mask, log_ratios, 0.0), reductions.detach(jnp.where(mask, advantages, 0.0)), mask


def check_epsilon(place: str, epsilon: Epsilon) -> tuple[float, float]:
    """(eps_low, eps_high).

    Raises:
      ValueError: for more than two numbers, a lower one outside (0, 1), or an upper one that is not positive.
    """
    bounds = epsilon if isinstance(epsilon, tuple) else (epsilon, epsilon)
    require(len(bounds) == 2, f"{place}: epsilon is {epsilon}; give one number, or (eps_low, eps_high).")
    low, high = bounds
    require(
        0.0 < low < 1.0,
        f"{place}: epsilon, how far the ratio may fall below 1, must lie in (0, 1) (0.2 is usual), not {low}.",
    )
    require(
        0.0 < high < math.inf,
        f"{place}: epsilon, how far the ratio may rise above 1, must be positive (0.2 is usual), not {high}.",
    )
    return low, high


def _log_bounds(place: str, epsilon: Epsilon) -> tuple[float, float]:
    """log(1 - eps_low) and log(1 + eps_high)."""
    low, high = check_epsilon(place, epsilon)
    return math.log1p(-low), math.log1p(high)
