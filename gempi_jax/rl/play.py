"""Whole episodes of a policy at its most likely actions: how a run is judged, and what a picture shows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PyTree

from gempi_jax.numerics.keys import named_key
from gempi_jax.rl.agent import Agent, Memories, Seen, one_step
from gempi_jax.rl.env import Environment
from gempi_jax.rl.unroll import begin
from gempi_jax.types import Array, Params


class Played(NamedTuple):
    """One episode in each of N environments.

    Attributes:
      returns: undiscounted.
      lengths: steps.
    """

    returns: Float[Array, "N"]
    lengths: Int[Array, "N"]


class _Going(NamedTuple):
    """Where the episodes stand; what ended earns no more."""

    environments: PyTree
    seen: Seen
    memories: Memories
    on: Bool[Array, "N"]
    returns: Float[Array, "N"]
    lengths: Int[Array, "N"]


def play(agent: Agent, environment: Environment, params: Params, key: Array, number: int) -> Played:
    """``number`` episodes to their ends, at the policy's mode.

    Args:
      agent: the networks.
      environment: where.
      params: of the agent.
      key: of how episodes begin and go on.
      number: N.
    """

    def step(carry: tuple[_Going, Array]):
        going, index = carry
        return _step(agent, environment, params, named_key(key, "step", index), going), index + 1

    def on(carry: tuple[_Going, Array]):
        return jnp.any(carry[0].on) & (carry[1] < environment.max_episode_steps)

    going, _ = jax.lax.while_loop(on, step, (_start(agent, environment, key, number), jnp.int32(0)))
    return Played(going.returns, going.lengths)


def film(agent: Agent, environment: Environment, params: Params, key: Array) -> tuple[PyTree, Int[Array, ""]]:
    """One episode's states, for ``environment.render``.

    Returns:
      The states s_0 ... of ``max_episode_steps`` + 1, and the episode's number of steps n: those after s_n are of the
      next one, and where it ended s_n is its first.
    """

    def step(going: _Going, index: Array):
        going = _step(agent, environment, params, named_key(key, "step", index), going)
        return going, jax.tree.map(lambda x: x[0], going.environments)

    start = _start(agent, environment, key, 1)
    going, states = jax.lax.scan(step, start, jnp.arange(environment.max_episode_steps))
    first = jax.tree.map(lambda x: x[:1], start.environments)
    return jax.tree.map(lambda one, rest: jnp.concatenate([one, rest]), first, states), going.lengths[0]


def _start(agent: Agent, environment: Environment, key: Array, number: int) -> _Going:
    actors = begin(agent, environment, named_key(key, "begin"), number)
    on = jnp.ones((number,), bool)
    return _Going(actors.environments, actors.seen, actors.memories, on, actors.returns, actors.lengths)


def _step(agent: Agent, environment: Environment, params: Params, key: Array, going: _Going) -> _Going:
    policy, _, memory = agent.act(params["policy"], one_step(going.seen), going.memories.policy)
    action = policy.mode()[:, 0]
    keys = jax.vmap(lambda place: named_key(key, "environment", place))(jnp.arange(len(going.on)))
    states, then = jax.vmap(environment.step)(keys, going.environments, action)
    ended = then.terminated | then.truncated
    return _Going(
        states,
        Seen(then.observation, action, then.reward, ended),
        going.memories._replace(policy=memory),
        going.on & ~ended,
        going.returns + jnp.where(going.on, then.reward, 0.0),
        going.lengths + going.on,
    )


__all__ = ["Played", "film", "play"]
