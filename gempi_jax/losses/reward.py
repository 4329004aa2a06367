"""The Bradley-Terry model of preferences, (5) and (8), and the terms of the reward model's loss L_R of section 8."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.types import Array


def bradley_terry(reward_gaps: Float[Array, "*E"]) -> Float[Array, "*E"]:
    """log p(y_w preferred to y_l | x) = log sigma(r(y_w) - r(y_l)), (8); of implicit rewards it is (5).

    Its exponential is (11), the likelihood of a pair under one cluster; a posterior over clusters is
    :func:`gempi_jax.losses.responsibilities`.

    Args:
      reward_gaps: r(x, y_w) - r(x, y_l), the preferred response first.
    """
    # log sigma(x) = -log(1 + exp(-x)), which neither overflows nor cancels.
    return jax.nn.log_sigmoid(reward_gaps)


def reward_model_loss(
    reward_gaps: Float[Array, "*E"],
    weights: Float[Array, "*E"] | None = None,
    *,
    where: Bool[Array, "*E"] | None = None,
) -> Float[Array, "*E"]:
    """-w_i log sigma(r_phi(y_w) - r_phi(y_l)) of each pair: binary cross-entropy.

    L_R is their sum, divided by the number of real pairs or, with weights, by the sum of the weights.  With
    responsibilities as weights it is a cluster's M-step; gaps and weights of all clusters together, [U, P], give the
    expected log-likelihood of the mixture over its P pairs.

    Args:
      reward_gaps: r_phi(x, y_w) - r_phi(x, y_l).
      weights: w_i >= 0, detached here; pairs of weight 0 may hold anything.  1 when ``None``.
      where: the pairs that are real; 0 elsewhere.

    Raises:
      ValueError: where shapes disagree.
    """
    same_shape("reward_model_loss", reward_gaps=reward_gaps, weights=weights, where=where)
    mask = real(reward_gaps, where)
    if weights is None:
        weights = mask.astype(reward_gaps.dtype)
    else:
        mask = mask & (weights > 0)
        weights = reductions.detach(jnp.where(mask, weights, 0.0))
    return -weights * bradley_terry(jnp.where(mask, reward_gaps, 0.0))
