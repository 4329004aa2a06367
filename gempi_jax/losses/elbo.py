"""The evidence lower bound of VIREL, (15), and what it is made of, (16) and (17).

States *S and a discrete action set V: expectations over actions are exact.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float

from gempi_jax.numerics import categorical_entropy, categorical_kl, reductions
from gempi_jax.numerics.checks import same_shape
from gempi_jax.numerics.masked import real
from gempi_jax.numerics.reductions import AxisName
from gempi_jax.types import Array


def expected_values(log_policy: Float[Array, "*S V"], action_values: Float[Array, "*S V"]) -> Float[Array, "*S"]:
    """sum_a pi(a | s) Q(s, a); actions that the policy never takes may have any value."""
    possible = log_policy > -jnp.inf
    terms = jnp.exp(jnp.where(possible, log_policy, 0.0)) * jnp.where(possible, action_values, 0.0)
    return jnp.sum(terms, axis=-1, where=possible)


def virel_elbo(
    action_values: Float[Array, "*S V"],
    log_policy: Float[Array, "*S V"],
    temperature: Float[Array, ""] | float,
    *,
    state_probs: Float[Array, "*S"] | None = None,
    where: Bool[Array, "*S"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """L(omega, theta) = E_s [sum_a pi(a | s) Q(s, a) / epsilon + H(pi(. | s))], (15), nats.

    Args:
      action_values: Q_omega(s, .).
      log_policy: log pi_theta(. | s).
      temperature: epsilon_omega > 0, differentiable in omega.
      state_probs: d(s), summing to 1; ``None`` when the states are samples of d, equally weighted.
      where: the states that are real.
      axis_name: mapped axes over which the states are spread.

    Raises:
      ValueError: where shapes disagree.
    """
    values, entropies = values_and_entropies("virel_elbo", action_values, log_policy, state_probs, where)
    return over_states(values / temperature + entropies, state_probs, where, axis_name)


class Decomposition(NamedTuple):
    """The right side of (16): L(omega, theta) = log_normalizer - kl - state_entropy, all in nats."""

    log_normalizer: Float[Array, ""]
    kl: Float[Array, ""]
    state_entropy: Float[Array, ""]


def joint_log_probs(
    action_values: Float[Array, "*S V"], temperature: Float[Array, ""] | float
) -> tuple[Float[Array, "*S V"], Float[Array, ""]]:
    """(log p_omega(h), l(omega)) of (17): Q / epsilon normalised over all states and actions together."""
    tilted = action_values / temperature
    log_normalizer = reductions.logsumexp(tilted)
    return tilted - log_normalizer, log_normalizer


def virel_decomposition(
    action_values: Float[Array, "*S V"],
    log_policy: Float[Array, "*S V"],
    temperature: Float[Array, ""] | float,
    state_probs: Float[Array, "*S"],
) -> Decomposition:
    """l(omega), KL(q_theta(h) || p_omega(h)) and H(d(s)) of (16), for states that are all listed.

    The KL is over state-action pairs, q_theta(h) = d(s) pi_theta(a | s): it is least, but not 0, at the Boltzmann
    policy, because d(s) is not p_omega's own.
    """
    same_shape("virel_decomposition", action_values=action_values, log_policy=log_policy)
    log_states = jnp.log(state_probs)
    log_joint, log_normalizer = joint_log_probs(action_values, temperature)
    log_q = (log_states[..., None] + log_policy).reshape(-1)
    kl = categorical_kl(log_q, log_joint.reshape(-1))
    return Decomposition(log_normalizer, kl, categorical_entropy(log_states.reshape(-1)))


def values_and_entropies(
    place: str,
    action_values: Float[Array, "*S V"],
    log_policy: Float[Array, "*S V"],
    state_probs: Float[Array, "*S"] | None,
    where: Bool[Array, "*S"] | None,
) -> tuple[Float[Array, "*S"], Float[Array, "*S"]]:
    """sum_a pi Q and H(pi) of each state; of masked states numbers without meaning or gradient."""
    same_shape(place, action_values=action_values, log_policy=log_policy)
    same_shape(place, states=action_values[..., 0], state_probs=state_probs, where=where)
    mask = real(action_values, None if where is None else where[..., None])
    action_values, log_policy = (jnp.where(mask, x, 0.0) for x in (action_values, log_policy))
    return expected_values(log_policy, action_values), categorical_entropy(log_policy)


def over_states(
    of_states: Float[Array, "*S"],
    state_probs: Float[Array, "*S"] | None,
    where: Bool[Array, "*S"] | None,
    axis_name: AxisName,
) -> Float[Array, ""]:
    """E_s of (15): by d(s) where it is known, else the mean over the states."""
    if state_probs is None:
        return reductions.mean(of_states, where=where, axis_name=axis_name)
    return reductions.sum(state_probs * of_states, where=where, axis_name=axis_name)
