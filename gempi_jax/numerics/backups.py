"""Targets of Q as values: functions of what a sequence of another policy's steps holds, in this order.

===================  ================================================================================
backup               target G_t of Q(s_t, a_t)
===================  ================================================================================
``n_step_backup(n)`` n rewards and then E_pi Q: as they are, so that for n > 1 they are b's, not pi's
``retrace(lam)``     pi's return, each step further as far as pi would have taken b's action
===================  ================================================================================

Arguments, [..., T], time last: ``rewards``, ``discounts`` and ``continues`` as in
:mod:`gempi_jax.numerics.advantages`; ``next_values``, E_pi Q(s_{t+1}, .); ``action_values``, Q(s_t, a_t); ``ratios``,
pi(a_t) / b(a_t).  Two of the same settings are the same value.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.numerics.advantages import backward, check_lam, n_step_returns
from gempi_jax.types import Array

Backup = Callable[..., Float[Array, "*B T"]]


@functools.cache
def n_step_backup(n: int = 1) -> Backup:
    """G_t = r_t + ... + gamma^n E_pi Q(s_{t+n}, .); fewer steps where the episode or the sequence ends.

    Args:
      n: at least 1; 1 is right whoever acted.

    Raises:
      ValueError: for n below 1.
    """
    returns = n_step_returns(n)

    def targets(
        rewards: Float[Array, "*B T"],
        discounts: Float[Array, "*B T"],
        continues: Bool[Array, "*B T"],
        next_values: Float[Array, "*B T"],
        action_values: Float[Array, "*B T"],
        ratios: Float[Array, "*B T"],
    ) -> Float[Array, "*B T"]:
        # E_pi Q(s_t, .) is read where an episode goes on from t - 1 alone, and there it is the next value of t - 1.
        values = jnp.roll(next_values, 1, axis=-1)
        return returns(rewards, discounts, continues, values, next_values)[1]

    return targets


@functools.cache
def retrace(lam: float = 1.0) -> Backup:
    """G_t = r_t + gamma_t (E_pi Q(s_{t+1}, .) + c_{t+1} (G_{t+1} - Q(s_{t+1}, a_{t+1}))), c_t = lam min(1, ratio_t).

    Where an episode or the sequence ends nothing follows E_pi Q.  lam = 0 is one step.

    Args:
      lam: in [0, 1].

    Raises:
      ValueError: for lam outside [0, 1].

    Source: Munos et al. 2016, Safe and efficient off-policy reinforcement learning, equation 4.
    """
    check_lam("retrace", lam)

    def targets(
        rewards: Float[Array, "*B T"],
        discounts: Float[Array, "*B T"],
        continues: Bool[Array, "*B T"],
        next_values: Float[Array, "*B T"],
        action_values: Float[Array, "*B T"],
        ratios: Float[Array, "*B T"],
    ) -> Float[Array, "*B T"]:
        residuals = rewards + discounts * next_values - action_values
        traces = lam * jnp.minimum(ratios, 1.0)
        following = jnp.roll(traces, -1, axis=-1).at[..., -1].set(0.0)
        return action_values + backward(residuals, discounts * continues * following)

    return targets


__all__ = ["Backup", "n_step_backup", "retrace"]
