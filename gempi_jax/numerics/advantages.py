"""Advantage estimators as values: functions of rewards, discounts, continues, values and next values, in this order.

===================  ====================================================================  =================
estimator            value target G_t                                                      advantage A_t
===================  ====================================================================  =================
``gae(lam)``         the lambda-return (TD(lambda)); lam = 0 one step, lam = 1 the return  G_t - V_t
``unroll_returns``   rewards to the end of the unroll, then V, as V-MPO: ``gae(1)``        G_t - V_t
``n_step_returns``   n rewards and then V, for every step: the rolling reading             G_t - V_t
``vtrace``           the lambda-return of pi from steps that another policy b made         rho_t (q_t - V_t)
===================  ====================================================================  =================

Two of the same settings are the same value.  Arrays are [..., T], time last; a whole completion is T = 1.
``discounts`` multiply what follows a step: gamma, and 0 where the episode terminates there.  ``continues`` say whether
the next entry belongs to the same episode; where it does not and the discount is above 0, as at a time-out or the end
of an unroll, V of the last observation, ``next_values``, stands for the rest.  A sixth argument, ``ratios``, is
pi(a_t) / b(a_t); only V-trace reads it, the others take it and are of the policy that acted.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.types import Array

Estimator = Callable[..., tuple[Array, Array]]


@functools.cache
def gae(lam: float) -> Estimator:
    """Generalised advantages, section 4: A_t = delta_t + discount_t lam A_{t+1}; targets are A + V, the lambda-returns.

    lam = 1 is the return less V, lam = 0 the one-step residual delta_t = r_t + discount_t V(s_{t+1}) - V(s_t).

    Args:
      lam: in [0, 1].

    Raises:
      ValueError: for lam outside [0, 1].
    """
    check_lam("gae", lam)

    def estimate(
        rewards: Float[Array, "*B T"],
        discounts: Float[Array, "*B T"],
        continues: Bool[Array, "*B T"],
        values: Float[Array, "*B T"],
        next_values: Float[Array, "*B T"],
        ratios: Float[Array, "*B T"] | None = None,
    ) -> tuple[Float[Array, "*B T"], Float[Array, "*B T"]]:
        residuals = rewards + discounts * next_values - values
        advantages = backward(residuals, lam * discounts * continues)
        return advantages, advantages + values

    return estimate


def unroll_returns() -> Estimator:
    """Every step of an episode bootstraps from where it ends or the unroll does: G_t = r_t + discount_t G_{t+1}."""
    return gae(1.0)


@functools.cache
def n_step_returns(n: int) -> Estimator:
    """n rewards and then V, section 3: G_t = r_t + ... + gamma^n V(s_{t+n}); fewer where the episode or unroll ends.

    Args:
      n: at least 1.

    Raises:
      ValueError: for n below 1.
    """
    if n < 1:
        raise ValueError(f"n_step_returns: n is {n}; an n-step return needs at least one step.")

    def estimate(
        rewards: Float[Array, "*B T"],
        discounts: Float[Array, "*B T"],
        continues: Bool[Array, "*B T"],
        values: Float[Array, "*B T"],
        next_values: Float[Array, "*B T"],
        ratios: Float[Array, "*B T"] | None = None,
    ) -> tuple[Float[Array, "*B T"], Float[Array, "*B T"]]:
        inside = continues.at[..., -1].set(False)

        def one_more(_, shorter):
            return rewards + discounts * jnp.where(inside, jnp.roll(shorter, -1, axis=-1), next_values)

        # G of k + 1 steps is a reward and then G of k; beyond T steps nothing changes.
        returns = jax.lax.fori_loop(0, min(n, rewards.shape[-1]), one_more, values)
        return returns - values, returns

    return estimate


@functools.cache
def vtrace(lam: float = 1.0, rho_clip: float = 1.0, c_clip: float = 1.0) -> Estimator:
    """V-trace: what pi, no longer the policy b that acted, would earn.

    With rho_t = min(ratio_t, rho_clip), c_t = lam min(ratio_t, c_clip), delta_t = rho_t (r_t + gamma_t V_{t+1} - V_t):

      v_t - V_t = delta_t + gamma_t c_t (v_{t+1} - V_{t+1}),   A_t = rho_t (r_t + gamma_t v_{t+1} - V_t)

    v are the value targets.  Where all ratios are 1 the targets are those of ``gae(lam)``, and A too for lam = 1.

    Args:
      lam: in [0, 1].
      rho_clip: decides which policy's value is learnt: pi's for infinity, one between b and pi for less.
      c_clip: decides how fast alone.

    Raises:
      ValueError: lam outside [0, 1], clips that are not positive or c_clip above rho_clip; without ratios.

    Source: Espeholt et al. 2018, IMPALA, section 4.1 and 4.2.
    """
    check_lam("vtrace", lam)
    if not 0 < c_clip <= rho_clip:
        raise ValueError(f"vtrace: c_clip is {c_clip} and rho_clip {rho_clip}; give 0 < c_clip <= rho_clip.")

    def estimate(
        rewards: Float[Array, "*B T"],
        discounts: Float[Array, "*B T"],
        continues: Bool[Array, "*B T"],
        values: Float[Array, "*B T"],
        next_values: Float[Array, "*B T"],
        ratios: Float[Array, "*B T"] | None = None,
    ) -> tuple[Float[Array, "*B T"], Float[Array, "*B T"]]:
        if ratios is None:
            raise ValueError("vtrace: ratios is None; give pi(a) / b(a) of each step, 1 where pi itself acted.")
        rho, c = jnp.minimum(ratios, rho_clip), lam * jnp.minimum(ratios, c_clip)
        residuals = rho * (rewards + discounts * next_values - values)
        corrections = backward(residuals, c * discounts * continues)
        following = jnp.roll(corrections, -1, axis=-1).at[..., -1].set(0.0) * continues
        return rho * (rewards + discounts * (next_values + following) - values), corrections + values

    return estimate


def check_lam(name: str, lam: float) -> None:
    """Raises ValueError for lam outside [0, 1]; ``name`` is whose it is."""
    if not 0.0 <= lam <= 1.0:
        raise ValueError(f"{name}: lam is {lam}; give a number from 0 (one step) to 1 (the whole return).")


def backward(inputs: Float[Array, "*B T"], decays: Float[Array, "*B T"]) -> Float[Array, "*B T"]:
    """x_t = inputs_t + decays_t x_{t+1}, from 0 beyond the end."""

    def step(following, now):
        value = now[0] + now[1] * following
        return value, value

    by_time = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (inputs, decays))
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(by_time[0][0]), by_time, reverse=True)[1], 0, -1)
