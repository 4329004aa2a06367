"""Returns of an unroll, by one backward recursion.

Time is the leading axis.  ``discounts[t]`` multiplies everything after step t: gamma within an episode, 0 at its end.
``values`` has one entry more than ``rewards``: its last is the bootstrap V(s_T).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.types import Array


def _check(rewards, discounts, values):
    if discounts.shape != rewards.shape or values.shape != (rewards.shape[0] + 1, *rewards.shape[1:]):
        raise ValueError(
            f"rewards {rewards.shape}, discounts {discounts.shape}, values {values.shape}: discounts must have the "
            "shape of the rewards and values one step more, V(s_T) last."
        )


def _backward(inputs: Array, decays: Array, last: Array) -> Array:
    """x_t = inputs_t + decays_t x_{t+1}, from x_T = last."""

    def step(following, now):
        value = now[0] + now[1] * following
        return value, value

    return jax.lax.scan(step, last, (inputs, decays), reverse=True)[1]


def unroll_returns(
    rewards: Float[Array, "T *B"], discounts: Float[Array, "T *B"], values: Float[Array, "T1 *B"]
) -> Float[Array, "T *B"]:
    """Every step bootstraps from the unroll's last state, as V-MPO does: G_t = r_t + gamma_t G_{t+1}, G_T = V(s_T).

    Args:
      rewards: r_t.
      discounts: gamma_t, 0 where the episode ends.
      values: V(s_0) ... V(s_T); only the last is used.
    """
    _check(rewards, discounts, values)
    return _backward(rewards, discounts, values[-1])


def n_step_returns(
    rewards: Float[Array, "T *B"], discounts: Float[Array, "T *B"], values: Float[Array, "T1 *B"], n: int
) -> Float[Array, "T *B"]:
    """The rolling reading of section 3: n rewards and then V(s_{t+n}); fewer near the end of the unroll.

    Args:
      rewards: r_t.
      discounts: gamma_t, 0 where the episode ends.
      values: V(s_0) ... V(s_T).
      n: steps before the bootstrap, at least 1.
    """
    _check(rewards, discounts, values)
    if n < 1:
        raise ValueError(f"n is {n}: an n-step return needs at least one step.")
    steps = rewards.shape[0]
    pad = [(0, n), *[(0, 0)] * (rewards.ndim - 1)]
    # Beyond the unroll nothing is earned or discounted, so V(s_T) passes through unchanged.
    rewards, discounts = jnp.pad(rewards, pad), jnp.pad(discounts, pad, constant_values=1.0)
    values = jnp.pad(values, pad, mode="edge")
    returns = values[n : n + steps]
    for offset in reversed(range(n)):
        returns = rewards[offset : offset + steps] + discounts[offset : offset + steps] * returns
    return returns


def lambda_returns(
    rewards: Float[Array, "T *B"], discounts: Float[Array, "T *B"], values: Float[Array, "T1 *B"], lam: float
) -> Float[Array, "T *B"]:
    """TD(lambda): G_t = r_t + gamma_t ((1 - lam) V(s_{t+1}) + lam G_{t+1}), G_T = V(s_T).

    lam = 0 is the one-step return, lam = 1 is :func:`unroll_returns`.
    """
    _check(rewards, discounts, values)
    return _backward(rewards + discounts * (1.0 - lam) * values[1:], lam * discounts, values[-1])


def gae(
    rewards: Float[Array, "T *B"], discounts: Float[Array, "T *B"], values: Float[Array, "T1 *B"], lam: float
) -> Float[Array, "T *B"]:
    """Generalised advantages of section 4: A_t = delta_t + gamma_t lam A_{t+1}; plus V it is the lambda-return."""
    _check(rewards, discounts, values)
    residuals = rewards + discounts * values[1:] - values[:-1]
    return _backward(residuals, lam * discounts, jnp.zeros_like(residuals[0]))
