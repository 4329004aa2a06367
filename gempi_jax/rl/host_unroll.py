"""Unrolls of environments on the host: the steps of :mod:`gempi_jax.rl.unroll`, made one by one.

What the policy does stays on the device, each observation from the moment that it is acted on; rewards and ends follow
once per unroll.  At each step no more than the actions come back.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from gempi_jax.contracts import Metrics
from gempi_jax.rl.acting import Acted, Outcome, act, first_seen, seen_then, step_key, tally, value_after
from gempi_jax.rl.agent import Agent, Memories, Seen
from gempi_jax.rl.env import TimeStep
from gempi_jax.rl.host_env import HostEnvironment
from gempi_jax.rl.unroll import Actors, Unroll, assemble, first_actors
from gempi_jax.types import Array, Params


class Pieces(NamedTuple):
    """What of an unroll is computed on the device: pure functions, which a runner compiles.

    Attributes:
      act: (params, seen, memories, key, number of the step) -> (what the policy did, memories).
      value_after: (params, actions, time step, memories) -> V of the last observations.
      finish: (actors at the start, memories at the end, T times what the policy did and V afterwards, rewards,
        terminated, truncated [T, B]) -> (returns and lengths of the episodes that go on, unroll, metrics).
    """

    act: Callable[[Params, Seen, Memories, Array, int | Array], tuple[Acted, Memories]]
    value_after: Callable[[Params, Array, TimeStep, Memories], Array]
    finish: Callable[..., tuple[tuple[Array, Array], Unroll, Metrics]]

    @classmethod
    def of(cls, agent: Agent, compiled: Callable[[Callable], Callable] = lambda function: function) -> "Pieces":
        """Those of an agent, each ``compiled``, by ``jax.jit``, say; plain by default."""
        pieces = functools.partial(_act, agent), functools.partial(value_after, agent), _finish
        return cls(*map(compiled, pieces))


def begin(agent: Agent, environment: HostEnvironment) -> Actors:
    """All instances at the beginning of an episode.

    Raises:
      EnvironmentFailed: one died, or gave what is no number.
    """
    return first_actors(agent, (), first_seen(environment.actions, jnp.asarray(environment.reset())))


def unroll(
    pieces: Pieces, environment: HostEnvironment, params: Params, actors: Actors, key: Array, length: int
) -> tuple[Actors, Unroll, Metrics]:
    """Acts for ``length`` steps; of the same dynamics, exactly what :func:`gempi_jax.rl.unroll.unroll` returns.

    Args:
      pieces: of the agent.
      environment: which ``actors`` has begun.
      params: of the agent: pi_t and V.
      actors: where its instances stand.
      key: of actions.
      length: T.

    Returns:
      Where they stand then, what happened, and ``episode/*`` of the episodes that ended.

    Raises:
      EnvironmentFailed: an instance died, or gave what is no number; the unroll is lost.
    """
    seen, memories = actors.seen, actors.memories
    nothing = jnp.zeros((environment.num_envs,), jnp.float32)
    did, values_after, came = [], [], []
    for index in range(length):
        acted, memories = pieces.act(params, seen, memories, key, index)
        then = environment.step(np.asarray(acted.actions))
        needed = index == length - 1 or then.truncated.any()
        values_after.append(pieces.value_after(params, acted.actions, then, memories) if needed else nothing)
        seen = seen_then(acted.actions, then)
        did.append(acted)
        came.append((then.reward, then.terminated, then.truncated))
    rows = (np.stack(row) for row in zip(*came, strict=True))
    (returns, lengths), steps, metrics = pieces.finish(actors, memories, did, values_after, *rows)
    return Actors((), seen, memories, returns, lengths), steps, metrics


def _act(
    agent: Agent, params: Params, seen: Seen, memories: Memories, key: Array, index: int | Array
) -> tuple[Acted, Memories]:
    return act(agent, params, seen, memories, step_key(key, index))


def _finish(
    start: Actors,
    end: Memories,
    acted: list[Acted],
    values_after: list[Array],
    rewards: Array | np.ndarray,
    terminated: Array | np.ndarray,
    truncated: Array | np.ndarray,
) -> tuple[tuple[Array, Array], Unroll, Metrics]:
    def step(on: PyTree, now: PyTree):
        so_far, rest = tally(*on, *now)
        return rest, so_far

    on, so_far = jax.lax.scan(step, (start.returns, start.lengths), (rewards, terminated | truncated))
    acted, after = (jax.tree.map(lambda *rows: jnp.stack(rows), *rows) for rows in (acted, values_after))
    outcome = Outcome(rewards, terminated, truncated, after, *so_far)
    return on, *assemble(start.memories, end, acted, outcome)


__all__ = ["Pieces", "begin", "unroll"]
