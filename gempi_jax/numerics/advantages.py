"""Advantage estimators as values: functions of rewards, discounts, continues, values and next values, in this order.

They return advantages and value targets; of equal settings one function is made.  Arrays are [..., T], time last; a
whole completion is T = 1.  ``discounts`` multiply what follows a step: gamma, and 0 where the episode terminates there.
``continues`` say whether the next entry belongs to the same episode; where it does not and the discount is above 0, as
at a time-out, V of the last observation, ``next_values``, stands for the rest.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.types import Array

Estimator = Callable[[Array, Array, Array, Array, Array], tuple[Array, Array]]


@functools.cache
def gae(lam: float) -> Estimator:
    """Generalised advantages, section 4: A_t = delta_t + discount_t lam A_{t+1}; targets are A + V, the lambda-returns.

    lam = 1 is the return less V, lam = 0 the one-step residual delta_t = r_t + discount_t V(s_{t+1}) - V(s_t).

    Args:
      lam: in [0, 1].

    Raises:
      ValueError: for lam outside [0, 1].
    """
    if not 0.0 <= lam <= 1.0:
        raise ValueError(f"gae: lam is {lam}; give a number from 0 (one step) to 1 (the whole return).")

    def estimate(
        rewards: Float[Array, "*B T"],
        discounts: Float[Array, "*B T"],
        continues: Bool[Array, "*B T"],
        values: Float[Array, "*B T"],
        next_values: Float[Array, "*B T"],
    ) -> tuple[Float[Array, "*B T"], Float[Array, "*B T"]]:
        residuals = rewards + discounts * next_values - values
        decays = lam * discounts * continues

        def step(following, now):
            advantage = now[0] + now[1] * following
            return advantage, advantage

        inputs = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (residuals, decays))
        _, advantages = jax.lax.scan(step, jnp.zeros_like(inputs[0][0]), inputs, reverse=True)
        advantages = jnp.moveaxis(advantages, 0, -1)
        return advantages, advantages + values

    return estimate
