"""A ring of unrolls: what earlier policies did, drawn again by later ones.

What was seen, done and earned is kept, and how likely it was then; values and policies are what the present networks
say of it.  Memories are not kept, for a present core would remember something else: only agents without one learn
from a replay.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from gempi_jax.numerics.checks import require
from gempi_jax.numerics.keys import named_key
from gempi_jax.rl.agent import Agent, Seen
from gempi_jax.rl.unroll import Unroll, bootstraps
from gempi_jax.types import Array, Params


class Transitions(NamedTuple):
    """T steps of N environments, by any policies.

    Attributes:
      seen: what was acted on.
      actions: a_t.
      rewards: r_t.
      terminated: whether the episode ended there, in a state without a future.
      truncated: whether it was cut off there.
      log_probs: log b(a_t) of the policy b that acted, nats.
      next_observations: s_{t+1} of the same episode.
    """

    seen: Seen
    actions: Array
    rewards: Float[Array, "N T"]
    terminated: Bool[Array, "N T"]
    truncated: Bool[Array, "N T"]
    log_probs: Float[Array, "N T"]
    next_observations: Float[Array, "N T ..."]

    @property
    def next_seen(self) -> Seen:
        """What would have been acted on next in the same episode."""
        return Seen(self.next_observations, self.actions, self.rewards, jnp.zeros_like(self.terminated))

    def bootstraps(self, gamma: float) -> tuple[Float[Array, "N T"], Bool[Array, "N T"]]:
        """Discounts and continues, which backups and advantage estimators read."""
        return bootstraps(self.terminated, self.truncated, gamma)


class Replay(NamedTuple):
    """The last C unrolls of each of B environments; a part of ``TrainState.world``.

    Attributes:
      rows: leaves [B, C, T, ...].
      valid: of the C, how many have been written: the first ones.
      cursor: which is written next, the oldest once all have been.
    """

    rows: Transitions
    valid: Int[Array, ""]
    cursor: Int[Array, ""]

    @property
    def capacity(self) -> int:
        """C."""
        return self.rows.rewards.shape[1]


def transitions(steps: Unroll) -> Transitions:
    """What of an unroll is kept.

    Raises:
      ValueError: where it has no next observations.
    """
    require(steps.next_observations is not None, "replay: the unroll has no next_observations; unroll with keep_next.")
    return Transitions(**{name: getattr(steps, name) for name in Transitions._fields})


def empty(like: Transitions, capacity: int) -> Replay:
    """Nothing yet, of as many unrolls of each environment.

    Args:
      like: arrays or their shapes, [B, T, ...].
      capacity: C.

    Raises:
      ValueError: for C below 1.
    """
    require(capacity >= 1, f"replay: capacity is {capacity} unrolls of each environment; give at least 1.")
    rows = jax.tree.map(lambda x: jnp.zeros((x.shape[0], capacity, *x.shape[1:]), x.dtype), like)
    return Replay(rows, jnp.int32(0), jnp.int32(0))


def add(replay: Replay, steps: Transitions) -> Replay:
    """The ring with one more unroll of each environment, over the oldest where it is full."""
    rows = jax.tree.map(lambda row, new: row.at[:, replay.cursor].set(new), replay.rows, steps)
    valid = jnp.minimum(replay.valid + 1, replay.capacity)
    return Replay(rows, valid, (replay.cursor + 1) % replay.capacity)


def sample(replay: Replay, key: Array, number: int) -> Transitions:
    """Unrolls drawn with replacement, each that there is as likely as any other.

    Args:
      replay: to which one has been added at least.
      key: of the draw.
      number: N.
    """
    environments = replay.rows.rewards.shape[0]
    place = jax.random.randint(named_key(key, "replay"), (number,), 0, environments * replay.valid)
    # A place in a bigger ring is the same unroll: slots come before environments.
    return jax.tree.map(lambda row: row[place % environments, place // environments], replay.rows)


def reread(agent: Agent, params: Params, steps: Transitions) -> Unroll:
    """What the present networks say of the steps: their policy, V(s_t) and V(s_{t+1}); log-probs stay b's.

    Args:
      agent: without a memory, see :func:`require_no_memory`.
      params: of the agent.
      steps: of a replay.
    """
    nothing = agent.initial_memories(len(steps.rewards))
    read = agent.read(params, steps.seen, nothing)
    following = agent.read(params, steps.next_seen, nothing).values
    return Unroll(memories=nothing, policy=read.policy, values=read.values, next_values=following, **steps._asdict())


def require_no_memory(agent: Agent) -> None:
    """Raises ValueError where an agent remembers, for what it remembered when it acted is not in a replay."""
    memories = jax.eval_shape(lambda: agent.initial_memories(1))
    trunks = {"trunk": memories.policy, "value_trunk": memories.value}
    cores = {name: type(getattr(agent, name).core).__name__ for name, held in trunks.items() if jax.tree.leaves(held)}
    require(
        not cores,
        f"replay: the agent remembers ({', '.join(f'{core} in {name}' for name, core in cores.items())}), and what it "
        "remembered when it acted is not what its present weights would; give it an MLPCore.",
    )


__all__ = [
    "Replay",
    "Transitions",
    "add",
    "empty",
    "require_no_memory",
    "reread",
    "sample",
    "transitions",
]
