"""Experience: B environments for T steps under one policy, with what came before and what would have come after.

A time-out is no end: what would have followed is worth V of the last observation, which the policy never acted on.  A
termination is worth nothing more.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PyTree

from gempi_jax.contracts import Metric, Metrics
from gempi_jax.models import Distribution, Memory
from gempi_jax.numerics.keys import named_key
from gempi_jax.rl.agent import Agent, Memories, Seen, one_step
from gempi_jax.rl.env import Discrete, Environment
from gempi_jax.types import Array, Params


class Actors(NamedTuple):
    """What goes on between two unrolls; a part of ``TrainState.world``.

    Attributes:
      environments: their states.
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


def begin(agent: Agent, environment: Environment, key: Array, number: int) -> Actors:
    """``number`` environments at the beginning of their first episodes."""
    states, observations = jax.vmap(environment.reset)(_keys(key, "reset", number))
    actions = environment.actions
    dtype = jnp.int32 if isinstance(actions, Discrete) else jnp.float32
    zeros = jnp.zeros((number,), jnp.float32)
    seen = Seen(observations, jnp.zeros((number, *actions.shape), dtype), zeros, jnp.ones((number,), bool))
    return Actors(states, seen, agent.initial_memories(number), zeros, jnp.zeros((number,), jnp.int32))


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
    number = len(actors.returns)

    def step(actors: Actors, index: Array):
        of_step = named_key(key, "step", index)
        seen = one_step(actors.seen)
        read = agent.read(params, seen, actors.memories)
        action = read.policy.sample(named_key(of_step, "action"))
        log_prob = read.policy.log_prob(action)
        keys = _keys(of_step, "environment", number)
        states, then = jax.vmap(environment.step)(keys, actors.environments, action[:, 0])
        ended = then.terminated | then.truncated

        def after(memories: Memories) -> Float[Array, "B"]:
            last = Seen(then.final_observation, action[:, 0], then.reward, jnp.zeros_like(ended))
            return agent.read(params, one_step(last), memories).values[:, 0]

        # Elsewhere V of the next step is V(s_{t+1}).
        needed = jnp.any(then.truncated) | (index == length - 1)
        value_after = jax.lax.cond(needed, after, lambda memories: jnp.zeros_like(then.reward), read.memories)
        returns, lengths = actors.returns + then.reward, actors.lengths + 1
        finished = jnp.where(ended, returns, 0.0), jnp.where(ended, lengths, 0), ended
        actors = Actors(
            states,
            Seen(then.observation, action[:, 0], then.reward, ended),
            read.memories,
            jnp.where(ended, 0.0, returns),
            jnp.where(ended, 0, lengths),
        )
        of_now = jax.tree.map(lambda x: x[:, 0], (seen, action, log_prob, read.policy, read.values))
        following = then.final_observation if keep_next else None
        return actors, (*of_now, then.reward, then.terminated, then.truncated, value_after, following, finished)

    after, seen_then = jax.lax.scan(step, actors, jnp.arange(length))
    *rows, finished = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), seen_then)
    seen, actions, log_probs, policy, values, rewards, terminated, truncated, values_after, following = rows
    next_values = jnp.concatenate([values[:, 1:], values_after[:, -1:]], axis=1)
    next_values = jnp.where(truncated, values_after, next_values)
    memories = _at_start(after.memories, actors.memories)
    earned = actions, rewards, terminated, truncated, log_probs
    steps = Unroll(seen, memories, *earned, policy, values, next_values, following)
    returns, lengths, ended = finished
    episodes = jnp.sum(ended).astype(jnp.float32)
    metrics = {
        "episode/return": Metric(jnp.sum(returns), episodes),
        "episode/length": Metric(jnp.sum(lengths).astype(jnp.float32), episodes),
        "episode/number": Metric.of(episodes),
        "reward": Metric(jnp.sum(rewards), jnp.float32(rewards.size)),
    }
    return after, steps, metrics


def _keys(key: Array, name: str, number: int) -> Array:
    """One for each environment, by its place: no number of devices changes them."""
    return jax.vmap(lambda place: named_key(key, name, place))(jnp.arange(number))


def _at_start(after: Memories, start: Memories) -> Memories:
    """The memories at the first step: a ring is read as it was then, so that no copy of it is kept."""
    pairs = zip(after, start, strict=True)
    return Memories(*(new.rewound(old) if isinstance(new, Memory) else old for new, old in pairs))


__all__ = ["Actors", "Unroll", "begin", "bootstraps", "unroll"]
