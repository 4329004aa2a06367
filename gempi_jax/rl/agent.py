"""What acts: a torso, a core with its memory and a head, and V beside them."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PyTree

from gempi_jax.models import Distribution, PopArt, ValueHead, preserve_outputs, with_previous
from gempi_jax.numerics.keys import named_key
from gempi_jax.types import Array, Params


class Seen(NamedTuple):
    """What a policy acts on, at each step.

    Attributes:
      observations: of the environment.
      actions: of the step before.
      rewards: of the step before.
      resets: where an episode begins, so that there is no step before, and nothing is remembered.
    """

    observations: Float[Array, "B T ..."]
    actions: Array
    rewards: Float[Array, "B T"]
    resets: Bool[Array, "B T"]


class Trunk(nn.Module):
    """From what is seen to features: a torso at each step, a core through time.

    Attributes:
      torso: observations [B, T, ...] -> features [B, T, D].
      core: (features, resets, memory) -> (features, memory).
      previous: whether the core reads the action and the reward of the step before, too.
      num_actions: of discrete actions, which it reads as one-hot vectors; ``None`` where actions are vectors.
    """

    torso: nn.Module
    core: Any
    previous: bool = False
    num_actions: int | None = None

    def __call__(self, seen: Seen, memory: PyTree) -> tuple[Float[Array, "B T D"], PyTree]:
        """The features of T steps and the memory after them."""
        features = self.torso(seen.observations)
        if self.previous:
            features = with_previous(features, seen.actions, seen.rewards, seen.resets, self.num_actions)
        return self.core(features, seen.resets, memory)

    def initial_memory(self, batch_size: int) -> PyTree:
        """The core's."""
        return self.core.initial_memory(batch_size)


class Memories(NamedTuple):
    """What the policy's trunk and the critic's own remember; ``()`` where there is nothing."""

    policy: PyTree
    value: PyTree = ()


class Read(NamedTuple):
    """What an agent says of T steps.

    Attributes:
      policy: the distribution over actions.
      values: V, units of return.
      memories: after the steps.
    """

    policy: Distribution
    values: Float[Array, "B T"]
    memories: Memories


class Agent(NamedTuple):
    """The networks; parameters are ``{"policy": {"trunk", "head"}, "value": {"head"[, "trunk"][, "return_norm"]}}``.

    Attributes:
      trunk: of the policy.
      head: features -> distribution over actions.
      value_head: features -> V.
      value_trunk: of the critic's own; ``None`` where its head reads the policy's features.
      detached: whether the critic's loss leaves the policy's features as they are.
      popart: step size of the moving statistics of the returns, where ``value_head`` is a
        :class:`~gempi_jax.models.PopArtHead`; they are ``"return_norm"`` of the critic's parameters, which no gradient
        moves and no weight decay.
    """

    trunk: Trunk
    head: nn.Module
    value_head: nn.Module = ValueHead()
    value_trunk: Trunk | None = None
    detached: bool = False
    popart: float | None = None

    def initial_memories(self, batch_size: int) -> Memories:
        """Nothing is remembered."""
        own = () if self.value_trunk is None else self.value_trunk.initial_memory(batch_size)
        return Memories(self.trunk.initial_memory(batch_size), own)

    def init(self, key: Array, seen: Seen) -> Params:
        """Fresh parameters, for what is seen at any number of steps."""
        memories = self.initial_memories(len(seen.resets))
        trunk = self.trunk.init(named_key(key, "trunk"), seen, memories.policy).get("params", {})
        features, _ = self.trunk.apply({"params": trunk}, seen, memories.policy)
        head = self.head.init(named_key(key, "head"), features)["params"]
        value = {}
        if self.value_trunk is not None:
            value = {"trunk": self.value_trunk.init(named_key(key, "value_trunk"), seen, memories.value)["params"]}
            features, _ = self.value_trunk.apply({"params": value["trunk"]}, seen, memories.value)
        value |= {"head": self.value_head.init(named_key(key, "value_head"), features)["params"]}
        if self.popart is not None:
            value |= {"return_norm": PopArt.initial()}
        return {"policy": {"trunk": trunk, "head": head}, "value": value}

    def act(self, policy: Params, seen: Seen, memory: PyTree) -> tuple[Distribution, Array, PyTree]:
        """The policy at T steps, the features that it reads, its memory after them."""
        features, memory = self.trunk.apply({"params": policy["trunk"]}, seen, memory)
        return self.head.apply({"params": policy["head"]}, features), features, memory

    def read(self, params: Params, seen: Seen, memories: Memories) -> Read:
        """Policy and V at T steps."""
        policy, features, memory = self.act(params["policy"], seen, memories.policy)
        value, own = params["value"], memories.value
        if self.value_trunk is not None:
            features, own = self.value_trunk.apply({"params": value["trunk"]}, seen, own)
        elif self.detached:
            features = jax.lax.stop_gradient(features)
        values = self.value_head.apply({"params": value["head"]}, features)
        if self.popart is not None:
            values = jax.lax.stop_gradient(value["return_norm"]).denormalize(values)
        return Read(policy, values, Memories(memory, own))

    def normalized(self, params: Params, returns: Array) -> Array:
        """V, or returns, in the units in which the critic learns: their own without PopArt."""
        return (
            returns if self.popart is None else jax.lax.stop_gradient(params["value"]["return_norm"]).normalize(returns)
        )

    def renormalized(self, params: Params, returns: Float[Array, "B T"]) -> Params:
        """The parameters when the statistics have moved towards an unroll's returns; V stays what it was."""
        if self.popart is None:
            return params
        value = params["value"]
        old = value["return_norm"]
        new = old.updated(returns, self.popart)
        return {**params, "value": {**value, "head": preserve_outputs(value["head"], old, new), "return_norm": new}}


def one_step(seen: Seen) -> Seen:
    """[B, ...] -> [B, 1, ...]."""
    return jax.tree.map(lambda x: jnp.expand_dims(x, 1), seen)


__all__ = ["Agent", "Memories", "Read", "Seen", "Trunk", "one_step"]
