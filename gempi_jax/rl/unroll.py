"""Experience: B environments for T steps under one policy, with what came before and what would have come after.

A time-out is no end: what would have followed is worth V of the last observation, which the policy never acted on.  A
termination is worth nothing more.  :func:`unroll` scans over environments in JAX;
:mod:`gempi_jax.rl.host_unroll` makes the same of the same pieces where they step on the host.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PyTree

from gempi_jax.contracts import Metric, Metrics
from gempi_jax.models import Distribution, Memory
from gempi_jax.numerics.keys import named_key
from gempi_jax.rl.acting import Acted, Outcome, act, first_seen, seen_then, step_key, tally, value_after
from gempi_jax.rl.agent import Agent, Memories, Seen
from gempi_jax.rl.env import Environment
from gempi_jax.types import Array, Params


class Actors(NamedTuple):
    """What goes on between two unrolls; a part of ``TrainState.world``.

    Attributes:
      environments: their states; ``()`` of those on the host, which keep them to themselves.
      seen: what is acted on next, [B, ...].
      memories: of the agent.
      returns: of the episodes that go on, undiscounted.
      lengths: of the same, steps.
    """

    environments: PyTree
    seen: Seen
    memories: Memories
    returns: Float[Array, "B"]
    lengths: Int[Array, "B"]


class Unroll(NamedTuple):
    """T steps of B environments; axis 0 of every leaf is the environment.

    Attributes:
      seen: what was acted on.
      memories: at the first step.
      actions: a_t.
      rewards: r_t.
      terminated: whether the episode ended there, in a state without a future.
      truncated: whether it was cut off there.
      log_probs: log b(a_t), nats.
      policy: b at each step.
      values: V(s_t) when it was acted.
      next_values: V(s_{t+1}) of the same episode.
      next_observations: s_{t+1} of the same episode, where they are kept.
    """

    seen: Seen
    memories: Memories
    actions: Array
    rewards: Float[Array, "B T"]
    terminated: Bool[Array, "B T"]
    truncated: Bool[Array, "B T"]
    log_probs: Float[Array, "B T"]
    policy: Distribution
    values: Float[Array, "B T"]
    next_values: Float[Array, "B T"]
    next_observations: Float[Array, "B T ..."] | None = None

    def steps(self, gamma: float) -> tuple[Array, Array, Array, Array, Array]:
        """Rewards, discounts, continues, values, next values: what an advantage estimator reads."""
        discounts, continues = bootstraps(self.terminated, self.truncated, gamma)
        return self.rewards, discounts, continues, self.values, self.next_values


def bootstraps(
    terminated: Bool[Array, "B T"], truncated: Bool[Array, "B T"], gamma: float
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """Discounts, 0 where nothing follows, and whether the next entry is of the same episode."""
    discounts = jnp.where(terminated, 0.0, jnp.float32(gamma))
    return discounts, (~(terminated | truncated)).at[:, -1].set(False)


def first_actors(agent: Agent, environments: PyTree, seen: Seen) -> Actors:
    """What has not begun to act."""
    number = len(seen.resets)
    zeros = jnp.zeros((number,), jnp.float32)
    return Actors(environments, seen, agent.initial_memories(number), zeros, jnp.zeros((number,), jnp.int32))


def begin(agent: Agent, environment: Environment, key: Array, number: int) -> Actors:
    """``number`` environments at the beginning of their first episodes."""
    states, observations = jax.vmap(environment.reset)(_keys(key, "reset", number))
    return first_actors(agent, states, first_seen(environment.actions, observations))


def unroll(
    agent: Agent,
    environment: Environment,
    params: Params,
    actors: Actors,
    key: Array,
    length: int,
    *,
    keep_next: bool = False,
) -> tuple[Actors, Unroll, Metrics]:
    """Acts for ``length`` steps.

    Args:
      agent: the networks.
      environment: of which there are as many as ``actors`` has.
      params: of the agent: pi_t and V.
      actors: where they stand.
      key: of actions and environments.
      length: T.
      keep_next: whether ``Unroll.next_observations`` are kept.

    Returns:
      Where they stand then, what happened, and ``episode/*`` of the episodes that ended.
    """

    def step(actors: Actors, index: Array):
        of_step = step_key(key, index)
        acted, memories = act(agent, params, actors.seen, actors.memories, of_step)
        keys = _keys(of_step, "environment", len(actors.returns))
        states, then = jax.vmap(environment.step)(keys, actors.environments, acted.actions)
        after = jax.lax.cond(
            jnp.any(then.truncated) | (index == length - 1),
            lambda memories: value_after(agent, params, acted.actions, then, memories),
            lambda memories: jnp.zeros_like(then.reward),
            memories,
        )
        seen = seen_then(acted.actions, then)
        so_far, rest = tally(actors.returns, actors.lengths, then.reward, seen.resets)
        outcome = Outcome(then.reward, then.terminated, then.truncated, after, *so_far)
        following = then.final_observation if keep_next else None
        return Actors(states, seen, memories, *rest), (acted, outcome, following)

    after, rows = jax.lax.scan(step, actors, jnp.arange(length))
    return after, *assemble(actors.memories, after.memories, *rows)


def assemble(
    start: Memories, end: Memories, acted: Acted, outcome: Outcome, next_observations: Array | None = None
) -> tuple[Unroll, Metrics]:
    """T steps by environment, and ``episode/*`` of the episodes that ended.

    Args:
      start: the memories before the first step.
      end: those after the last.
      acted: what the policy did, [T, B, ...].
      outcome: what came of it, [T, B].
      next_observations: s_{t+1} of the same episode, [T, B, ...], where they are kept.
    """
    by_time = acted, outcome, next_observations
    acted, outcome, next_observations = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), by_time)
    # Elsewhere V of the next step is V(s_{t+1}).
    following = jnp.concatenate([acted.values[:, 1:], outcome.values_after[:, -1:]], axis=1)
    steps = Unroll(
        acted.seen,
        _at_start(end, start),
        acted.actions,
        outcome.rewards,
        outcome.terminated,
        outcome.truncated,
        acted.log_probs,
        acted.policy,
        acted.values,
        jnp.where(outcome.truncated, outcome.values_after, following),
        next_observations,
    )
    ended = outcome.terminated | outcome.truncated
    episodes = jnp.sum(ended).astype(jnp.float32)
    metrics = {
        "episode/return": Metric(jnp.sum(jnp.where(ended, outcome.returns, 0.0)), episodes),
        "episode/length": Metric(jnp.sum(jnp.where(ended, outcome.lengths, 0)).astype(jnp.float32), episodes),
        "episode/number": Metric.of(episodes),
        "reward": Metric(jnp.sum(outcome.rewards), jnp.float32(outcome.rewards.size)),
        "environment/not_finite": Metric.of(_not_finite(acted.seen.observations, outcome.rewards)),
    }
    return steps, metrics


def _not_finite(observations: Float[Array, "B T ..."], rewards: Float[Array, "B T"]) -> Int[Array, ""]:
    """At how many steps something was no number."""
    shown = jnp.isfinite(observations).reshape(*rewards.shape, -1).all(axis=-1)
    return jnp.sum(~(shown & jnp.isfinite(rewards)))


def _keys(key: Array, name: str, number: int) -> Array:
    """One for each environment, by its place: no number of devices changes them."""
    return jax.vmap(lambda place: named_key(key, name, place))(jnp.arange(number))


def _at_start(after: Memories, start: Memories) -> Memories:
    """The memories at the first step: a ring is read as it was then, so that no copy of it is kept."""
    pairs = zip(after, start, strict=True)
    return Memories(*(new.rewound(old) if isinstance(new, Memory) else old for new, old in pairs))


__all__ = ["Actors", "Unroll", "assemble", "begin", "bootstraps", "first_actors", "unroll"]
