"""The critic's regression: one function, and the target says whose it is.

| whose                     | target                                    | coefficient |
|---------------------------|-------------------------------------------|-------------|
| V-MPO, section 3          | ``numerics.unroll_returns()``, G^(n)      | 1/2         |
| PPO, as in the document   | of ``numerics.gae(1)``, the return        | 1           |
| PPO, as in practice       | of ``numerics.gae(lam)``, A^GAE + V       | 1 (or 1/2)  |
| AWR                       | of ``numerics.gae(lam)``, TD(lambda)      | 1           |

Terms of the losses: the mean over the real steps of the update is L_V or L^VF.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import positive, same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.types import Array


def value_loss(
    values: Float[Array, "*E"],
    targets: Float[Array, "*E"],
    *,
    coefficient: float = 0.5,
    where: Bool[Array, "*E"] | None = None,
) -> Float[Array, "*E"]:
    """coefficient (V - sg[G])^2 of each step: the terms of L_V at 1/2 and of L^VF at 1.

    Args:
      values: V(s_t), units of return.
      targets: G_t, detached here although it bootstraps from V.
      coefficient: 1/2 (V-MPO) or 1 (PPO, AWR).
      where: the steps that are real; 0 elsewhere.

    Raises:
      ValueError: where shapes disagree.
    """
    same_shape("value_loss", values=values, targets=targets, where=where)
    mask = real(values, where)
    errors = jnp.where(mask, values, 0.0) - reductions.detach(jnp.where(mask, targets, 0.0))
    return coefficient * jnp.square(errors)


def clipped_value_loss(
    values: Float[Array, "*E"],
    old_values: Float[Array, "*E"],
    targets: Float[Array, "*E"],
    epsilon: float,
    *,
    coefficient: float = 0.5,
    where: Bool[Array, "*E"] | None = None,
) -> Float[Array, "*E"]:
    """coefficient max((V - G)^2, (clip(V, V_old - eps, V_old + eps) - G)^2): V that has moved towards G by eps stops.

    The value clip of PPO's implementations (not of its paper); eps is in units of return, so that it depends on the
    scale of the rewards.

    Args:
      values: V(s_t), units of return.
      old_values: V(s_t) when the batch was collected, detached here.
      targets: G_t, detached here.
      epsilon: eps > 0, units of return; 0.2 is usual.
      coefficient: as for :func:`value_loss`.
      where: the steps that are real; 0 elsewhere.

    Raises:
      ValueError: where shapes disagree; for an epsilon that is not positive.
    """
    positive(epsilon, "clipped_value_loss: epsilon", "in units of return, it")
    same_shape("clipped_value_loss", values=values, old_values=old_values, targets=targets, where=where)
    mask = real(values, where)
    values = jnp.where(mask, values, 0.0)
    old, targets = (reductions.detach(jnp.where(mask, x, 0.0)) for x in (old_values, targets))
    clipped = jnp.clip(values, old - epsilon, old + epsilon)
    return coefficient * jnp.maximum(jnp.square(values - targets), jnp.square(clipped - targets))
