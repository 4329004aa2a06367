"""VIREL on a process that is enumerated, document section 9: actor and critic are tables, and (18)-(21) are exact.

d(s) and the norm of (13) are uniform: every state, and every pair of state and action, counts the same.  What makes the
ELBO (15) a way to the optimal policy:

* where E[Q] > 0, (15) has no bound as epsilon falls, so that its optimum is a critic without error; one under its own
  Boltzmann policy, whose temperature is then 0, solves Bellman's optimality equation, and that policy is greedy;
* where E[Q] < 0 it falls without bound instead, and the critic flees from what is true.  Add a constant to the
  rewards, so that no value is below 0; of a process without ends that moves no policy.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from gempi_jax.losses import (
    bellman_residuals,
    boltzmann_log_policy,
    expected_values,
    residual_temperature,
    virel_actor_loss,
    virel_critic_loss,
)
from gempi_jax.numerics import reductions
from gempi_jax.numerics.keys import named_key
from gempi_jax.rl import tabular
from gempi_jax.rl.tabular import TabularMDP
from gempi_jax.types import Array


class VirelTables(NamedTuple):
    """What tabular VIREL learns.

    Attributes:
      logits: theta, of the actor.
      action_values: omega, Q itself, units of return.
      temperature: epsilon of the last update, which the Boltzmann policy inside T_omega has.
    """

    logits: Float[Array, "S V"]
    action_values: Float[Array, "S V"]
    temperature: Float[Array, ""]

    @property
    def log_policy(self) -> Float[Array, "S V"]:
        """log pi_theta."""
        return jax.nn.log_softmax(self.logits)


def boltzmann_backup(tables: VirelTables) -> Float[Array, "S V"]:
    """The policy of T in (13) as the document has it: pi_omega, (14), at the temperature of the last update."""
    return boltzmann_log_policy(tables.action_values, tables.temperature)


def actor_backup(tables: VirelTables) -> Float[Array, "S V"]:
    """pi_theta in its place, which (14) is the optimum of: a critic of the policy that acts, as neural ones are."""
    return tables.log_policy


class Virel(NamedTuple):
    """How tabular VIREL steps.

    Attributes:
      scale: c of (13), beta of the practical variant; > 0.  It sets how greedy the actor is at a given error, and
        changes (21) by a factor alone.
      power: p of (13), >= 1.
      actor_rate: of (18).
      critic_rate: of (20).  For p = 2 the critic is stable below about S V / (scale E[Q] (1 + gamma)^2).
      backup: the policy of T in (13), held while the critic steps.
    """

    scale: float = 1.0
    power: float = 2.0
    actor_rate: float = 1.0
    critic_rate: float = 0.1
    backup: Callable[[VirelTables], Array] = boltzmann_backup


def virel_tables(mdp: TabularMDP, action_values: float = 0.0, temperature: float = 1.0) -> VirelTables:
    """An actor that prefers nothing, and a critic that is the same everywhere."""
    zeros = jnp.zeros(mdp.rewards.shape)
    return VirelTables(zeros, zeros + action_values, jnp.float32(temperature))


def critic_temperature(
    mdp: TabularMDP, virel: Virel, action_values: Float[Array, "S V"], log_policy: Float[Array, "S V"]
) -> Float[Array, ""]:
    """epsilon_omega = c ||T Q - Q||_p^p, (13), differentiable in Q; T has the policy that is given."""
    following = expected_values(log_policy, action_values)
    residuals = tabular.action_values(mdp, following) - action_values
    return residual_temperature(residuals, virel.scale, virel.power)


def virel_step(mdp: TabularMDP, virel: Virel, tables: VirelTables) -> VirelTables:
    """(18) and (20) once, together: both gradients, (19) and (21), are of the tables as they were.

    Args:
      mdp: the process.
      virel: how to step.
      tables: actor, critic and the last temperature.
    """
    backup = reductions.detach(virel.backup(tables))
    log_policy = reductions.detach(tables.log_policy)

    def critic_loss(action_values):
        temperature = critic_temperature(mdp, virel, action_values, backup)
        return virel_critic_loss(expected_values(log_policy, action_values), temperature), temperature

    def actor_loss(logits, temperature):
        return virel_actor_loss(tables.action_values, jax.nn.log_softmax(logits), temperature)

    slope, temperature = jax.grad(critic_loss, has_aux=True)(tables.action_values)
    return _stepped(virel, tables, jax.grad(actor_loss)(tables.logits, temperature), slope, temperature)


def virel_beta_step(
    mdp: TabularMDP, virel: Virel, tables: VirelTables, key: Key[Array, ""], batch_size: int
) -> VirelTables:
    """The practical variant: epsilon = beta mean |delta|^p of a minibatch of transitions, held where it is used.

    Three things differ from :func:`virel_step`.  The next state is sampled, so that epsilon keeps the variance of what
    is sampled, and the actor some entropy, where a process is noisy.  What Q is regressed on is held, since a squared
    error with one next state in both of its factors is biased.  And the term epsilon E[grad Q] of (21), of second order
    in the error, is dropped with the factor E[Q] of the other: the critic descends mean |delta|^p.

    Args:
      mdp: the process.
      virel: how to step; ``scale`` is beta.
      tables: actor, critic and the last temperature.
      key: of the minibatch.
      batch_size: transitions; states and actions are uniform.
    """
    states, actions = mdp.rewards.shape
    pairs = jax.random.randint(named_key(key, "pairs"), (batch_size,), 0, states * actions)
    state, action = pairs // actions, pairs % actions
    rows = mdp.transitions[state, action]
    ends = 1.0 - rows.sum(-1, keepdims=True)
    # The mass that a row lacks is one more state, behind the last, where nothing follows.
    log_rows = jnp.log(jnp.maximum(jnp.concatenate([rows, ends], axis=-1), 0.0))
    following = jax.random.categorical(named_key(key, "following"), log_rows)
    goes_on, following = following < states, jnp.minimum(following, states - 1)
    backup = virel.backup(tables)[following]
    after = tables.action_values[following]
    rewards, discounts = mdp.rewards[state, action], jnp.where(goes_on, mdp.discount, 0.0)

    def residual_loss(action_values):
        held = reductions.detach(after)
        residuals = bellman_residuals(action_values[state, action], rewards, discounts, held, backup)
        temperature = residual_temperature(residuals, virel.scale, virel.power)
        return temperature / virel.scale, temperature

    def actor_loss(logits, temperature):
        return virel_actor_loss(tables.action_values[state], jax.nn.log_softmax(logits)[state], temperature)

    slope, temperature = jax.grad(residual_loss, has_aux=True)(tables.action_values)
    return _stepped(virel, tables, jax.grad(actor_loss)(tables.logits, temperature), slope, temperature)


def _stepped(virel: Virel, tables: VirelTables, actor: Array, critic: Array, temperature: Array) -> VirelTables:
    return VirelTables(
        tables.logits - virel.actor_rate * actor,
        tables.action_values - virel.critic_rate * critic,
        reductions.detach(temperature),
    )


__all__ = [
    "Virel",
    "VirelTables",
    "actor_backup",
    "boltzmann_backup",
    "critic_temperature",
    "virel_beta_step",
    "virel_step",
    "virel_tables",
]
