"""VIREL, section 9: an actor and a critic that raise one ELBO, at a temperature that is the critic's own Bellman error.

The actor's loss is exact over a discrete action set or on sampled actions; the ELBO itself is in ``elbo.py``.  The
Boltzmann policy is the E-step (23) with a uniform anchor, A = Q and Lambda = epsilon; the critic's step is what the
tuple does not have.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.losses.elbo import expected_values, over_states, values_and_entropies
from gempi_jax.numerics import reductions
from gempi_jax.numerics.checks import positive, require, same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array

MINIMUM = 1e-8
"""A critic without error would divide by 0 in (14): its temperature stays at least this."""


def bellman_residuals(
    values: Float[Array, "*E"],
    rewards: Float[Array, "*E"],
    discounts: Float[Array, "*E"],
    next_values: Float[Array, "*E V"],
    next_log_policy: Float[Array, "*E V"],
) -> Float[Array, "*E"]:
    """T Q(h) - Q(h) with T Q(h) = r(h) + gamma sum_a' pi(a' | s') Q(s', a'), the operator of (13).

    Nothing is detached: (21) differentiates epsilon through both Qs.  Of the Boltzmann policy in T_omega the document
    leaves open which epsilon it has, since (13) defines epsilon by it; take that of the last update.

    Args:
      values: Q(h), units of return.
      rewards: r(h).
      discounts: gamma, 0 where the episode ends.
      next_values: Q(s', .).
      next_log_policy: log pi(. | s').
    """
    return rewards + discounts * expected_values(next_log_policy, next_values) - values


def residual_temperature(
    residuals: Float[Array, "*E"],
    c: float = 1.0,
    p: float = 2.0,
    *,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """epsilon = c ||T Q - Q||_p^p, (13), at least ``MINIMUM``; differentiable in the critic.

    The norm is taken under the distribution that the samples come from, c * mean |.|^p, so that it does not grow with
    their number; for a sum over a finite set of h multiply c by its size.

    Args:
      residuals: T Q(h) - Q(h).
      c: > 0, units of return per unit of the norm.
      p: >= 1.
      where: the samples that are real.
      axis_name: mapped axes over which the samples are spread.

    Raises:
      ValueError: for a c that is not positive or a p below 1.
    """
    positive(c, "residual_temperature: c", "a scale")
    require(p >= 1.0, f"residual_temperature: p must be at least 1 (2 is usual), not {p}.")
    mask = real(residuals, where)
    powers = jnp.power(jnp.abs(jnp.where(mask, residuals, 0.0)), p)
    return jnp.maximum(c * reductions.mean(powers, where=mask, axis_name=axis_name), MINIMUM)


def boltzmann_log_policy(
    action_values: Float[Array, "*S V"], temperature: Float[Array, ""] | float
) -> Float[Array, "*S V"]:
    """log pi_omega(a | s) = Q / epsilon - log sum_a' exp(Q / epsilon), (14)."""
    return jax.nn.log_softmax(action_values / temperature, axis=-1)


def virel_actor_loss(
    action_values: Float[Array, "*S V"],
    log_policy: Float[Array, "*S V"],
    temperature: Float[Array, ""] | float,
    *,
    state_probs: Float[Array, "*S"] | None = None,
    where: Bool[Array, "*S"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """-E_s [sum_a pi sg[Q] + sg[epsilon] H(pi)] = -epsilon L: its gradient in theta is minus (19), its descent (18).

    Arguments and errors as for :func:`virel_elbo`; the critic sees no gradient.
    """
    action_values, temperature = reductions.detach((action_values, temperature))
    values, entropies = values_and_entropies("virel_actor_loss", action_values, log_policy, state_probs, where)
    return -over_states(values + temperature * entropies, state_probs, where, axis_name)


def virel_sampled_actor_loss(
    log_probs: Float[Array, "*E"],
    values: Float[Array, "*E"],
    entropies: Float[Array, "*E"],
    temperature: Float[Array, ""] | float,
    *,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """-mean [sg[Q(h)] log pi_theta(a | s) + sg[epsilon] H(pi_theta(. | s))] at a ~ pi_theta.

    Its gradient is minus the score-function estimate of (19); its value is no objective.

    Args:
      log_probs: log pi_theta(a | s) of the sampled actions.
      values: Q(h), detached here; less a function of s, if it is to vary less.
      entropies: H(pi_theta(. | s)), exact.
      temperature: epsilon, detached here.
      where: the samples that are real.
      axis_name: mapped axes over which the samples are spread.

    Raises:
      ValueError: where shapes disagree.
    """
    arrays = {"values": values, "entropies": entropies, "where": where}
    same_shape("virel_sampled_actor_loss", log_probs=log_probs, **arrays)
    mask = real(log_probs, where)
    log_probs, values, entropies = (jnp.where(mask, x, 0.0) for x in (log_probs, values, entropies))
    values, temperature = reductions.detach((values, temperature))
    return -reductions.mean(values * log_probs + temperature * entropies, where=mask, axis_name=axis_name)


def virel_critic_loss(
    values: Float[Array, "*E"],
    temperature: Float[Array, ""],
    *,
    where: Bool[Array, "*E"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """-(sg[epsilon] E[Q] - sg[E[Q]] epsilon): its gradient in omega is minus (21), so its descent is (20).

    Args:
      values: Q_omega(h) of sampled actions, or :func:`expected_values` of each state; the policy is detached by whoever
        made them.
      temperature: epsilon_omega, differentiable in omega.
      where: the samples or states that are real.
      axis_name: mapped axes over which they are spread.

    Raises:
      ValueError: where shapes disagree.
    """
    same_shape("virel_critic_loss", values=values, where=where)
    mask = real(values, where)
    mean = reductions.mean(jnp.where(mask, values, 0.0), where=mask, axis_name=axis_name)
    return reductions.detach(mean) * temperature - reductions.detach(temperature) * mean
