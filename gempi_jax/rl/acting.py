"""One acting step, on which unrolls of environments in JAX and of those on the host are built."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gempi_jax.models import Distribution
from gempi_jax.numerics.keys import named_key
from gempi_jax.rl.agent import Agent, Memories, Seen, one_step
from gempi_jax.rl.env import Continuous, Discrete, TimeStep
from gempi_jax.types import Array, Params


class Acted(NamedTuple):
    """What a policy did at one step, [B, ...], or at T of them, [T, B, ...]; as of ``Unroll``."""

    seen: Seen
    actions: Array
    log_probs: Array
    policy: Distribution
    values: Array


class Outcome(NamedTuple):
    """What came of it, with the same axes.

    Attributes:
      rewards, terminated, truncated: as of ``Unroll``.
      values_after: V(s_{t+1}) of the same episode, where it was cut off and at the last step; anything elsewhere.
      returns: of the episode up to here, undiscounted.
      lengths: the same in steps.
    """

    rewards: Array
    terminated: Array
    truncated: Array
    values_after: Array
    returns: Array
    lengths: Array


def first_seen(actions: Discrete | Continuous, observations: Float[Array, "B ..."]) -> Seen:
    """What is seen where episodes begin: there is no step before."""
    number = len(observations)
    dtype = jnp.int32 if isinstance(actions, Discrete) else jnp.float32
    none = jnp.zeros((number, *actions.shape), dtype)
    return Seen(observations, none, jnp.zeros((number,), jnp.float32), jnp.ones((number,), bool))


def step_key(key: Array, index: int | Array) -> Array:
    """Of the step of that number in an unroll."""
    return named_key(key, "step", index)


def act(agent: Agent, params: Params, seen: Seen, memories: Memories, key: Array) -> tuple[Acted, Memories]:
    """One step of the policy in B environments.

    Args:
      agent: the networks.
      params: of the agent.
      seen: [B, ...].
      memories: before the step.
      key: of the step.

    Returns:
      What it did, and the memories after it.
    """
    one = one_step(seen)
    read = agent.read(params, one, memories)
    action = read.policy.sample(named_key(key, "action"))
    of_one = Acted(one, action, read.policy.log_prob(action), read.policy, read.values)
    return jax.tree.map(lambda x: x[:, 0], of_one), read.memories


def value_after(agent: Agent, params: Params, actions: Array, then: TimeStep, memories: Memories) -> Float[Array, "B"]:
    """V of the last observations as if their episodes went on."""
    last = Seen(then.final_observation, actions, then.reward, jnp.zeros_like(then.terminated))
    return agent.read(params, one_step(last), memories).values[:, 0]


def seen_then(actions: Array, then: TimeStep) -> Seen:
    """What is acted on next."""
    return Seen(then.observation, actions, then.reward, then.terminated | then.truncated)


def tally(returns: Array, lengths: Array, reward: Array, ended: Array) -> tuple[tuple[Array, Array], ...]:
    """Return and length of each episode with the step that was made, and those that the next step starts from."""
    returns, lengths = returns + reward, lengths + 1
    return (returns, lengths), (jnp.where(ended, 0.0, returns), jnp.where(ended, 0, lengths))


__all__ = ["Acted", "Outcome", "act", "first_seen", "seen_then", "step_key", "tally", "value_after"]
