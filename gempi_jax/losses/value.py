"""The critic's regression: one function, and the target says whose it is.

| whose                     | target                                    | coefficient |
|---------------------------|-------------------------------------------|-------------|
| V-MPO, section 3          | ``numerics.unroll_returns``, G^(n)        | 1/2         |
| PPO, as in the document   | ``numerics.lambda_returns`` with lam = 1  | 1           |
| PPO, as in practice       | ``numerics.lambda_returns``, A^GAE + V    | 1 (or 1/2)  |
| AWR                       | ``numerics.lambda_returns``               | 1           |
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array


def value_loss(
    values: Float[Array, "*E"],
    targets: Float[Array, "*E"],
    *,
    coefficient: float = 0.5,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """coefficient * mean (V - sg[G])^2: L_V at 1/2 and L^VF at 1.

    Args:
      values: V(s_t), units of return.
      targets: G_t, detached here although it bootstraps from V.
      coefficient: 1/2 (V-MPO) or 1 (PPO, AWR).
      where: the steps that are real.
      axis_name: mapped axes over which the steps are spread.

    Raises:
      ValueError: where shapes disagree.
    """
    same_shape("value_loss", values=values, targets=targets, where=where)
    mask = real(values, where)
    errors = jnp.where(mask, values, 0.0) - reductions.detach(jnp.where(mask, targets, 0.0))
    return coefficient * reductions.mean(jnp.square(errors), where=mask, axis_name=axis_name)
